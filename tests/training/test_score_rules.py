"""What a response is paid for the score that the reward model gives it."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.maths.running import RunningMoments
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.score_rules import NOTHING_SEEN, paid_scores

RAW = torch.tensor([1.5, 0.7, 2.0])
ENDED = torch.tensor([True, True, False])


def paid(raw=RAW, ended=ENDED, *, seen=NOTHING_SEEN, missing_eos_score=-1.0, **settings):
    return paid_scores(
        raw,
        ended,
        PpoSettings(**settings),
        missing_eos_score=missing_eos_score,
        seen=seen,
        accelerator=Accelerator(),
    )


# The vector EOS, and a constant far below as open-instruct has it
@pytest.mark.parametrize(
    "settings,scores",
    [
        ({}, [1.5, 0.7, -1.0]),
        ({"missing_eos": "replace"}, [1.5, 0.7, -1.0]),
        ({"missing_eos": "subtract"}, [1.5, 0.7, 1.0]),
        ({"missing_eos": "subtract", "missing_eos_penalty": 10.0}, [1.5, 0.7, -8.0]),
        ({"reward_clip": 1.0}, [1.0, 0.7, -1.0]),
        ({"reward_clip": 1.0, "missing_eos": "subtract"}, [1.0, 0.7, 0.0]),
    ],
)
def test_the_rule_for_missing_ends_is_that_of_the_settings(settings, scores):
    assert_close(paid(**settings).scores, torch.tensor(scores))


@pytest.mark.parametrize("missing_eos", ["replace_low", "replace", "subtract"])
def test_an_unfinished_response_never_gains_by_it_however_low_its_score(missing_eos):
    raw = torch.tensor([-6.0, -0.5, 4.0])
    scores = paid(
        raw, torch.zeros(3).bool(), missing_eos_score=-9.0, missing_eos=missing_eos
    ).scores
    assert (scores < raw).all()


def test_scores_are_divided_by_the_deviation_of_all_that_ended_until_now():
    first = paid(torch.tensor([1.0, 3.0, 99.0]), scale_scores=True)
    # deviation 1 of 1 and 3: as they were; the low score is in the reward model's units too
    assert_close(first.scores, torch.tensor([1.0, 3.0, -1.0]))
    assert first.seen == RunningMoments(2, 2.0, 2.0)

    second = paid(torch.tensor([5.0, 7.0, 99.0]), seen=first.seen, scale_scores=True)
    # of 1, 3, 5 and 7: variance (9 + 1 + 1 + 9) / 4, and no shift of the mean
    deviation = math.sqrt(5)
    expected = [5 / deviation, 7 / deviation, -1 / deviation]
    assert_close(second.scores, torch.tensor(expected))
    assert second.seen == RunningMoments(4, 4.0, 20.0)


def test_scaled_scores_are_bounded_after_the_scale():
    scores = paid(torch.tensor([10.0, 30.0, 0.0]), scale_scores=True, reward_clip=2.0).scores
    assert_close(scores[:2], torch.tensor([1.0, 2.0]))  # 10 / 10 and the bound of 30 / 10


def test_without_a_deviation_scores_stay_as_they_are():
    nothing_ended = paid(ended=torch.zeros(3).bool(), scale_scores=True, missing_eos="subtract")
    assert_close(nothing_ended.scores, RAW - 1.0)
    assert nothing_ended.seen == NOTHING_SEEN
    alike = paid(torch.tensor([2.0, 2.0, 2.0]), scale_scores=True)
    assert_close(alike.scores, torch.tensor([2.0, 2.0, -1.0]))


def test_a_score_that_is_no_number_leaves_the_moments_alone():
    found = paid(torch.tensor([1.0, torch.nan, torch.inf]), torch.ones(3).bool(), scale_scores=True)
    assert found.seen == RunningMoments(1, 1.0, 0.0)
    assert found.scores[1].isnan()
