"""A chain of real artifacts in a store: data from raw files, then models of a few bytes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rlhf_core.recipes import load_recipe
from rlhf_core.report import ignore
from rlhf_core.stages.data import make_data
from tasks.handles import Handle, PipelineRun, stage_job
from tasks.provenance import RunIds, stage_provenance
from tasks.store import Store

PREFERENCE = {"prompt": "which is best", "chosen": "the good one", "rejected": "the bad one"}
EMPTY = {"prompt": "", "response": "to nothing"}
STARTED = datetime(2026, 1, 1, tzinfo=UTC)

RECIPE = """\
name: small
seed: 1
data:
  demonstrations: {{source: {demonstrations}}}
  preferences: {{source: {preferences}}}
  prompts: {{source: {demonstrations}}}
  max_set_aside_share: 0.5
  rules: {{TXT-001: set_aside}}
model:
  scratch: {{hidden_size: 16, layers: 1, heads: 2, intermediate_size: 32}}
"""


@dataclass(frozen=True)
class SmallChain:
    """A store, its artifacts by stage, and the raw files that the data came from."""

    store: Store
    made: dict[str, Handle]
    raw: Path

    def digest(self, stage: str) -> str:
        return self.made[stage].digest


def demonstrations(count: int = 40) -> list[dict[str, str]]:
    return [{"prompt": f"question {i} ?", "response": f"answer {i} ."} for i in range(count)]


def make_chain(
    root: Path,
    *overrides: str,
    rows: Sequence[dict[str, str]] | None = None,
    stages: Sequence[str] = ("data", "sft", "reward_model", "ppo"),
    store: Store | None = None,
) -> SmallChain:
    """`root` holds raw files and, unless given, a store; equal arguments make equal artifacts."""
    raw = root / "raw files ü"
    raw.mkdir(parents=True, exist_ok=True)
    rows = [*demonstrations(), EMPTY] if rows is None else rows
    paths = {"demonstrations": raw / "demos.jsonl", "preferences": raw / "pairs.jsonl"}
    pairs = [PREFERENCE | {"prompt": f"which is best of {i} ?"} for i in range(20)]
    for table, content in (("demonstrations", rows), ("preferences", pairs)):
        paths[table].write_text("".join(json.dumps(row) + "\n" for row in content))
    recipe_path = root / "recipe.yaml"
    recipe_path.write_text(RECIPE.format(**{k: json.dumps(str(v)) for k, v in paths.items()}))
    recipe = load_recipe(recipe_path, overrides)
    store = store or Store(root / "the store")
    made: dict[str, Handle] = {}
    for number, stage in enumerate(stages, start=1):
        job = stage_job(recipe, stage, **made)
        payload = store.stage_payload(job.key)
        metrics = {"loss": recipe.sft.learning_rate}
        if stage == "data":
            metrics = make_data(
                recipe.data, recipe.model, out_dir=payload, report=ignore, seed=recipe.seed
            )
        else:
            (payload / "model.safetensors").write_text(job.fingerprint.digest)
        ids = RunIds(f"{number:032x}", f"{100:032x}", "flow-run", f"task-run-{stage}")
        pipeline = PipelineRun(recipe.name, ids.mlflow_pipeline_run, store.folder)
        provenance = stage_provenance(
            job, pipeline, ids, metrics=metrics, started=STARTED, seconds=1.5
        )
        artifact = store.publish(job.key, stage, provenance)
        made[stage] = Handle(stage, artifact.path, artifact.digest, ids.mlflow_run)
    return SmallChain(store, made, raw)


def overwrite(path: Path, content: bytes) -> None:
    """Damage a file that was published read-only."""
    path.chmod(0o644)
    path.write_bytes(content)


def flip_bit(path: Path, at: int = 3) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    overwrite(path, bytes(content))
