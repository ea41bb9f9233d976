"""Judged answers become figures: means with intervals, win rates, and the price in KL."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rlhf_core.evaluation.answers import Answers, JudgedAnswers, Prompts, SequenceKl
from rlhf_core.evaluation.course import Course
from rlhf_core.evaluation.measures import (
    best_of_k_mean,
    best_of_n_kl,
    distinct_ngram_share,
    distinct_share,
    of_similar_length,
    win_points,
)
from rlhf_core.evaluation.overoptimization import Fit, best_of_n_fit
from rlhf_core.evaluation.served_judge import Judgement
from rlhf_core.evaluation.text_loss import AlignmentTax
from rlhf_core.settings.evaluation import EvaluationSettings
from rlhf_core.statistics import Interval, bootstrap_mean

SetName = Literal[
    "sft",
    "sft_greedy",
    "best_of_n",
    "best_of_n_by_likelihood",
    "demonstrations",
    "ppo",
    "ppo_greedy",
]
"""A set of answers, as metrics and files name it."""

RIVALS: Mapping[SetName, str] = {
    "sft": "win_rate_over_sft",
    "sft_greedy": "win_rate_over_sft_greedy",
    "best_of_n": "win_rate_over_best_of_n",
    "demonstrations": "win_rate_over_demonstrations",
}
"""Whom PPO sampled at temperature 1 is compared with, prompt by prompt, and the metric's name."""

NGRAMS = (1, 2, 3)

FEWEST_PAIRS = 10
"""Below this many pairs of similar length their win rate is not given: it would say nothing."""


@dataclass(frozen=True)
class SetMeasures:
    """What one set of answers is like; intervals are over prompts."""

    responses: int
    score: Interval
    gold: Interval | None
    ended_share: float
    response_tokens: float
    distinct_ngrams: Mapping[int, float | None]
    """n to distinct-n, on the first prompts, which every set answers."""
    distinct_responses: float
    held_out: Interval | None = None
    """What the reward model says that PPO was not paid by, where there is one."""


class WinRate(NamedTuple):
    """How often PPO's answer is graded above a rival's to the same prompt; a tie counts half."""

    rate: Interval
    lead: Interval
    """Mean of PPO's grade minus the rival's, over the same pairs."""
    pairs: int
    ties: float
    """Share of the pairs that are ties."""
    similar_length: Interval | None
    """The same among pairs whose lengths differ by at most 10 %; None where they are too few."""
    similar_length_pairs: int


class FrontierPoint(NamedTuple):
    """Best-of-k of the SFT policy by the reward model: its price in KL and what it brings."""

    k: int
    kl: float
    score: float
    gold: float | None


@dataclass(frozen=True)
class Results:
    """Everything that was measured, for files, pictures and the page."""

    prompts: Prompts
    sets: Mapping[SetName, JudgedAnswers]
    measures: Mapping[SetName, SetMeasures]
    win_rates: Mapping[SetName, WinRate]
    lead_over_likelihood: Interval
    """Mean grade of best-of-n by the reward model, minus that of best-of-n by likelihood."""
    kl: Interval
    kl_k3: Interval
    frontier: Sequence[FrontierPoint]
    best_of_n_law: Fit | None
    """The law of over-optimisation through the frontier's grades; None with too few points."""
    judgements: Mapping[SetName, Judgement]
    """What the served judge says of PPO against each rival; empty without one."""
    course: Course | None
    """What the policies are worth that PPO kept along its way; None where it kept none."""
    tax: AlignmentTax | None
    """Loss on plain text before and after; None where the recipe has no text."""
    common_prompts: int
    """The first prompts, on which best-of-n and the distinct n-grams are measured."""
    settings: EvaluationSettings
    seed: int

    @property
    def judge(self) -> Literal["gold", "reward_model"]:
        """Whose grades decide who wins."""
        return "reward_model" if self.sets["ppo"].golds is None else "gold"


def measured(
    prompts: Prompts,
    sets: Mapping[SetName, JudgedAnswers],
    samples_of_sft: JudgedAnswers,
    kl: SequenceKl,
    settings: EvaluationSettings,
    *,
    judgements: Mapping[SetName, Judgement],
    course: Course | None,
    tax: AlignmentTax | None,
    seed: int,
) -> Results:
    """All figures; `samples_of_sft` are the best_of_n answers to each of the first prompts."""
    common = len(set(samples_of_sft.answers.rows))
    bootstrap = Bootstrap(settings.bootstrap_samples, seed)
    points = frontier(samples_of_sft, settings.best_of_n)
    return Results(
        prompts=prompts,
        sets=sets,
        measures={name: _set_measures(judged, common, bootstrap) for name, judged in sets.items()},
        win_rates={
            rival: win_rate(sets["ppo"], sets[rival], bootstrap)
            for rival in RIVALS
            if rival in sets
        },
        lead_over_likelihood=win_rate(
            sets["best_of_n"], sets["best_of_n_by_likelihood"], bootstrap
        ).lead,
        kl=bootstrap(kl.k1),
        kl_k3=bootstrap(kl.k3),
        frontier=points,
        best_of_n_law=law_of(points),
        judgements=judgements,
        course=course,
        tax=tax,
        common_prompts=common,
        settings=settings,
        seed=seed,
    )


@dataclass(frozen=True)
class Bootstrap:
    """Means of numbers per prompt, with their intervals."""

    samples: int
    seed: int

    def __call__(self, values: Sequence[float]) -> Interval:
        return bootstrap_mean(values, [1.0] * len(values), samples=self.samples, seed=self.seed)


def _set_measures(judged: JudgedAnswers, common: int, bootstrap: Bootstrap) -> SetMeasures:
    answers = judged.answers
    bare = [
        row[:-1] if ended else row for row, ended in zip(answers.ids, answers.ended, strict=True)
    ]
    shared = [row for row, number in zip(bare, answers.rows, strict=True) if number < common]
    return SetMeasures(
        responses=len(answers.rows),
        score=bootstrap(judged.scores),
        gold=None if judged.golds is None else bootstrap(judged.golds),
        ended_share=sum(answers.ended) / len(answers.ended),
        response_tokens=sum(map(len, answers.ids)) / len(answers.ids),
        distinct_ngrams={n: distinct_ngram_share(shared, n) for n in NGRAMS},
        distinct_responses=distinct_share(answers.ids),
        held_out=None if judged.held_out is None else bootstrap(judged.held_out),
    )


def win_rate(ours: JudgedAnswers, theirs: JudgedAnswers, bootstrap: Bootstrap) -> WinRate:
    """Ours against theirs on the prompts that both answer, by gold where there is one."""
    places = {row: place for place, row in enumerate(ours.answers.rows)}
    shared = [place for place, row in enumerate(theirs.answers.rows) if row in places]
    theirs = theirs.at(shared)
    ours = ours.at([places[row] for row in theirs.answers.rows])
    points = win_points(_grades(ours), _grades(theirs))
    leads = [mine - other for mine, other in zip(_grades(ours), _grades(theirs), strict=True)]
    similar = [
        point
        for point, alike in zip(
            points, of_similar_length(_lengths(ours.answers), _lengths(theirs.answers)), strict=True
        )
        if alike
    ]
    return WinRate(
        rate=bootstrap(points),
        lead=bootstrap(leads),
        pairs=len(points),
        ties=points.count(0.5) / len(points),
        similar_length=bootstrap(similar) if len(similar) >= FEWEST_PAIRS else None,
        similar_length_pairs=len(similar),
    )


def _grades(judged: JudgedAnswers) -> Sequence[float]:
    return judged.scores if judged.golds is None else judged.golds


def _lengths(answers: Answers) -> list[int]:
    return [len(row) for row in answers.ids]


def frontier(samples: JudgedAnswers, n: int) -> list[FrontierPoint]:
    """Best-of-k for k = 1, 2, 4 .. n, estimated from all ways to draw k of the n samples."""
    starts = range(0, len(samples.scores), n)
    sizes = sorted({*(2**power for power in range(n.bit_length())), n})

    def mean_of_best(values: Sequence[float], k: int) -> float:
        parts = [
            best_of_k_mean(samples.scores[start : start + n], values[start : start + n], k)
            for start in starts
        ]
        return sum(parts) / len(parts)

    return [
        FrontierPoint(
            k,
            best_of_n_kl(k),
            mean_of_best(samples.scores, k),
            None if samples.golds is None else mean_of_best(samples.golds, k),
        )
        for k in sizes
    ]


def law_of(points: Sequence[FrontierPoint]) -> Fit | None:
    """The best-of-n law through what each point gains over one sample, by gold where there is one.

    None where too few points lie apart.
    """
    grades = [point.score if point.gold is None else point.gold for point in points]
    gains = [grade - grades[0] for grade in grades]
    return best_of_n_fit([math.sqrt(point.kl) for point in points], gains)
