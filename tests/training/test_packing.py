"""Demonstrations that share a row are learnt as if each stood alone."""

import gzip
import json

import pytest
import torch
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_core.batches import Encoder
from rlhf_core.errors import ModelError
from rlhf_core.pretrained import load_policy, load_tokenizer
from rlhf_core.settings.model import ModelSettings
from rlhf_core.training.demonstrations import Demonstrations
from rlhf_core.training.sft_loss import Targets, check_packing, packed_logprobs
from tests.tiny_models import PAD, STORIES, tiny_policy

ROWS = Demonstrations(
    [[3], [4, 5, 6], [7, 8], [9, 10], [3, 4]],
    [[5, 6, 7, 1], [1], [3, 4, 5, 6, 1], [11, 1], [6, 1]],
)
CPU = torch.device("cpu")


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    ids = {"bos_token_id": 1, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(vocab_size=12, initializer_range=0.3, **sizes, **ids)).eval()


def test_rows_are_filled_longest_first_and_none_is_cut():
    packed = ROWS.packed([0, 1, 2, 3, 4], 11, PAD)
    # Lengths 5, 4, 7, 4, 4: 7 and a 4 share a line of 11, 5 and 4 the next, the last 4 has its own.
    assert packed.input_ids.tolist() == [
        [7, 8, 3, 4, 5, 6, 1, 4, 5, 6, 1],
        [3, 5, 6, 7, 1, 9, 10, 11, 1, PAD, PAD],
        [3, 4, 6, 1, PAD, PAD, PAD, PAD, PAD, PAD, PAD],
    ]
    assert packed.position_ids.tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3],
        [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1],
        [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6],
    ]
    learnt = [ids[mask].tolist() for ids, mask in zip(*packed[::2], strict=True)]
    assert learnt == [[3, 4, 5, 6, 1, 1], [5, 6, 7, 1, 11, 1], [6, 1]]


@pytest.mark.parametrize("make", [tiny_policy, gpt2])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_logits_and_gradients_are_the_unpacked_ones(make, implementation):
    policy = make().eval()
    policy.set_attn_implementation(implementation)
    rows = [0, 1, 2, 3, 4]
    found = {}
    for packing in (False, True):
        policy.zero_grad()
        part = Targets(ROWS, PAD, CPU, packing=packing).part(policy, rows)
        part.loss.backward()
        gradients = {name: weight.grad.clone() for name, weight in policy.named_parameters()}
        found[packing] = part, gradients

    assert found[True][0].weight == found[False][0].weight == 14
    # float32 on the CPU, in sums of another order
    assert_close(found[True][0].loss, found[False][0].loss, atol=1e-5, rtol=0)
    for name, gradient in found[False][1].items():
        assert_close(found[True][1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)

    alone = packed_logprobs(policy, ROWS.packed([1], 8, PAD))
    beside = packed_logprobs(policy, ROWS.packed([2, 1], 11, PAD))[:, 7:]
    assert_close(beside, alone, atol=1e-5, rtol=0)


def test_a_model_whose_sequences_see_each_other_is_refused():
    policy = tiny_policy()
    check_packing(policy, ROWS, PAD)
    whole = policy.forward

    def leaking(*args, position_ids, **kwargs):
        mask = torch.ones_like(position_ids)  # with a mask, transformers looks for no borders
        return whole(*args, position_ids=position_ids, attention_mask=mask, **kwargs)

    policy.forward = leaking
    with pytest.raises(ModelError, match=r"does not keep them apart\. Set sft\.packing to false"):
        check_packing(policy, ROWS, PAD)


def test_only_targets_count_packed_or_not():
    rows = Demonstrations(
        ROWS.prompts,
        ROWS.responses,
        [[i % 2 == 0 for i, _ in enumerate(r)] for r in ROWS.responses],
    )
    policy = tiny_policy().eval()
    with torch.no_grad():
        parts = [Targets(rows, PAD, CPU, packing=p).part(policy, [0, 2, 3]) for p in (True, False)]
        each = packed_logprobs(policy, ROWS.packed([0], 5, PAD))[0]
        one = Targets(rows, PAD, CPU, packing=False).part(policy, [0])
    assert [part.weight for part in parts] == [6, 6]  # 2 of 4, 3 of 5, 1 of 2
    assert_close(parts[0].loss, parts[1].loss, atol=1e-5, rtol=0)
    assert_close(one.loss, -(each[0] + each[2]) / 2, atol=1e-5, rtol=0)


@pytest.mark.skipif(
    not STORIES.is_dir(), reason="the folder of public data beside the repository is not here"
)
def test_a_real_model_learns_the_same_from_packed_instructions():
    model = ModelSettings(base=str(STORIES), max_prompt_tokens=96, max_response_tokens=96)
    encoder = Encoder(load_tokenizer(STORIES), model)
    path = STORIES.parents[1] / "demonstrations" / "self_instruct_seed.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts = [json.loads(line) for line in file]
    asked, answers = ([text[name].strip() for text in texts] for name in ("prompt", "response"))
    prompts, responses = encoder.prompts(asked), encoder.responses(asked, answers)
    fitting = encoder.fitting(prompts, responses)[:12]
    rows = Demonstrations([prompts[row] for row in fitting], [responses[row] for row in fitting])
    policy = load_policy(STORIES).eval()
    found = []
    for packing in (False, True):
        policy.zero_grad()
        targets = Targets(rows, encoder.pad_token_id, CPU, packing=packing)
        part = targets.part(policy, list(range(len(fitting))))
        part.loss.backward()
        found.append((part, torch.cat([w.grad.flatten() for w in policy.parameters()])))
    (bare, gradient), (packed, packed_gradient) = found
    assert bare.weight == packed.weight > 100
    assert_close(packed.loss, bare.loss, atol=1e-5, rtol=0)
    assert_close(packed_gradient, gradient, atol=1e-5, rtol=0)  # float32, entries up to 1
