import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_core.errors import ModelError
from rlhf_core.models import (
    disable_dropout,
    end_token_ids,
    fit_vocabulary,
    frozen_copy,
    new_policy,
    weights_digest,
)
from rlhf_core.pretrained import (
    load_policy,
    load_scalar_model,
    load_tokenizer,
    new_scalar_model,
    save_policy,
)
from rlhf_core.settings.model import ScratchModelSettings
from tests.tiny_models import END, PAD, tiny_policy, words

IDS = torch.tensor([[3, 4, 5, 6, END], [7, 3, 3, 8, 9]])
ALL = torch.ones_like(IDS).bool()


def logits(policy, ids=IDS):
    with torch.no_grad():
        return policy(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("kind", ["no weights", "pickled weights"])
def test_a_folder_without_safetensors_is_refused_with_a_way_out(tmp_path, kind):
    tiny_policy().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    if kind == "pickled weights":
        torch.save(tiny_policy().state_dict(), tmp_path / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"safetensors.*--set model\.base=FOLDER"):
        load_policy(tmp_path)
    with pytest.raises(ModelError, match=r"safetensors.*--set model\.base=FOLDER"):
        load_scalar_model(tmp_path)


def test_a_folder_that_lacks_a_weight_is_refused(tmp_path):
    tiny_policy().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"lacks 1 of.*model\.layers\.1\.mlp\.up_proj\.weight"):
        load_policy(tmp_path)


def test_weights_that_were_cut_are_refused_with_the_folder_that_holds_them(tmp_path):
    tiny_policy().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(ModelError, match=rf"{tmp_path}' cannot be loaded .*not fully covered"):
        load_policy(tmp_path)


def test_a_base_model_that_is_nowhere_is_refused_with_a_way_out(tmp_path):
    for load in (load_policy, load_tokenizer):
        with pytest.raises(ModelError, match=r"nowhere.*--set model\.base=FOLDER"):
            load(tmp_path / "nowhere")


def test_a_folder_that_asks_for_foreign_code_is_refused_and_its_code_not_run(tmp_path):
    tiny_policy().save_pretrained(tmp_path)
    foreign = {"AutoConfig": "foreign.Config", "AutoModelForCausalLM": "foreign.Model"}
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"auto_map": foreign, "model_type": "foreign"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")

    with pytest.raises(ModelError):
        load_policy(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_without_padding_gets_a_padding_token_of_its_own(tmp_path):
    tokenizer = words()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)

    loaded = load_tokenizer(tmp_path)

    assert loaded.pad_token_id == 12  # the first id after the 12 that there were
    assert loaded.eos_token_id == END


def test_a_tokenizer_that_pads_with_its_end_token_gets_another(tmp_path):
    tokenizer = words()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)

    loaded = load_tokenizer(tmp_path)

    assert (loaded.pad_token_id, loaded.eos_token_id) == (12, END)


def test_a_tokenizer_without_end_token_is_refused(tmp_path):
    tokenizer = words()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)

    with pytest.raises(ModelError, match="set eos_token"):
        load_tokenizer(tmp_path)


def test_a_new_token_gets_a_row_and_the_others_keep_theirs():
    policy, tokenizer = tiny_policy(), words()
    before = logits(policy)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})

    fit_vocabulary(policy, tokenizer)

    after = logits(policy)
    assert after.shape[-1] == 13
    # Another width lets the matrix product sum in another order.
    assert_close(after[..., :12], before, atol=1e-5, rtol=0)
    assert policy.config.pad_token_id == 12


def test_a_model_from_nothing_is_drawn_from_its_seed_alone():
    settings = ScratchModelSettings(hidden_size=16, layers=1, heads=2, intermediate_size=32)

    def digest(seed):
        torch.manual_seed(0)
        model = new_policy(settings, words(), max_tokens=32, seed=seed)
        # The global generator has not moved.
        assert torch.initial_seed() == 0
        state = torch.get_rng_state()
        torch.manual_seed(0)
        assert torch.equal(state, torch.get_rng_state())
        return weights_digest(model)

    assert digest(5) == digest(5)
    assert digest(5) != digest(6)


def saved_with_dropout(folder, kind):
    if kind == "llama":
        tiny_policy(attention_dropout=0.5).save_pretrained(folder)
    else:
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 12}
        rates = {"attn_pdrop": 0.5, "embd_pdrop": 0.5, "resid_pdrop": 0.5}
        GPT2LMHeadModel(GPT2Config(**sizes, **rates)).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_two_passes_in_train_mode_are_identical_whatever_dropout_was_saved(tmp_path, kind):
    saved_with_dropout(tmp_path, kind)
    policy = load_policy(tmp_path).train()
    scalar = new_scalar_model(tmp_path, seed=0).train()

    assert torch.equal(logits(policy), logits(policy))
    assert torch.equal(logits(policy), logits(policy.eval()))
    with torch.no_grad():
        assert torch.equal(scalar(IDS, ALL), scalar(IDS, ALL))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_dropout_is_off_in_what_is_saved_too(tmp_path, kind):
    saved_with_dropout(tmp_path, kind)
    policy = load_policy(tmp_path)
    policy.save_pretrained(tmp_path / "again")

    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {rate for name, rate in saved.items() if "drop" in name} == {0.0}


def test_disabling_dropout_reaches_a_model_that_is_already_built():
    policy = tiny_policy(attention_dropout=0.5).train()
    assert not torch.equal(logits(policy), logits(policy))

    disable_dropout(policy)

    assert torch.equal(logits(policy), logits(policy))


def test_the_reference_takes_no_gradient_and_does_not_follow_the_policy():
    policy = tiny_policy().train()
    reference = frozen_copy(policy)
    before = weights_digest(reference)

    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1.0)

    assert weights_digest(reference) == before != weights_digest(policy)
    assert not reference.training
    assert not any(parameter.requires_grad for parameter in reference.parameters())


def test_a_saved_policy_samples_plainly(tmp_path):
    policy = tiny_policy()
    policy.generation_config.update(top_k=50, top_p=0.8, repetition_penalty=1.2, temperature=0.3)
    save_policy(policy, words(), tmp_path)

    saved = json.loads((tmp_path / "generation_config.json").read_text())

    del saved["transformers_version"]
    assert saved == {
        "do_sample": True,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }


def test_a_saved_policy_is_loaded_with_its_weights_and_its_tokenizer(tmp_path):
    policy = tiny_policy()
    save_policy(policy, words(), tmp_path)
    assert weights_digest(load_policy(tmp_path)) == weights_digest(policy)
    assert load_tokenizer(tmp_path).get_vocab() == words().get_vocab()


@pytest.mark.parametrize("trained, ends", [(None, [1]), (1, [1]), (7, [1, 7]), ([9, 1, 0], [1, 9])])
def test_responses_end_as_the_tokenizer_says_and_as_the_model_was_trained(trained, ends):
    policy = tiny_policy()
    policy.generation_config.eos_token_id = trained
    assert end_token_ids(policy.generation_config, words()) == ends  # 0 pads, and never ends


def test_two_ends_of_a_response_are_saved_and_loaded(tmp_path):
    policy = tiny_policy()
    policy.generation_config.eos_token_id = [7, 1]
    save_policy(policy, words(), tmp_path)
    assert end_token_ids(load_policy(tmp_path).generation_config, words()) == [1, 7]


def test_the_digest_changes_with_a_single_number():
    policy = tiny_policy()
    before = weights_digest(policy)
    assert weights_digest(tiny_policy()) == before
    with torch.no_grad():
        policy.model.norm.weight[3] += 1e-6
    assert weights_digest(policy) != before
