"""A run that reports until it is killed: `python -m tests.tasks.killed_run STORE LAST_STEP`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tasks.heartbeat import beating
from tasks.leftovers import PIPELINES
from tasks.store import Store
from tasks.tracking import open_run


def killed_run(store: Path, last_step: int, **environment: str) -> list[str]:
    """Ids of a pipeline run and its stage run whose process was killed with SIGKILL."""
    command = [sys.executable, "-m", "tests.tasks.killed_run", str(store), str(last_step)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    ) as process:
        ids = process.stdout.readline().split()
        process.send_signal(signal.SIGKILL)
    return ids


def main() -> None:
    store, last_step = Path(sys.argv[1]), int(sys.argv[2])
    flow = store / PIPELINES / "flow"
    work = store / "work" / "sft-f" / "journal"
    ids = (os.environ.get("FLOW_RUN"), None, 1)
    with (
        beating(store, stage=None, run_id=None, journal=flow, prefect=ids) as heart,
        open_run("killed", "pipeline", {}, parent_run_id=None, journal=flow) as pipeline,
    ):
        heart.note_run(pipeline.run_id)
        record = {"state": "running", "stages": {"sft": {"state": "running"}}}
        Store(store).write_run(pipeline.run_id, record)
        with (
            beating(store, stage="sft", run_id=pipeline.run_id, journal=work, prefect=ids),
            open_run("killed", "sft", {}, parent_run_id=pipeline.run_id, journal=work) as run,
        ):
            for step in range(1, last_step + 1):
                run.report(step, {"loss": 1 / step})
            run.sync()
            time.sleep(1.5)  # the shipper is between two steps when the kill comes
            sys.stdout.write(f"{pipeline.run_id} {run.run_id}\n")
            sys.stdout.flush()
            time.sleep(300)


if __name__ == "__main__":
    main()
