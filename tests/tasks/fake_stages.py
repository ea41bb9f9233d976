"""Stages of the core that write a few bytes at once, in place of those that train."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

from rlhf_core.data.report_file import write_report
from rlhf_core.settings.base import STAGES
from rlhf_core.tables import write_table


def make_fake_data(settings, model, *, out_dir, report, seed) -> Mapping[str, float]:
    where = {"file": "rows.jsonl", "line": 1}
    demonstration = {"prompt": "p", "response": "r", **where}
    write_table(out_dir, "demonstrations", "train", [demonstration, demonstration])
    write_table(out_dir, "prompts", "train", [{"prompt": "p", "reference": None, **where}])
    sources = [{"name": "rows.jsonl", "sha256": "ab" * 32, "bytes": 7, "rows": 2}]
    (out_dir / "sources.json").write_text(json.dumps(sources))
    table = {"rows": 2, "usable": 2, "set_aside": 0, "faults_by_rule": {}}
    facts = {"tables": {"demonstrations": table}, "rules": {}, "usable": True}
    write_report(out_dir / "report.json", facts, [])
    report(1, {"rows": 2.0})
    return {"rows": 2.0}


def make_fake_model(
    settings, model, *, out_dir, report, seed, checkpoints=None, **inputs
) -> Mapping[str, float]:
    (out_dir / "model.safetensors").write_bytes(f"seed {seed}".encode())
    for step in (1, 2, 3):
        report(step, {"loss": 1 / step, "progress": step / 3})
    return {"accuracy": 0.75, "unknown": float("nan")}


def make_fake_evaluation(settings, model, *, out_dir, report, seed, **inputs):
    (out_dir / "report.html").write_text("<p>all is well</p>")
    return {"win_rate": 0.9}


def replace_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the fake stages where the tasks import the real ones."""
    makers = {"data": make_fake_data, "evaluation": make_fake_evaluation}
    for stage in STAGES:
        module = ModuleType(f"rlhf_core.stages.{stage}")
        setattr(module, f"make_{stage}", makers.get(stage, make_fake_model))
        monkeypatch.setitem(sys.modules, module.__name__, module)


def payload_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
