from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.errors import RecipeError
from rlhf_core.recipes import dump_recipe, load_recipe, recipe_schema
from rlhf_core.settings.recipe import Recipe
from rlhf_core.strict_yaml import dump_yaml, parse_yaml

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))

MINIMAL = """\
name: minimal
data:
  demonstrations: {source: stories.jsonl}
  preferences: {source: pairs.jsonl}
model:
  scratch: {}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_is_named_like_its_file(path):
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize(
    "text,number", [("1e-5", 1e-5), ("1e5", 1e5), ("1.5E+3", 1500.0), (".5", 0.5), ("2.", 2.0)]
)
def test_every_common_way_to_write_a_number_is_a_number(tmp_path, text, number):
    recipe = load_recipe(write(tmp_path, MINIMAL + f"ppo: {{learning_rate: {text}}}\n"))
    assert recipe.ppo.learning_rate == number


@pytest.mark.parametrize(
    "text", ["1e", "e5", "yes", "no", "on", "off", "0x1F", "012", "1:30", "2020-01-01", "1.2.3"]
)
def test_what_only_old_yaml_takes_for_something_else_is_text(text):
    assert parse_yaml(f"value: {text}", "recipe").value == {"value": text}


def test_only_true_and_false_are_truth_values(tmp_path):
    message = refusal(write(tmp_path, MINIMAL + "ppo:\n  whiten_rewards: yes\n"))
    assert message == (
        "recipe.yaml:8: ppo.whiten_rewards: found the text 'yes', expected true or false."
    )


def test_every_fault_has_a_line_of_its_own(tmp_path):
    text = MINIMAL + "ppo:\n  kl_coeff: 0.1\n  updates: '5'\nsft:\n  patience: 0\nseeds: 3\n"
    assert refusal(write(tmp_path, text)).splitlines() == [
        "recipe.yaml:11: sft.patience: found 0, expected greater than or equal to 1.",
        (
            "recipe.yaml:9: ppo.updates: found the text '5', expected a whole number without a "
            "decimal point or exponent."
        ),
        "recipe.yaml:8: ppo.kl_coeff: found an unknown key; the nearest right one is 'kl_coef'.",
        "recipe.yaml:12: seeds: found an unknown key; the nearest right one is 'seed'.",
    ]


def test_a_key_of_another_section_is_told_where_it_belongs(tmp_path):
    message = refusal(write(tmp_path, MINIMAL + "sft: {clip_range: 0.2}\n"))
    assert message.endswith("sft.clip_range: found an unknown key; did you mean ppo.clip_range?")


def test_impossible_combinations_are_refused_in_words(tmp_path):
    text = MINIMAL + "ppo: {rollout_batch_size: 10, mini_batch_size: 4}\n"
    assert refusal(write(tmp_path, text)) == (
        "recipe.yaml:7: ppo: rollout_batch_size=10 is not a multiple of mini_batch_size=4: choose "
        "one that is."
    )


@pytest.mark.parametrize(
    "tables, last_stage, missing",
    [
        ("prompts: {source: p.jsonl}", "sft", "data.demonstrations"),
        ("demonstrations: {source: d.jsonl}", "reward_model", "data.preferences"),
        ("preferences: {source: p.jsonl}", "ppo", "data.prompts"),
    ],
)
def test_a_stage_without_rows_is_refused_and_an_earlier_end_is_not(
    tmp_path, tables, last_stage, missing
):
    text = f"name: short\ndata: {{{tables}}}\nmodel: {{scratch: {{}}}}\nlast_stage: "
    assert missing in refusal(write(tmp_path, text + last_stage))
    earlier = {"sft": "data", "reward_model": "sft", "ppo": "reward_model"}[last_stage]
    assert load_recipe(write(tmp_path, text + earlier)).stages[-1] == earlier


def test_text_to_learn_beside_ppo_has_to_come_from_somewhere(tmp_path):
    path = write(tmp_path, MINIMAL)
    assert "ppo.ptx learns plain text, and there is none" in refusal(path, "ppo.ptx.coef=1")
    assert load_recipe(path, ["ppo.ptx.coef=1", "data.text.source=t.txt"]).ppo.ptx is not None
    assert load_recipe(path, ["ppo.ptx.coef=1", "last_stage=sft"]).ppo.ptx is not None
    averaged = refusal(path, "ppo.published_weights=average")
    assert "published_weights=average, but no average is kept" in averaged


def test_a_source_may_be_a_text_or_a_list_and_nothing_else(tmp_path):
    path = write(tmp_path, MINIMAL)
    recipe = load_recipe(path, ["data.preferences.source=[a.jsonl, b.jsonl]"])
    assert recipe.data.preferences is not None
    assert recipe.data.preferences.source == ("a.jsonl", "b.jsonl")
    assert refusal(path, "data.preferences.source=3") == (
        "--set: data.preferences.source: found 3, expected text or a list."
    )


def test_an_override_replaces_one_value_and_no_other(tmp_path):
    path = write(tmp_path, MINIMAL)
    plain, overridden = load_recipe(path), load_recipe(path, ["ppo.kl_coef=1e-1", "seed=7"])
    assert (overridden.ppo.kl_coef, overridden.seed) == (0.1, 7)
    changed = {"seed": 7, "ppo": plain.ppo.model_copy(update={"kl_coef": 0.1})}
    assert overridden == plain.model_copy(update=changed)


def test_an_override_of_a_section_given_by_alias_leaves_the_other_alone(tmp_path):
    text = MINIMAL + "sft: {lora: &adapter {rank: 4}}\nppo: {lora: *adapter}\n"
    recipe = load_recipe(write(tmp_path, text), ["ppo.lora.rank=8"])
    assert recipe.sft.lora is not None
    assert recipe.ppo.lora is not None
    assert (recipe.sft.lora.rank, recipe.ppo.lora.rank) == (4, 8)


def test_an_override_makes_the_section_that_was_not_there(tmp_path):
    recipe = load_recipe(
        write(tmp_path, MINIMAL), ["data.prompts.source=p.jsonl", "data.prompts.columns.prompt=q"]
    )
    assert recipe.data.prompts is not None
    assert recipe.data.prompts.columns == {"prompt": "q"}


@pytest.mark.parametrize(
    "override,said",
    [
        ("ppo.kl_coeff=1", "there is no field 'kl_coeff'; the nearest right one is 'kl_coef'"),
        ("ppo.kl_coef.x=1", "ppo.kl_coef is one value and has no parts"),
        ("kl_coef=1", "did you mean ppo.kl_coef?"),
        ("ppo.kl_coef", "expected `field=value`"),
        ("ppo.kl_coef=[1", "--set ppo.kl_coef:1:"),
        ("data.rules.TXT-999=set_aside", "there is no rule 'TXT-999'"),
        ("data.rules.TXT-001=warn", "rule TXT-001 cannot be 'warn'"),
    ],
)
def test_an_override_that_cannot_be_meant_is_refused_by_name(tmp_path, override, said):
    assert said in refusal(write(tmp_path, MINIMAL), override)


@pytest.mark.parametrize(
    "text,said",
    [
        ("name: a\nseed: 1\nname: b\n", "recipe.yaml:3: the key 'name' stands here and on line 1"),
        ("data:\n  split_by: a\n  split_by: b\n", "recipe.yaml:3: the key 'split_by'"),
        ("name: !!python/object/apply:os.getcwd []\n", "recipe.yaml:1: the tag"),
        ("name: !!str a\n", "recipe.yaml:1: the tag"),
        ("a: " + "[" * 51 + "]" * 51, "nested deeper than 50"),
        ("a: " + "[" * 100_000, "nested deeper than 50"),
        ("a: &a [1]\nb: [" + "*a," * 101 + "]", "aliases (*name) are used more than 100 times"),
        ("a: &a {b: *a}", "contains itself"),
        (
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 6)),
            "expand to more than 10000 values",
        ),
        ("a: 1\n---\nb: 2\n", "recipe.yaml:2: a second document begins"),
        ("1: a\n", "recipe.yaml:1: the key '1' is not text"),
        ("a: [1\n", "recipe.yaml:2: expected"),
        ("a: \0", "unacceptable character"),
        ("", "found nothing (null), expected a recipe"),
        ("- a\n", "found a list, expected a recipe"),
    ],
)
def test_yaml_that_hides_something_is_refused_with_its_line(tmp_path, text, said):
    assert said in refusal(write(tmp_path, text))


def test_fifty_levels_and_a_hundred_aliases_are_allowed():
    deep = parse_yaml("[" * 50 + "]" * 50, "recipe").value
    assert str(deep) == "[" * 50 + "]" * 50
    assert parse_yaml("a: &a 1\nb: [" + "*a," * 100 + "]", "recipe").value["b"] == [1] * 100


def test_a_recipe_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("name: é".encode("latin-1"))
    assert refusal(path) == "recipe.yaml: byte 6 is not UTF-8: save the file as UTF-8."
    assert "cannot be read" in refusal(tmp_path / "missing.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_dumped_recipe_reads_back_as_the_same(tmp_path, path):
    recipe = load_recipe(path)
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    st.sampled_from(["1e-5", "yes", "null", "~", "", "0", "010", "1_0", ".inf", "2020-01-01"]),
)


@given(st.dictionaries(st.text("abc", min_size=1), st.one_of(scalars, st.lists(scalars))))
def test_what_is_dumped_is_parsed_as_it_was(value):
    assert parse_yaml(dump_yaml(value), "recipe").value == value


def test_the_schema_describes_every_section():
    assert set(recipe_schema()["properties"]) == set(Recipe.model_fields)


@pytest.mark.parametrize(
    "section, rate",
    [("{}", 1e-5), ("{lora: {}}", 2e-4), ("{lora: {}, learning_rate: 3e-5}", 3e-5)],
)
def test_an_adapter_has_another_usual_learning_rate_and_the_dump_shows_it(section, rate, tmp_path):
    recipe = load_recipe(write(tmp_path, MINIMAL + f"sft: {section}\n"))
    assert recipe.sft.learning_rate == rate
    dumped = write(tmp_path, dump_recipe(recipe))
    assert parse_yaml(dumped.read_text(), "dump").value["sft"]["learning_rate"] == rate
    assert load_recipe(dumped) == recipe


def test_responses_that_the_data_stage_drops_cannot_be_cut_by_sft(tmp_path):
    path = write(tmp_path, MINIMAL + "sft: {long_responses: cut}\n")
    assert "set data.long_responses to 'keep'" in refusal(path)
    assert load_recipe(path, ["data.long_responses=keep"]).sft.long_responses == "cut"
