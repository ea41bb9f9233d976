"""The guard of SFT and reward modelling: the ladder, and whether anything is learnt."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from rlhf_core.report import Report
from rlhf_core.settings.sentinel import (
    Limits,
    RewardModelSentinelSettings,
    SupervisedSentinelSettings,
)
from rlhf_core.training.first_bad import Bad
from rlhf_core.training.guard import LEAST_VALUES, Guard


class SupervisedGuard(Guard):
    """A guard that compares the last steps of a training with its first."""

    settings: SupervisedSentinelSettings

    def see(
        self, step: int, metrics: Mapping[str, float], bad: Bad | None, *, rows: Sequence[int]
    ) -> None:
        """Take in a step's numbers, and climb the ladder where it was not taken."""
        self.note(step, metrics)
        if bad is None:
            self.see_gradient("model", metrics["grad_norm"])
            self._push("last losses", metrics["loss"])
            if math.isfinite(accuracy := metrics.get("accuracy", math.nan)):
                self._push("last accuracies", accuracy)
            first: list[float] = self.numbers.setdefault("first losses", [])
            if len(first) < LEAST_VALUES:
                first.append(metrics["loss"])
        self.judge(step, bad, rows)

    def finish_at(self, step: int, report: Report) -> None:
        """Say where nothing was learnt, and report what came up, if anything did.

        Raises TrainingStopped where no step was taken.
        """
        first, last = self.numbers.get("first losses", []), self._window("last losses")
        last = last[-LEAST_VALUES:]
        if len(first) == LEAST_VALUES and self.numbers["taken"] >= 4 * LEAST_VALUES:
            fall = 1 - fmean(last) / fmean(first) if fmean(first) > 0 else math.inf
            symptom = f"the loss fell from {fmean(first):.4g} to {fmean(last):.4g} only"
            self._end(step, "flat_loss", self.settings.flat_loss, fall, (symptom, "flat"))
        right = self._window("last accuracies")[-LEAST_VALUES:]
        if isinstance(self.settings, RewardModelSentinelSettings) and len(right) == LEAST_VALUES:
            symptom = f"the accuracy on the last {len(right)} steps is {fmean(right):.3f}"
            self._end(step, "chance", self.settings.chance, fmean(right), (symptom, "chance"))
        if self.summary:
            report(step, self.summary)
        self.finish()

    def _end(
        self, step: int, name: str, limits: Limits | None, value: float, said: tuple[str, str]
    ) -> None:
        """Warn or stop where a number that is only known at the end is below its limits."""
        if limits is None:
            return
        symptom, cause = said
        if limits.stop is not None and value < limits.stop:
            self.stop(step, f"stopped at step {step}", symptom, cause, alarm=name)
        if limits.warn is not None and value < limits.warn:
            self.warn(name, self.verdict("warns", symptom, cause))
