"""The compared policies' answers to held-out prompts, and what the judges say of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from rlhf_core.batches import Encoder, SpecialTokens, join
from rlhf_core.evaluation.gold import GoldScores
from rlhf_core.evaluation.measures import best_index
from rlhf_core.generation import draw_responses, response_distribution
from rlhf_core.maths.logprobs import taken_logprobs
from rlhf_core.maths.rewards import kl_estimates
from rlhf_core.scorers import HELD_OUT_SCORE, PromptText, Scorer

Answered = Callable[[int], None]
"""Called with the number of responses that were added."""


@dataclass(frozen=True)
class Prompts:
    """Held-out prompts as text and as ids, each with a demonstration's response or None."""

    texts: Sequence[str]
    ids: Sequence[Sequence[int]]
    references: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.texts)

    def known(self) -> dict[tuple[int, ...], PromptText]:
        """The texts behind the ids."""
        return {
            tuple(ids): PromptText(text, reference)
            for text, ids, reference in zip(self.texts, self.ids, self.references, strict=True)
        }

    def first(self, count: int) -> "Prompts":
        """The first prompts, at most `count`."""
        return Prompts(self.texts[:count], self.ids[:count], self.references[:count])


@dataclass(frozen=True)
class Answers:
    """Responses in one list; `rows` says which prompt each of them answers."""

    rows: Sequence[int]
    ids: Sequence[Sequence[int]]
    """End token included where the response ended."""
    texts: Sequence[str]
    ended: Sequence[bool]
    loglikelihoods: Sequence[float]
    """Sum of the log-probabilities that the sampler gave the tokens; 0 for a demonstration."""

    def at(self, places: Sequence[int]) -> "Answers":
        """The responses at the given places of the list."""
        return Answers(
            [self.rows[place] for place in places],
            [self.ids[place] for place in places],
            [self.texts[place] for place in places],
            [self.ended[place] for place in places],
            [self.loglikelihoods[place] for place in places],
        )


@dataclass(frozen=True)
class JudgedAnswers:
    """Answers, the reward model's scores, and the gold scores where the recipe has a grader."""

    answers: Answers
    scores: Sequence[float]
    golds: Sequence[float] | None
    held_out: Sequence[float] | None = None
    """What the reward model says that PPO was not paid by, where there is one."""

    def at(self, places: Sequence[int]) -> "JudgedAnswers":
        """The responses at the given places of the list."""
        golds, held_out = (
            None if grades is None else [grades[place] for place in places]
            for grades in (self.golds, self.held_out)
        )
        scores = [self.scores[place] for place in places]
        return JudgedAnswers(self.answers.at(places), scores, golds, held_out)


@dataclass(frozen=True)
class Judge:
    """What PPO was paid by, and the gold grader that it never saw."""

    scorer: Scorer
    missing_eos_score: float
    """Stands for the score of a response that did not end, as in PPO."""
    gold: GoldScores | None
    special: SpecialTokens
    batch_size: int

    def __call__(self, prompts: Prompts, answers: Answers) -> JudgedAnswers:
        """Score and grade every answer."""
        ids = [prompts.ids[row] for row in answers.rows]
        read = self.scorer.judge(
            join(ids, answers.ids, self.special.pad).to(self.scorer.device),
            special=self.special,
            batch_size=self.batch_size,
        )
        held_out = read.parts.get(HELD_OUT_SCORE)
        golds = None
        if self.gold is not None:
            texts = [prompts.texts[row] for row in answers.rows]
            golds = list(self.gold(texts, answers.texts, answers.ended))
        return JudgedAnswers(
            answers,
            self._ended(read.scores.tolist(), answers),
            golds,
            None if held_out is None else self._ended(held_out.tolist(), answers),
        )

    def _ended(self, scores: Sequence[float], answers: Answers) -> list[float]:
        """The scores of responses that ended, and what stands for one that did not."""
        return [
            score if ended else self.missing_eos_score
            for score, ended in zip(scores, answers.ended, strict=True)
        ]


@dataclass(frozen=True)
class Sampler:
    """Lets policies answer prompts, some batches at a time."""

    encoder: Encoder
    special: SpecialTokens
    batch_size: int
    answered: Answered

    def __call__(
        self,
        policy: PreTrainedModel,
        prompts: Prompts,
        *,
        temperature: float,
        copies: int,
        seed: int,
    ) -> Answers:
        """`copies` responses to each prompt, those of a prompt side by side; 0 is greedy."""
        rows = [row for row in range(len(prompts)) for _ in range(copies)]
        ids: list[list[int]] = []
        loglikelihoods: list[float] = []
        for drawn in draw_responses(
            policy,
            [prompts.ids[row] for row in rows],
            special=self.special,
            max_tokens=self.encoder.settings.max_response_tokens,
            temperature=temperature,
            batch_size=self.batch_size,
            seed=seed,
        ):
            ids += drawn.ids
            loglikelihoods += drawn.loglikelihoods
            self.answered(len(drawn.ids))
        ended = [row[-1] in self.special.end for row in ids]
        return Answers(rows, ids, self.encoder.texts(ids), ended, loglikelihoods)


def demonstrations(prompts: Prompts, encoder: Encoder) -> Answers:
    """The reference responses that are within the token budget; empty where there are none."""
    known = [(row, text) for row, text in enumerate(prompts.references) if text is not None]
    if not known:
        return Answers([], [], [], [], [])
    ids = encoder.responses([prompts.texts[row] for row, _ in known], [text for _, text in known])
    kept = encoder.fitting([prompts.ids[row] for row, _ in known], ids)
    return Answers(
        [known[place][0] for place in kept],
        [ids[place] for place in kept],
        [known[place][1] for place in kept],
        [True] * len(kept),
        [0.0] * len(kept),
    )


def picked(judged: JudgedAnswers, grades: Sequence[float]) -> JudgedAnswers:
    """For each prompt the answer of the highest grade; `grades` holds one number per answer."""
    places: dict[int, list[int]] = {}
    for place, row in enumerate(judged.answers.rows):
        places.setdefault(row, []).append(place)
    return judged.at(
        [group[best_index([grades[place] for place in group])] for group in places.values()]
    )


class SequenceKl(NamedTuple):
    """For each response the sum over its tokens of two estimates of KL(policy || reference)."""

    k1: list[float]
    k3: list[float]


@torch.no_grad()
def sequence_kl(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    prompts: Prompts,
    answers: Answers,
    *,
    special: SpecialTokens,
    batch_size: int,
) -> SequenceKl:
    """How far `policy` has moved, measured by teacher forcing both over answers of `policy`."""
    result = SequenceKl([], [])
    for start in range(0, len(answers.rows), batch_size):
        part = slice(start, start + batch_size)
        batch = join(
            [prompts.ids[row] for row in answers.rows[part]], answers.ids[part], special.pad
        ).to(policy.device)
        logprobs, ref_logprobs = (
            taken_logprobs(
                response_distribution(model, batch, pad_token_id=special.pad, temperature=1.0),
                batch.response_ids,
            )
            for model in (policy, reference)
        )
        kl = kl_estimates(logprobs, ref_logprobs, batch.response_mask)
        result.k1.extend(kl.k1.sum(dim=1).tolist())
        result.k3.extend(kl.k3.sum(dim=1).tolist())
    return result
