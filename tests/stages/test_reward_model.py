import json

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaForSequenceClassification,
)

from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import DataError, ModelError
from rlhf_core.history import read_history
from rlhf_core.models import weights_digest
from rlhf_core.new_tokenizers import word_tokenizer
from rlhf_core.pretrained import load_policy
from rlhf_core.report import ignore
from rlhf_core.reward_models import load_held_out, load_reward_model, read_description
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.gate import GateSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.reward_model import (
    EnsembleSettings,
    PretrainedRewardModelSettings,
    RewardModelSettings,
)
from rlhf_core.settings.sentinel import Limits, RewardModelSentinelSettings
from rlhf_core.stages.ppo import make_ppo
from rlhf_core.stages.reward_model import make_reward_model
from rlhf_core.tables import read_demonstrations, read_preferences
from tests.tiny_models import config

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


def test_the_scorecard_is_a_page_too(chain):
    page = (chain.reward_model / "scorecard.html").read_text()
    card = json.loads((chain.reward_model / "scorecard.json").read_text())
    assert f"{100 * card['accuracy']:.1f} %" in page
    assert card["sft_sample_score"] < 0.5  # samples are like demonstrations, which score 0
    assert sum(card["scores"]["sft_samples"]["counts"]) > 32  # of 64, those that ended
    assert card["lead_over_length"]["mean"] == pytest.approx(card["accuracy"])  # always shorter


def test_normalized_on_samples_the_scores_of_samples_have_mean_0_and_deviation_1(chain, tmp_path):
    make(
        chain,
        tmp_path / "rm",
        normalize_on="samples",
        normalize="mean_and_deviation",
        scorecard_samples=120,
    )
    card = json.loads((tmp_path / "rm" / "scorecard.json").read_text())
    # Other prompts and draws than those of the normalization: near 0 and 1.
    assert abs(card["sft_sample_score"]) < 0.5
    assert 0.5 < card["sft_sample_score_deviation"] < 1.5


@pytest.mark.parametrize("kind", ["heads", "seeds"])
def test_an_ensemble_is_published_whole_and_its_members_differ(kind, chain, tmp_path):
    summary = make(chain, tmp_path / "rm", ensemble=EnsembleSettings(members=2, kind=kind))
    reward_model = load_reward_model(tmp_path / "rm")
    assert (reward_model.kind, len(reward_model)) == (kind, 2)
    assert summary["disagreement"] > 0
    table = read_demonstrations(chain.data, "train").head(30)
    if kind == "heads":  # what transformers reads alone is the mean of the heads
        alone = scores(tmp_path / "rm", table.prompt, table.response)
        assert abs(alone.mean().item()) < 0.5


def test_the_best_of_several_seeds_is_kept_and_the_next_is_held_out(chain, tmp_path):
    summary = make(chain, tmp_path / "rm", seeds=2, held_out="other_seed", batch_size=60)
    assert summary["steps"] == 4  # two models of two steps
    kept, held_out = load_reward_model(tmp_path / "rm"), load_held_out(tmp_path / "rm")
    assert weights_digest(kept) != weights_digest(held_out)
    history = read_history(tmp_path / "rm")
    assert [row["step"] for row in history] == [1, 2, 3, 4, 4]
    assert ["model_2_loss" in row for row in history] == [False, False, True, True, False]


def test_a_held_out_reward_model_learns_from_rows_that_the_other_does_not_see(chain, tmp_path):
    make(chain, tmp_path / "rm", held_out="other_rows", held_out_share=0.5, batch_size=10)
    history = read_history(tmp_path / "rm")
    own = sum("loss" in row for row in history)
    others = sum("held_out_loss" in row for row in history)
    assert (own, others) == (6, 6)  # 60 rows each in batches of 10
    assert load_held_out(tmp_path / "rm") is not None


def test_what_came_up_in_one_of_several_trainings_is_recorded_under_its_name(chain, tmp_path):
    sentinel = RewardModelSentinelSettings(chance=Limits(warn=1.1))  # which every training is below
    settings = {"held_out": "other_rows", "held_out_share": 0.5, "batch_size": 2}
    make(chain, tmp_path / "rm", **settings, sentinel=sentinel)
    names = {name for row in read_history(tmp_path / "rm") for name in row}
    assert {"warned_chance", "held_out_warned_chance"} <= names


def test_a_stage_that_was_ended_in_its_second_training_goes_on_there(chain, tmp_path, read_bytes):
    settings = {"seeds": 2, "held_out": "other_seed", "batch_size": 60}
    make(chain, tmp_path / "whole", **settings)
    seen = []

    def until_the_third_step(step, metrics):
        seen.append(step)
        if step == 3:
            raise KeyboardInterrupt

    def run(out_dir, report):
        out_dir.mkdir()
        folder = tmp_path / "checkpoints"
        folder.mkdir(exist_ok=True)
        return make_reward_model(
            QUICK.model_copy(update=settings),
            chain.model,
            data=chain.data,
            sft=chain.sft,
            out_dir=out_dir,
            report=report,
            seed=1,
            checkpoints=Checkpoints(folder, {"stage": "reward_model"}, every_steps=1),
        )

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", until_the_third_step)
    run(tmp_path / "again", lambda step, metrics: seen.append(step))
    assert seen == [1, 2, 3, 3, 4, 4]  # the third step is taken again, the first two are not
    assert read_bytes(tmp_path / "again") == read_bytes(tmp_path / "whole")


def outside(folder, *, vocabulary="so done no w0 w1 w2 w3", **changes):
    """A reward model as others publish them: a sequence classifier with a tokenizer of its own."""
    tokenizer = word_tokenizer([vocabulary, "Q:", "A:"])
    torch.manual_seed(5)
    sizes = config(vocabulary=len(tokenizer), layers=1, **{"num_labels": 1, **changes})
    model = LlamaForSequenceClassification(sizes).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def test_a_reward_model_from_elsewhere_reads_texts_its_own_way(chain, tmp_path):
    model, tokenizer = outside(tmp_path / "theirs")
    pretrained = PretrainedRewardModelSettings(
        source=str(tmp_path / "theirs"), prompt_template="Q: {prompt} A:", response_prefix=" "
    )
    summary = make(chain, tmp_path / "rm", pretrained=pretrained, normalize_on="nothing")
    assert summary["steps"] == 0
    assert summary["pairs"] == 120  # the scorecard is made all the same

    def theirs(prompt, response):
        """As its makers read it: transformers looks for the last token itself."""
        ids = tokenizer(f"Q: {prompt} A: {response}")["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            return float(model(input_ids=torch.tensor([ids])).logits[0, 0])

    table = read_preferences(chain.data, "validation")
    better, worse = (
        [
            theirs(prompt, responses[list(ranks).index(rank)])
            for prompt, responses, ranks in zip(
                table.prompt, table.responses, table.ranks, strict=True
            )
        ]
        for rank in (1, 2)
    )
    margin = sum(a - b for a, b in zip(better, worse, strict=True)) / 120
    assert summary["margin"] == pytest.approx(margin, abs=1e-4)
    assert read_description(tmp_path / "rm")["prompt_template"] == "Q: {prompt} A:"


@pytest.mark.parametrize("changes", [{"num_labels": 3}], ids=["three labels"])
def test_a_model_whose_head_says_something_else_is_refused(changes, chain, tmp_path):
    outside(tmp_path / "theirs", **changes)
    pretrained = PretrainedRewardModelSettings(source=str(tmp_path / "theirs"))
    with pytest.raises(ModelError, match=r"reward_model\.pretrained\.source: .*(one label|loaded)"):
        make(chain, tmp_path / "rm", pretrained=pretrained)


def test_a_folder_that_holds_no_model_is_named_by_its_setting(chain, tmp_path):
    pretrained = PretrainedRewardModelSettings(source=str(tmp_path))
    with pytest.raises(ModelError, match=str(tmp_path)):
        make(chain, tmp_path / "rm", pretrained=pretrained)


def test_ppo_is_paid_by_a_reward_model_from_elsewhere_through_texts(chain, tmp_path):
    outside(tmp_path / "theirs")
    pretrained = PretrainedRewardModelSettings(source=str(tmp_path / "theirs"))
    make(chain, tmp_path / "rm", pretrained=pretrained)
    (tmp_path / "ppo").mkdir()
    gate = GateSettings(swapped_labels="off", accuracy="off", no_better_than_length="off")
    make_ppo(
        PpoSettings(
            updates=1,
            rollout_batch_size=8,
            mini_batch_size=8,
            warmup_updates=0,
            value_init="sft",
            gate=gate,
        ),
        chain.model,
        data=chain.data,
        sft=chain.sft,
        reward_model=tmp_path / "rm",
        out_dir=tmp_path / "ppo",
        report=ignore,
        seed=1,
    )
    lines = (tmp_path / "ppo" / "samples.jsonl").read_text().splitlines()
    shown = next(sample for sample in map(json.loads, lines) if sample["ended"])
    own = scores(tmp_path / "rm", [shown["prompt"]], [shown["response"]])
    assert own.item() == pytest.approx(shown["score"], abs=1e-3)  # four decimals are written
