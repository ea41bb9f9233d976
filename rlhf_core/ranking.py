"""Collected responses get their scores: from a function, or from a served judge that compares."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from rlhf_core.collection import Answered, Collected, Group
from rlhf_core.judging import Pair, asked_pairs
from rlhf_core.named_functions import checked_numbers, load_function
from rlhf_core.settings.judge import PairJudgeSettings

Labeler = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Called as `labeler(prompts, responses)`: one number for each response, the higher the better."""


def load_labeler(name: str, *, setting: str) -> Labeler:
    """The labeler `module:function`, whose results are checked each time it is called.

    `setting` is where the user named it. Raises RecipeError where there is no such function, and
    later where it does not give one finite number for each response.
    """
    label = load_function(name, setting=setting, called_as="function(prompts, responses)")

    def checked(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        scores = label(prompts, responses)
        return checked_numbers(scores, len(responses), setting=setting, name=name)

    return checked


def labeled(collected: Collected, labeler: Labeler) -> Collected:
    """The same groups with the labeler's score of each response, asked for in one call."""
    groups = collected.groups
    prompts = [group.prompt for group in groups for _ in group.responses]
    scores = iter(labeler(prompts, [text for group in groups for text in group.responses]))
    return _scored(collected, scores)


def judged(
    collected: Collected, judge: PairJudgeSettings, *, setting: str, answered: Answered
) -> Collected:
    """The same groups, each response with its mean over the others to its prompt.

    The mean is of 1 where the judge is for it in both orders, 0 where it is against it in both, and
    a half. `answered` is called with the pairs judged so far. Raises what `asked_pairs` does.
    """
    groups = collected.groups
    pairs = [pair for group in groups for pair in _pairs(group)]
    points = []
    for done, asked in enumerate(asked_pairs(pairs, judge, setting=setting), start=1):
        points.append(asked.points)
        answered(done, len(pairs))
    won = iter(points)
    scores = (score for group in groups for score in _means(len(group.responses), won))
    return _scored(collected, scores)


def _pairs(group: Group) -> Iterator[Pair]:
    for ours, theirs in combinations(group.responses, 2):
        yield Pair(group.prompt, ours, theirs)


def _means(count: int, won: Iterator[float]) -> list[float]:
    """The mean of each of `count` responses, of the points of all their pairs in order."""
    sums = [0.0] * count
    for ours, theirs in combinations(range(count), 2):
        points = next(won)
        sums[ours] += points
        sums[theirs] += 1 - points
    return [points / (count - 1) for points in sums]


def _scored(collected: Collected, scores: Iterator[float]) -> Collected:
    scored = [
        replace(group, scores=tuple(next(scores) for _ in group.responses))
        for group in collected.groups
    ]
    return replace(collected, groups=scored)
