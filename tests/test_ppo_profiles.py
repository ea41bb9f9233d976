"""A profile's numbers are those that were published, and a recipe's own come first."""

import pytest

from rlhf_core.errors import RecipeError
from rlhf_core.recipes import dump_recipe, load_recipe, recipe_schema
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.ppo_profiles import PROFILES

MINIMAL = """\
name: minimal
data: {world: {}}
model: {scratch: {}}
"""

# Sections 3.9 and 6.3 of the specification: 256k and 1M episodes, 8 mini-batches by 1 epoch and 1
# by 4, a constant rate after ten updates and a line to 0.
INSTRUCTGPT = {
    "temperature": 1.0,
    "kl_coef": 0.02,
    "kl_target": None,
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "rollout_batch_size": 512,
    "ppo_epochs": 1,
    "learning_rate_schedule": "constant",
    "warmup_updates": 10,
    "learning_rate": 8e-6,
    "value_learning_rate": 9e-6,
    "value_network": "separate",
    "value_init": "reward_model",
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-5,
    "ema_decay": 0.992,
    "ptx": None,
}
N_PLUS = {
    "temperature": 0.7,
    "kl_coef": 0.05,
    "kl_target": None,
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "value_clip_range": 0.2,
    "value_coef": 0.1,
    "rollout_batch_size": 512,
    "ppo_epochs": 4,
    "learning_rate_schedule": "linear",
    "warmup_updates": 10,
    "learning_rate": 3e-6,
    "value_learning_rate": None,
    "value_network": "separate",
    "value_init": "reward_model",
    "adam_epsilon": 1e-5,
    "max_grad_norm": 1.0,
    "whiten_rewards": False,
    "whiten_advantages": "rollout",
    "missing_eos": "replace",
    "missing_eos_score": -1.0,
    "score_at": "eos",
    "ema_decay": None,
    "ptx": None,
}


@pytest.mark.parametrize(
    "profile,table,mini_batches,episodes",
    [("instructgpt", INSTRUCTGPT, 8, 256_000), ("n_plus", N_PLUS, 1, 1_000_000)],
)
def test_the_numbers_of_a_profile_are_those_of_the_table(profile, table, mini_batches, episodes):
    settings = PpoSettings(profile=profile)
    found = settings.model_dump()
    assert {name: found[name] for name in table} == table
    assert settings.rollout_batch_size // settings.mini_batch_size == mini_batches
    assert settings.updates == episodes // settings.rollout_batch_size


def test_the_papers_arithmetic_comes_out():
    def optimizer_steps(profile):
        settings = PpoSettings(profile=profile)
        mini_batches = settings.rollout_batch_size // settings.mini_batch_size
        return settings.updates * settings.ppo_epochs * mini_batches

    assert [optimizer_steps(profile) for profile in ("instructgpt", "n_plus")] == [4000, 7812]


def test_what_the_recipe_says_comes_first_also_where_it_is_the_default():
    settings = PpoSettings(profile="n_plus", kl_coef=0.1, temperature=1.0, ppo_epochs=4)
    assert (settings.kl_coef, settings.temperature) == (0.1, 1.0)
    assert settings.rollout_batch_size == 512


def test_no_profile_changes_nothing():
    assert PpoSettings() == PpoSettings(profile="none")
    assert PpoSettings().kl_coef == 0.05


@pytest.mark.parametrize(
    "given,coef,ratio,examples",
    [
        ({}, 27.8, None, 8.0),
        ({"coef": 1.0}, 1.0, None, 8.0),
        ({"grad_norm_ratio": 0.5, "examples_per_episode": 1.0}, None, 0.5, 1.0),
    ],
)
def test_plain_text_in_the_paper_has_its_weight_and_its_share(given, coef, ratio, examples):
    ptx = PpoSettings(profile="instructgpt", ptx=given).ptx
    assert ptx is not None
    assert (ptx.coef, ptx.grad_norm_ratio, ptx.examples_per_episode) == (coef, ratio, examples)


def test_every_value_of_a_profile_is_a_field():
    fields = PpoSettings.model_fields.keys()
    assert all(profile.keys() <= fields for profile in PROFILES.values())


def test_a_resolved_recipe_shows_every_number_and_reads_back_as_the_same(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    recipe = load_recipe(path, ["ppo.profile=instructgpt", "ppo.kl_coef=0.03"])
    dumped = dump_recipe(recipe)
    assert "rollout_batch_size: 512" in dumped
    assert "ema_decay: 0.992" in dumped
    assert "kl_coef: 0.03" in dumped
    path.write_text(dumped)
    assert load_recipe(path) == recipe


def test_an_unknown_profile_is_refused_with_those_that_there_are(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL + "ppo: {profile: instruct}\n")
    with pytest.raises(RecipeError, match="'none', 'instructgpt' or 'n_plus'"):
        load_recipe(path)


def test_the_schema_offers_the_profiles():
    field = recipe_schema()["$defs"]["PpoSettings"]["properties"]["profile"]
    assert field["enum"] == ["none", "instructgpt", "n_plus"]
    assert "Published settings" in field["description"]
