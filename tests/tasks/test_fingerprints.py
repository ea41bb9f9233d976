"""What changes a fingerprint, and what does not."""

from pathlib import Path

import pytest

from rlhf_core.recipes import load_recipe
from rlhf_core.settings.base import STAGES, Stage
from tasks.fingerprints import code_digests, content_digest, stage_fingerprint

INPUTS = {"data": "d" * 64}


def fingerprints(recipe: Path, *overrides: str) -> dict[str, str]:
    loaded = load_recipe(recipe, overrides)
    return {stage: stage_fingerprint(loaded, stage, INPUTS).digest for stage in STAGES}


def changed(recipe: Path, *overrides: str) -> set[str]:
    before, after = fingerprints(recipe), fingerprints(recipe, *overrides)
    return {stage for stage in STAGES if before[stage] != after[stage]}


def test_a_setting_changes_the_stages_that_read_its_section(tiny_recipe: Path):
    assert changed(tiny_recipe, "ppo.kl_coef=0.25") == {"ppo"}
    assert changed(tiny_recipe, "sft.epochs=2") == {"sft"}
    assert changed(tiny_recipe, "model.max_response_tokens=80") == set(STAGES)
    assert changed(tiny_recipe, "seed=2") == set(STAGES)


def test_a_name_or_an_earlier_end_changes_nothing(tiny_recipe: Path):
    assert changed(tiny_recipe, "name=other", "last_stage=ppo") == set()


def test_an_input_changes_the_stage_that_takes_it(tiny_recipe: Path):
    recipe = load_recipe(tiny_recipe)
    before = stage_fingerprint(recipe, "sft", {"data": "a" * 64})
    after = stage_fingerprint(recipe, "sft", {"data": "b" * 64})
    assert before.digest != after.digest
    assert {k for k, part in before.parts().items() if part != after.parts()[k]} == {"inputs"}


def test_one_byte_of_a_raw_file_or_a_base_model_changes_the_stage_that_reads_it(tmp_path: Path):
    rows, base = tmp_path / "rows.jsonl", tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    rows.write_text("1")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: files\nlast_stage: sft\ndata:\n  demonstrations: {{source: {rows}}}\n"
        f"model: {{base: {base}}}\n"
    )
    before = fingerprints(path)
    rows.write_text("2")
    after_rows = fingerprints(path)
    (base / "config.json").write_text("{ }")
    after_base = fingerprints(path)

    assert {s for s in STAGES if before[s] != after_rows[s]} == {"data"}
    assert {s for s in STAGES if after_rows[s] != after_base[s]} == {"data", "sft"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "rlhf_core"
    files = {
        "__init__.py": '"""A package."""\n',
        "stages/__init__.py": "",
        "stages/sft.py": "from rlhf_core import maths\n\ndef make():\n    return maths.two()\n",
        "stages/ppo.py": "def make():\n    return 3\n",
        "maths.py": '"""Sums."""\n\ndef two():\n    """Two."""\n    return 2\n',
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def code_of(package: Path, stage: Stage) -> dict[str, str]:
    code_digests.cache_clear()
    return code_digests((("rlhf_core", package),), (f"rlhf_core.stages.{stage}",))


def test_the_code_of_a_stage_is_what_it_imports_in_the_package(package: Path):
    assert set(code_of(package, "sft")) == {
        "rlhf_core",
        "rlhf_core.maths",
        "rlhf_core.stages",
        "rlhf_core.stages.sft",
    }


def test_an_edited_helper_changes_the_code_and_a_docstring_or_comment_does_not(package: Path):
    before = code_of(package, "sft"), code_of(package, "ppo")
    maths = package / "maths.py"

    maths.write_text('"""Sums of numbers."""\n\ndef two():  # exactly\n    return 2\n')
    assert (code_of(package, "sft"), code_of(package, "ppo")) == before

    maths.write_text("def two():\n    return 2.0\n")
    after = code_of(package, "sft")
    assert {name for name in after if after[name] != before[0][name]} == {"rlhf_core.maths"}
    assert code_of(package, "ppo") == before[1]


def test_the_gold_scorer_is_part_of_the_evaluation_alone(tiny_recipe: Path):
    recipe = load_recipe(tiny_recipe)
    assert "rlhf_core.world.gold" in stage_fingerprint(recipe, "evaluation", {}).code
    assert "rlhf_core.world.gold" not in stage_fingerprint(recipe, "ppo", {}).code


def test_a_reward_function_is_part_of_what_is_paid_by_it(tiny_recipe: Path):
    name = "rlhf_core.verifiable"
    rewards = "ppo.rewards=[{source: 'rlhf_core.verifiable:same_final_number'}]"
    recipe = load_recipe(tiny_recipe, [rewards, "ppo.value_init=sft"])
    assert name in stage_fingerprint(recipe, "ppo", {}).code
    assert name in stage_fingerprint(recipe, "evaluation", {}).code
    assert name not in stage_fingerprint(recipe, "reward_model", {}).code
    assert recipe.stages == ("data", "sft", "ppo", "evaluation")


def test_the_content_of_a_folder_is_its_names_and_bytes(tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = content_digest(folder)
    (folder / "a").rename(folder / "b")
    renamed = content_digest(folder)
    (folder / "b").write_text("2")
    assert len({before, renamed, content_digest(folder)}) == 3


def test_a_grader_outside_the_core_counts_with_what_it_imports_in_its_package(
    tmp_path, monkeypatch, tiny_recipe
):
    package = tmp_path / "grading_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "grades.py").write_text("from .words import good\n\ndef grade(): return good\n")
    (package / "words.py").write_text("good = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = load_recipe(tiny_recipe, ["evaluation.gold=grading_of_mine.grades:grade"])

    def grader() -> dict[str, str]:
        code_digests.cache_clear()
        code = stage_fingerprint(recipe, "evaluation", {}).code
        return {name: x for name, x in code.items() if name.startswith("grading_of_mine")}

    before = grader()
    assert set(before) == {f"grading_of_mine{part}" for part in ("", ".grades", ".words")}
    (package / "words.py").write_text("good = 2\n")
    after = grader()
    assert {name for name in after if after[name] != before[name]} == {"grading_of_mine.words"}
    assert "grading_of_mine" not in str(stage_fingerprint(recipe, "ppo", {}).code)
