"""Whether the gain is real: the questions that a rising score does not answer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf_core.evaluation.results import Results, SetName
from rlhf_core.evaluation.training_records import TrainingRecords
from rlhf_core.pages.wording import percent, with_interval
from rlhf_core.statistics import Interval

NEARLY_ALL = 0.98
"""Share of responses that must end: a score read off an unfinished one means nothing."""


class Finding(NamedTuple):
    """A claim, whether it holds (None: this evaluation cannot tell), and the figures for it."""

    holds: bool | None
    claim: str
    figures: str


def findings(results: Results, records: TrainingRecords) -> list[Finding]:
    """What must hold before the gain may be called one, in order of weight."""
    return [
        *_on_the_gain(results),
        _responses_end(results),
        *([] if records.scorecard is None else [_beats_length(records.scorecard)]),
    ]


def _on_the_gain(results: Results) -> list[Finding]:
    n, over_sft = results.settings.best_of_n, results.win_rates["sft"]
    if results.judge == "reward_model":
        return [
            Finding(
                None,
                "PPO's answers are better than SFT's",
                "Not known: PPO was trained to please the reward model that judges here, so its "
                f"win rate of {with_interval(over_sft.rate, percent)} is no independent evidence. "
                "Read the samples below, or name a grader in evaluation.gold.",
            )
        ]
    found = [
        _lead(results, "sft", "PPO's answers are graded above SFT's"),
        _lead(
            results,
            "sft_greedy",
            "Sharpening alone does not explain it: PPO sampled is above SFT decoded greedily",
        ),
        _reward_model_beats_likelihood(results),
        _lead(
            results,
            "best_of_n",
            f"PPO gives more than picking the best of {n} SFT answers would",
        ),
    ]
    if over_sft.similar_length is not None:
        alike = over_sft.similar_length
        found.append(
            Finding(
                above(alike, 0.5),
                "Length does not explain it: PPO also wins where both answers are as long",
                f"win rate {with_interval(alike, percent)} on the "
                f"{over_sft.similar_length_pairs} pairs whose lengths differ by at most 10 %",
            )
        )
    return found


def above(interval: Interval, bar: float) -> bool | None:
    """Whether the mean is above `bar`; None where the interval lies on both sides of it."""
    if interval.low > bar:
        return True
    return False if interval.high < bar else None


def _lead(results: Results, rival: SetName, claim: str) -> Finding:
    against = results.win_rates[rival]
    return Finding(
        above(against.lead, 0.0),
        claim,
        f"gold higher by {with_interval(against.lead)} on the same {against.pairs} prompts; "
        f"win rate {with_interval(against.rate, percent)}",
    )


def _reward_model_beats_likelihood(results: Results) -> Finding:
    n, lead = results.settings.best_of_n, results.lead_over_likelihood
    return Finding(
        above(lead, 0.0),
        f"The reward model knows more than likelihood does: its pick of {n} SFT answers is better "
        "than SFT's own likeliest",
        f"gold higher by {with_interval(lead)} on the same {results.common_prompts} prompts",
    )


def _responses_end(results: Results) -> Finding:
    ppo, sft = results.measures["ppo"], results.measures["sft"]
    return Finding(
        ppo.ended_share >= NEARLY_ALL,
        "PPO's answers end by themselves",
        f"{percent(ppo.ended_share)} end (SFT {percent(sft.ended_share)}), after "
        f"{ppo.response_tokens:.1f} tokens in the mean (SFT {sft.response_tokens:.1f})",
    )


def _beats_length(card: Mapping[str, Any]) -> Finding:
    accuracy = Interval(card["accuracy"], card["accuracy_low"], card["accuracy_high"])
    return Finding(
        above(accuracy, card["longer_wins_accuracy"]),
        "The reward model has learnt more than “longer is better”",
        f"accuracy {with_interval(accuracy, percent)} on {card['pairs']:.0f} validation pairs; "
        f"always taking the longer response: {percent(card['longer_wins_accuracy'])}",
    )
