import pytest
import torch
from torch import nn
from torch.testing import assert_close

from rlhf_core.batches import Sequences, join
from rlhf_core.errors import ArtifactError
from rlhf_core.maths.normalization import Affine
from rlhf_core.models import weights_digest
from rlhf_core.reward_models import (
    RewardModel,
    load_reward_model,
    member_scores_in_batches,
    new_heads,
    rescale_member,
    save_reward_model,
    take_mean_of_heads,
)
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
        return RewardModel([reward_model]).member_scores(batch, end_token_ids=[END])[0]


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
    own, other, inside = (
        RewardModel([model]).member_scores(join(prompt, response, PAD), end_token_ids=[1, 7])
        for prompt, response in (
            ([[3, 4]], [[5, 6, 1]]),
            ([[3, 4]], [[5, 6, 7]]),
            ([[3, 7]], [[5, 6, 1]]),
        )
    )
    assert torch.equal(own, other)
    assert not torch.equal(own, inside)  # of the prompt nothing is replaced


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_scores_come_in_the_order_of_the_responses(batch_size):
    model = tiny_scalar_model()
    prompts, responses = PROMPTS * 2, [*RESPONSES, [1], [3, 1], [3, 4, 5, 6, 7, 8, 1]]
    (found,) = member_scores_in_batches(
        RewardModel([model]), prompts, responses, special=SPECIAL, batch_size=batch_size
    )
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


def numbers_of(readout, batch):
    """What each read-out makes of the numbers of the columns."""
    with torch.no_grad():
        model = RewardModel([ColumnNumber()], readout)
        return model.member_scores(batch, end_token_ids=[END])[0].tolist()


def test_each_read_out_reads_its_own_columns():
    # Columns 2 to 4 with an end, and 2 to 5 without one.
    batch = join([[3, 4], [3, 4]], [[5, 6, 1], [5, 6, 7, 8]], PAD)
    assert numbers_of("eos", batch) == [4, 5]
    assert numbers_of("per_token", batch) == [4, 5]
    assert numbers_of("last_content_token", batch) == [3, 5]
    assert numbers_of("mean_pooled", batch) == [3, 3.5]


def ensemble(kind, readout="eos"):
    models = [tiny_scalar_model(seed=seed) for seed in (1, 2, 3)]
    if kind == "seeds":
        return RewardModel(models, readout).eval()
    reward_model = RewardModel(models[:1], readout, new_heads(models[0], 3, seed=4)).eval()
    torch.nn.init.normal_(reward_model.heads.bias)
    take_mean_of_heads(reward_model)
    return reward_model


@pytest.mark.parametrize("readout", ["eos", "last_content_token", "mean_pooled"])
def test_the_head_of_an_ensemble_of_heads_says_what_they_say_in_the_mean(readout):
    reward_model, batch = ensemble("heads", readout), join(PROMPTS, RESPONSES, PAD)
    with torch.no_grad():
        members = reward_model.member_scores(batch, end_token_ids=[END])
        alone = RewardModel([reward_model.first], readout).member_scores(batch, end_token_ids=[END])
    assert members.shape == (3, 3)
    assert_close(alone[0], members.mean(dim=0), atol=1e-5, rtol=0)  # float32 on the CPU
    assert members.std(dim=0).min() > 0.1


@pytest.mark.parametrize("kind", ["one", "heads", "seeds"])
@pytest.mark.parametrize("readout", ["eos", "mean_pooled"])
def test_a_reward_model_is_read_back_as_it_was_written(kind, readout, tmp_path):
    written = RewardModel([tiny_scalar_model()], readout).eval()
    if kind != "one":
        written = ensemble(kind, readout)
    save_reward_model(written, tmp_path, prompt_template="{prompt}", response_prefix=" ")
    read, batch = load_reward_model(tmp_path), join(PROMPTS, RESPONSES, PAD)
    assert (read.kind, read.readout, len(read)) == (kind, readout, 1 if kind == "one" else 3)
    with torch.no_grad():
        expected = written.member_scores(batch, end_token_ids=[END])
        found = read.member_scores(batch, end_token_ids=[END])
    assert weights_digest(read) == weights_digest(written)
    assert_close(found, expected, atol=1e-5, rtol=0)  # float32 at other places in memory
    assert not any(weight.requires_grad for weight in read.parameters())


def test_an_unknown_read_out_is_refused(tmp_path):
    save_reward_model(RewardModel([tiny_scalar_model()]), tmp_path)
    text = (tmp_path / "reward_model.json").read_text().replace('"eos"', '"median"')
    (tmp_path / "reward_model.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"read-out 'median'.*run stage 'reward_model' again"):
        load_reward_model(tmp_path)


def test_a_folder_without_a_description_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"no reward_model.json.*Run stage 'reward_model'"):
        load_reward_model(tmp_path)


@pytest.mark.parametrize("kind", ["heads", "seeds"])
def test_a_member_is_rescaled_alone_and_the_mean_follows(kind):
    reward_model, batch = ensemble(kind), join(PROMPTS, RESPONSES, PAD)
    with torch.no_grad():
        before = reward_model.member_scores(batch, end_token_ids=[END])
        rescale_member(reward_model, 1, Affine(torch.tensor(2.0), torch.tensor(-3.0)))
        after = reward_model.member_scores(batch, end_token_ids=[END])
        own = RewardModel([reward_model.first]).member_scores(batch, end_token_ids=[END])[0]
    expected = torch.stack([before[0], 2 * before[1] - 3, before[2]])
    assert_close(after, expected, atol=1e-5, rtol=1e-5)  # float32 on the CPU
    assert_close(own, after.mean(dim=0) if kind == "heads" else after[0], atol=1e-5, rtol=1e-5)
