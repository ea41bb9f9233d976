"""The guard ladder (contract C9): skip a bad step, return once to the last good state, stop."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median, pstdev
from typing import Any, NoReturn

from torch import Tensor

from rlhf_core.sentinel.diagnosis import sentence, stop
from rlhf_core.settings.sentinel import SentinelSettings
from rlhf_core.training.first_bad import Bad
from rlhf_core.training.trained import (
    Trained,
    moments,
    take_moments,
    take_tensors,
    trained_tensors,
)

LAST_STEPS = 20
"""Steps that a diagnosis shows, and bad batches that it names."""
LEAST_VALUES = 20
"""Values before a window's median or deviation means anything."""


class Guard:
    """The ladder of one loop: what it counts, and a copy of the last good state.

    `numbers` and `tensors` are groups of the loop's TrainingState.
    """

    def __init__(
        self,
        stage: str,
        settings: SentinelSettings,
        trained: Mapping[str, Trained],
        *,
        notice: Callable[[str], None] = lambda _: None,
        watches_loss: bool = True,
    ) -> None:
        """`watches_loss` where a loss far above the others means something."""
        self._stage = stage
        self.watches_loss = watches_loss
        self.settings = settings
        self._trained = trained
        self.notice = notice
        self.numbers: dict[str, Any] = {
            "steps": 0,
            "taken": 0,
            "skipped": 0,
            "spikes": 0,
            "in_a_row": 0,
            "recent": [],
            "returns": 0,
            "rate_share": 1.0,
            "good_step": 0,
            "bad_batches": [],
            "windows": {},
            "warned": {},
        }
        self.weights: dict[str, Tensor] = {}
        self.moments: dict[str, Tensor] = {}
        self._last_steps: deque[dict[str, Any]] = deque(maxlen=LAST_STEPS)

    @property
    def tensors(self) -> Mapping[str, dict[str, Tensor]]:
        """The copy of the last good state, by group."""
        return {"good_weights": self.weights, "good_moments": self.moments}

    @property
    def rate_share(self) -> float:
        """What the learning rate is multiplied by: 1 until a return, then a half."""
        return float(self.numbers["rate_share"])

    @property
    def summary(self) -> dict[str, float]:
        """What came up, as the stage's metrics tell it; empty where nothing did."""
        counts = {
            "skipped_steps": self.numbers["skipped"],
            "loss_spikes": self.numbers["spikes"],
            "returns_to_good_state": self.numbers["returns"],
        }
        warned = {f"warned_{name}": count for name, count in self.numbers["warned"].items()}
        return {name: float(count) for name, count in (counts | warned).items() if count}

    def keep_first(self) -> None:
        """The state that training starts from is the first good one."""
        if not self.weights:
            self.keep(0)

    def keep(self, step: int) -> None:
        """The state after `step` is the last good one."""
        self.numbers["good_step"] = step
        for name, trained in self._trained.items():
            for key, tensor in trained_tensors(trained.network).items():
                self.weights[f"{name}/{key}"] = tensor.detach().clone()
            for key, tensor in moments(trained).items():
                self.moments[f"{name}/{key}"] = tensor.detach().clone()

    def put_back(self) -> None:
        """Weights and moments are those of the last good state, bit for bit."""
        for name, trained in self._trained.items():
            take_tensors(trained.network, _part(self.weights, name))
            take_moments(trained, _part(self.moments, name))

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Remember a step's numbers for the diagnosis."""
        self._last_steps.append({"step": step, **metrics})

    def skips(self, loss: float) -> bool:
        """Whether the loss is a spike, which is counted, and spikes are to be skipped."""
        return self.watches_loss and self._is_spike(loss) and self.settings.skip_spikes

    def _is_spike(self, loss: float) -> bool:
        """Whether the loss is out of all proportion to the window, which then leaves it out."""
        limits = self.settings.loss_spike
        window = self._window("loss")
        if limits is None or limits.warn is None or len(window) < LEAST_VALUES:
            self._push("loss", loss)
            return False
        above = (loss - fmean(window)) / max(pstdev(window), 1e-12)
        if above <= limits.warn:
            self._push("loss", loss)
            return False
        self.numbers["spikes"] += 1
        symptom = f"the loss {loss:.4g} is {above:.0f} deviations above its mean"
        self.warn("loss_spike", self.verdict("warns", symptom, "spike"))
        return True

    def see_gradient(self, network: str, norm: float) -> None:
        """Warn of a gradient norm far above the window's median."""
        window = self._window(f"grad_norm/{network}")
        limits = self.settings.grad_norm
        if limits is not None and limits.warn is not None and len(window) >= LEAST_VALUES:
            usual = median(window)
            if norm > limits.warn * usual > 0:
                symptom = (
                    f"a gradient norm of {norm:.3g} in the {network} is over {limits.warn:g} times "
                    f"the usual {usual:.3g}"
                )
                self.warn("grad_norm", self.verdict("warns", symptom, "spike"))
        self._push(f"grad_norm/{network}", norm)

    def warn(self, name: str, text: str) -> None:
        """Tell of an alarm the first time that it is raised, and count it every time."""
        warned = self.numbers["warned"]
        warned[name] = warned.get(name, 0) + 1
        if warned[name] == 1:
            self.notice(f"{text} It is counted from now on and not told again.")

    def judge(self, step: int, bad: Bad | None, rows: Sequence[int]) -> bool:
        """Count a step that was taken, or skipped for `bad`; True where the good state returned.

        Raises TrainingStopped where the ladder ends.
        """
        numbers = self.numbers
        numbers["steps"] += 1
        oldest = numbers["steps"] - self.settings.window
        numbers["recent"] = [at for at in numbers["recent"] if at > oldest]
        if bad is None:
            numbers["taken"] += 1
            numbers["in_a_row"] = 0
            return False
        numbers["skipped"] += 1
        if bad.cause == "spike":
            return False
        numbers["in_a_row"] += 1
        numbers["recent"].append(numbers["steps"])
        batch = {"step": step, "rows": list(rows), "tensor": bad.tensor}
        numbers["bad_batches"] = [*numbers["bad_batches"], batch][-LAST_STEPS:]
        self.warn("not_finite", f"step {step} is skipped: {bad.tensor} is not finite.")
        too_many = (
            numbers["in_a_row"] >= self.settings.bad_in_a_row
            or len(numbers["recent"]) >= self.settings.bad_in_window
            or bad.cause == "bad_weights"  # which no skipping mends
        )
        if too_many:
            self._return_or_stop(step, bad)
        return too_many

    def step_done(self, step: int) -> None:
        """Keep the state after `step` where it is good and it is time to."""
        if not self.numbers["in_a_row"] and step % self.settings.good_state_every == 0:
            self.keep(step)

    def finish(self) -> None:
        """Raise TrainingStopped where no step was taken."""
        if not self.numbers["taken"] and self.numbers["skipped"]:
            first = self.numbers["bad_batches"][0]
            self.stop(
                first["step"],
                "ended",
                f"every step was skipped, {first['tensor']} being not finite",
                "no_good_step",
                alarm="not_finite",
                first_bad=first["tensor"],
            )

    def verdict(self, when: str, symptom: str, cause: str) -> str:
        """A warning in one sentence, with cause and mend."""
        return sentence(self._stage, when, symptom, cause)

    def stop(
        self,
        step: int,
        when: str,
        symptom: str,
        cause: str,
        *,
        alarm: str,
        signals: Mapping[str, float] | None = None,
        first_bad: str | None = None,
    ) -> NoReturn:
        """Raise TrainingStopped, with the last good state in place."""
        self.put_back()
        stop(
            self._stage,
            when,
            symptom,
            cause,
            alarm=alarm,
            step=step,
            signals=signals,
            first_bad=first_bad,
            batches=self.numbers["bad_batches"],
            last_steps=list(self._last_steps),
            last_good_step=self.numbers["good_step"],
        )

    def _return_or_stop(self, step: int, bad: Bad) -> None:
        numbers = self.numbers
        count = max(numbers["in_a_row"], len(numbers["recent"]))
        seen = f"{count} steps" if count > 1 else "a step"
        if numbers["returns"]:
            self.stop(
                step,
                f"stopped at step {step}",
                f"{seen} had numbers that are not finite, first {bad.tensor}, again after a return "
                f"to the state of step {numbers['good_step']} with half the learning rate",
                bad.cause,
                alarm="not_finite",
                first_bad=bad.tensor,
            )
        self.put_back()
        numbers["returns"] = 1
        numbers["rate_share"] = 0.5
        numbers["in_a_row"] = 0
        numbers["recent"] = []
        self.notice(
            f"{seen} had numbers that are not finite, first {bad.tensor}: training goes on from "
            f"the good state of step {numbers['good_step']} with half the learning rate; the "
            "batches are left out"
        )

    def _window(self, name: str) -> list[float]:
        found: list[float] = self.numbers["windows"].setdefault(name, [])
        return found

    def _push(self, name: str, value: float) -> None:
        self.numbers["windows"][name] = [*self._window(name), value][-self.settings.window :]


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }
