"""The data stage by itself: what the rows of a recipe are worth, before anything is trained."""

import json
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from rlhf_core.report import ignore
from rlhf_core.settings.recipe import Recipe
from rlhf_core.stages.data import REPORT, make_data


def check_data(recipe: Recipe) -> dict[str, Any]:
    """The data stage's metrics and report; torch stays unloaded.

    Where rows are refused, the folder with the whole report stays: the error names it.
    """
    out_dir = Path(mkdtemp(prefix="rlhf-check-"))
    metrics = make_data(recipe.data, recipe.model, out_dir=out_dir, report=ignore, seed=recipe.seed)
    report = json.loads((out_dir / REPORT).read_text(encoding="utf-8"))
    shutil.rmtree(out_dir)
    return {"recipe": recipe.name, "metrics": metrics, "report": report}
