"""The pages that people read in Prefect and MLflow, as Markdown."""

import math
from collections.abc import Mapping
from typing import Any

from rlhf_core.settings.base import STAGES, Stage
from tasks.environment import mlflow_is_served, mlflow_pages, prefect_pages

STAGE_INPUTS: dict[Stage, tuple[Stage, ...]] = {
    "data": (),
    "sft": ("data",),
    "reward_model": ("data", "sft"),
    "ppo": ("data", "sft", "reward_model"),
    "evaluation": ("data", "sft", "reward_model", "ppo"),
}
"""Whose artifacts each stage takes."""

SHOWN_DIGEST = 12
"""Characters of a digest that tell it from the others of a store."""


def run_path(experiment_id: str, run_id: str) -> str:
    """Where MLflow shows a run, below the address of its pages."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def run_url(experiment_id: str, run_id: str) -> str:
    """The whole address of a run's page in MLflow."""
    return f"{mlflow_pages()}/{run_path(experiment_id, run_id)}"


def flow_run_url(flow_run_id: str) -> str:
    """The whole address of a flow run's page in Prefect."""
    return f"{prefect_pages()}/runs/flow-run/{flow_run_id}"


def task_run_url(task_run_id: str) -> str:
    """The whole address of a task run's page in Prefect."""
    return f"{prefect_pages()}/runs/task-run/{task_run_id}"


def number(value: float | None) -> str:
    """A metric as people read it: whole numbers whole, others with four digits."""
    if value is None:
        return "–"
    whole = math.isfinite(value) and value == round(value)
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def metrics_table(metrics: Mapping[str, float | None]) -> str:
    """Name and value of each metric."""
    lines = ["| metric | value |", "| --- | ---: |"]
    return "\n".join([*lines, *(f"| {name} | {number(x)} |" for name, x in metrics.items())])


def stage_description(
    *,
    stage: Stage,
    metrics: Mapping[str, float | None],
    digest: str,
    parents: Mapping[str, str],
    prefect_task_run: str | None,
) -> str:
    """What MLflow shows above a stage run; `parents` maps a role to the path of its run's page."""
    links = [f"[{role}]({path})" for role, path in parents.items()]
    if prefect_task_run is not None:
        links.append(f"[Prefect task run]({task_run_url(prefect_task_run)})")
    return "\n\n".join(
        [
            f"**{stage}** made artifact `{digest[:SHOWN_DIGEST]}`.",
            f"Made from: {', '.join(links)}" if links else "Made from raw files.",
            metrics_table(metrics),
            f"Back to the raw data: `rlhf lineage {digest[:SHOWN_DIGEST]}`",
        ]
    )


def stage_page(
    *, stage: Stage, metrics: Mapping[str, float | None], digest: str, url: str, seconds: float
) -> str:
    """What Prefect shows for a stage run."""
    return "\n\n".join(
        [
            f"# {stage}",
            f"[MLflow run]({url}){_ui_hint()}",
            f"Artifact `{digest}`, made in {seconds:.1f} s.",
            metrics_table(metrics),
        ]
    )


def pipeline_page(record: Mapping[str, Any], url: str) -> str:
    """What Prefect shows for a pipeline run: its stages as a table and as a graph."""
    stages: Mapping[str, Mapping[str, Any]] = record["stages"]
    lines = [
        "| stage | state | seconds | artifact | MLflow run |",
        "| --- | --- | ---: | --- | --- |",
    ]
    for stage, facts in stages.items():
        run_link = f"[run]({facts['url']})" if "url" in facts else ""
        lines.append(
            f"| {stage} | {facts['state']} | {facts.get('seconds', 0):.1f} "
            f"| `{facts.get('digest', '')[:SHOWN_DIGEST]}` | {run_link} |"
        )
    return "\n\n".join(
        [
            f"# {record['recipe']}, seed {record['seed']}",
            f"[MLflow run of the pipeline]({url}){_ui_hint()}",
            "\n".join(lines),
            mermaid(stages),
        ]
    )


def pipeline_description(record: Mapping[str, Any]) -> str:
    """What MLflow shows above a pipeline run."""
    stages: Mapping[str, Mapping[str, Any]] = record["stages"]
    lines = ["| stage | state | seconds | artifact |", "| --- | --- | ---: | --- |"]
    for stage, facts in stages.items():
        name = f"[{stage}]({facts['path_in_mlflow']})" if "path_in_mlflow" in facts else stage
        lines.append(
            f"| {name} | {facts['state']} | {facts.get('seconds', 0):.1f} "
            f"| `{facts.get('digest', '')[:SHOWN_DIGEST]}` |"
        )
    flow_run = record.get("prefect_flow_run")
    link = f"[Prefect flow run]({flow_run_url(flow_run)})" if flow_run else ""
    return "\n\n".join(
        [f"Recipe **{record['recipe']}**, seed {record['seed']}. {link}", "\n".join(lines)]
    )


def mermaid(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """The graph of the stages that ran, with state and artifact."""
    lines = ["```mermaid", "graph TD"]
    ran = [stage for stage in STAGES if stage in stages]
    for stage in ran:
        facts = stages[stage]
        label = f"{stage}<br/>{facts['state']} {facts.get('digest', '')[:SHOWN_DIGEST]}"
        lines.append(f'  {stage}["{label}"]')
    lines += [f"  {source} --> {stage}" for stage in ran for source in STAGE_INPUTS[stage]]
    return "\n".join([*lines, "```"])


def _ui_hint() -> str:
    return "" if mlflow_is_served() else " (after `rlhf ui`)"
