import pytest
import torch
from torch import nn
from torch.testing import assert_close

from rlhf_core.batches import Sequences, join
from rlhf_core.scoring import score_in_batches, scores_at_end
from tests.tiny_models import END, PAD, SPECIAL, tiny_scalar_model

PROMPTS = [[3, 4, 5, 6], [7], [8, 9]]
RESPONSES = [[5, 1], [6, 7, 8, 9, 3], [4, 10, 1]]


class ColumnNumber(nn.Module):
    """Says of every column which one it is."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, input_ids, attention_mask):
        return torch.arange(input_ids.shape[1]).expand(input_ids.shape).float()


def scores(reward_model, batch):
    with torch.no_grad():
        return scores_at_end(reward_model, batch, end_token_ids=[END])


# The published vector: context of 4 columns, padding 9, end 1.
def test_the_read_out_is_at_the_end_token_on_both_sides_of_the_padding():
    batch = join([[3, 4], [3, 4, 5, 6]], [[5, 1], [7, 8, 5, 1]], 9)
    assert batch.input_ids.tolist() == [[9, 9, 3, 4, 5, 1, 9, 9], [3, 4, 5, 6, 7, 8, 5, 1]]
    assert scores(ColumnNumber(), batch).tolist() == [5, 7]


def test_the_read_out_of_a_response_that_did_not_end_is_at_its_last_token():
    batch = join([[3, 4], [3, 4]], [[5, 6, 7, 8], [5, 1]], PAD)
    assert scores(ColumnNumber(), batch).tolist() == [5, 3]


def test_an_end_or_a_padding_token_in_the_prompt_misleads_nobody():
    batch = join([[3, END, 4], [END], [PAD, 5]], [[5, 6, 1], [1], [6, 1]], PAD)
    assert scores(ColumnNumber(), batch).tolist() == [5, 3, 4]


def test_a_score_depends_on_its_own_row_alone():
    model = tiny_scalar_model()
    together = scores(model, join(PROMPTS, RESPONSES, PAD))
    for row in range(3):
        alone = scores(model, join([PROMPTS[row]], [RESPONSES[row]], PAD))
        assert_close(together[row], alone[0], atol=1e-5, rtol=0)  # float32 on the CPU


def test_pads_on_either_side_change_no_score():
    model = tiny_scalar_model()
    bare = scores(model, join(PROMPTS, RESPONSES, PAD))
    wider = join([*PROMPTS, [3] * 15], [*RESPONSES, [4] * 12], PAD)
    assert_close(scores(model, wider)[:3], bare, atol=1e-5, rtol=0)  # float32 on the CPU


def test_whatever_stands_after_the_end_changes_no_score():
    model = tiny_scalar_model()
    batch = join(PROMPTS, RESPONSES, PAD)
    junk = Sequences(
        batch.prompt_ids,
        batch.prompt_mask,
        torch.where(batch.response_mask, batch.response_ids, 8),
        batch.response_mask,
    )
    assert torch.equal(scores(model, junk), scores(model, batch))


def test_the_score_reads_the_end_token_itself():
    model = tiny_scalar_model()
    with_end = scores(model, join([[3, 4]], [[5, 6, END]], PAD))
    without = scores(model, join([[3, 4]], [[5, 6, 7]], PAD))
    assert abs(float(with_end - without)) > 1e-3


def test_every_way_to_end_is_read_as_the_one_the_reward_model_learnt():
    model = tiny_scalar_model()
    own = scores_at_end(model, join([[3, 4]], [[5, 6, 1]], PAD), end_token_ids=[1, 7])
    other = scores_at_end(model, join([[3, 4]], [[5, 6, 7]], PAD), end_token_ids=[1, 7])
    inside = scores_at_end(model, join([[3, 7]], [[5, 6, 1]], PAD), end_token_ids=[1, 7])
    assert torch.equal(own, other)
    assert not torch.equal(own, inside)  # of the prompt nothing is replaced


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_scores_come_in_the_order_of_the_responses(batch_size):
    model = tiny_scalar_model()
    prompts, responses = PROMPTS * 2, [*RESPONSES, [1], [3, 1], [3, 4, 5, 6, 7, 8, 1]]
    found = score_in_batches(model, prompts, responses, special=SPECIAL, batch_size=batch_size)
    expected = [
        scores(model, join([prompt], [response], PAD))[0]
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)  # float32 on the CPU


def test_values_and_scores_are_float32_under_autocast():
    model = tiny_scalar_model()
    batch = join(PROMPTS, RESPONSES, PAD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert scores(model, batch).dtype == torch.float32


def test_padding_that_is_the_end_token_would_be_read_one_too_early():
    # What the rule above protects from: a search for the first pad finds the end token itself.
    batch = join([[3, 4]], [[5, 1]], END)
    first_pad = (batch.response_ids == END).long().argmax(dim=1)
    assert (2 + first_pad - 1).tolist() == [2]
    assert scores(ColumnNumber(), batch).tolist() == [3]
