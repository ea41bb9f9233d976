"""Reward modelling: a scalar head learns to rank responses as the labelers did."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from rlhf_core.batches import Sequences, SpecialTokens, join, shuffled_batches
from rlhf_core.maths.losses import better_worse_pairs, kwise_loss
from rlhf_core.maths.schedules import cosine_with_warmup
from rlhf_core.models import ScalarModel
from rlhf_core.report import Report
from rlhf_core.scoring import read_at_end, score_in_batches, with_one_end
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.training.optimization import (
    Part,
    adamw,
    micro_batches,
    optimizer_step,
    own_share,
    set_learning_rate,
)


@dataclass(frozen=True)
class Rankings:
    """Token ids of prompts and of their ranked responses; rank 1 is best, equal ranks are ties.

    A pair is a ranking of two. Every response ends with EOS.
    """

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[Sequence[int]]]
    ranks: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of each row's prompt and longest response."""
        longest = [max(len(response) for response in row) for row in self.responses]
        return [len(prompt) for prompt in self.prompts], longest

    def flat(self, rows: Sequence[int]) -> "RankedResponses":
        """The responses of the given rows one below the other, each with its prompt."""
        return RankedResponses(
            [list(self.prompts[row]) for row in rows for _ in self.responses[row]],
            [list(response) for row in rows for response in self.responses[row]],
            torch.tensor([rank for row in rows for rank in self.ranks[row]]),
            torch.tensor([index for index, row in enumerate(rows) for _ in self.responses[row]]),
        )


@dataclass(frozen=True)
class Mismatches:
    """Token ids of responses, the prompts they were written for, and other prompts.

    Each is a ranking of two: the same response to its own prompt and to the other one. As nothing
    else differs, all that can be learnt is what in a response fits its prompt.
    """

    prompts: Sequence[Sequence[int]]
    other_prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of each row's prompt and response."""
        return [len(row) for row in self.prompts], [len(row) for row in self.responses]

    def flat(self, rows: Sequence[int]) -> "RankedResponses":
        """Each given response below its own and the other prompt."""
        return RankedResponses(
            [
                list(prompt)
                for row in rows
                for prompt in (self.prompts[row], self.other_prompts[row])
            ],
            [list(self.responses[row]) for row in rows for _ in range(2)],
            torch.tensor([1, 2] * len(rows)),
            torch.arange(len(rows)).repeat_interleave(2),
        )


class RankedResponses(NamedTuple):
    """Responses in one list: ids, rank within the prompt, and the number of their prompt."""

    prompts: list[list[int]]
    responses: list[list[int]]
    ranks: Tensor
    prompt_index: Tensor


class Comparisons(NamedTuple):
    """Every validation comparison: its prompt, and both scores; each [pairs]."""

    prompt_index: Tensor
    better: Tensor
    worse: Tensor
    better_tokens: Tensor
    worse_tokens: Tensor

    @property
    def correct(self) -> Tensor:
        """1 where the better response scores higher, 0.5 where both score the same."""
        return (self.better > self.worse).float() + 0.5 * (self.better == self.worse).float()


class TwoReadOuts(nn.Module):
    """A reward model in training: its own score, and a sum over tokens read one layer earlier."""

    def __init__(self, reward_model: ScalarModel) -> None:
        super().__init__()
        self.reward_model = reward_model
        self.token_head = nn.Linear(reward_model.head.in_features, 1, bias=False)
        nn.init.zeros_(self.token_head.weight)

    def forward(self, sequences: Sequences, end_token_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The score at each response's end, and the sum of its tokens' numbers; each [batch]."""
        sequences = with_one_end(sequences, end_token_ids)
        states = self.reward_model.hidden_states(sequences.input_ids, sequences.attention_mask)
        below = states[-2].float()
        per_column = self.token_head(rms_norm(below, below.shape[-1:])).squeeze(-1)
        per_token = per_column[:, sequences.prompt_ids.shape[1] :]
        token_sums = per_token.masked_fill(~sequences.response_mask, 0.0).sum(dim=1)
        return read_at_end(self.reward_model.read(states[-1]), sequences), token_sums


def train_reward_model(
    reward_model: ScalarModel,
    train: Rankings,
    settings: RewardModelSettings,
    report: Report,
    *,
    special: SpecialTokens,
    mismatched: Mismatches | None,
    seed: int,
    accelerator: Accelerator,
) -> int:
    """Teach `reward_model` the rankings in place; gives the number of optimizer steps.

    All responses of a prompt are in one step, each forwarded once; the loss is a mean over a
    prompt's pairs and then over prompts (arXiv:2203.02155, eq. 1 and 3.4). Where `mismatched` rows
    are given they are learnt first, with a learning-rate schedule of their own.
    """
    model = TwoReadOuts(reward_model)
    optimizer = adamw(model, settings.learning_rate, weight_decay=settings.weight_decay)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    prepared.train()
    teacher = _Teacher(prepared, optimizer, settings, special, accelerator)
    steps = 0
    if mismatched is not None:
        rate = settings.mismatch_learning_rate or settings.learning_rate
        renamed = _renamed(report, "mismatch_")
        steps = teacher.teach(mismatched, renamed, learning_rate=rate, seed=seed, start=0)
    return teacher.teach(
        train, report, learning_rate=settings.learning_rate, seed=seed, start=steps
    )


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

    def teach(
        self,
        rankings: Rankings | Mismatches,
        report: Report,
        *,
        learning_rate: float,
        seed: int,
        start: int,
    ) -> int:
        """Pass over the rankings `epochs` times; reports and counts steps from `start`."""
        settings = self.settings
        per_epoch = -(-len(rankings) // settings.batch_size)
        steps = per_epoch * settings.epochs
        batches = (
            rows
            for epoch in range(settings.epochs)
            for rows in shuffled_batches(
                *rankings.lengths, settings.batch_size, seed=seed, epoch=epoch
            )
        )
        for step, rows in enumerate(batches):
            share = cosine_with_warmup(
                step,
                steps=steps,
                warmup_steps=int(settings.warmup_share * steps),
                final_share=settings.final_learning_rate_share,
            )
            set_learning_rate(self.optimizer, learning_rate * share)
            taken = optimizer_step(
                self.accelerator,
                self.model,
                self.optimizer,
                micro_batches(own_share(rows, self.accelerator), settings.micro_batch_size),
                partial(self._part, rankings),
                max_grad_norm=settings.max_grad_norm,
            )
            metrics = {"loss": taken.loss, "grad_norm": taken.grad_norm, **taken.metrics}
            report(start + step + 1, metrics | {"progress": (step + 1) / steps})
        return start + steps

    def _part(self, rankings: Rankings | Mismatches, rows: list[int]) -> Part:
        device = self.accelerator.device
        flat = rankings.flat(rows)
        batch = join(flat.prompts, flat.responses, self.special.pad).to(device)
        scores, token_sums = self.model(batch, self.special.end)
        ranks, prompt_index = flat.ranks.to(device), flat.prompt_index.to(device)
        pairs = better_worse_pairs(ranks, prompt_index)
        loss = kwise_loss(scores, ranks, prompt_index).mean()
        token_loss = kwise_loss(token_sums, ranks, prompt_index).mean()
        correct = (scores[pairs.better] > scores[pairs.worse]).float()
        return Part(
            loss + self.settings.token_loss_weight * token_loss,
            len(rows),
            {"accuracy": float(correct.mean()), "pair_loss": float(loss.detach())},
        )


def compare(
    reward_model: ScalarModel,
    rankings: Rankings,
    *,
    special: SpecialTokens,
    batch_size: int,
) -> Comparisons:
    """Score every response of `rankings` once and set each pair of different rank side by side."""
    reward_model.eval()
    flat = rankings.flat(range(len(rankings.prompts)))
    scores = score_in_batches(
        reward_model,
        flat.prompts,
        flat.responses,
        special=special,
        batch_size=batch_size,
    )
    tokens = torch.tensor([len(response) for response in flat.responses])
    better, worse = [], []
    start = 0
    for ranks in rankings.ranks:
        for first, first_rank in enumerate(ranks):
            for second, second_rank in enumerate(ranks):
                if first_rank < second_rank:
                    better.append(start + first)
                    worse.append(start + second)
        start += len(ranks)
    return Comparisons(
        flat.prompt_index[better], scores[better], scores[worse], tokens[better], tokens[worse]
    )


def mismatches(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, rows: int, seed: int
) -> Mismatches | None:
    """Pair at most `rows` demonstrations, drawn from the seed, with another one's prompt.

    None where `rows` is 0 or fewer than two demonstrations are there.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(prompts), generator=generator)[:rows].tolist()
    if len(order) < 2:
        return None
    return Mismatches(
        [prompts[row] for row in order],
        [prompts[row] for row in order[1:] + order[:1]],
        [responses[row] for row in order],
    )


def shift_scores(reward_model: ScalarModel, amount: float) -> None:
    """Subtract `amount` from every score by changing the head's bias in place (section 2.4)."""
    with torch.no_grad():
        reward_model.head.bias.sub_(amount)
