"""Two processes that are ended together and continued train as two that were not."""

import hashlib
import json
import signal
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator

from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import Stopped
from rlhf_core.history import recorded
from rlhf_core.models import weights_digest
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.stopping import StopRequest
from rlhf_core.training.ppo import train_ppo
from rlhf_core.training.state import saving_into
from tests.processes import run_in_two_processes
from tests.tiny_models import SPECIAL, tiny_ppo_models


def train(folder: Path, accelerator: Accelerator, *, stop_after: int | None) -> list[str]:
    """Five updates; the second process alone is asked to end, and both do."""
    stop, models = StopRequest(), tiny_ppo_models()
    own = folder / f"payload-{accelerator.process_index}"
    own.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder / "checkpoints", {"a": "b"}, every_steps=2, stop=stop)

    def report(step: int, metrics) -> None:
        if step == stop_after and accelerator.process_index == 1:
            stop.request(signal.SIGTERM)

    with recorded(own, report) as recording:
        train_ppo(
            models,
            [[3 + i % 9, 4 + i % 8] for i in range(24)],
            PpoSettings(
                updates=5,
                rollout_batch_size=8,
                mini_batch_size=4,
                learning_rate=0.003,
                kl_target=0.5,
            ),
            recording,
            special=SPECIAL,
            max_response_tokens=6,
            missing_eos_score=-1.0,
            seed=1,
            accelerator=accelerator,
            saving=saving_into(checkpoints, recording),
        )
    return [weights_digest(network) for network in (models.policy, models.value_model)]


def main() -> None:
    folder = Path(sys.argv[1])
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    whole = train(folder / "whole", accelerator, stop_after=None)
    with pytest.raises(Stopped):
        train(folder / "broken", accelerator, stop_after=3)
    continued = train(folder / "broken", accelerator, stop_after=None)
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps([whole, continued]))
    accelerator.end_training()


@pytest.mark.slow
def test_two_processes_that_were_ended_continue_as_two_that_were_not(tmp_path: Path):
    run_in_two_processes("tests.training.test_resume_processes", tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first[0] == first[1]
    histories = [
        hashlib.sha256((tmp_path / run / "payload-0" / "history.jsonl").read_bytes()).hexdigest()
        for run in ("whole", "broken")
    ]
    assert histories[0] == histories[1]


if __name__ == "__main__":
    main()
