"""Reward modelling: a scalar head learns to rank responses as the labelers did."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from rlhf_core.batches import SharedPrompts, SpecialTokens, shuffled_batches
from rlhf_core.maths.losses import better_worse_pairs, kwise_loss
from rlhf_core.maths.schedules import cosine_with_warmup
from rlhf_core.report import Report
from rlhf_core.reward_models import RewardModel, head_numbers, with_one_end
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.training.compared import Compared
from rlhf_core.training.optimization import (
    Part,
    adamw,
    micro_batches,
    optimizer_step,
    own_share,
    set_learning_rate,
)
from rlhf_core.training.ranked import Mismatches, Rankings
from rlhf_core.training.state import Saving, TrainingState, notice_of
from rlhf_core.training.supervised_guard import SupervisedGuard
from rlhf_core.training.trained import Trained


class TokenNumbers(NamedTuple):
    """What a reward model in training says of a batch of responses."""

    per_token: Tensor
    """[members, batch, response]: each member's number at each token, padding included."""
    token_sums: Tensor
    """[batch]: the sum over the response of numbers that are read one layer earlier."""


class ReadOuts(nn.Module):
    """A reward model in training: its members' numbers, and a sum read one layer earlier."""

    def __init__(self, reward_model: RewardModel) -> None:
        super().__init__()
        self.reward_model = reward_model
        self.token_head = nn.Linear(reward_model.first.head.in_features, 1, bias=False)
        nn.init.zeros_(self.token_head.weight)

    def forward(self, batch: SharedPrompts, end_token_ids: Sequence[int]) -> TokenNumbers:
        """The numbers of every response token of the batch."""
        first, heads = self.reward_model.first, self.reward_model.heads
        response_ids = with_one_end(batch.response_ids, batch.response_mask, end_token_ids)
        states = first.states_after_prompts(replace(batch, response_ids=response_ids))
        below = states[-2].float()
        per_token = self.token_head(rms_norm(below, below.shape[-1:])).squeeze(-1)
        token_sums = per_token.masked_fill(~batch.response_mask, 0.0).sum(dim=1)
        if heads is None:
            return TokenNumbers(first.read(states[-1]).unsqueeze(0), token_sums)
        return TokenNumbers(head_numbers(heads, states[-1]), token_sums)


def train_reward_model(
    reward_model: RewardModel,
    train: Rankings,
    settings: RewardModelSettings,
    report: Report,
    *,
    special: SpecialTokens,
    mismatched: Mismatches | None,
    seed: int,
    accelerator: Accelerator,
    saving: Saving | None = None,
) -> int:
    """Teach `reward_model` the rankings in place; gives the number of optimizer steps.

    All responses of a prompt are in one step, each forwarded once; the loss is a mean over a
    prompt's pairs and then over prompts (arXiv:2203.02155, eq. 1 and 3.4). Where `mismatched` rows
    are given they are learnt first, with a learning-rate schedule of their own.
    """
    model = ReadOuts(reward_model)
    optimizer = adamw(model, settings.learning_rate, weight_decay=settings.weight_decay)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    prepared.train()
    trained = {"reward_model": Trained(model, optimizer)}
    guard = SupervisedGuard("reward_model", settings.sentinel, trained, notice=notice_of(saving))
    state = TrainingState(
        saving, accelerator, trained, numbers={"guard": guard.numbers}, tensors=guard.tensors
    )
    teacher = _Teacher(prepared, optimizer, settings, special, accelerator, state, guard)
    sets: list[Rankings | Mismatches] = [train] if mismatched is None else [mismatched, train]
    steps = 0
    with state.continued(steps=sum(_steps(rankings, settings) for rankings in sets)):
        guard.keep_first()
        if mismatched is not None:
            rate = settings.mismatch_learning_rate or settings.learning_rate
            renamed = _renamed(report, "mismatch_")
            steps = teacher.teach(mismatched, renamed, learning_rate=rate, seed=seed, start=0)
        steps = teacher.teach(
            train, report, learning_rate=settings.learning_rate, seed=seed, start=steps
        )
    guard.finish_at(steps, report)
    return steps


def _steps(rankings: Rankings | Mismatches, settings: RewardModelSettings) -> int:
    return -(-len(rankings) // settings.batch_size) * settings.epochs


def _renamed(report: Report, prefix: str) -> Report:
    return lambda step, metrics: report(
        step,
        {name if name == "progress" else prefix + name: of for name, of in metrics.items()},
    )


@dataclass(frozen=True)
class _Teacher:
    """The steps over one set of rankings."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    settings: RewardModelSettings
    special: SpecialTokens
    accelerator: Accelerator
    state: TrainingState
    guard: SupervisedGuard

    def teach(
        self,
        rankings: Rankings | Mismatches,
        report: Report,
        *,
        learning_rate: float,
        seed: int,
        start: int,
    ) -> int:
        """Pass over the rankings `epochs` times; reports and counts steps from `start`.

        Steps that were taken before are not taken again.
        """
        settings = self.settings
        steps = _steps(rankings, settings)
        batches = (
            rows
            for epoch in range(settings.epochs)
            for rows in shuffled_batches(
                *rankings.lengths, settings.batch_size, seed=seed, epoch=epoch
            )
        )
        done = max(self.state.done - start, 0)
        for step, rows in islice(enumerate(batches), done, None):
            share = cosine_with_warmup(
                step,
                steps=steps,
                warmup_steps=int(settings.warmup_share * steps),
                final_share=settings.final_learning_rate_share,
            )
            set_learning_rate(self.optimizer, learning_rate * share * self.guard.rate_share)
            taken = optimizer_step(
                self.accelerator,
                self.model,
                self.optimizer,
                micro_batches(own_share(rows, self.accelerator), settings.micro_batch_size),
                partial(self._part, rankings),
                max_grad_norm=settings.max_grad_norm,
                guard=self.guard,
            )
            metrics = {"loss": taken.loss, "grad_norm": taken.grad_norm, **taken.metrics}
            report(start + step + 1, metrics | {"progress": (step + 1) / steps})
            self.guard.see(start + step + 1, metrics, taken.bad, rows=rows)
            self.guard.step_done(start + step + 1)
            self.state.step_done(start + step + 1, is_last=step + 1 == steps)
        return start + steps

    def _part(self, rankings: Rankings | Mismatches, rows: list[int]) -> Part:
        device = self.accelerator.device
        ranked = rankings.ranked(rows)
        batch = ranked.padded(self.special.pad).to(device)
        numbers = self.model(batch, self.special.end)
        ranks, comparison = ranked.ranks.to(device), ranked.comparison.to(device)
        compared = Compared(batch, ranks, comparison, ranked.margins.to(device), self.special)
        losses = [compared.losses(member, self.settings) for member in numbers.per_token]
        if ranked.seen is None:
            loss = torch.stack([of_prompt.mean() for of_prompt in losses]).mean()
        else:  # each member learns from its own share of the prompts
            weights = ranked.seen.to(device) / self.settings.data_share
            loss = (torch.stack(losses) * weights).mean()
        token_loss = kwise_loss(numbers.token_sums, ranks, comparison).mean()
        metrics = {"pair_loss": float(loss.detach())}
        pairs = better_worse_pairs(ranks, comparison)
        if len(pairs.better):  # a batch of ties, or of one demonstration, compares nothing
            scores = compared.scores(numbers.per_token.mean(dim=0), self.settings.readout)
            correct = (scores[pairs.better] > scores[pairs.worse]).float()
            metrics["accuracy"] = float(correct.mean())
        return Part(loss + self.settings.token_loss_weight * token_loss, len(rows), metrics)
