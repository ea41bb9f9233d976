"""What a run that no command watches leaves in its log."""

import io
import logging

import pytest

from flows.console import leave_out_tracebacks
from rlhf_core.errors import DataError


@pytest.mark.parametrize("error, shown", [(DataError("row 3"), False), (ValueError("odd"), True)])
def test_only_a_fault_that_nobody_can_mend_is_logged_with_its_traceback(error, shown, monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(log)])
    leave_out_tracebacks()
    try:
        raise error
    except (DataError, ValueError):
        logging.getLogger("prefect.engine").exception("it failed: %r", error)

    assert f"it failed: {error!r}" in log.getvalue()
    assert ("Traceback" in log.getvalue()) is shown
