"""How PPO is watched: the guard's ladder on its steps, and the sentinel on its updates."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_core.batches import SpecialTokens
from rlhf_core.errors import TrainingStopped
from rlhf_core.report import Report
from rlhf_core.sentinel.alarms import AFTER_STEPS, BEFORE_STEPS
from rlhf_core.sentinel.signatures import SAMPLER
from rlhf_core.sentinel.watch import Sentinel
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.first_bad import Bad, first_bad_layer, is_finite
from rlhf_core.training.guard import Guard
from rlhf_core.training.rollout_rules import (
    explain_rewards,
    reference_error,
    reference_probe,
    rule_errors,
    unfinished_error,
)
from rlhf_core.training.rollout_signals import rollout_signals
from rlhf_core.training.rollouts import PpoModels, Rollout, policy_distribution
from rlhf_core.training.sampler_examination import examine_sampler
from rlhf_core.training.trained import Trained

KEPT_SEEDS = 1000
SAMPLER_ALARMS = frozenset(SAMPLER)


class PpoWatch:
    """The watch over one PPO training; `numbers` and `tensors` are groups of its state."""

    def __init__(
        self,
        settings: PpoSettings,
        models: PpoModels,
        trained: Mapping[str, Trained],
        report: Report,
        *,
        special: SpecialTokens,
        max_response_tokens: int,
        missing_eos_score: float,
        notice: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._models = models
        self._report = report
        self._special = special
        self._max_response_tokens = max_response_tokens
        self._missing_eos_score = missing_eos_score
        self.guard = Guard("ppo", settings.sentinel, trained, notice=notice, watches_loss=False)
        weights = next(models.policy.parameters())
        self._sentinel = Sentinel(
            settings.sentinel,
            self.guard,
            {
                "kl_coef": settings.kl_coef,
                "updates": float(settings.updates),
                "rollout_batch_size": float(settings.rollout_batch_size),
                "whiten_rewards": float(settings.whiten_rewards),
                "missing_eos_score": missing_eos_score,
                "low_precision_weights": float(weights.dtype != torch.float32),
            },
        )
        self._rules: dict[str, Any] = {"seeds": [], "reference_probe": None, "still_updates": 0}
        self._is_well = True
        self._before: set[str] = set()

    @property
    def numbers(self) -> Mapping[str, dict[str, Any]]:
        """What the watch carries from update to update."""
        return {
            "guard": self.guard.numbers,
            "sentinel": self._sentinel.numbers,
            "rules": self._rules,
        }

    @property
    def tensors(self) -> Mapping[str, dict[str, Tensor]]:
        """The copy of the last good state."""
        return self.guard.tensors

    def signals(self, rollout: Rollout) -> dict[str, float]:
        """Numbers that are watched beside those that PPO reports anyway."""
        return rollout_signals(rollout, max_response_tokens=self._max_response_tokens)

    def admits(
        self,
        update: int,
        rollout: Rollout,
        metrics: Mapping[str, float],
        *,
        seed: int,
        rows: Sequence[int],
    ) -> bool:
        """Whether the rollout is to be optimized on; a bad one is skipped and counted.

        Raises TrainingStopped, once the update is reported, where training has to end.
        """
        bad = self._first_bad(rollout)
        if bad is not None:
            self.guard.note(update, metrics)
            self._reporting(update, metrics, lambda: self.guard.judge(update, bad, rows))
            return False
        self._sentinel.remember(metrics)
        self._before = set(metrics)
        errors = self._rule_errors(rollout, seed, kl_coef=metrics["kl_coef"])
        seen = {**metrics, **errors, "broken_rules": max(errors.values())}

        def examine(raised: frozenset[str]) -> Mapping[str, float]:
            found: dict[str, float] = {}
            if "broken_rules" in raised:
                found |= explain_rewards(rollout, self._settings, kl_coef=metrics["kl_coef"])
            if raised & SAMPLER_ALARMS:
                found |= self._pass_difference(rollout)
                found |= examine_sampler(self._models, rollout, self._settings, self._special)
            return found

        self._is_well = not self._reporting(
            update, metrics, lambda: self._sentinel.look(update, seen, BEFORE_STEPS, examine)
        )
        return True

    def optimized(self, update: int, rollout: Rollout, metrics: Mapping[str, float]) -> None:
        """Look at what the steps did, and keep the state where all is well and it is time to."""
        moved = metrics["update_norm"] > 0 or update <= self._settings.value_warmup_updates
        self._rules["still_updates"] = 0 if moved else self._rules["still_updates"] + 1
        later = (name for name in metrics if name not in self._before)  # in an order of their own
        self._sentinel.remember({name: metrics[name] for name in later})
        seen = {**metrics, "still_updates": float(self._rules["still_updates"])}

        def examine(raised: frozenset[str]) -> Mapping[str, float]:
            return self._pass_difference(rollout) if "first_ratio_error" in raised else {}

        self.guard.note(update, metrics)
        warned = self._sentinel.look(update, seen, AFTER_STEPS, examine)
        if self._is_well and not warned:
            self.guard.step_done(update)

    def finish(self) -> dict[str, float]:
        """What came up, if anything did; raises TrainingStopped where no step was taken."""
        self.guard.finish()
        return self.guard.summary

    def _reporting(
        self, update: int, metrics: Mapping[str, float], look: Callable[[], bool]
    ) -> bool:
        """What `look` gives; the update is reported before training stops at it."""
        try:
            return look()
        except TrainingStopped:
            self._report(update, metrics)
            raise

    def _rule_errors(self, rollout: Rollout, seed: int, *, kl_coef: float) -> dict[str, float]:
        errors = rule_errors(rollout, self._settings, self._special, kl_coef=kl_coef)
        errors["missing_eos_error"] = unfinished_error(
            rollout, self._settings, self._missing_eos_score
        )
        rules, probe = self._rules, reference_probe(self._models)
        errors["seed_error"] = float(seed in rules["seeds"])
        rules["seeds"] = [*rules["seeds"], seed][-KEPT_SEEDS:]
        if rules["reference_probe"] is None:
            rules["reference_probe"] = probe
        moved = float(probe != rules["reference_probe"])
        again = reference_error(self._models, rollout, self._settings, self._special)
        errors["reference_error"] = max(moved, again)
        return errors

    @torch.no_grad()
    def _pass_difference(self, rollout: Rollout) -> dict[str, float]:
        """How far two passes of the same weights over the same rows differ."""
        rows = rollout.sequences.rows(torch.arange(min(8, len(rollout))))
        first, second = (
            policy_distribution(self._models.policy, rows, self._settings, self._special)
            for _ in range(2)
        )
        return {"pass_difference": float((first - second)[rows.response_mask].abs().max())}

    def _first_bad(self, rollout: Rollout) -> Bad | None:
        """The first tensor of the rollout that is not finite, in the order of its making."""
        mask, values = rollout.response_mask, rollout.value_mask
        for name, tensor, counts, model in (
            ("the policy's log-probabilities", rollout.old_logprobs, mask, self._models.policy),
            ("the reference's log-probabilities", rollout.ref_logprobs, mask, None),
            ("the values", rollout.old_values, values, None),
        ):
            if not is_finite(tensor[counts]):
                layer = None if model is None else self._bad_layer(rollout)
                return Bad("bad_layer", name if layer is None else f"output of layer {layer}")
        if not is_finite(rollout.raw_scores):
            return Bad("bad_reward", "the scores")
        for name, tensor in (("rewards", rollout.rewards), ("advantages", rollout.advantages)):
            if not is_finite(tensor[mask]):
                return Bad("bad_loss", f"the {name}")
        return None

    def _bad_layer(self, rollout: Rollout) -> str | None:
        rows = rollout.sequences.rows(torch.arange(min(8, len(rollout))))
        return first_bad_layer(
            self._models.policy,
            [rows],
            lambda part: policy_distribution(
                self._models.policy, part, self._settings, self._special
            ),
        )
