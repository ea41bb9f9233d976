"""Models, tokenizers and ids small enough for tests: random Llama weights, made in milliseconds."""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    PreTrainedTokenizerFast,
)

from rlhf_core.batches import SpecialTokens
from rlhf_core.models import ScalarModel, frozen_copy
from rlhf_core.new_tokenizers import word_tokenizer
from rlhf_core.reward_models import RewardModel
from rlhf_core.scorers import Scorer
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.sharing import put_on_trunk
from rlhf_core.training.rollouts import PpoModels

PAD, END = 0, 1
VOCABULARY = 12
SPECIAL = SpecialTokens(end=[END], pad=PAD)

STORIES = Path(__file__).parents[2] / "shared" / "data" / "models" / "stories260K"
"""A trained model of 0.26M parameters, in the folder of public data beside the repository."""


def config(*, layers: int = 2, vocabulary: int = VOCABULARY, **changes) -> LlamaConfig:
    """Weights of deviation 0.3 at a width of 32 make distributions that are far from uniform."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
        **changes,
    )


def tiny_policy(*, seed: int = 0, **changes) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(config(**changes))


def tiny_scalar_model(*, seed: int = 1, **changes) -> ScalarModel:
    torch.manual_seed(seed)
    model = LlamaForTokenClassification(config(num_labels=1, **changes))
    torch.nn.init.normal_(model.score.bias)
    return ScalarModel(model)


def tiny_scorer(*, seed: int = 1, **changes) -> Scorer:
    reward_model = RewardModel([tiny_scalar_model(seed=seed, **changes)])
    return Scorer(reward_model.eval().requires_grad_(False))


def words(count: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A tokenizer of `count` tokens: padding, end, unknown and the words w3, w4, ..."""
    tokenizer = word_tokenizer([f"w{index}" for index in range(3, count) for _ in range(count)])
    assert len(tokenizer) == count
    return tokenizer


def tiny_ppo_models(*, reference: LlamaForCausalLM | None = None, **changes) -> PpoModels:
    """A policy, its copy or the given reference, a reward model, and a value model like it."""
    policy = tiny_policy(**changes)
    return PpoModels(
        policy=policy,
        reference=reference or frozen_copy(policy),
        scorer=tiny_scorer(**changes),
        value_model=tiny_scalar_model(**changes),
    )


def arranged(models: PpoModels, settings: PpoSettings) -> PpoModels:
    """The models as the settings want them: without a value model, or with one on the trunk."""
    if settings.algorithm != "ppo":
        return replace(models, value_model=None)
    if settings.value_network == "shared_trunk":
        put_on_trunk(models.value_model, models.policy)
    return models
