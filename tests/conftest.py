"""A store, a Prefect server and recipes small enough for tests; nothing outside the machine."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from rlhf_core.same_bits import ask_for_same_bits
from tasks.environment import prepare_environment

ask_for_same_bits()

# Equal examples in every run, and no verdict on how fast a shared machine was.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

TINY_RECIPE = """\
name: tiny
seed: 1
data:
  world: {demonstrations: 240, rankings: 24, pairs: 6, prompts: 60, replies_per_ranking: 3}
  evaluation_share: 0.3
model:
  scratch: {hidden_size: 16, layers: 1, heads: 2, intermediate_size: 32}
  max_prompt_tokens: 192
  max_response_tokens: 96
sft: {epochs: 3, batch_size: 16, learning_rate: 0.02}
reward_model: {batch_size: 16, normalization_rows: 16}
ppo:
  updates: 2
  rollout_batch_size: 8
  mini_batch_size: 4
  ppo_epochs: 1
  warmup_updates: 1
  value_warmup_updates: 0
evaluation:
  prompts: 8
  best_of_n: 2
  best_of_n_prompts: 4
  bootstrap_samples: 100
  shown_samples: 2
  gold: "rlhf_core.world.gold:gold_scores"
"""
"""The embedded world with a handful of rows, and one or two optimizer steps per stage."""


def pytest_configure(config: pytest.Config) -> None:
    """Nobody's own servers or stores are used, and the libraries are told before they load."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "RLHF_STORE"):
        os.environ.pop(name, None)
    os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = "false"
    prepare_environment(Path(tempfile.mkdtemp(prefix="rlhf-tests-")))


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """Address of a Prefect server of its own, with an empty database."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield PREFECT_API_URL.value()


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """A recipe file that runs every stage for real within seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture
def disk_events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files and folders as they are synced, and "rename", in their order."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noting_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def noting_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    return events
