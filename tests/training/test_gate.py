"""The gate before PPO: what is refused, in which words, and what may be switched off."""

import json

import pytest
import torch

from rlhf_core.errors import TrainingStopped
from rlhf_core.settings.gate import GateSettings
from rlhf_core.training.gate import Gate

GOOD = {
    "accuracy": 0.72,
    "accuracy_low": 0.68,
    "accuracy_high": 0.76,
    "longer_wins_accuracy": 0.55,
    "lead_over_length": {"mean": 0.17, "low": 0.11, "high": 0.23},
    "pairs": 400.0,
    "prompts": 200.0,
}
SWAPPED = {"accuracy": 0.28, "accuracy_low": 0.24, "accuracy_high": 0.32}
CHANCE = {"accuracy": 0.5, "accuracy_low": 0.46, "accuracy_high": 0.54}
LENGTH = {
    "longer_wins_accuracy": 0.8,
    "lead_over_length": {"mean": -0.08, "low": -0.12, "high": -0.04},
}
ONLY_LENGTH = {
    "longer_wins_accuracy": 0.72,
    "lead_over_length": {"mean": 0.0, "low": 0.0, "high": 0.0},
}


def judge(tmp_path, card, **settings) -> tuple[Gate, list[str]]:
    (tmp_path / "scorecard.json").write_text(json.dumps(GOOD | card))
    said: list[str] = []
    gate = Gate(GateSettings(**settings), said.append)
    gate.check_reward_model(tmp_path)
    return gate, said


def test_a_reward_model_that_has_learnt_passes_without_a_word(tmp_path):
    gate, said = judge(tmp_path, {})
    assert {verdict.verdict for verdict in gate.verdicts} == {"passed"}
    assert said == []


@pytest.mark.parametrize(
    "card,check,sentence",
    [
        (SWAPPED, "swapped_labels", "28.0%.*chosen and rejected are probably swapped.*columns="),
        (CHANCE, "accuracy", "50.0%.*55.0% is asked for.*hardly learnt anything.*min_accuracy"),
        (LENGTH, "no_better_than_length", "longer response would be right in 80.0%.*similar"),
        (ONLY_LENGTH, "no_better_than_length", "longer response would be right in 72.0%"),
    ],
    ids=["swapped", "chance", "worse than length", "length itself"],
)
def test_what_is_clearly_wrong_refuses_ppo_in_one_sentence(card, check, sentence, tmp_path):
    with pytest.raises(TrainingStopped, match=f"^PPO did not start: the reward model .*{sentence}"):
        judge(tmp_path, card)
    others = {"accuracy": "off"} if check == "swapped_labels" else {}
    gate, said = judge(tmp_path, card, **{check: "warn"}, **others)
    assert [verdict.check for verdict in gate.verdicts if verdict.verdict == "failed"] == [check]
    assert any("failed" in line for line in said)
    gate, said = judge(tmp_path, card, **{check: "off"}, **others)
    assert all(verdict.verdict != "failed" for verdict in gate.verdicts)


def test_the_guard_of_training_stops_here_with_its_exit_code(tmp_path):
    with pytest.raises(TrainingStopped) as stopped:
        judge(tmp_path, SWAPPED)
    assert stopped.value.exit_code == 3


def test_what_the_evidence_leaves_open_is_said_and_not_refused(tmp_path):
    # The reward model of the stories recipe: 0.653 on 98 pairs, where length has 0.689.
    stories = {
        "accuracy": 0.653,
        "accuracy_low": 0.561,
        "accuracy_high": 0.745,
        "longer_wins_accuracy": 0.689,
        "lead_over_length": {"mean": -0.036, "low": -0.15, "high": 0.08},
        "pairs": 98.0,
        "prompts": 98.0,
    }
    gate, said = judge(tmp_path, stories)
    assert [verdict.verdict for verdict in gate.verdicts] == ["passed", "passed", "unclear"]
    assert len(said) == 1
    assert "lead over it -3.6%" in said[0]


def test_a_handful_of_prompts_proves_nothing(tmp_path):
    gate, said = judge(tmp_path, SWAPPED | LENGTH | {"prompts": 3.0, "pairs": 9.0})
    assert {verdict.verdict for verdict in gate.verdicts} == {"unclear"}
    assert all("on 3 prompts alone" in line for line in said)


def test_a_limit_of_the_recipes_own_is_asked_for(tmp_path):
    with pytest.raises(TrainingStopped, match=r"90.0% is asked for"):
        judge(tmp_path, {}, min_accuracy=0.9)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_are_refused_whatever_is_set(wrong):
    settings = GateSettings(constant_scores="off", extreme_scores="off")
    with pytest.raises(TrainingStopped, match=r"1 of 3 scores .* are not finite"):
        Gate(settings).check_scores(torch.tensor([0.1, wrong, 0.3]))


@pytest.mark.parametrize(
    "scores,check,sentence",
    [
        ([0.5, 0.5, 0.5], "constant_scores", "says the same of every response"),
        ([0.1, -1e30, 0.3], "extreme_scores", "size 1e\\+30.*diverged"),
    ],
)
def test_scores_that_nothing_can_be_learnt_from_are_refused(scores, check, sentence):
    with pytest.raises(TrainingStopped, match=f"PPO did not start: .*{sentence}"):
        Gate(GateSettings()).check_scores(torch.tensor(scores))
    gate = Gate(GateSettings(**{check: "off"}))
    gate.check_scores(torch.tensor(scores))
    assert {verdict.check: verdict.verdict for verdict in gate.verdicts}[check] == "off"


def test_ordinary_scores_pass():
    said: list[str] = []
    Gate(GateSettings(), said.append).check_scores(torch.tensor([0.1, -4.0, 3.0]))
    assert said == []
