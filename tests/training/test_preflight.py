from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.errors import TrainingStopped
from rlhf_core.models import ScalarModel
from rlhf_core.readings import ReadText
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training import rollouts
from rlhf_core.training.preflight import check_before_ppo
from rlhf_core.training.rollouts import collect_rollout
from rlhf_core.training.startup import check_readings
from tests.tiny_models import (
    END,
    SPECIAL,
    VOCABULARY,
    config,
    tiny_policy,
    tiny_ppo_models,
    tiny_scalar_model,
    words,
)

PROMPTS = [[3 + i % 9] * (1 + i % 3) + [4 + i % 8] for i in range(256)]
SETTINGS = PpoSettings(rollout_batch_size=256, mini_batch_size=64)


def preflight(models, *, settings=SETTINGS, max_response_tokens=16, notice=lambda _: None):
    first = collect_rollout(
        models,
        PROMPTS,
        settings,
        special=SPECIAL,
        max_response_tokens=max_response_tokens,
        kl_coef=settings.kl_coef,
        missing_eos_score=settings.missing_eos_score,
        seed=1,
        accelerator=Accelerator(),
    )
    return check_before_ppo(models, first, settings, SPECIAL, notice=notice), first


def refuses(models, reason, **changes):
    with pytest.raises(TrainingStopped, match=f"PPO did not start: .*{reason}"):
        preflight(models, **changes)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_right_models_pass_and_their_numbers_are_told(temperature):
    found, first = preflight(
        tiny_ppo_models(), settings=SETTINGS.model_copy(update={"temperature": temperature})
    )
    assert found.kl_to_reference == 0.0
    assert found.ratio_error < 1e-6
    assert abs(found.surprisal_z) < 4
    assert found.padding_error < 1e-5
    ended = first.sequences.response_ids.eq(END).any(dim=1)
    assert found.ended_share == float(ended.float().mean()) > 0.7
    assert found.score == float(first.raw_scores.mean())


def test_another_reference_is_refused():
    refuses(tiny_ppo_models(reference=tiny_policy(seed=9)), "the reference is another model")


def test_a_reference_that_differs_by_little_is_refused():
    models = tiny_ppo_models()
    with torch.no_grad():
        models.reference.model.norm.weight.mul_(1.02)
    refuses(models, "the reference is another model")


def test_padding_that_is_an_end_is_refused_before_anything_is_read():
    with pytest.raises(TrainingStopped, match=f"token {END} both pads and ends"):
        check_readings(
            tiny_ppo_models(),
            Encoder(words(), ModelSettings(scratch=ScratchModelSettings())),
            SETTINGS,
            SpecialTokens((END,), END),
            of_policy=[ReadText("prompt", "response", 0.0)],
            of_reward_model=[],
        )


@pytest.mark.parametrize("name", ["policy", "reference", "scorer", "value_model"])
def test_attention_with_dropout_is_refused(name):
    models = tiny_ppo_models()
    inner = getattr(models, name)
    inner = inner.reward_model.first if name == "scorer" else inner
    inner = inner.model if isinstance(inner, ScalarModel) else inner
    inner.model.layers[1].self_attn.attention_dropout = 0.1
    refuses(models, f"{name} has 1 modules with dropout on")


def test_a_dropout_module_is_refused():
    models = tiny_ppo_models()
    models.value_model.model.dropout = torch.nn.Dropout(0.1)
    refuses(models, "value_model has 1 modules with dropout on")


class Maskless(LlamaForCausalLM):
    """Pays attention to padding, as a model does whose mask was forgotten."""

    def forward(self, input_ids, attention_mask=None, **others):
        return super().forward(input_ids, attention_mask=torch.ones_like(attention_mask), **others)


def test_a_policy_that_pays_attention_to_padding_is_refused():
    torch.manual_seed(0)
    policy = Maskless(config())
    models = replace(tiny_ppo_models(), policy=policy, reference=policy)
    refuses(models, "padding changes a log-probability, value or score|rollout and update do not")


class Counting(GPT2LMHeadModel):
    """Counts padding as positions, as a model does that is not told its position ids."""

    def forward(self, position_ids, **others):
        return super().forward(**others)


def test_a_policy_that_counts_padding_as_positions_is_refused():
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": VOCABULARY}
    rates = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    policy = Counting(GPT2Config(**sizes, **rates, initializer_range=0.3))
    models = replace(tiny_ppo_models(), policy=policy, reference=policy)
    refuses(models, "padding changes|rollout and update do not")


class Foresight(ScalarModel):
    """Says in each column what it should say in the next: the value after the action."""

    def forward(self, input_ids, attention_mask):
        return super().forward(input_ids, attention_mask).roll(-1, dims=1)


def test_a_value_model_that_reads_the_column_after_is_refused():
    models = tiny_ppo_models()
    foresight = Foresight(models.value_model.model)
    refuses(replace(models, value_model=foresight), "the value of the state before token")


def test_an_sft_policy_that_does_not_end_is_refused():
    models = tiny_ppo_models()
    for policy in (models.policy, models.reference):
        with torch.no_grad():
            # An end that is never likely: against the state that every token shares.
            policy.lm_head.weight[END] = 0
            policy.lm_head.weight[[5, 6, 7]] = 20 * policy.lm_head.weight[[5, 6, 7]]
    refuses(models, "responses end within model.max_response_tokens", max_response_tokens=4)


def test_scores_that_hardly_differ_and_responses_that_seldom_end_are_doubted():
    told = []
    found, _ = preflight(tiny_ppo_models(), max_response_tokens=8, notice=told.append)
    assert 0.5 < found.ended_share < 0.8
    assert "PPO starts from an SFT policy of which" in told[0]
    models = tiny_ppo_models()
    with torch.no_grad():
        models.scorer.reward_model.first.head.weight *= 1e-3
    told.clear()
    found, _ = preflight(models, max_response_tokens=40, notice=told.append)
    assert found.ended_share > 0.8
    assert [text.partition(" deviate by ")[2][:4] for text in told] == ["0.00"]


def test_a_sampler_with_another_temperature_is_refused(monkeypatch):
    right = rollouts.sample_in_batches

    def wrong(*args, temperature, **others):
        return right(*args, temperature=0.7, **others)

    monkeypatch.setattr(rollouts, "sample_in_batches", wrong)
    refuses(tiny_ppo_models(), "the sampler draws at another temperature")


def test_the_score_of_a_missing_end_is_no_better_than_the_worst_twentieth():
    models = tiny_ppo_models()
    with torch.no_grad():
        models.scorer.reward_model.first.head.bias.sub_(10.0)  # now nearly every score is below -1

    found, first = preflight(models)

    ended = sorted(first.raw_scores[first.ended].tolist())
    worse = sum(score < found.missing_eos_score for score in ended)
    assert 0.04 < worse / len(ended) < 0.06  # a twentieth, to within one of 198 responses
    assert found.missing_eos_score < -1


def test_the_score_of_a_missing_end_stays_as_set_where_that_is_worse():
    settings = SETTINGS.model_copy(update={"missing_eos_score": -50.0})
    assert preflight(tiny_ppo_models(), settings=settings)[0].missing_eos_score == -50.0


def test_a_constant_score_of_a_missing_end_is_not_lowered():
    models = tiny_ppo_models()
    with torch.no_grad():
        models.scorer.reward_model.first.head.bias.sub_(10.0)  # as above, but -1 is meant
    settings = SETTINGS.model_copy(update={"missing_eos": "replace"})
    assert preflight(models, settings=settings)[0].missing_eos_score == -1.0


def test_padding_tolerance_is_met_by_both_scalar_models_of_other_seeds():
    models = replace(tiny_ppo_models(), value_model=tiny_scalar_model(seed=8))
    assert preflight(models)[0].padding_error < 1e-5
