"""From numbers per token to a score, to the zero of scores, and from members to one."""

import torch
from torch.testing import assert_close

from rlhf_core.maths.ensembles import cautious_score, disagreement, least_score, mean_score
from rlhf_core.maths.normalization import centred, standardized
from rlhf_core.maths.readouts import at_last, before_end, over_tokens

PER_TOKEN = torch.tensor([[1.0, 2.0, 6.0, 90.0], [3.0, 5.0, 7.0, 9.0], [4.0, 80.0, 80.0, 80.0]])
MASK = torch.tensor([[True, True, True, False], [True] * 4, [True, False, False, False]])
ENDED = torch.tensor([True, False, True])
"""A response of three tokens with its end, one that did not end, and one of an end alone."""


def test_the_last_real_token_is_read_and_no_padding():
    assert at_last(PER_TOKEN, MASK).tolist() == [6, 9, 4]


def test_the_last_content_token_is_the_one_before_the_end():
    # An unfinished response has no end to leave out, an end alone nothing before it.
    assert before_end(PER_TOKEN, MASK, ENDED).tolist() == [2, 9, 4]


def test_pooling_is_the_mean_over_real_tokens():
    assert over_tokens(PER_TOKEN, MASK).tolist() == [3, 6, 4]


def test_the_mean_of_a_linear_heads_numbers_is_its_number_of_the_mean_state():
    torch.manual_seed(0)
    states, head = torch.randn(3, 4, 5), torch.nn.Linear(5, 1)
    weights = MASK.float() / MASK.sum(dim=1, keepdim=True)
    pooled = (states * weights.unsqueeze(-1)).sum(dim=1)
    found = over_tokens(head(states).squeeze(-1), MASK)
    assert_close(found, head(pooled).squeeze(-1), atol=1e-6, rtol=0)  # sums of five products


def test_padding_of_any_content_changes_no_read_out():
    junk = torch.where(MASK, PER_TOKEN, torch.nan)
    for read in (at_last, over_tokens):
        assert read(junk, MASK).tolist() == read(PER_TOKEN, MASK).tolist()
    assert before_end(junk, MASK, ENDED).tolist() == before_end(PER_TOKEN, MASK, ENDED).tolist()


# The published vector: scores 1, 2, 3 and 6.
def test_normalization_is_the_published_one():
    scores = torch.tensor([1.0, 2.0, 3.0, 6.0])
    gain, bias = centred(scores)
    assert (gain * scores + bias).tolist() == [-2, -1, 0, 3]
    gain, bias = standardized(scores)
    assert_close(gain, torch.tensor(0.534522), atol=2e-6, rtol=0)
    assert_close(bias, torch.tensor(-1.603567), atol=2e-6, rtol=0)
    whitened = torch.tensor([-1.069045, -0.534522, 0.0, 1.603567])
    assert_close(gain * scores + bias, whitened, atol=2e-6, rtol=0)


MEMBERS = torch.tensor([[1.0, 2.0], [4.0, 2.0], [1.0, 2.0]])


def test_an_ensemble_is_scored_by_mean_least_or_caution():
    assert mean_score(MEMBERS).tolist() == [2, 2]
    assert least_score(MEMBERS).tolist() == [1, 2]
    # Squares about 2: 1 + 4 + 1 = 6, over 3 members: a deviation of sqrt(2).
    assert_close(disagreement(MEMBERS), torch.tensor([2**0.5, 0.0]))
    assert_close(cautious_score(MEMBERS, deviations=0.5), torch.tensor([2 - 0.5 * 2**0.5, 2.0]))
    assert cautious_score(MEMBERS, deviations=0.0).tolist() == [2, 2]
