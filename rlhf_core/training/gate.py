"""The gate before PPO: what a reward model has to be worth before anything is optimized against it.

PPO finds whatever a reward model is wrong about, so what is wrong has to be found before. Every
refusal is one sentence with the figure, the likely cause and the mend; it is the guard of training
that stops here, whatever the cause, and the exit code is 3.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_core.errors import TrainingStopped
from rlhf_core.settings.gate import Check, GateSettings

SCORECARD = "scorecard.json"

CAUSES_OF = {
    "swapped_labels": "labels_swapped",
    "accuracy": "chance",
    "no_better_than_length": "length_biased",
    "finite_scores": "bad_reward",
    "constant_scores": "read_out",
    "extreme_scores": "scores_extreme",
}
"""The cause of each failed check, as the sentinel's table names it."""

FEWEST_PROMPTS = 20
"""Held-out prompts below which an accuracy says nothing: its interval would be made up."""

LEAST_DEVIATION = 1e-6
"""Deviation below which scores are one number but for rounding."""


class Verdict(NamedTuple):
    """What one check found: `passed`, `unclear`, `failed` or `off`, and the sentence for it."""

    check: str
    verdict: str
    finding: str


def judge_scorecard(card: Mapping[str, Any], settings: GateSettings) -> list[Verdict]:
    """The verdicts on a reward model's accuracy, from its scorecard."""
    accuracy = f"{card['accuracy']:.1%} [{card['accuracy_low']:.1%} to {card['accuracy_high']:.1%}]"
    pairs = f"{accuracy} of {card['pairs']:.0f} held-out pairs"
    lead = card["lead_over_length"]
    longer = (
        f"always taking the longer response would be right in {card['longer_wins_accuracy']:.1%} "
        f"(lead over it {lead['mean']:+.1%} [{lead['low']:+.1%} to {lead['high']:+.1%}])"
    )
    few = card["prompts"] < FEWEST_PROMPTS

    def verdict(check: str, failed: bool, clear: bool, finding: str, mend: str) -> Verdict:  # noqa: FBT001
        if getattr(settings, check) == "off":
            return Verdict(check, "off", finding)
        if few:
            return Verdict(check, "unclear", f"{finding}, on {card['prompts']:.0f} prompts alone")
        if failed:
            return Verdict(check, "failed", f"{finding}: {mend}, or set ppo.gate.{check}=warn")
        return Verdict(check, "passed" if clear else "unclear", finding)

    return [
        verdict(
            "swapped_labels",
            card["accuracy_high"] < 0.5,
            card["accuracy_low"] > 0.5,
            f"the reward model is right in {pairs}, where a coin is in half",
            "chosen and rejected are probably swapped in the training or the validation rows; swap "
            "them back, for example with data.preferences.columns={chosen: rejected, rejected: "
            "chosen}",
        ),
        verdict(
            "accuracy",
            card["accuracy_high"] < settings.min_accuracy,
            card["accuracy_low"] > settings.min_accuracy,
            f"the reward model is right in {pairs}, and {settings.min_accuracy:.1%} is asked for",
            "it has hardly learnt anything; give it more preferences, a higher learning rate or a "
            "larger model, or lower ppo.gate.min_accuracy",
        ),
        verdict(
            "no_better_than_length",
            lead["high"] <= 0,
            lead["low"] > 0,
            f"the reward model is right in {pairs}, and {longer}",
            "it has probably learnt length or less; give it more preferences, or pairs of similar "
            "length",
        ),
    ]


def judge_scores(scores: Tensor, settings: GateSettings) -> list[Verdict]:
    """The verdicts on the scores of a first rollout."""
    finite = torch.isfinite(scores)
    if not finite.all():
        count = int((~finite).sum())
        finding = (
            f"{count} of {len(scores)} scores of a first rollout are not finite: the reward "
            "model's weights are damaged or overflow, or a reward function divides by zero; look "
            "at its training's loss, and train it again with a lower learning rate"
        )
        return [Verdict("finite_scores", "failed", finding)]
    deviation, largest = float(scores.std(correction=0)), float(scores.abs().max())
    found = [Verdict("finite_scores", "passed", f"all of {len(scores)} scores are finite")]
    constant = (
        f"the scores of a first rollout have deviation {deviation:.2e}",
        (
            "the reward says the same of every response, so there is nothing to learn; look at the "
            "reward model's accuracy and its training"
        ),
    )
    extreme = (
        (
            f"the largest score of a first rollout has size {largest:.3g}, over "
            f"ppo.gate.max_score={settings.max_score:g}"
        ),
        (
            "the reward model diverged, or its scale is another; lower its learning rate, "
            "or scale it with reward_model.normalize=mean_and_deviation"
        ),
    )
    for check, failed, (finding, mend) in (
        ("constant_scores", deviation < LEAST_DEVIATION, constant),
        ("extreme_scores", largest > settings.max_score, extreme),
    ):
        action: Check = getattr(settings, check)
        verdict = "off" if action == "off" else "failed" if failed else "passed"
        tail = f": {mend}, or set ppo.gate.{check}=warn" if verdict == "failed" else ""
        found.append(Verdict(check, verdict, finding + tail))
    return found


@dataclass
class Gate:
    """Keeps every verdict, and raises TrainingStopped for the first check that refuses."""

    settings: GateSettings
    notice: Callable[[str], None] = lambda _: None
    """Told of what fails and is only to be said, and of what the evidence leaves open."""
    verdicts: list[Verdict] = field(default_factory=list)

    def check_reward_model(self, folder: Path) -> None:
        """Judge the reward model by the scorecard in its folder."""
        card = json.loads((folder / SCORECARD).read_text(encoding="utf-8"))
        self._pass(judge_scorecard(card, self.settings))

    def check_scores(self, scores: Tensor) -> None:
        """Judge what a first rollout was paid."""
        self._pass(judge_scores(scores, self.settings))

    def _pass(self, verdicts: Sequence[Verdict]) -> None:
        self.verdicts += verdicts
        for check, verdict, finding in verdicts:
            refused = check == "finite_scores" or getattr(self.settings, check) == "refuse"
            if verdict == "failed" and refused:
                raise TrainingStopped(
                    f"PPO did not start: {finding}.",
                    {"alarm": check, "step": 0, "cause": CAUSES_OF[check], "symptom": finding},
                )
            if verdict in ("failed", "unclear"):
                self.notice(f"the gate before PPO: {finding} ({verdict})")
