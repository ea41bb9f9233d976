import shutil

import pytest
import torch

from rlhf_core.errors import DataError, RecipeError, TrainingStopped
from rlhf_core.models import weights_digest, zero_head
from rlhf_core.pretrained import load_policy, load_scalar_model, save_model
from rlhf_core.report import ignore
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.settings.sentinel import PpoSentinelSettings
from rlhf_core.stages.reward_model import make_reward_model
from rlhf_core.tables import read_preferences, write_table
from tests.stages.ppo_runs import make


def test_a_reward_model_of_another_tokenizer_cannot_be_the_value_models_beginning(chain, tmp_path):
    other = tmp_path / "reward_model"
    shutil.copytree(chain.reward_model, other)
    text = (other / "tokenizer.json").read_text().replace('"w3"', '"w99"')
    (other / "tokenizer.json").write_text(text)
    with pytest.raises(RecipeError, match=r"another tokenizer.*Set ppo.value_init=sft"):
        make(chain, tmp_path / "ppo", reward_model=other)


def test_a_reward_model_that_says_the_same_of_everything_is_refused(chain, tmp_path):
    other = tmp_path / "reward_model"
    shutil.copytree(chain.reward_model, other)
    constant = load_scalar_model(chain.reward_model)
    zero_head(constant)
    save_model(constant.model, other)
    with pytest.raises(TrainingStopped, match="says the same of every response"):
        make(chain, tmp_path / "ppo", reward_model=other)


def test_a_policy_that_goes_too_far_stops_the_stage(chain, tmp_path):
    limits = PpoSentinelSettings(kl_to_reference={"stop": 0.02})
    with pytest.raises(TrainingStopped, match=r"PPO stopped at update \d: .*\(limit 0\.01\)"):
        make(chain, tmp_path / "ppo", learning_rate=0.1, updates=5, sentinel=limits)
    kept, sft = (load_policy(path) for path in (tmp_path / "ppo" / "last_good", chain.sft))
    assert weights_digest(kept) == weights_digest(sft)  # no state after it was good


def test_prompts_over_the_budget_are_refused_when_none_is_left(chain, tmp_path):
    model = chain.model.model_copy(update={"max_prompt_tokens": 1})
    with pytest.raises(DataError, match=r"None of 120 prompts fits.*raise it"):
        make(chain, tmp_path / "ppo", model=model)


def test_a_reward_model_of_swapped_labels_is_refused_before_any_step(chain, tmp_path):
    data, other = tmp_path / "data", tmp_path / "reward_model"
    shutil.copytree(chain.data, data)
    rows = read_preferences(data, "validation").to_dict("records")
    swapped = [row | {"ranks": [3 - rank for rank in row["ranks"]]} for row in rows]
    write_table(data, "preferences", "validation", swapped)
    other.mkdir()
    summary = make_reward_model(
        RewardModelSettings(epochs=2, learning_rate=0.003, batch_size=16),
        chain.model,
        data=data,
        sft=chain.sft,
        out_dir=other,
        report=ignore,
        seed=1,
    )
    assert summary["accuracy"] < 0.1
    with pytest.raises(
        TrainingStopped, match="chosen and rejected are probably swapped"
    ) as stopped:
        make(chain, tmp_path / "ppo", reward_model=other)
    assert stopped.value.exit_code == 3
    assert not (tmp_path / "ppo" / "history.jsonl").exists()


@pytest.mark.parametrize(
    "number,reason", [(torch.nan, "not finite"), (torch.inf, "not finite"), (1e30, "over ppo")]
)
def test_a_reward_model_whose_scores_are_no_scores_is_refused(number, reason, chain, tmp_path):
    other = tmp_path / "reward_model"
    shutil.copytree(chain.reward_model, other)
    broken = load_scalar_model(chain.reward_model)
    with torch.no_grad():
        broken.head.bias.fill_(number)
    broken.model.save_pretrained(other)  # as ours would not
    with pytest.raises(TrainingStopped, match=f"PPO did not start: .*{reason}"):
        make(chain, tmp_path / "ppo", reward_model=other)
    assert not (tmp_path / "ppo" / "history.jsonl").exists()
