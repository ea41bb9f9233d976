"""The data stage's report where people look for it: in MLflow and Prefect, also at a refusal."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect.artifacts import create_table_artifact

from rlhf_core.data.report_file import REPORT, REPORT_FILES, read_facts
from rlhf_core.data.totals import ACTION_WORDS, fault_metrics
from rlhf_core.errors import DataError
from tasks.faults import later_faults_logged
from tasks.handles import StageJob
from tasks.store import Store
from tasks.tracking import TrackedRun

REFUSED = "refused"
"""Folder of the job's work in which the report of refused data stays."""

RULE_TABLE = "data-rules"
"""Key of Prefect's artifact."""


def show_rules(facts: Mapping[str, Any]) -> None:
    """Prefect shows how many rows break each rule and what is done with them."""
    tables: Mapping[str, Mapping[str, Any]] = facts["tables"]
    rows = sum(table["rows"] for table in tables.values())
    aside = sum(table["set_aside"] for table in tables.values())
    verdict = "usable" if facts["usable"] else "refused: nothing was trained"
    lines = [_row(rule, about, tables) for rule, about in facts["rules"].items()]
    create_table_artifact(
        lines or [{"rule": "none is broken"}],
        key=RULE_TABLE,
        description=f"{rows:,} rows read, {aside:,} set aside; {verdict}.",
    )


def _row(rule: str, about: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> Any:
    changed = "" if about["action"] == about["default"] else " (changed by the recipe)"
    return {
        "rule": f"{rule} {about['title']}",
        "what is done": ACTION_WORDS[about["action"]] + changed,
        "faults": about["faults"],
        **{name: table["faults_by_rule"].get(rule, 0) for name, table in tables.items()},
    }


@contextmanager
def refusal_kept(job: StageJob, run: TrackedRun, store: Store) -> Iterator[None]:
    """Where data is refused, its report stays in the work folder, on the run and in Prefect.

    The error says where it is.
    """
    try:
        yield
    except DataError as error:
        work = store.work(job.key)
        payload, kept = work / "payload", work / REFUSED
        if not (payload / REPORT).is_file():
            raise
        with later_faults_logged():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            for name in REPORT_FILES:
                if (payload / name).is_file():
                    run.log_file((payload / name).rename(kept / name))
            facts = read_facts(kept / REPORT)
            run.log_summary(fault_metrics(facts["rules"]))
            show_rules(facts)
        raise DataError(str(error).replace(str(payload), str(kept))) from error
