import pytest
from pydantic import ValidationError

from rlhf_core.settings.algorithms import DpoSettings
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.recipe import Recipe
from rlhf_core.settings.reward_model import RewardModelSettings

RLOO = {"algorithm": "rloo", "responses_per_prompt": 4}
GRPO = {"algorithm": "grpo", "responses_per_prompt": 4}
DPO = {"algorithm": "dpo"}
SHARED = {"value_network": "shared_trunk"}


def refusal(**settings):
    with pytest.raises(ValidationError) as caught:
        PpoSettings(**settings)
    return str(caught.value)


@pytest.mark.parametrize(
    "settings, named",
    [
        (RLOO | SHARED, "ppo.value_network"),
        (RLOO | {"gae_lambda": 0.5, "value_init": "sft"}, "ppo.value_init, ppo.gae_lambda"),
        (GRPO | {"value_warmup_updates": 3}, "ppo.value_warmup_updates"),
        (GRPO | {"surrogate": "reinforce"}, "ppo.surrogate"),
        (GRPO | {"score_at": "after_eos"}, "ppo.score_at"),
        (RLOO | {"divide_by_group_deviation": False}, "ppo.divide_by_group_deviation"),
        (RLOO | {"whiten_advantages": "mini_batch"}, "ppo.whiten_advantages"),
        ({"surrogate": "reinforce"}, "ppo.surrogate"),
        (DPO | {"responses_per_prompt": 4}, "ppo.responses_per_prompt"),
        (DPO | {"kl_target": 6.0}, "ppo.kl_target"),
        (DPO | SHARED, "ppo.value_network"),
        (DPO | {"loss_reduction": "sequence_mean"}, "ppo.loss_reduction"),
        (GRPO | {"kl_estimator": "k3"}, "ppo.kl_estimator"),
        ({"dpo": DpoSettings(label_smoothing=0.1)}, "ppo.dpo"),
        (GRPO | {"dpo": DpoSettings(epochs=2)}, "ppo.dpo"),
        (SHARED | {"value_learning_rate": 0.1}, "ppo.value_learning_rate"),
        (SHARED | {"value_init": "sft"}, "ppo.value_init"),
        ({"value_coef": 0.5}, "ppo.value_coef"),
    ],
)
def test_a_setting_that_the_algorithm_never_reads_is_refused_by_name(settings, named):
    said = refusal(**settings)
    assert f"{named} would have no effect" in said
    assert "Leave it out" in said


@pytest.mark.parametrize(
    "settings",
    [
        RLOO,
        GRPO,
        SHARED,
        DPO | {"dpo": DpoSettings(label_smoothing=0.1), "updates": 36, "ppo_epochs": 1},
        RLOO | {"surrogate": "reinforce", "whiten_advantages": "nothing"},
        GRPO | {"divide_by_group_deviation": False, "kl_target": 6.0},
        SHARED | {"value_coef": 0.5, "gae_lambda": 0.9},
    ],
)
def test_settings_that_the_algorithm_reads_are_taken_and_read_back(settings):
    taken = PpoSettings(**settings)
    assert PpoSettings(**taken.model_dump()) == taken


def test_a_group_of_one_is_refused():
    assert "set ppo.responses_per_prompt to 4" in refusal(algorithm="rloo")


def test_groups_fill_the_rollout():
    assert "not a multiple of responses_per_prompt=5" in refusal(responses_per_prompt=5)


def test_a_shared_trunk_has_no_value_after_the_end():
    assert "keep value_network='separate'" in refusal(score_at="after_eos", **SHARED)


def test_dpo_is_not_taught_by_rankings_that_are_yet_to_be_collected():
    recipe = {
        "name": "collected",
        "data": {"prompts": {"source": "p.jsonl"}, "demonstrations": {"source": "d.jsonl"}},
        "model": {"scratch": {}},
        "reward_model": {"collect": {"labeler": "tests.nowhere:label"}},
    }
    assert Recipe.model_validate(recipe).ppo.algorithm == "ppo"
    with pytest.raises(ValidationError, match=r"give that file to data\.preferences"):
        Recipe.model_validate(recipe | {"ppo": DPO})


def test_adapters_learn_ten_times_as_fast_where_no_rate_is_given():
    lora = LoraSettings(rank=4)
    for section, full in ((PpoSettings, 3e-6), (RewardModelSettings, 9e-6)):
        assert section().learning_rate == full
        assert section(lora=lora).learning_rate == pytest.approx(10 * full)
        assert section(lora=lora, learning_rate=0.5).learning_rate == 0.5
        assert section(**section(lora=lora).model_dump()) == section(lora=lora)
