import hashlib
import json
import shutil

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_core.batches import Encoder
from rlhf_core.chat import carry_template
from rlhf_core.errors import DataError, ModelError
from rlhf_core.history import read_history
from rlhf_core.models import new_policy
from rlhf_core.new_tokenizers import byte_pair_tokenizer
from rlhf_core.pretrained import load_policy, load_tokenizer, save_policy
from rlhf_core.report import ignore
from rlhf_core.sampling import sample_texts
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.settings.sft import SftSettings
from rlhf_core.stages.sft import make_sft
from rlhf_core.tables import write_table
from rlhf_core.training.encoded import encoded_rows
from tests.stages.conftest import WORDS

QUICK = SftSettings(epochs=1, learning_rate=0.01, batch_size=32)


def make(chain, out_dir, *, settings=QUICK, model=None, seed=1):
    out_dir.mkdir()
    return make_sft(
        settings, model or chain.model, data=chain.data, out_dir=out_dir, report=ignore, seed=seed
    )


def based_on(chain, folder):
    return chain.model.model_copy(update={"base": str(folder), "scratch": None})


def test_the_policy_has_learnt_the_demonstrations_and_transformers_can_use_it(chain):
    tokenizer = AutoTokenizer.from_pretrained(chain.sft)
    policy = AutoModelForCausalLM.from_pretrained(chain.sft)
    asked = tokenizer(["w1 w5", "w5 w1"], return_tensors="pt")
    asked.pop("token_type_ids", None)
    answers = policy.generate(**asked, do_sample=False, max_new_tokens=8)[:, 2:]
    assert tokenizer.batch_decode(answers, skip_special_tokens=True) == ["so done", "so done"]
    assert (answers == tokenizer.eos_token_id).any(dim=1).all()


def test_the_record_and_the_summary_tell_the_loss_of_the_weights_that_were_kept(chain, tmp_path):
    summary = make(chain, tmp_path / "sft", settings=QUICK.model_copy(update={"epochs": 3}))
    history = read_history(tmp_path / "sft")
    measured = {row["step"]: row["validation_loss"] for row in history if "validation_loss" in row}
    assert sorted(measured) == [4, 8, 12]  # 120 rows in batches of 32
    assert summary["validation_loss"] == min(measured.values())
    assert measured[summary["best_step"]] == summary["validation_loss"]
    assert summary["demonstrations"] == 120
    policy = load_policy(tmp_path / "sft")
    assert summary["parameters"] == sum(p.numel() for p in policy.parameters())


def test_the_same_seed_gives_the_same_bytes_twice(chain, tmp_path, read_bytes):
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        make(chain, folder, seed=seed)
    one, two, three = (read_bytes(folder) for folder in folders)
    assert one == two
    assert one["model.safetensors"] != three["model.safetensors"]
    text = b"".join(content for name, content in one.items() if name.endswith("json"))
    assert str(tmp_path).encode() not in text


def test_a_loaded_model_goes_on_from_its_weights(chain, tmp_path):
    still = QUICK.model_copy(update={"learning_rate": 1e-30})
    make(chain, tmp_path / "sft", settings=still, model=based_on(chain, chain.sft))
    before, after = (load_policy(folder).state_dict() for folder in (chain.sft, tmp_path / "sft"))
    assert all(torch.equal(after[name], weights) for name, weights in before.items())


def test_an_adapter_is_merged_into_the_matrices_it_was_trained_for(chain, tmp_path):
    settings = QUICK.model_copy(update={"lora": LoraSettings(rank=2, target_modules=("q_proj",))})
    make(chain, tmp_path / "sft", settings=settings, model=based_on(chain, chain.sft))
    before, after = (load_policy(folder).state_dict() for folder in (chain.sft, tmp_path / "sft"))
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == ["model.layers.0.self_attn.q_proj.weight"]


def test_a_tokenizer_without_padding_grows_the_model_by_a_row(chain, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(chain.sft, base)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["pad_token"] = None
    (base / "tokenizer_config.json").write_text(json.dumps(settings))

    make(chain, tmp_path / "sft", model=based_on(chain, base))

    rows = load_policy(tmp_path / "sft").get_input_embeddings().num_embeddings
    assert rows == load_policy(chain.sft).get_input_embeddings().num_embeddings + 1


def test_rows_over_the_budget_are_refused_when_none_is_left(chain, tmp_path):
    model = chain.model.model_copy(update={"max_prompt_tokens": 1})
    with pytest.raises(DataError, match=r"None of 120 demonstrations fits.*raise them"):
        make(chain, tmp_path / "sft", model=model)


def test_a_base_model_that_is_nowhere_is_refused(chain, tmp_path):
    model = ModelSettings(base=str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="nowhere"):
        make(chain, tmp_path / "sft", model=model)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_examples_show_what_training_reads_and_what_it_learns(chain):
    shown = lines(chain.sft / "examples.jsonl")
    assert [(row["file"], row["line"]) for row in shown] == [("rows.jsonl", 1)] * 5
    tokenizer = AutoTokenizer.from_pretrained(chain.sft)
    first = shown[0]
    end = tokenizer.eos_token_id
    assert first["ids"] == [*tokenizer("w0 w0 so done")["input_ids"], end]
    assert first["learnt"] == [False, False, True, True, True]
    assert first["tokens"] == ["w0", "w0", "so", "done", "<eos>"]


def test_samples_of_every_epoch_are_kept_and_the_last_are_as_demonstrated(chain):
    rows = lines(chain.sft / "samples.jsonl")
    assert [row["epoch"] for row in rows] == [1] * 16 + [2] * 16 + [3] * 16
    last = rows[-1]
    assert (last["response"], last["ended"], last["tokens"]) == ("so done", True, 3)
    measured = [row for row in read_history(chain.sft) if "sample_ended_share" in row]
    assert [row["step"] for row in measured] == [8, 16, 24]  # 120 rows in batches of 16
    assert measured[-1]["sample_ended_share"] == 1


def test_the_page_holds_what_happened_and_nothing_from_elsewhere(chain):
    page = (chain.sft / "report.html").read_text()
    assert "Supervised fine-tuning" in page
    assert "What the length budgets took" in page
    assert '<span class="token learnt" title=' in page
    assert not any(word in page for word in ("<script", "http:", "https:", "url("))


def test_kept_epochs_are_models_of_their_own_and_the_best_is_the_policy(chain, tmp_path):
    settings = QUICK.model_copy(
        update={"epochs": 2, "keep_epochs": True, "lora": LoraSettings(rank=2)}
    )
    summary = make(chain, tmp_path / "sft", settings=settings, model=based_on(chain, chain.sft))
    first, second = (
        load_policy(tmp_path / "sft" / "epochs" / str(epoch)).state_dict() for epoch in (1, 2)
    )
    policy = load_policy(tmp_path / "sft").state_dict()
    kept = second if summary["best_step"] == 8 else first
    assert all(torch.equal(policy[name], weight) for name, weight in kept.items())
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_long_responses_are_cut_without_an_end_where_the_recipe_says_so(chain, tmp_path):
    model = chain.model.model_copy(update={"max_response_tokens": 2})
    settings = QUICK.model_copy(update={"long_responses": "cut", "max_truncated_share": 1.0})
    summary = make(chain, tmp_path / "sft", settings=settings, model=model)
    assert (summary["responses_cut"], summary["rows_dropped"]) == (120, 0)
    found = json.loads((tmp_path / "sft" / "truncation.json").read_text())
    assert found["train"]["responses_cut"] == 120
    assert lines(tmp_path / "sft" / "examples.jsonl")[0]["tokens"] == ["w0", "w0", "so", "done"]


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory):
    """A model whose tokenizer carries a chat template."""
    folder = tmp_path_factory.mktemp("chat-base")
    tokenizer = byte_pair_tokenizer(["so done", "user assistant", " ".join(WORDS)] * 9, 330)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    scratch = ScratchModelSettings(
        hidden_size=32, layers=1, heads=2, intermediate_size=48, initializer_range=0.15
    )
    policy = new_policy(scratch, tokenizer, max_tokens=96, seed=1)
    save_policy(policy, tokenizer, folder)
    return ModelSettings(base=str(folder), max_prompt_tokens=64, max_response_tokens=16)


def test_a_base_with_a_chat_template_is_trained_and_sampled_through_it(chain, chat_base, tmp_path):
    settings = QUICK.model_copy(update={"epochs": 6, "batch_size": 16})
    make(chain, tmp_path / "sft", settings=settings, model=chat_base)
    found = json.loads((tmp_path / "sft" / "encoding.json").read_text())
    assert found["chat_template"] == {
        "sha256": hashlib.sha256(CHATML.encode()).hexdigest(),
        "from": "tokenizer",
    }
    assert found["end"]["token"] == "<|im_end|>"
    assert found["preflight"]["conversations"] == 64
    example = lines(tmp_path / "sft" / "examples.jsonl")[0]
    learnt = [token for token, own in zip(example["tokens"], example["learnt"], strict=True) if own]
    assert "".join(learnt) == "so done<|im_end|>"
    assert "".join(example["tokens"]).startswith("<|im_start|>user\nw0 w0<|im_end|>\n<|im_start|>")
    # Loaded by nothing but its folder, the tokenizer still has template and end, and the policy
    # has learnt both.
    answers = sample_texts(tmp_path / "sft", chat_base, ["w1 w5"], temperature=0.0, seed=1)
    assert [(answer.text, answer.ended) for answer in answers] == [("so done", True)]


@pytest.mark.parametrize("template", ["none", CHATML.replace("user", "user ")])
def test_a_recipes_template_or_none_takes_the_place_of_the_tokenizers(
    chain, chat_base, tmp_path, template
):
    model = chat_base.model_copy(update={"chat_template": template})
    make(chain, tmp_path / "sft", model=model)
    found = json.loads((tmp_path / "sft" / "encoding.json").read_text())
    if template == "none":
        assert found["chat_template"] is None
        assert load_tokenizer(tmp_path / "sft").chat_template is None
        assert found["end"]["token"] == "<eos>"
    else:
        assert found["chat_template"]["from"] == "recipe"
        assert load_tokenizer(tmp_path / "sft").chat_template == template


def test_every_turn_of_the_assistants_is_learnt_where_the_recipe_says_so(chain, chat_base):
    encoder = Encoder(load_tokenizer(chat_base.base), chat_base)
    carry_template(encoder.tokenizer, chat_base)
    talk = "\n\nHuman: w1\n\nAssistant: so\n\nHuman: w2\n\nAssistant:"
    where = {"file": ["rows"] * 2, "line": [1, 2]}
    table = pd.DataFrame({"prompt": [talk, "w3"], "response": ["done", "so"], **where})

    def learnt(loss_on):
        rows = encoded_rows(encoder, table, SftSettings(loss_on=loss_on)).demonstrations
        shown = []
        for row, response in enumerate(rows.responses):
            owned = zip(response, rows.labels(row), strict=True)
            shown.append(encoder.tokenizer.decode([token for token, own in owned if own]))
        return shown

    assert learnt("response") == ["done<|im_end|>", "so<|im_end|>"]
    assert learnt("assistant") == ["so<|im_end|>done<|im_end|>", "so<|im_end|>"]


def test_turns_that_no_template_tells_apart_cannot_be_learnt_apart(chain, tmp_path):
    settings = QUICK.model_copy(update={"loss_on": "assistant"})
    with pytest.raises(ModelError, match="needs a chat template"):
        make(chain, tmp_path / "sft", settings=settings)


def test_plain_text_is_learnt_beside_where_the_recipe_says_so(chain, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(chain.data, data)
    rows = [{"text": f"w{n % 12} w3 w4", "file": "t.txt", "line": n} for n in range(40)]
    write_table(data, "text", "train", rows)
    (tmp_path / "sft").mkdir()
    summary = make_sft(
        QUICK.model_copy(update={"pretraining_share": 0.2}),
        chain.model,
        data=data,
        out_dir=tmp_path / "sft",
        report=ignore,
        seed=1,
    )
    assert (summary["demonstrations"], summary["pretraining_texts"]) == (120, 30)
    assert summary["steps"] == 5  # 150 examples in batches of 32
