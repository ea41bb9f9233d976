"""PPO-ptx: the gradient of plain text, added to PPO's before the step (section 3.7)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_core.batches import join
from rlhf_core.generation import response_distribution
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.losses import language_model_loss
from rlhf_core.settings.ptx import PtxSettings
from rlhf_core.training.optimization import Part, fill_gradients, micro_batches

KEPT_OF_NORMS = 0.9
"""Decay of the running means of both gradients' lengths, per optimizer step."""


def cut_texts(texts: Sequence[Sequence[int]], *, max_tokens: int) -> list[list[int]]:
    """The ids of whole texts as examples of at most `max_tokens`, without pieces of one token.

    A single token is predicted from nothing, so nothing is learnt from it.
    """
    pieces = (
        list(ids[start : start + max_tokens])
        for ids in texts
        for start in range(0, len(ids), max_tokens)
    )
    return [piece for piece in pieces if len(piece) > 1]


@dataclass(frozen=True)
class PtxTerm:
    """The language-model term beside PPO; `numbers` are carried from step to step."""

    examples: Sequence[Sequence[int]]
    settings: PtxSettings
    pad_token_id: int
    numbers: dict[str, float] = field(default_factory=dict)
    """Running means of the lengths of both gradients; none before the first step."""

    def add_gradients(
        self, accelerator: Accelerator, network: nn.Module, policy: nn.Module, rows: Sequence[int]
    ) -> dict[str, float]:
        """Add the gradient of the examples to those that `network` has, in place.

        `policy` is the part of `network` that reads text.
        """
        parameters = [p for p in network.parameters() if p.requires_grad]
        of_ppo = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        own = rows[accelerator.process_index :: accelerator.num_processes]
        parts = list(micro_batches(own, self.settings.micro_batch_size))
        means = fill_gradients(accelerator, network, parts, lambda part: self._part(policy, part))
        of_text = [parameter.grad for parameter in parameters]
        ppo_norm, text_norm = _norm(of_ppo), _norm(of_text)
        coef = self._coef(ppo_norm, text_norm)
        for parameter, ppo, text in zip(parameters, of_ppo, of_text, strict=True):
            parameter.grad = _sum(ppo, text, coef)
        return {
            "ptx_loss": means["loss"],
            "ptx_grad_norm": text_norm,
            "ptx_grad_norm_ratio": text_norm / ppo_norm if ppo_norm else 0.0,
            "ptx_coef": coef,
        }

    def _coef(self, ppo_norm: float, text_norm: float) -> float:
        if self.settings.grad_norm_ratio is None:
            assert self.settings.coef is not None, "the settings require one of the two"
            return self.settings.coef
        if not math.isfinite(ppo_norm + text_norm):
            return self.settings.grad_norm_ratio  # of a step that is not taken
        for name, norm in {"ppo_norm": ppo_norm, "text_norm": text_norm}.items():
            before = self.numbers.get(name, norm)
            self.numbers[name] = KEPT_OF_NORMS * before + (1 - KEPT_OF_NORMS) * norm
        ppo_mean, text_mean = self.numbers["ppo_norm"], self.numbers["text_norm"]
        return self.settings.grad_norm_ratio * ppo_mean / max(text_mean, 1e-12)

    def _part(self, policy: nn.Module, rows: Sequence[int]) -> Part:
        examples = [self.examples[row] for row in rows]
        batch = join(
            [ids[:1] for ids in examples], [ids[1:] for ids in examples], self.pad_token_id
        ).to(next(policy.parameters()).device)
        log_probs = response_distribution(policy, batch, pad_token_id=None, temperature=1.0)
        logprobs = taken_logprobs(log_probs, batch.response_ids)
        loss = language_model_loss(logprobs, batch.response_mask)
        return Part(loss, float(batch.response_mask.sum()), {})


def examples_per_step(settings: PtxSettings, mini_batch_size: int) -> int:
    """Examples beside one optimizer step, over all processes."""
    return max(1, round(mini_batch_size * settings.examples_per_episode))


@dataclass(frozen=True)
class TextOfUpdate:
    """The examples of one update: `rows` of all its optimizer steps, `per_step` to each."""

    term: PtxTerm
    rows: Sequence[int]
    per_step: int

    def add_gradients(
        self, accelerator: Accelerator, network: nn.Module, policy: nn.Module, *, step: int
    ) -> dict[str, float]:
        """`PtxTerm.add_gradients` of the examples of the update's optimizer step `step`, from 0."""
        rows = self.rows[step * self.per_step : (step + 1) * self.per_step]
        return self.term.add_gradients(accelerator, network, policy, rows)


def _sum(first: Tensor | None, second: Tensor | None, coef: float) -> Tensor | None:
    """first + coef * second, where None is nothing."""
    if second is None:
        return first
    return coef * second if first is None else first + coef * second


def _norm(gradients: Sequence[Tensor | None]) -> float:
    """The length of all gradients as one vector."""
    found = [gradient for gradient in gradients if gradient is not None]
    squares = [gradient.float().square().sum() for gradient in found]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
