"""PPO starts from the epoch of SFT that the recipe names, or that the reward model likes best."""

import json

import pytest
import torch

from rlhf_core.errors import ArtifactError
from rlhf_core.pretrained import load_policy
from rlhf_core.report import ignore
from rlhf_core.settings.sft import SftSettings
from rlhf_core.sft_epochs import start_of, starting_policy, write_selection
from rlhf_core.stages.ppo import make_ppo
from rlhf_core.stages.sft import make_sft
from tests.stages.ppo_runs import QUICK


@pytest.fixture(scope="module")
def kept(chain, tmp_path_factory):
    """An SFT artifact whose first epoch has learnt nothing, and whose later ones have."""
    folder = tmp_path_factory.mktemp("kept")
    make_sft(
        SftSettings(
            epochs=3,
            learning_rate=0.01,
            warmup_share=0.5,
            batch_size=60,
            selection="reward_model_score",
        ),
        chain.model,
        data=chain.data,
        out_dir=folder,
        report=ignore,
        seed=1,
    )
    return folder


def ppo(chain, sft, out_dir, **changes):
    out_dir.mkdir()
    return make_ppo(
        QUICK.model_copy(update={"updates": 1, **changes}),
        chain.model,
        data=chain.data,
        sft=sft,
        reward_model=chain.reward_model,
        out_dir=out_dir,
        report=ignore,
        seed=1,
    )


def test_of_the_kept_epochs_the_one_of_the_highest_mean_score_is_taken(chain, kept, tmp_path):
    summary = ppo(chain, kept, tmp_path / "ppo")
    start = json.loads((tmp_path / "ppo" / "start.json").read_text())
    scores = {int(epoch): score for epoch, score in start["scores"].items()}
    assert sorted(scores) == [1, 2, 3]
    assert start["by"] == "reward_model_score"
    assert summary["sft_epoch"] == start["epoch"] == max(scores, key=scores.get)
    assert start_of(tmp_path / "ppo", kept) == kept / "epochs" / str(start["epoch"])


def test_a_named_epoch_is_started_from_and_is_the_reference(chain, kept, tmp_path):
    still = {"learning_rate": 1e-30, "sft_epoch": 2}
    summary = ppo(chain, kept, tmp_path / "ppo", **still)
    assert summary["sft_epoch"] == 2
    second, policy = (
        load_policy(folder).state_dict() for folder in (kept / "epochs" / "2", tmp_path / "ppo")
    )
    assert all(torch.equal(policy[name], weight) for name, weight in second.items())
    released = load_policy(kept).state_dict()
    assert any(not torch.equal(released[name], weight) for name, weight in second.items())


def test_an_epoch_that_was_not_kept_is_refused(chain, tmp_path):
    with pytest.raises(ArtifactError, match=r"keeps no epoch 2 .*keeps none.*keep_epochs"):
        starting_policy(chain.sft, 2, lambda folder: 0.0)


def test_of_equal_scores_the_earlier_epoch_is_taken_and_without_a_choice_the_released(tmp_path):
    for epoch in (1, 2, 3):
        (tmp_path / "epochs" / str(epoch)).mkdir(parents=True)
    write_selection(tmp_path, by="reward_model_score", epochs=[1, 2, 3])
    scores = {"1": 0.5, "2": 0.7, "3": 0.7}
    assert starting_policy(tmp_path, None, lambda folder: scores[folder.name]).epoch == 2
    write_selection(tmp_path, by="validation_loss", epochs=[1, 2, 3])
    assert starting_policy(tmp_path, None, lambda folder: 0.0).folder == tmp_path
