"""Where a running stage stands: a line on the terminal and a bar on Prefect's page."""

import sys
import time
from collections.abc import Mapping
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from rlhf_core.settings.base import Stage

PROGRESS = "progress"
"""Metric by which a stage says what share of its work is done, from 0 to 1."""

PAGE_SECONDS = 5.0
"""An update of Prefect's page costs about 75 ms."""

LOG_SECONDS = 15.0
BAR_SECONDS = 0.2
BAR_CELLS = 24
SHOWN_METRICS = 4


class Progress:
    """Listens to a stage's reports inside a Prefect task run."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._logger = get_run_logger()
        self._bar = sys.stderr.isatty()
        self._share = 0.0
        self._next_line = 0.0
        self._next_page = time.monotonic() + PAGE_SECONDS
        artifact = create_progress_artifact(
            progress=0.0,
            key=f"{stage.replace('_', '-')}-progress",
            description=f"Share of stage {stage} that is done.",
        )
        assert isinstance(artifact, UUID)  # a coroutine only inside an event loop
        self._artifact = artifact

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the step where people look, each place as often as it can bear."""
        self._share = metrics.get(PROGRESS, self._share)
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + (BAR_SECONDS if self._bar else LOG_SECONDS)
            self._show_line(step, metrics)
        if now >= self._next_page:
            self._next_page = now + PAGE_SECONDS
            update_progress_artifact(self._artifact, progress=100 * self._share)

    def finish(self) -> None:
        """The bar stands at the end."""
        if self._bar:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        update_progress_artifact(self._artifact, progress=100.0)

    def _show_line(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = [f"{name} {x:.4g}" for name, x in metrics.items() if name != PROGRESS]
        facts = ", ".join(shown[:SHOWN_METRICS])
        if not self._bar:
            done = f", {self._share:.0%} done" if self._share else ""
            self._logger.info("step %d%s: %s", step, done, facts)
            return
        full = round(BAR_CELLS * self._share)
        bar = "█" * full + "░" * (BAR_CELLS - full)
        sys.stderr.write(f"\r\x1b[K{self._stage:<13} {bar} {self._share:4.0%}  {facts}")
        sys.stderr.flush()
