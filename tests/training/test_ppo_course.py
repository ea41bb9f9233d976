import pytest
import torch
from torch.testing import assert_close

from rlhf_core.settings.course import CourseSettings
from rlhf_core.training.ppo_course import Measured, PpoCourse, chosen, kept_updates
from tests.tiny_models import tiny_policy


@pytest.mark.parametrize(
    "updates, kept, expected",
    [(36, 3, [9, 18, 27]), (10, 0, []), (3, 8, [1, 2]), (1, 2, []), (8, 1, [4])],
)
def test_policies_are_kept_evenly_and_never_the_last(updates, kept, expected):
    assert kept_updates(updates, kept) == expected


def test_what_is_kept_does_not_move_with_the_policy():
    policy = tiny_policy()
    course = PpoCourse([2])
    course.update_done(policy, 1)
    assert course.weights == {}
    course.update_done(policy, 2)
    before = policy.lm_head.weight.detach().clone()
    with torch.no_grad():
        policy.lm_head.weight += 1.0
    assert_close(course.weights[2]["lm_head.weight"], before)
    ((update, kept),) = course.policies(policy)
    assert update == 2
    assert_close(kept.lm_head.weight.detach(), before)


def test_the_highest_score_within_the_budget_is_chosen():
    measured = [Measured(5, 3.0, 0.4), Measured(10, 9.0, 0.9), Measured(15, 25.0, 1.5)]
    assert chosen(measured, CourseSettings(max_kl=20.0)).update == 10
    assert chosen(measured, CourseSettings(max_kl=30.0)).update == 15


def test_the_nearest_policy_is_chosen_where_all_are_too_far():
    measured = [Measured(5, 30.0, 0.4), Measured(10, 26.0, 0.1)]
    assert chosen(measured, CourseSettings(max_kl=20.0)).update == 10
