import json

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForTokenClassification, AutoTokenizer

from rlhf_core.errors import DataError
from rlhf_core.history import read_history
from rlhf_core.pretrained import load_policy
from rlhf_core.report import ignore
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.stages.reward_model import make_reward_model
from rlhf_core.tables import read_demonstrations, read_preferences

QUICK = RewardModelSettings(learning_rate=0.003, batch_size=32)


def make(chain, out_dir, *, model=None, seed=1, **changes):
    out_dir.mkdir()
    return make_reward_model(
        QUICK.model_copy(update=changes),
        model or chain.model,
        data=chain.data,
        sft=chain.sft,
        out_dir=out_dir,
        report=ignore,
        seed=seed,
    )


def scores(folder, prompts, responses):
    """As anybody reads it with transformers alone: one row at a time, at its last token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder)
    found = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = [*tokenizer(f"{prompt} {response}")["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            found.append(float(model(input_ids=torch.tensor([ids])).logits[0, -1, 0]))
    return torch.tensor(found)


def test_demonstrations_score_0_in_the_mean_of_what_was_saved(chain):
    table = read_demonstrations(chain.data, "train")
    found = scores(chain.reward_model, table.prompt, table.response)
    assert_close(found.mean().item(), 0.0, atol=1e-4, rtol=0)  # invariant 21's bound
    assert found.std() > 0.01


def test_without_normalization_the_scores_are_shifted_and_pairs_differ_alike(chain, tmp_path):
    summary = make(chain, tmp_path / "normal")
    bare = make(chain, tmp_path / "bare", normalize_on="nothing")

    table = read_preferences(chain.data, "validation").head(20)
    first, second = (
        [
            scores(tmp_path / name, table.prompt, [row[index] for row in table.responses])
            for index in (0, 1)
        ]
        for name in ("normal", "bare")
    )
    shift = second[0] - first[0]
    assert_close(shift, shift[0].expand(20), atol=1e-5, rtol=0)  # float32 on the CPU
    assert abs(shift[0]) > 0.01
    assert_close(first[0] - first[1], second[0] - second[1], atol=1e-5, rtol=0)
    assert_close(bare["demonstration_score"], shift[0].item(), atol=1e-4, rtol=0)
    assert bare["accuracy"] == summary["accuracy"]
    assert_close(bare["loss"], summary["loss"], atol=1e-5, rtol=0)


def test_the_scorecard_grades_what_was_saved(chain):
    card = json.loads((chain.reward_model / "scorecard.json").read_text())
    table = read_preferences(chain.data, "validation")
    # Ranks 1 2 or 2 1: the better response stands where its rank is 1.
    better = [r[list(k).index(1)] for r, k in zip(table.responses, table.ranks, strict=True)]
    worse = [r[list(k).index(2)] for r, k in zip(table.responses, table.ranks, strict=True)]
    right = scores(chain.reward_model, table.prompt, better) > scores(
        chain.reward_model, table.prompt, worse
    )
    assert card["accuracy"] == pytest.approx(float(right.float().mean()))
    assert card["accuracy"] > 0.9
    assert card["longer_wins_accuracy"] == 0.0  # the better one is always the shorter here
    assert card["pairs"] == 120
    assert abs(card["demonstration_score"]) < 1e-4


def test_the_record_ends_with_the_validation(chain):
    history = read_history(chain.reward_model)
    losses = [row["loss"] for row in history if "loss" in row]
    assert len(losses) == 16  # 120 rows in batches of 16, twice
    assert 0.6 < losses[0] < 0.95  # invariant 23: a guess loses log 2 = 0.69
    assert losses[-1] < 0.5
    assert history[-1]["validation_accuracy"] > 0.9


def test_the_same_seed_gives_the_same_bytes_twice(chain, tmp_path, read_bytes):
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        make(chain, tmp_path / name, seed=seed, mismatch_rows=40, token_loss_weight=0.5)
    one, two, three = (read_bytes(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one["model.safetensors"] != three["model.safetensors"]


def test_what_belongs_to_a_prompt_is_learnt_first_where_that_is_asked_for(chain, tmp_path):
    make(chain, tmp_path / "rm", mismatch_rows=64, token_loss_weight=0.5)
    history = read_history(tmp_path / "rm")
    kinds = ["mismatch_loss" in row for row in history if "validation_accuracy" not in row]
    assert kinds == [True] * sum(kinds) + [False] * 4  # then 120 rows in batches of 32
    assert 0 < sum(kinds) <= 2
    assert [row["step"] for row in history[:-1]] == list(range(1, len(kinds) + 1))
    names = AutoModelForTokenClassification.from_pretrained(tmp_path / "rm").state_dict()
    assert sum("score" in name or "head" in name for name in names) == 2  # weight and bias


def test_only_adapted_matrices_and_the_head_move(chain, tmp_path):
    lora = LoraSettings(rank=2, target_modules=("v_proj",))
    make(chain, tmp_path / "rm", lora=lora)
    body = load_policy(chain.sft).model.state_dict()
    found = AutoModelForTokenClassification.from_pretrained(tmp_path / "rm").model.state_dict()
    moved = [name for name in body if not torch.equal(body[name], found[name])]
    assert moved == ["layers.0.self_attn.v_proj.weight"]


def test_adapters_on_all_layers_learn_too(chain, tmp_path):
    summary = make(chain, tmp_path / "rm", lora=LoraSettings(rank=4), epochs=3, learning_rate=0.01)
    assert summary["accuracy"] > 0.9


def test_rows_over_the_budget_are_refused_when_none_is_left(chain, tmp_path):
    # Demonstrations have 3 tokens with their end, the longer of two compared responses has 4.
    model = chain.model.model_copy(update={"max_response_tokens": 3})
    with pytest.raises(DataError, match=r"None of 120 preferences fits.*raise them"):
        make(chain, tmp_path / "rm", model=model)
