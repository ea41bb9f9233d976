"""The faults that `benchmarks.faults` plants, each with the causes that count as right."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from rlhf_core import generation, reward_models, scorers
from rlhf_core.batches import SpecialTokens
from rlhf_core.generation import Sampled
from rlhf_core.models import frozen_copy
from rlhf_core.stages import ppo as stage
from rlhf_core.training import (
    estimates,
    ppo,
    ppo_networks,
    ppo_optimization,
    ppo_watch,
    preflight,
    rollout_rules,
    rollouts,
    score_rules,
)


@dataclass(frozen=True)
class Fault:
    """One fault, and the causes that the sentinel may name for it."""

    name: str
    causes: frozenset[str]
    plant: Callable[[ExitStack], None] = lambda stack: None
    ppo: Mapping[str, Any] = field(default_factory=dict)
    """Settings of PPO that are the fault, or make it matter."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the model section as PPO alone reads it."""
    swapped: bool = False
    """Whether the reward model is the one with swapped labels."""


def _put(stack: ExitStack, owner: object, name: str, value: object) -> None:
    stack.enter_context(patch.object(owner, name, value))


def _right(owner: object, name: str) -> Any:
    """What stands there before anything is planted."""
    return getattr(owner, name)


def _after_start(change: Callable[[Any], None]) -> Callable[[ExitStack], None]:
    """Plant what `change` does to the models once the checks before PPO are over."""

    def plant(stack: ExitStack) -> None:
        right = _right(stage, "train_ppo")

        def train(models: Any, *arguments: Any, **keywords: Any) -> dict[str, float]:
            change(models)
            found: dict[str, float] = right(models, *arguments, **keywords)
            return found

        _put(stack, stage, "train_ppo", train)

    return plant


def _dropout(models: Any) -> None:
    for layer in models.policy.model.layers:
        layer.self_attn.attention_dropout = 0.1


def _rewards(change: Callable[..., Tensor]) -> Callable[[ExitStack], None]:
    """Plant other rewards: `change(right, scores, kl, mask, kl_coef)` gives them."""

    def plant(stack: ExitStack) -> None:
        right = _right(estimates, "shape_rewards")

        def shape(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
            return change(right, scores, kl, mask, kl_coef)

        _put(stack, estimates, "shape_rewards", shape)

    return plant


def _whitened(right: Any, scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    rewards: Tensor = right(scores, kl, mask, kl_coef=kl_coef)
    kept = rewards[mask]
    return ((rewards - kept.mean()) / kept.std()).masked_fill(~mask, 0.0)


def _on_every_token(right: Any, scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    return (scores.unsqueeze(1) - kl_coef * kl).masked_fill(~mask, 0.0)


def _draws(change: Callable[[Tensor, int], Tensor]) -> Callable[[ExitStack], None]:
    """Plant a sampler that draws from changed logits and tells the right log-probabilities.

    `change` is given the logits, and how many tokens were drawn before.
    """

    def plant(stack: ExitStack) -> None:
        right, drawn = _right(generation, "_draw"), dict[int, int]()

        def draw(
            logits: Tensor, pad_token_id: int, temperature: float, generator: torch.Generator
        ) -> tuple[Tensor, Tensor]:
            count = drawn[id(generator)] = drawn.get(id(generator), -1) + 1
            taken, _ = right(change(logits, count), pad_token_id, temperature, generator)
            log_probs = (logits.float() / temperature).log_softmax(dim=-1)
            return taken, log_probs.gather(-1, taken.unsqueeze(-1)).squeeze(-1)

        sample = generation.sample_responses

        def fresh(*arguments: Any, generator: torch.Generator, **keywords: Any) -> Sampled:
            drawn.pop(id(generator), None)
            return sample(*arguments, generator=generator, **keywords)

        _put(stack, generation, "_draw", draw)
        _put(stack, generation, "sample_responses", fresh)

    return plant


def _top_k(logits: Tensor, _: int) -> Tensor:
    return logits.masked_fill(logits < logits.topk(4).values[..., -1:], -torch.inf)


def _top_p(logits: Tensor, _: int) -> Tensor:
    ordered = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    above = ordered.values.cumsum(dim=-1) - ordered.values
    out = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ordered.indices, above > 0.8)
    return logits.masked_fill(out, -torch.inf)


def _greedy(logits: Tensor, _: int) -> Tensor:
    return logits.masked_fill(logits < logits.max(dim=-1, keepdim=True).values, -torch.inf)


END = 1
"""The end token of a tokenizer made here."""


def _no_early_end(logits: Tensor, drawn: int) -> Tensor:
    changed = logits.clone()
    if drawn < 24:
        changed[..., END] = -torch.inf
    return changed


def _sampled(change: Callable[[Any, Any, dict[str, Any]], Sampled]) -> Callable[[ExitStack], None]:
    """Plant another sampler: `change(right, policy, keywords)` gives what it draws."""

    def plant(stack: ExitStack) -> None:
        right = _right(rollouts, "sample_in_batches")

        def sample(policy: Any, prompts: Any, **keywords: Any) -> Sampled:
            return change(right, policy, {"prompts": prompts, **keywords})

        _put(stack, rollouts, "sample_in_batches", sample)

    return plant


def _cooler(right: Any, policy: Any, keywords: dict[str, Any]) -> Sampled:
    cooler: Sampled = right(policy, **{**keywords, "temperature": 0.7})
    return cooler


def _without_mask(right: Any, policy: Any, keywords: dict[str, Any]) -> Sampled:
    sampled: Sampled = right(policy, **keywords)
    sequences = sampled.sequences
    mask = torch.ones_like(sequences.response_mask)
    return sampled._replace(sequences=replace(sequences, response_mask=mask))


def _stale(stack: ExitStack) -> None:
    first: list[Any] = []

    def old(right: Any, policy: Any, keywords: dict[str, Any]) -> Sampled:
        if not first:
            first.append(frozen_copy(policy))
        sampled: Sampled = right(first[0], **keywords)
        return sampled

    _sampled(old)(stack)


def _positions(stack: ExitStack) -> None:
    _put(stack, generation, "position_ids", lambda mask: torch.zeros_like(mask, dtype=torch.long))


def _pad_is_end(stack: ExitStack) -> None:
    _put(stack, stage, "SpecialTokens", lambda end, pad: SpecialTokens(end, end[0]))


def _late_values(stack: ExitStack) -> None:
    right = rollouts.values_before

    def late(value_model: Any, sequences: Any) -> Tensor:
        return right(value_model, sequences).roll(-1, dims=1)

    for module in (rollouts, ppo_optimization, preflight):
        _put(stack, module, "values_before", late)


def _low_logits(stack: ExitStack) -> None:
    right = rollouts.policy_distribution

    def low(*arguments: Any) -> Tensor:
        return (right(*arguments) - 30).bfloat16().float().log_softmax(dim=-1)

    for module in (rollouts, ppo_optimization, preflight, rollout_rules, ppo_watch):
        _put(stack, module, "policy_distribution", low)


def _other_reference(stack: ExitStack) -> None:
    right = _right(stage, "load_models")

    def load(*arguments: Any, **keywords: Any) -> Any:
        models = right(*arguments, **keywords)
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in models.reference.parameters():
                weight.add_(0.02 * torch.randn_like(weight))
        return models

    _put(stack, stage, "load_models", load)


def _moving_reference(stack: ExitStack) -> None:
    right = _right(ppo, "collect_rollout")

    def collect(models: Any, *arguments: Any, **keywords: Any) -> Any:
        moved = replace(models, reference=frozen_copy(models.policy))
        return right(moved, *arguments, **keywords)

    _put(stack, ppo, "collect_rollout", collect)


def _idle(stack: ExitStack) -> None:
    right = ppo_networks.Networks.set_share
    _put(stack, ppo_networks.Networks, "set_share", lambda networks, _: right(networks, 0.0))


def _judged(change: Callable[[int, Any, Any], Tensor]) -> Callable[[ExitStack], None]:
    """Plant other scores: `change(call, judgement, sequences)` gives them."""

    def plant(stack: ExitStack) -> None:
        right, calls = scorers.Scorer.judge, [0]

        def judge(scorer: Any, sequences: Any, **keywords: Any) -> Any:
            calls[0] += 1
            judgement = right(scorer, sequences, **keywords)
            return judgement._replace(scores=change(calls[0], judgement, sequences))

        _put(stack, scorers.Scorer, "judge", judge)

    return plant


def _broken_later(call: int, judgement: Any, _: Any) -> Tensor:
    scores: Tensor = judgement.scores
    return scores * float("nan") if call > 3 else scores


def _early_read_out(stack: ExitStack) -> None:
    right = reward_models.read_out

    def early(per_token: Tensor, mask: Tensor, ended: Tensor, readout: Any) -> Tensor:
        return right(per_token.roll(1, dims=1), mask, ended, readout)

    _put(stack, reward_models, "read_out", early)


def _keeps_unfinished(stack: ExitStack) -> None:
    _put(stack, score_rules, "replace_unfinished", lambda scores, ended, **_: scores)


def _one_seed(stack: ExitStack) -> None:
    _put(stack, ppo, "_seed", lambda *_: 7)


def _lengths(sequences: Any) -> Tensor:
    lengths: Tensor = sequences.response_mask.sum(dim=1).float()
    return lengths


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The fault is in the program, and out of it afterwards."""
    with ExitStack() as stack:
        fault.plant(stack)
        yield


def _only(*causes: str) -> frozenset[str]:
    return frozenset(causes)


FAULTS = (
    Fault("dropout in rollout and update", _only("dropout"), _after_start(_dropout)),
    Fault(
        "KL sign flipped",
        _only("kl_sign"),
        _rewards(lambda right, s, kl, mask, coef: right(s, kl, mask, kl_coef=-coef)),
    ),
    Fault(
        "KL left out of the rewards",
        _only("kl_missing"),
        _rewards(lambda right, s, kl, mask, coef: right(s, kl, mask, kl_coef=0.0)),
    ),
    Fault(
        "kl_coef 0",
        _only("no_kl_penalty"),
        ppo={"kl_coef": 0.0, "learning_rate": 2e-3, "updates": 30},
    ),
    Fault("kl_coef 1", _only("kl_coef_high"), ppo={"kl_coef": 1.0, "updates": 16}),
    Fault("sampler at temperature 0.7", _only("sampler_temperature"), _sampled(_cooler)),
    Fault("top_k 4 in the sampler", _only("top_k"), _draws(_top_k)),
    Fault("top_p 0.8 in the sampler", _only("top_p"), _draws(_top_p)),
    Fault("greedy rollouts", _only("greedy"), _draws(_greedy)),
    Fault("no end before 24 tokens in the sampler", _only("end_suppressed"), _draws(_no_early_end)),
    Fault(
        "position ids all 0",
        _only("positions_or_mask", "template_differs", "sampler_differs"),
        _positions,
    ),
    Fault("padding token is the end token", _only("pad_is_end"), _pad_is_end),
    Fault("padding counted as response", _only("mask_wrong"), _sampled(_without_mask)),
    Fault("values read one column late", _only("value_late"), _late_values),
    Fault("rewards whitened with a shift", _only("rewards_shifted"), _rewards(_whitened)),
    Fault("score on every token", _only("score_on_every_token"), _rewards(_on_every_token)),
    Fault("another reference", _only("another_reference"), _other_reference),
    Fault("KL against the policy itself", _only("reference_moves"), _moving_reference),
    Fault("learning rate x20", _only("learning_rate_high"), ppo={"learning_rate": 2e-2}),
    Fault("learning rate x1000", _only("learning_rate_high"), ppo={"learning_rate": 1.0}),
    Fault("optimizer does not step", _only("optimizer_idle"), _idle),
    Fault(
        "constant scores",
        _only("read_out"),
        _judged(lambda call, judgement, _: torch.zeros_like(judgement.scores)),
    ),
    Fault("scores are NaN from the third update", _only("bad_reward"), _judged(_broken_later)),
    Fault(
        "scores of size 1e30",
        _only("scores_extreme"),
        _judged(lambda call, judgement, _: judgement.scores * 1e30),
    ),
    Fault("reward model with swapped labels", _only("labels_swapped"), swapped=True),
    Fault("score read one token early", _only("reward_text_differs", "read_out"), _early_read_out),
    Fault(
        "missing-EOS rule off",
        _only("missing_eos_rule_off"),
        _keeps_unfinished,
        model={"max_response_tokens": 26},
    ),
    Fault("one seed for all rollouts", _only("one_seed"), _one_seed),
    Fault(
        "template without its space",
        _only("template_differs"),
        ppo={"value_init": "sft"},  # the reward model then reads in its own way
        model={"prompt_template": "{prompt}->"},
    ),
    Fault("stale sampler weights", _only("stale_sampler"), _stale),
    Fault("log-probabilities from bf16 logits", _only("low_precision"), _low_logits),
    Fault(
        "reward for short answers alone",
        _only("empty_liked", "length_falls"),
        _judged(lambda call, judgement, sequences: -0.1 * _lengths(sequences)),
        ppo={"learning_rate": 2e-3, "missing_eos_score": -50.0, "updates": 20},
    ),
    Fault(
        "reward for long answers alone",
        _only("length_biased", "missing_eos_weak"),
        _judged(lambda call, judgement, sequences: 0.1 * _lengths(sequences)),
        ppo={"learning_rate": 1.5e-3, "updates": 16},
    ),
)
"""Those of the specification's sections 3.11 and 3.12, and some beside."""
