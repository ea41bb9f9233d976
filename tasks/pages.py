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

LINEAGE_PAGE = "lineage/lineage.html"
RECIPE = "lineage/recipe.yaml"
CODE_DIFF = "code.diff.txt"
"""Artifacts of MLflow runs that the pages link to: two of a stage run, one of a pipeline run whose
clone differed from its commit."""

SHOWN_DIGEST = 12
"""Characters of a digest that tell it from the others of a store."""


def run_path(experiment_id: str, run_id: str) -> str:
    """Where MLflow shows a run, below the address of its pages."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def run_url(experiment_id: str, run_id: str) -> str:
    """The whole address of a run's page in MLflow."""
    return f"{mlflow_pages()}/{run_path(experiment_id, run_id)}"


def short_run_url(run_id: str) -> str:
    """An address that leads to a run's page in MLflow, whatever its experiment."""
    return f"{mlflow_pages()}/#/runs/{run_id}"


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


def artifact_path(page: str, name: str) -> str:
    """Where MLflow shows an artifact of the run whose page this is; the page where it cannot."""
    path, mark, query = page.partition("?")
    return f"{path}/artifacts/{name}{mark}{query}" if "/experiments/" in path else page


def stage_description(
    provenance: Mapping[str, Any],
    *,
    digest: str,
    page: str,
    pipeline: str,
    parents: Mapping[str, str],
) -> str:
    """What MLflow shows above a stage run and the model version that it made.

    `page` and `pipeline` are the paths of the stage run's page and of the pipeline run's; `parents`
    maps a role to the path of its run's page. Links come first: MLflow folds a long text.
    """
    stage, runs, code = provenance["stage"], provenance["runs"], provenance["code"]
    made_from = ", ".join(f"[{role}]({path})" for role, path in parents.items())
    links = [
        f"[stage run]({page})",
        f"[lineage picture]({artifact_path(page, LINEAGE_PAGE)})",
        f"[recipe]({artifact_path(page, RECIPE)})",
        f"[pipeline run]({pipeline})",
    ]
    for name, run_id, url in (
        ("Prefect flow run", runs["prefect_flow_run"], flow_run_url),
        ("Prefect task run", runs["prefect_task_run"], task_run_url),
    ):
        links += [f"[{name}]({url(run_id)})"] if run_id else []
    commit = (
        f"commit `{code['git_commit']}`" if code["git_commit"] else f"version {code['package']}"
    )
    if code["git_dirty"]:
        commit += f" with [changes]({artifact_path(pipeline, CODE_DIFF)})"
    return "\n\n".join(
        [
            f"**{stage}** made artifact `{digest[:SHOWN_DIGEST]}` from {made_from or 'raw files'}.",
            " · ".join(links),
            f"Code: {commit}. Back to the raw data: `rlhf lineage {digest[:SHOWN_DIGEST]}`",
            metrics_table(provenance["metrics"]),
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
            f"| {stage} | {stage_state(facts)} | {facts.get('seconds', 0):.1f} "
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
            f"| {name} | {stage_state(facts)} | {facts.get('seconds', 0):.1f} "
            f"| `{facts.get('digest', '')[:SHOWN_DIGEST]}` |"
        )
    flow_run = record.get("prefect_flow_run")
    link = f"[Prefect flow run]({flow_run_url(flow_run)})" if flow_run else ""
    return "\n\n".join(
        [f"Recipe **{record['recipe']}**, seed {record['seed']}. {link}", "\n".join(lines)]
    )


def stage_state(facts: Mapping[str, Any]) -> str:
    """The state of a stage; of a reused one also when its result was made, and by which run."""
    made = facts.get("made")
    if made is None:
        return str(facts["state"])
    return f"{facts['state']}: made {made['at']} by run {facts['run_id'][:SHOWN_DIGEST]}"


def mermaid(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """The graph of the stages that ran, with state and artifact."""
    lines = ["```mermaid", "graph TD"]
    ran = [stage for stage in STAGES if stage in stages]
    for stage in ran:
        facts = stages[stage]
        label = f"{stage}<br/>{facts['state']} {facts.get('digest', '')[:SHOWN_DIGEST]}"
        lines.append(f'  {stage}["{label}"]')
    lines += [
        f"  {source} --> {stage}"
        for stage in ran
        for source in STAGE_INPUTS[stage]
        if source in ran
    ]
    return "\n".join([*lines, "```"])


def _ui_hint() -> str:
    return "" if mlflow_is_served() else " (after `rlhf ui`)"
