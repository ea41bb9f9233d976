import pytest
from pydantic import ValidationError

from rlhf_core.settings.ppo import PpoSettings

RLOO = {"algorithm": "rloo", "responses_per_prompt": 4}
GRPO = {"algorithm": "grpo", "responses_per_prompt": 4}
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
