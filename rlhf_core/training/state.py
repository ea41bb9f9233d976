"""Everything that a training loop continues from: saved whole, and brought back bit for bit.

These are the weights that are trained, their optimizers' moments, torch's generators (the only
global ones that training draws from), the step, and whatever numbers and tensors the loop carries
from one step to the next; and the record of what was reported. Learning rates and the order of the
rows follow from the step and the seed, and weights that are not trained from the stage's inputs:
of those only the hash is kept.

What a loop adds to its state, and how:

- a number, a word or a list of them that outlives a step (an adaptive coefficient, a running
  statistic, a count of misses): a group in `numbers`, a dictionary that the loop changes in place;
- tensors that outlive a step (averaged weights, the best so far): a group in `tensors`, looked up
  by name at each use, since a return puts other tensors in their place;
- a network with an optimizer: an entry of `trained`, extra heads within it included;
- a network that only answers: an entry of `frozen`;
- randomness: a generator seeded from the step, or torch's global one; Python's and numpy's are
  saved nowhere, and the tests refuse a loop that draws from them.

Then the setting that switches it on becomes a case of `tests/training/test_resume_settings.py`,
which ends and continues the loop after every step and compares all there is. That file also fails
for a setting which is neither a case nor said to carry nothing from step to step.
"""

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load, save_file
from torch import Tensor, nn

from rlhf_core.checkpoints import Checkpoint, Checkpoints
from rlhf_core.errors import ArtifactError, Stopped, UserError
from rlhf_core.history import HISTORY, Recording
from rlhf_core.models import tensors_digest, weights_digest
from rlhf_core.training.trained import (
    Misfit,
    Trained,
    moments,
    take_moments,
    take_tensors,
    trained_tensors,
)

STATE = "state.json"
GENERATORS = "generators.safetensors"
CARRIED = "carried.safetensors"
WEIGHTS = "{}.safetensors"
OPTIMIZER = "{}-optimizer.safetensors"

_WHOLE_IN_EACH_PROCESS = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
)


class Saving(NamedTuple):
    """Where a loop saves its state, and the record of its reports, which goes with it."""

    checkpoints: Checkpoints
    recording: Recording


def saving_into(checkpoints: Checkpoints | None, recording: Recording) -> Saving | None:
    """What a loop needs to save its state, or None where it shall not."""
    return None if checkpoints is None else Saving(checkpoints, recording)


def notice_of(saving: Saving | None) -> Callable[[str], None]:
    """What tells of a loop's trouble in one line; nobody listens where nothing is saved."""
    return (lambda _: None) if saving is None else saving.checkpoints.notice


@dataclass
class TrainingState:
    """What a loop continues from; without `saving` nothing is saved and every run begins anew.

    The groups of `numbers` and `tensors` are the loop's own: it changes them in place from step to
    step, and so does the return to a checkpoint.
    """

    saving: Saving | None
    accelerator: Accelerator
    trained: Mapping[str, Trained]
    numbers: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Groups of what JSON can hold, infinity and NaN too; equal in every process."""
    tensors: Mapping[str, dict[str, Tensor]] = field(default_factory=dict)
    """Groups of tensors, each at most as large as the trained weights, but for one that may be
    twice as large; equal in every process."""
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)
    """Models that shape training and take no part in it: they have to be those of before."""
    done: int = 0
    """Steps that were taken before: those of the checkpoint that training goes on from."""
    _digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = self.accelerator.distributed_type
        if self.saving is not None and kind not in _WHOLE_IN_EACH_PROCESS:
            self.saving.checkpoints.notice(
                f"no checkpoints are kept: {kind.value} splits the weights between processes"
            )
            self.saving = None

    @contextmanager
    def continued(self, *, steps: int) -> Iterator[None]:
        """Everything is as it was after `done` steps of `steps`; none in a fresh start.

        Within, SIGTERM and SIGINT end training after a step, with its state saved. UserError where
        more steps than `steps` were taken, as they may be before somebody asked for fewer.
        """
        if self.saving is None:
            yield
            return
        stop = self.saving.checkpoints.stop
        with stop.listening():
            self.done = self._restored(self.saving, steps)
            yield
        if stop.signum:
            raise _stopped(stop.signum)

    def step_done(self, step: int, *, is_last: bool) -> None:
        """Save the state where it is time to, and raise Stopped where the process shall end."""
        if self.saving is None:
            return
        signum, is_due = self._agreed(self.saving.checkpoints, step)
        if signum or is_due or is_last:
            self._save(self.saving, step)
        if signum:
            self.saving.checkpoints.notice(f"the state after step {step} is saved")
            raise _stopped(signum)

    def _agreed(self, checkpoints: Checkpoints, step: int) -> tuple[int, bool]:
        """The signal that any process got, and whether the main one finds it time to save."""
        signum, is_due = checkpoints.stop.signum, checkpoints.is_due(step)
        if self.accelerator.num_processes == 1:
            return signum, is_due
        own = torch.tensor([[signum, is_due]], device=self.accelerator.device)
        everyone = self.accelerator.gather(own)
        return int(everyone[:, 0].max()), bool(everyone[0, 1])

    def _save(self, saving: Saving, step: int) -> None:
        for name, trained in self.trained.items():
            for key, tensor in trained_tensors(trained.network).items():
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    saving.checkpoints.notice(
                        f"the state after step {step} is not saved: {key} of {name} is not finite"
                    )
                    return
        generators = self._generators()  # from every process, so every process comes here
        if self.accelerator.is_main_process:

            def write(folder: Path) -> None:
                save_file(generators, folder / GENERATORS)
                save_file(_plain(_joined(self.tensors)), folder / CARRIED)
                for name, trained in self.trained.items():
                    weights = _plain(trained_tensors(trained.network))
                    save_file(weights, folder / WEIGHTS.format(name))
                    save_file(_plain(moments(trained)), folder / OPTIMIZER.format(name))
                (folder / HISTORY).write_bytes(saving.recording.content())
                (folder / STATE).write_text(json.dumps(self._facts(), indent=1) + "\n")

            saving.checkpoints.save(step, write, self._environment())
        self.accelerator.wait_for_everyone()

    def _restored(self, saving: Saving, steps: int) -> int:
        checkpoints = saving.checkpoints
        if self.accelerator.is_main_process:
            weights = (trained_tensors(trained.network) for trained in self.trained.values())
            sizes = (tensor.nbytes for tensors in weights for tensor in tensors.values())
            # Weights and two moments, and as much again of moments among the groups.
            checkpoints.prepare((4 + len(self.tensors)) * sum(sizes))
        self.accelerator.wait_for_everyone()
        self._digests = {name: weights_digest(model) for name, model in self.frozen.items()}
        for name, trained in self.trained.items():
            self._digests[f"untrained part of {name}"] = tensors_digest(
                {key: w for key, w in trained.network.named_parameters() if not w.requires_grad}
            )
        checkpoint = checkpoints.newest()
        if checkpoint is None:
            return 0
        if checkpoint.step > steps:
            raise _too_far(checkpoint, steps)
        self._warn_of_another_environment(checkpoints, checkpoint)
        self._take(checkpoint, saving.recording)
        checkpoints.notice(f"training continues after step {checkpoint.step}")
        return checkpoint.step

    def _take(self, checkpoint: Checkpoint, recording: Recording) -> None:
        facts = json.loads(checkpoint.read(STATE))
        for key, expected in self._fixed().items():
            if facts["fixed"].get(key) != expected:
                raise _refused(checkpoint, STATE, f"{key} {expected}", facts["fixed"].get(key))
        for name, trained in self.trained.items():
            for file, take in (
                (WEIGHTS.format(name), partial(take_tensors, trained.network)),
                (OPTIMIZER.format(name), partial(take_moments, trained)),
            ):
                try:
                    take(load(checkpoint.read(file)))
                except Misfit as misfit:
                    raise _refused(checkpoint, file, misfit.expected, misfit.found) from misfit
        for group, numbers in self.numbers.items():
            numbers.clear()
            numbers.update(facts["numbers"][group])
        for tensors in self.tensors.values():
            tensors.clear()
        for key, tensor in load(checkpoint.read(CARRIED)).items():
            group, _, name = key.partition("/")
            self.tensors[group][name] = tensor.to(self.accelerator.device)
        recording.go_on_from(checkpoint.read(HISTORY))
        self._take_generators(load(checkpoint.read(GENERATORS)))

    def _facts(self) -> dict[str, Any]:
        return {"numbers": dict(self.numbers), "fixed": self._fixed()}

    def _fixed(self) -> dict[str, str]:
        """What has to be the same as when the state was saved."""
        return {
            "processes": str(self.accelerator.num_processes),
            "groups": " ".join(sorted([*self.trained, *self.numbers, *self.tensors])),
            **self._digests,
        }

    def _generators(self) -> dict[str, Tensor]:
        """The states of torch's generators, a row for each process."""
        states = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        device = self.accelerator.device
        return {
            name: self.accelerator.gather(state.unsqueeze(0).to(device)).cpu()
            for name, state in states.items()
        }

    def _take_generators(self, saved: Mapping[str, Tensor]) -> None:
        own = self.accelerator.process_index
        torch.set_rng_state(saved["cpu"][own].clone())
        if self.accelerator.device.type == "cuda" and "cuda" in saved:
            torch.cuda.set_rng_state(saved["cuda"][own].clone(), self.accelerator.device)

    def _environment(self) -> dict[str, str]:
        """What the last bits of a number may depend on, beside what trains."""
        return {
            "torch": torch.__version__,
            "threads": str(torch.get_num_threads()),
            "device": self.accelerator.device.type,
        }

    def _warn_of_another_environment(
        self, checkpoints: Checkpoints, checkpoint: Checkpoint
    ) -> None:
        for name, now in self._environment().items():
            before = checkpoint.environment.get(name)
            if before != now:
                checkpoints.notice(
                    f"checkpoint {checkpoint.folder} was saved with {name} {before}, this is "
                    f"{now}: the rest need not be the same bit for bit"
                )


def _refused(checkpoint: Checkpoint, file: str, expected: str, found: str) -> ArtifactError:
    return ArtifactError(
        f"{checkpoint.folder / file} is not of this training: expected {expected}, found {found}. "
        f"Remove {checkpoint.folder.parent} to start over."
    )


def _too_far(checkpoint: Checkpoint, steps: int) -> UserError:
    return UserError(
        f"{checkpoint.folder} was saved after step {checkpoint.step}, but with these settings "
        f"training ends after step {steps}: it cannot go on from there. Allow no change that "
        "leaves fewer steps, or run the changed recipe with `rlhf run`, which starts over."
    )


def _stopped(signum: int) -> Stopped:
    return Stopped(
        signum,
        f"ended by {signal.Signals(signum).name} with the state saved: run the same command again "
        "to continue.",
    )


def _joined(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{group}/{name}": of for group, tensors in groups.items() for name, of in tensors.items()
    }


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
