import pytest
import torch
from torch.testing import assert_close

from rlhf_core.training.ppo_course import PpoCourse, kept_updates
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
    assert course.policies == {}
    course.update_done(policy, 2)
    before = policy.lm_head.weight.detach().clone()
    with torch.no_grad():
        policy.lm_head.weight += 1.0
    assert_close(course.policies[2]["lm_head.weight"], before)
