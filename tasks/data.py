"""The data stage as a Prefect task."""

from collections.abc import Mapping
from pathlib import Path

from prefect.logging import get_run_logger

from rlhf_core.checkpoints import Checkpoints
from rlhf_core.data.report_file import REPORT, read_facts
from rlhf_core.data.totals import fault_metrics, rules_in_words
from rlhf_core.report import Report
from tasks.data_report import show_rules
from tasks.handles import Handle, PipelineRun, StageJob
from tasks.reuse import make_or_reuse


def run_data(job: StageJob, pipeline: PipelineRun) -> Handle:
    """Checked, split and content-hashed tables, from the files that the recipe names."""
    return make_or_reuse(job, pipeline, _make)


def _make(
    job: StageJob, out_dir: Path, report: Report, _checkpoints: Checkpoints
) -> Mapping[str, float]:
    from rlhf_core.stages.data import make_data

    data, model, seed = job.recipe.data, job.recipe.model, job.recipe.seed
    metrics = make_data(data, model, out_dir=out_dir, report=report, seed=seed)
    facts = read_facts(out_dir / REPORT)
    show_rules(facts)
    broken = rules_in_words(facts["rules"])
    if broken:
        get_run_logger().warning("Rows break rules: %s; report.html names them", broken)
    return metrics | fault_metrics(facts["rules"])
