import torch
from torch.testing import assert_close

from rlhf_core.batches import Encoder
from rlhf_core.evaluation.text_loss import TextLosses, alignment_tax, text_losses
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from tests.tiny_models import tiny_policy, words

MODEL = ModelSettings(scratch=ScratchModelSettings(), max_prompt_tokens=3, max_response_tokens=4)
TEXTS = ["w3 w4 w5 w6", "w7 w8", "w9", "w3 w3 w3 w3 w3 w3 w3 w3 w3 w3"]


def hugging_face_loss(policy, ids):
    """Mean loss of all tokens but the first, as transformers computes it."""
    with torch.no_grad():
        return float(policy(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss)


def test_every_token_but_the_first_counts_as_in_transformers_own_loss():
    policy, tokenizer = tiny_policy().eval(), words()
    found = text_losses(policy, Encoder(tokenizer, MODEL), TEXTS, batch_size=2)

    # One-token texts are left out, long ones are cut at 3 + 4 tokens.
    ids = [tokenizer(text)["input_ids"][:7] for text in ("w7 w8", TEXTS[0], TEXTS[3])]
    assert found.tokens == [1, 3, 6]
    expected = [hugging_face_loss(policy, row) * (len(row) - 1) for row in ids]
    assert_close(torch.tensor(found.totals), torch.tensor(expected))


def test_the_tax_is_the_difference_per_token_of_the_same_texts():
    sft = TextLosses([2.0, 6.0], [2, 4])
    ppo = TextLosses([3.0, 6.0], [2, 4])
    tax = alignment_tax(sft, ppo, bootstrap_samples=200, seed=1)
    assert tax.sft.mean == 8 / 6
    assert tax.ppo.mean == 9 / 6
    assert abs(tax.difference.mean - 1 / 6) < 1e-12
    assert tax.difference.low == 0.0  # a resample of the second text alone
    assert (tax.texts, tax.tokens) == (2, 6)
