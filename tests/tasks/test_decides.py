"""Which stages run again when one field of a recipe changes: each field in turn."""

import ast
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest

from rlhf_core.data.schemas import TableName
from rlhf_core.recipes import load_recipe
from rlhf_core.settings.base import STAGES, Settings, Stage
from rlhf_core.settings.recipe import Recipe
from tasks.datasets import tables_read
from tasks.fingerprints import PACKAGE_FOLDER, stage_fingerprint

WITHOUT_EFFECT = {"name", "last_stage"}
"""How a run is called, and where it ends, change no stage's result."""

INPUTS: dict[Stage, tuple[Stage, ...]] = {
    "data": (),
    "sft": ("data",),
    "reward_model": ("data", "sft"),
    "ppo": ("data", "sft", "reward_model"),
    "evaluation": ("data", "sft", "reward_model", "ppo"),
}

EXAMPLES: dict[type, Any] = {int: 7, float: 0.125, str: "other", bool: True, dict: {"a": "b"}}


def fields(section: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from fields(inner, f"{prefix}{name}.")


REQUIRED = {
    "coef": 27.8,
    "source": "nowhere",
    "labeler": "tests.nowhere:label",
    "address": "http://nowhere/v1",
    "model": "judge",
}
"""Fields of sections that have no default."""


def section_of(annotation: Any) -> type[Settings] | None:
    return next((kind for kind in members(annotation) if is_section(kind)), None)


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def members(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if union else (annotation,)


def other_value(annotation: Any, value: Any) -> Any:
    """A value of the field's type that it does not have."""
    for kind in members(annotation):
        if get_origin(kind) is Literal:
            return next(choice for choice in get_args(kind) if choice != value)
        if isinstance(value, bool):
            return not value
        if get_origin(kind) is tuple and is_section(get_args(kind)[0]):
            element = get_args(kind)[0]
            return (with_other_value(element(), next(iter(element.model_fields))),)
        example = (
            ("other",) if get_origin(kind) is tuple else EXAMPLES.get(get_origin(kind) or kind)
        )
        if example is not None and example != value:
            return example
    raise AssertionError(f"no other value for {annotation}")


def with_other_value(settings: Settings, field: str) -> Settings:
    """The settings with one field changed; sections that are not given are made on the way.

    Built without validation: a single change may break a rule between fields.
    """
    name, _, rest = field.partition(".")
    annotation = type(settings).model_fields[name].annotation
    value = getattr(settings, name)
    if rest:
        inner = section_of(annotation)
        assert inner is not None
        if value is None:
            value = inner(**{key: REQUIRED[key] for key in REQUIRED if key in inner.model_fields})
            settings = settings.model_copy(update={name: value})
        return settings.model_copy(update={name: with_other_value(value, rest)})
    return settings.model_copy(update={name: other_value(annotation, value)})


def run_again(before: Recipe, after: Recipe) -> set[str]:
    """The stages whose fingerprint changes, their inputs made to change with the stage before."""
    again: set[str] = set()
    for stage in STAGES:
        inputs = dict.fromkeys(INPUTS[stage], "same")
        changed = {role: "new" if role in again else "same" for role in INPUTS[stage]}
        if (
            stage_fingerprint(before, stage, inputs).digest
            != stage_fingerprint(after, stage, changed).digest
        ):
            again.add(stage)
    return again


def expected(field: str) -> set[str]:
    section = field.partition(".")[0]
    if section in WITHOUT_EFFECT:
        return set()
    if section in ("seed", "model"):
        return set(STAGES)
    return set(STAGES[STAGES.index(section) :])  # type: ignore[arg-type]


@pytest.mark.parametrize("field", list(fields(Recipe)))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_changed_field_reruns_its_stage_and_what_depends_on_it(field, tiny_recipe: Path):
    recipe = load_recipe(tiny_recipe)
    changed = with_other_value(recipe, field)
    assert isinstance(changed, Recipe)
    assert run_again(recipe, changed) == expected(field)


def tables_in_code(stage: Stage) -> set[str]:
    """The tables that the code of a stage names: calls such as `read_prompts(data, "train")`."""
    tree = ast.parse((PACKAGE_FOLDER / "stages" / f"{stage}.py").read_text())
    return {
        f"{node.func.id.removeprefix('read_')}-{node.args[1].value}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id.removeprefix("read_") in get_args(TableName)
        and isinstance(node.args[1], ast.Constant)
    }


@pytest.mark.parametrize("stage", STAGES)
def test_the_tables_that_decide_a_stage_are_those_that_its_code_reads(stage, tiny_recipe: Path):
    of_dpo = {f"preferences-{split}" for split in ("train", "validation") if stage == "ppo"}
    recipe = load_recipe(tiny_recipe, ["data.world.texts=10", "ppo.ptx.coef=1.0"])
    assert set(tables_read(recipe, stage)) == tables_in_code(stage) - of_dpo
    assert set(tables_read(of_algorithm(recipe, "dpo"), stage)) == tables_in_code(stage)


def of_algorithm(recipe: Recipe, algorithm: str) -> Recipe:
    ppo = recipe.ppo.model_copy(update={"algorithm": algorithm})
    return recipe.model_copy(update={"ppo": ppo})


def test_other_preferences_decide_dpo_and_no_other_algorithm(tiny_recipe: Path):
    def digests(algorithm: str) -> list[str]:
        recipe = of_algorithm(load_recipe(tiny_recipe), algorithm)
        tables = dict.fromkeys(tables_read(recipe, "ppo"), "same")
        changed = {name: "new" if "preferences" in name else of for name, of in tables.items()}
        return [stage_fingerprint(recipe, "ppo", of).digest for of in (tables, changed)]

    before, after = digests("dpo")
    assert before != after
    before, after = digests("grpo")
    assert before == after


def test_text_that_ppo_does_not_learn_does_not_decide_it(tiny_recipe: Path):
    assert tables_read(load_recipe(tiny_recipe), "ppo") == ("prompts-train",)


def test_a_reward_model_that_collects_its_rankings_reads_prompts_instead(tiny_recipe: Path):
    recipe = load_recipe(tiny_recipe, ["reward_model.collect.labeler=tests.nowhere:label"])
    assert tables_read(recipe, "reward_model") == ("prompts-train", "demonstrations-train")


def test_how_the_reward_model_is_trained_decides_ppo_by_its_artifact_alone(tiny_recipe: Path):
    inputs = dict.fromkeys(INPUTS["ppo"], "same")
    code = stage_fingerprint(load_recipe(tiny_recipe), "ppo", inputs).code
    assert "rlhf_core.training.ranked" in code
    assert "rlhf_core.training.reward_model" not in code
    assert "rlhf_core.stages.reward_model" not in code


def test_the_prompts_that_choose_an_epoch_of_sft_decide_ppo(tiny_recipe: Path):
    chosen = load_recipe(tiny_recipe, ["sft.selection=reward_model_score"])
    assert "demonstrations-validation" in tables_read(chosen, "ppo")
    assert "demonstrations-validation" not in tables_read(load_recipe(tiny_recipe), "ppo")


def test_the_texts_that_are_mixed_in_decide_sft(tiny_recipe: Path):
    base = ["model.scratch=null", "model.base=somewhere", "data.world.texts=10"]
    mixed = load_recipe(tiny_recipe, [*base, "sft.pretraining_share=0.1"])
    assert "text-train" in tables_read(mixed, "sft")
    assert "text-train" not in tables_read(load_recipe(tiny_recipe, base), "sft")
