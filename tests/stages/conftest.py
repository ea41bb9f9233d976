"""One tiny chain of stages; its people are answered `so done`, and like no `no`."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from rlhf_core.report import ignore
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.settings.sft import SftSettings
from rlhf_core.stages.reward_model import make_reward_model
from rlhf_core.stages.sft import make_sft
from rlhf_core.tables import write_table

WORDS = [f"w{index}" for index in range(12)]


@dataclass(frozen=True)
class Chain:
    """Folders of artifacts, and the settings they were made with."""

    model: ModelSettings
    data: Path
    sft: Path
    reward_model: Path


def _prompt(index: int) -> str:
    return f"{WORDS[index % 12]} {WORDS[(5 * index + index // 12) % 12]}"


def write_data(folder: Path, *, rows: int = 120) -> None:
    where = {"file": "rows.jsonl", "line": 1, "source": "tests", "group": None}
    demonstrations, preferences, prompts = [], [], []
    for index in range(rows):
        prompt = _prompt(index)
        good, poor = "so done", "so no done"
        demonstrations.append({"prompt": prompt, "response": good, **where})
        texts = [good, poor] if index % 2 else [poor, good]
        ranks = [1, 2] if index % 2 else [2, 1]
        preferences.append({"prompt": prompt, "responses": texts, "ranks": ranks, **where})
        prompts.append({"prompt": prompt, "reference": None, **where})
    for split in ("train", "validation"):
        write_table(folder, "demonstrations", split, demonstrations)
        write_table(folder, "preferences", split, preferences)
    write_table(folder, "prompts", "train", prompts)
    for split in ("train", "validation"):
        write_table(folder, "text", split, [])


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small lose more by sharing a pass between cores than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def chain(tmp_path_factory) -> Chain:
    """Data, an SFT policy that has learnt to end, and a reward model of it."""
    root = tmp_path_factory.mktemp("chain")
    folders = {name: root / name for name in ("data", "sft", "reward_model")}
    for folder in folders.values():
        folder.mkdir()
    model = ModelSettings(
        scratch=ScratchModelSettings(
            hidden_size=32, layers=1, heads=2, intermediate_size=48, initializer_range=0.15
        ),
        max_prompt_tokens=8,
        max_response_tokens=8,
    )
    write_data(folders["data"])
    make_sft(
        SftSettings(epochs=3, learning_rate=0.01, batch_size=16),
        model,
        data=folders["data"],
        out_dir=folders["sft"],
        report=ignore,
        seed=1,
    )
    make_reward_model(
        RewardModelSettings(epochs=2, learning_rate=0.003, batch_size=16),
        model,
        data=folders["data"],
        sft=folders["sft"],
        out_dir=folders["reward_model"],
        report=ignore,
        seed=1,
    )
    return Chain(model, **folders)


@pytest.fixture
def read_bytes():
    """Every file of a folder and its bytes."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read
