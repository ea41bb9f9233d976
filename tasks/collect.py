"""Responses of an artifact's policy in a file, for people or a labeler to rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_core.data.origins import origin_path, write_origin
from rlhf_core.errors import UserError
from rlhf_core.settings.judge import PairJudgeSettings
from tasks.fingerprints import code_of_function
from tasks.policies import Policy, find_policy
from tasks.store import Store

if TYPE_CHECKING:
    from rlhf_core.collection import Answered, Collected
    from rlhf_core.labeling import Format

LABELER_OPTION, JUDGE_OPTION = "--labeler", "--judge"


@dataclass(frozen=True)
class Request:
    """What is asked of the policy, and in which format it is written."""

    output: Path
    prompts: Path | None
    """A file of prompts; None takes training prompts of the policy's own data."""

    count: int
    responses_per_prompt: int
    labeler: str | None
    """A function that ranks the responses."""

    judge: PairJudgeSettings | None
    """A served model that ranks them instead."""

    format: "Format"
    temperature: float
    seed: int

    @property
    def ranked_by(self) -> str | None:
        """The function, or the judge by its model's name; None where people shall rank."""
        return self.labeler or (f"judge {self.judge.model}" if self.judge else None)


@dataclass(frozen=True)
class CollectedFile:
    """The file that was written, the one that tells its origin, and what it holds."""

    path: Path
    origin: Path
    policy: str
    """Digest of the policy's artifact."""

    documents: int
    metrics: Mapping[str, float]


def collect_into(
    request: Request, target: str, store: Store, answered: "Answered"
) -> CollectedFile:
    """Write the policy's responses, ranked where a labeler is named, and where they came from.

    Raises ArtifactError where the target holds no policy, UserError where the file exists.
    """
    if request.output.exists():
        raise UserError(
            f"{request.output} exists, and collected responses are not written over: name another "
            "file, or remove it."
        )
    policy = find_policy(target, store)
    artifact = policy.artifact
    from rlhf_core.labeling import exported, write_documents

    collected = _collect(request, policy, _prompts(request, policy, store), answered)
    groups = collected.groups
    if request.ranked_by is not None and request.format == "rlhf":
        groups = [group for group in groups if group.prefers]
    documents = exported(
        groups, request.format, {"policy": artifact.digest, "labeler": request.ranked_by}
    )
    request.output.parent.mkdir(parents=True, exist_ok=True)
    write_documents(request.output, documents)
    written_by = {
        "stage": artifact.stage,
        "digest": artifact.digest,
        "recipe": policy.provenance["recipe"],
    }
    write_origin(request.output, {"kind": "collected", "policy": written_by, **_settings(request)})
    return CollectedFile(
        request.output,
        origin_path(request.output),
        artifact.digest,
        len(documents),
        collected.metrics(),
    )


def import_rankings(labeled: Path, output: Path) -> int:
    """Write the rankings in a labelling tool's export as rows for the data stage; their number."""
    if output.exists():
        raise UserError(f"{output} exists: name another file, or remove it.")
    from rlhf_core.labeling import policies_in, read_labeled, write_documents

    rows = read_labeled(labeled)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_documents(output, rows)
    facts = {"kind": "labeled by people", "export": labeled.name, "policies": policies_in(labeled)}
    write_origin(output, facts)
    return len(rows)


def _prompts(request: Request, policy: Policy, store: Store) -> list[str]:
    if request.prompts is None:
        return policy.prompts(store, "train")
    from rlhf_core.data.prompt_files import prompts_in_file

    return prompts_in_file(request.prompts)


def _collect(
    request: Request, policy: Policy, texts: Sequence[str], answered: "Answered"
) -> "Collected":
    from rlhf_core.collection import Draws, collect_from
    from rlhf_core.ranking import judged, labeled, load_labeler

    labeler = None
    if request.labeler is not None:
        labeler = load_labeler(request.labeler, setting=LABELER_OPTION)
    collected = collect_from(
        policy.artifact.path,
        policy.model,
        texts,
        Draws(request.responses_per_prompt, request.temperature),
        limit=request.count,
        seed=request.seed,
        answered=answered,
    )
    if labeler is not None:
        return labeled(collected, labeler)
    if request.judge is not None:
        return judged(collected, request.judge, setting=JUDGE_OPTION, answered=lambda *_: None)
    return collected


def _settings(request: Request) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "prompts": None if request.prompts is None else request.prompts.name,
        "responses_per_prompt": request.responses_per_prompt,
        "temperature": request.temperature,
        "seed": request.seed,
        "labeler": request.ranked_by,
    }
    if request.labeler is not None:
        facts["labeler_code"] = code_of_function(request.labeler)
    if request.judge is not None:  # where it was served matters to nobody else
        facts["judge"] = request.judge.model_dump(mode="json", exclude={"address"})
    return facts
