"""The sentinel: it looks at every update, warns once of each alarm, and stops training."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from rlhf_core.sentinel.alarms import Alarm
from rlhf_core.sentinel.evidence import Evidence
from rlhf_core.sentinel.signatures import likely_cause
from rlhf_core.settings.sentinel import Limits, PpoSentinelSettings

REMEMBERED = ("score", "held_out_score", "kl_to_reference", "approx_kl")
"""Numbers whose course over the updates an alarm looks at."""


class Ladder(Protocol):
    """What tells of an alarm, and ends training with the last good state in place."""

    def warn(self, name: str, text: str) -> None:
        """Tell of an alarm once, and count it."""

    def verdict(self, when: str, symptom: str, cause: str) -> str:
        """One sentence with cause and mend."""

    def stop(
        self,
        step: int,
        when: str,
        symptom: str,
        cause: str,
        *,
        alarm: str,
        signals: Mapping[str, float] | None = None,
    ) -> NoReturn:
        """Raise TrainingStopped."""


class Sentinel:
    """The alarms of one training; `numbers` is a group of its TrainingState."""

    def __init__(
        self, settings: PpoSentinelSettings, ladder: Ladder, facts: Mapping[str, float]
    ) -> None:
        self._settings = settings
        self._ladder = ladder
        self._facts = facts
        self.numbers: dict[str, Any] = {"start": {}, "history": {}, "in_a_row": {}}

    def remember(self, metrics: Mapping[str, float]) -> None:
        """Take in an update's numbers; one that is not finite is in no window."""
        for name, value in metrics.items():
            if math.isfinite(value):
                self.numbers["start"].setdefault(name, value)
                if name in REMEMBERED:
                    self.numbers["history"].setdefault(name, []).append(value)

    def look(
        self,
        step: int,
        metrics: Mapping[str, float],
        alarms: Sequence[Alarm],
        examine: Callable[[frozenset[str]], Mapping[str, float]],
    ) -> bool:
        """Warn or stop where an alarm is past its limits; gives whether one is.

        `examine` looks closer once alarms are raised, whose names it is given.
        """
        seen = self._evidence(step, metrics, frozenset(), {})
        raised: dict[str, str] = {}
        stops: list[str] = []
        for alarm in alarms:
            limits: Limits | None = getattr(self._settings, alarm.name)
            if limits is None:
                continue
            value, scale = alarm.measure(seen), alarm.scale(seen)
            passed = [
                limit * scale
                for limit in (limits.warn, limits.stop)
                if limit is not None and alarm.is_past(value, limit * scale)
            ]
            rows = self.numbers["in_a_row"]
            at_stop = limits.stop is not None and alarm.is_past(value, limits.stop * scale)
            rows[alarm.name] = rows.get(alarm.name, 0) + 1 if at_stop else 0
            if passed:
                raised[alarm.name] = alarm.says.format(value=value, limit=passed[-1], step=step)
            if at_stop and rows[alarm.name] >= limits.in_a_row:
                stops.append(alarm.name)
        if not raised:
            return False
        names = frozenset(raised)
        evidence = self._evidence(step, metrics, names, examine(names))
        self._tell(evidence, raised, stops)
        return True

    def _evidence(
        self,
        step: int,
        metrics: Mapping[str, float],
        raised: frozenset[str],
        examined: Mapping[str, float],
    ) -> Evidence:
        return Evidence(
            step,
            metrics,
            self.numbers["start"],
            {**self._facts, **examined},
            self.numbers["history"],
            raised,
        )

    def _tell(self, evidence: Evidence, raised: Mapping[str, str], stops: Sequence[str]) -> None:
        when = f"at update {evidence.step}"
        if stops:
            cause = likely_cause(evidence)
            self._ladder.stop(
                evidence.step,
                f"stopped {when}",
                raised[stops[0]],
                cause.name,
                alarm=stops[0],
                signals={**evidence.facts, **evidence.now},
            )
        for name, symptom in raised.items():
            cause = likely_cause(evidence)
            self._ladder.warn(name, self._ladder.verdict(f"warns {when}", symptom, cause.name))
