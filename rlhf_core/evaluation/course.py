"""The course of PPO: what the policies that it kept are worth, and at what distance."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from transformers import PreTrainedModel

from rlhf_core.evaluation.answers import JudgedAnswers, Prompts, SequenceKl
from rlhf_core.evaluation.overoptimization import Fit, rl_fit
from rlhf_core.pretrained import load_policy
from rlhf_core.training.ppo_course import kept_policies


class CoursePoint(NamedTuple):
    """One policy on the way: its distance to the SFT policy, and how its answers are graded."""

    update: int
    kl: float
    """Mean over responses of the sum of log(policy / SFT), in nats."""

    score: float
    gold: float | None


class Course(NamedTuple):
    """The kept policies in order, the last policy after them, and the law through their grades."""

    points: Sequence[CoursePoint]
    start: CoursePoint
    """The SFT policy on the same prompts."""

    law: Fit | None
    """R(d) = d (alpha - beta ln d), of the gain over the SFT policy; None with too few points."""

    @property
    def turned_at(self) -> CoursePoint | None:
        """The point of the highest gold, where later ones fell below it while scores went on."""
        golds = [point.gold for point in self.points if point.gold is not None]
        if len(golds) < len(self.points) or not golds:
            return None
        best = max(range(len(golds)), key=lambda place: golds[place])
        rose_on = any(point.score > self.points[best].score for point in self.points[best + 1 :])
        return self.points[best] if rose_on and best + 1 < len(golds) else None


Answer = Callable[[PreTrainedModel, int], JudgedAnswers]
"""Lets a policy answer the prompts, drawing from the given stream, and judges the answers."""

Distance = Callable[[PreTrainedModel, JudgedAnswers], SequenceKl]
"""The KL of a policy to the SFT policy, on the policy's own answers."""


def course_of(
    ppo: Path,
    start: JudgedAnswers,
    last: tuple[int, PreTrainedModel],
    *,
    prompts: Prompts,
    answer: Answer,
    distance: Distance,
) -> Course | None:
    """What the kept policies and the last one are worth; None where none was kept.

    `start` are the SFT policy's answers to the same `prompts`, and `last` is the number of PPO's
    updates with the artifact's policy, which is the last unless that was kept apart.
    """
    folders = kept_policies(ppo)
    if not folders or not len(prompts):
        return None
    device = last[1].device
    points = []
    for update, folder in folders.items():
        policy = load_policy(folder).eval().to(device)
        points.append(_point(update, policy, answer, distance))
    if last[0] not in folders:
        points.append(_point(last[0], last[1], answer, distance))
    origin = CoursePoint(0, 0.0, *_grades(start))
    return Course(points, origin, law_through(origin, points))


def law_through(start: CoursePoint, points: Sequence[CoursePoint]) -> Fit | None:
    """The RL law through what each point gains over the start, by gold where there is one."""

    def grade(point: CoursePoint) -> float:
        return point.score if point.gold is None else point.gold

    return rl_fit(
        [math.sqrt(max(point.kl, 0.0)) for point in points],
        [grade(point) - grade(start) for point in points],
    )


def _point(update: int, policy: PreTrainedModel, answer: Answer, distance: Distance) -> CoursePoint:
    judged = answer(policy, update)
    return CoursePoint(update, fmean(distance(policy, judged).k1), *_grades(judged))


def _grades(judged: JudgedAnswers) -> tuple[float, float | None]:
    return fmean(judged.scores), None if judged.golds is None else fmean(judged.golds)
