"""One rollout: responses of the current policy, with all that its optimization needs.

The order is that of the specification's algorithm, steps 3 to 14; every tensor is
`[batch, response]` unless it says otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from rlhf_core.batches import Sequences, SpecialTokens
from rlhf_core.generation import response_distribution, sample_in_batches
from rlhf_core.maths.logprobs import (
    entropy,
    response_columns,
    surprisal_variance,
    taken_logprobs,
)
from rlhf_core.maths.masking import has_ended
from rlhf_core.maths.rewards import kl_estimates, replace_unfinished
from rlhf_core.maths.running import RunningMoments
from rlhf_core.models import ScalarModel
from rlhf_core.scorers import HELD_OUT_SCORE, Scorer
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.threads import side_by_side
from rlhf_core.training.estimates import Baseline, group_estimates, token_estimates
from rlhf_core.training.score_rules import NOTHING_SEEN, paid_scores

SAMPLED_TOGETHER = 64
"""Responses that one call of the decoder draws; each batch has a generator of its own."""


@dataclass(frozen=True)
class PpoModels:
    """The models by their parts; only `policy` and `value_model` are trained.

    Without a value model the other responses to a prompt are the baseline. Its body may be the
    policy's own.
    """

    policy: PreTrainedModel
    reference: PreTrainedModel
    scorer: Scorer
    value_model: ScalarModel | None

    def by_name(self) -> dict[str, nn.Module]:
        """Every model that there is."""
        parts = {name: getattr(self, name) for name in ("policy", "reference", "scorer")}
        return parts if self.value_model is None else {**parts, "value_model": self.value_model}


@dataclass(frozen=True)
class Rollout:
    """Responses, what each model says of them, and what follows for their optimization."""

    sequences: Sequences
    ended: Tensor
    """[batch]: whether the response holds an end token."""
    sampler_logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    entropy: Tensor
    surprisal_variance: Tensor
    end_probability: Tensor
    """What the policy gave all end tokens together, before each token."""
    baseline: Baseline
    old_values: Tensor
    """What the returns were compared with: the value model's values, or the mean of a group."""
    value_mask: Tensor
    raw_scores: Tensor
    """[batch]: the scorer's, before the rule for responses that did not end."""
    judged: Mapping[str, Tensor]
    """What else was found of the responses, by metric; each [batch]."""
    scores: Tensor
    """[batch]: after it."""
    scores_seen: RunningMoments
    """Of the raw scores of all rollouts up to this one, where they are scaled by them."""
    kl: Tensor
    """The estimate of the KL to the reference that is taken off the rewards."""
    rewards: Tensor
    advantages: Tensor
    returns: Tensor

    @property
    def response_mask(self) -> Tensor:
        """True at every token that the policy chose, the end token included."""
        return self.sequences.response_mask

    def __len__(self) -> int:
        return len(self.ended)


@torch.no_grad()
def collect_rollout(
    models: PpoModels,
    prompts: Sequence[Sequence[int]],
    settings: PpoSettings,
    *,
    special: SpecialTokens,
    max_response_tokens: int,
    kl_coef: float,
    missing_eos_score: float,
    seed: int,
    accelerator: Accelerator,
    scores_seen: RunningMoments = NOTHING_SEEN,
) -> Rollout:
    """Sample the responses to each prompt and estimate their advantages.

    The responses to one prompt are neighbours. All draws come from `seed`.
    """
    sampled = sample_in_batches(
        models.policy,
        [prompt for prompt in prompts for _ in range(settings.responses_per_prompt)],
        special=special,
        max_tokens=max_response_tokens,
        temperature=settings.temperature,
        batch_size=SAMPLED_TOGETHER,
        seed=seed,
    )
    sequences, sampler_logprobs = sampled.sequences, sampled.logprobs
    if settings.score_at == "after_eos" and sequences.response_ids.shape[1] < max_response_tokens:
        sequences = _with_one_more_column(sequences, special.pad)
        sampler_logprobs = pad(sampler_logprobs, (0, 1))
    ends = torch.tensor(list(special.end), device=sequences.response_ids.device)
    ended = has_ended(sequences.response_ids, ends, sequences.response_mask)
    seen = _what_the_models_say(models, sequences, settings, special)
    size = settings.micro_batch_size or settings.mini_batch_size
    judgement = models.scorer.judge(sequences, special=special, batch_size=size)
    scores, scores_seen = paid_scores(
        judgement.scores,
        ended,
        settings,
        missing_eos_score=missing_eos_score,
        seen=scores_seen,
        accelerator=accelerator,
    )
    estimates_of_kl = kl_estimates(seen.logprobs, seen.ref_logprobs, sequences.response_mask)
    kl = estimates_of_kl._asdict()[settings.kl_estimator]
    estimates = (
        group_estimates(scores, kl, sequences.response_mask, settings, kl_coef=kl_coef)
        if seen.values is None
        else token_estimates(
            scores,
            kl,
            seen.values,
            sequences.response_mask,
            settings,
            kl_coef=kl_coef,
            accelerator=accelerator,
        )
    )
    return Rollout(
        sequences=sequences,
        ended=ended,
        sampler_logprobs=sampler_logprobs,
        old_logprobs=seen.logprobs,
        ref_logprobs=seen.ref_logprobs,
        entropy=seen.entropy,
        surprisal_variance=seen.surprisal_variance,
        end_probability=seen.end_probability,
        raw_scores=judgement.scores,
        judged={
            name: replace_unfinished(part, ended, missing_eos_score=missing_eos_score)
            if name == HELD_OUT_SCORE
            else part
            for name, part in judgement.parts.items()
        },
        scores=scores,
        scores_seen=scores_seen,
        kl=kl,
        **vars(estimates),
    )


@dataclass(frozen=True)
class _Seen:
    logprobs: Tensor
    entropy: Tensor
    surprisal_variance: Tensor
    end_probability: Tensor
    ref_logprobs: Tensor
    values: Tensor | None = None


def _what_the_models_say(
    models: PpoModels, sequences: Sequences, settings: PpoSettings, special: SpecialTokens
) -> _Seen:
    """Teacher-forced passes of policy, reference and value model over the same ids and masks."""
    width = sequences.response_ids.shape[1]
    spare = 1 if settings.score_at == "after_eos" else 0  # the state after the end has a value too

    def say(index: Tensor) -> list[Tensor]:
        rows = sequences.rows(index, spare_columns=spare)
        log_probs = policy_distribution(models.policy, rows, settings, special)
        ref_log_probs = policy_distribution(models.reference, rows, settings, special)
        missing = width - rows.response_ids.shape[1]
        per_token = [
            taken_logprobs(log_probs, rows.response_ids),
            entropy(log_probs),
            surprisal_variance(log_probs),
            log_probs[..., list(special.end)].exp().sum(dim=-1),
            taken_logprobs(ref_log_probs, rows.response_ids),
        ]
        said = [pad(part, (0, missing)) for part in per_token]
        if models.value_model is not None:
            said.append(pad(values_before(models.value_model, rows), (0, missing)))
        return said

    order = sequences.response_mask.sum(dim=1).argsort(stable=True)
    size = settings.micro_batch_size or settings.mini_batch_size
    parts = side_by_side(say, torch.split(order, size), device=order.device)
    back = order.argsort()
    return _Seen(*(torch.cat(column)[back] for column in zip(*parts, strict=True)))


def policy_distribution(
    policy: nn.Module, sequences: Sequences, settings: PpoSettings, special: SpecialTokens
) -> Tensor:
    """The distribution that the sampler drew from: [batch, response, vocabulary]."""
    return response_distribution(
        policy, sequences, pad_token_id=special.pad, temperature=settings.temperature
    )


def values_before(value_model: nn.Module, sequences: Sequences) -> Tensor:
    """The value of the state before each response token: [batch, response] (section 3.1)."""
    per_column: Tensor = value_model(sequences.input_ids, sequences.attention_mask)
    return response_columns(per_column, sequences.response_ids.shape[1])


def _with_one_more_column(sequences: Sequences, pad_token_id: int) -> Sequences:
    return replace(
        sequences,
        response_ids=pad(sequences.response_ids, (0, 1), value=pad_token_id),
        response_mask=pad(sequences.response_mask, (0, 1), value=False),
    )
