"""A lineage as one HTML page that needs nothing from outside: picture, then every fact."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from tasks.continuations import past_lines
from tasks.leaves import leaf_text, leaves
from tasks.lineage import Lineage, Node, code_text, writer_facts
from tasks.lineage_picture import anchor_of, lineage_svg
from tasks.pages import SHOWN_DIGEST, flow_run_url, number, short_run_url, task_run_url

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --paper: #ffffff;
  --panel: #f5f7fa; --edge: #c9d1db; --bad: #b3261e; --raw: #6b7280; --data: #2563a8;
  --sft: #2e7d4f; --reward_model: #a8620a; --ppo: #8e3b9e; --evaluation: #0d7a80; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #9aa5b3; --paper: #14181e; --panel: #1d232c; --edge: #3a4452;
    --bad: #ff8a80; --raw: #9ca3af; --data: #74aef0; --sft: #74c794; --reward_model: #e5a853;
    --ppo: #d38be0; --evaluation: #5fc7cd; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
h2 span { color: var(--soft); font: 13px ui-monospace, monospace; }
p.note { color: var(--soft); margin-top: 0; } a { color: var(--data); }
figure { margin: 1rem 0; overflow-x: auto; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: .4rem 0; }
th, td { text-align: left; vertical-align: top; padding: .1rem 1rem .1rem 0;
  overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--soft); white-space: nowrap; }
td { font: 13px/1.5 ui-monospace, monospace; }
summary { cursor: pointer; color: var(--soft); } .bad { color: var(--bad); font-weight: 600; }
.box rect { fill: var(--panel); stroke: var(--edge); } .box.absent rect { stroke-dasharray: 4 3; }
.box.damaged rect { stroke: var(--bad); stroke-width: 2; }
.box text { fill: var(--ink); font: 12px ui-monospace, monospace; }
.box text.title { font: 600 14px system-ui, sans-serif; } .box:hover rect { stroke: var(--ink); }
text.role { fill: var(--soft); font: 11px system-ui, sans-serif; }
path.arrow { fill: none; stroke-width: 1.6; }
path.halo { fill: none; stroke: var(--paper); stroke-width: 5; }
""" + "".join(
    f"path.arrow.{kind} {{ stroke: var(--{kind}); }} .box.{kind} rect.stripe "
    f"{{ fill: var(--{kind}); stroke: none; }}\n"
    for kind in ("raw", "data", "sft", "reward_model", "ppo", "evaluation")
)


def lineage_page(lineage: Lineage) -> str:
    """The whole page: readable in light and dark, without scripts."""
    target = lineage.nodes[lineage.target]
    title = f"Lineage of {target.stage} {target.digest[:SHOWN_DIGEST]}"
    recipe = target.provenance.get("recipe")
    sections = [_section(lineage, node) for node in reversed(lineage.in_order)]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            (
                f'<p class="note">{f"Recipe {escape(str(recipe))}. " if recipe else ""}'
                "Each box is an artifact, named by its digest; arrows say what went into what.</p>"
            ),
            f"<figure>{lineage_svg(lineage)}</figure>",
            *sections,
            "</body></html>\n",
        ]
    )


def _section(lineage: Lineage, node: Node) -> str:
    head = (
        f'<section id="{escape(anchor_of(node))}"><h2>{escape(node.stage)} '
        f"<span>{escape(node.digest)}</span></h2>"
    )
    if node.path is None:
        return f"{head}<p>Not here: only its digest is known.</p></section>"
    fault = f'<p class="bad">{escape(node.fault)}</p>' if node.fault else ""
    if not node.provenance:
        return f"{head}{fault}</section>"
    provenance = node.provenance
    return "\n".join(
        [
            head,
            fault,
            _table(list(_facts(lineage, node))),
            _files(node.sources),
            _metrics(provenance.get("metrics", {})),
            _folded("settings", _leaves(provenance["fingerprint"].get("settings", {}))),
            _folded("libraries", _leaves(provenance.get("libraries", {}))),
            _folded("code, by syntax tree", _leaves(provenance["fingerprint"].get("code", {}))),
            _folded("payload", [(file.path, file.sha256) for file in node.files]),
            "</section>",
        ]
    )


def _facts(lineage: Lineage, node: Node) -> Iterator[tuple[str, str]]:
    """Name and HTML of what is known about the making of an artifact."""
    provenance = node.provenance
    for role, digest in node.inputs.items():
        made = lineage.nodes[digest]
        yield f"from {role}", _link(f"#{anchor_of(made)}", digest)
    if provenance.get("recipe"):
        yield "recipe", escape(str(provenance["recipe"]))
    yield "seed", escape(str(provenance["fingerprint"]["seed"]))
    for line in past_lines(provenance["fingerprint"].get("continued")):
        yield "past", escape(line)
    code = provenance["code"]
    yield "code", escape(f"{code_text(code)} (version {code['package']})")
    seconds = provenance.get("seconds")
    took = f" in {seconds:.1f} s" if isinstance(seconds, int | float) else ""
    yield "made", escape(f"{provenance['ended_at']}{took}")
    machine = _leaves(provenance.get("machine", {}))
    if machine:
        yield "machine", escape(", ".join(f"{name} {value}" for name, value in machine))
    runs = provenance["runs"]
    for name, run_id, url in (
        ("MLflow run", runs.get("mlflow_run"), short_run_url),
        ("MLflow pipeline run", runs.get("mlflow_pipeline_run"), short_run_url),
        ("Prefect flow run", runs.get("prefect_flow_run"), flow_run_url),
        ("Prefect task run", runs.get("prefect_task_run"), task_run_url),
    ):
        if run_id:
            yield name, _link(url(str(run_id)), str(run_id))
    if provenance["fingerprint"].get("digest"):
        yield "fingerprint", escape(str(provenance["fingerprint"]["digest"]))


def _files(sources: Sequence[Mapping[str, Any]]) -> str:
    if not sources:
        return ""
    rows = [
        "<tr>"
        + "".join(
            f"<td>{escape(str(cell))}</td>"
            for cell in (
                source.get("name"),
                source.get("table", ""),
                f"{source['rows']} rows" if source.get("rows") is not None else "",
                source.get("sha256") or f"hub commit {source.get('commit') or 'unknown'}",
                writer_facts(source),
            )
        )
        + "</tr>"
        for source in sources
    ]
    return f"<table><tr><th>raw file</th></tr>{''.join(rows)}</table>"


def _metrics(metrics: Mapping[str, Any]) -> str:
    return _folded("metrics", [(name, number(value)) for name, value in metrics.items()])


def _folded(title: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    table = _table([(name, escape(value)) for name, value in rows])
    return f"<details><summary>{escape(title)}</summary>{table}</details>"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{html}</td></tr>" for name, html in rows)
    return f"<table>{cells}</table>"


def _leaves(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, leaf_text(value)) for name, value in leaves(values)]


def _link(url: str, text: str) -> str:
    return f'<a href="{escape(url)}">{escape(text)}</a>'
