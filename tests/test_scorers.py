"""What PPO is paid: reward model, functions, mixes; ids shared or texts read anew."""

import json
import sys
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.batches import Encoder, SpecialTokens, join
from rlhf_core.errors import RecipeError
from rlhf_core.reward_models import RewardModel, member_scores_in_batches, save_reward_model
from rlhf_core.scorers import PromptText, Reader, Scorer, load_reward_function, load_scorer
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.rewards import RewardSettings, ScoringSettings
from tests.tiny_models import END, PAD, SPECIAL, tiny_policy, tiny_scalar_model, words

MODEL = ModelSettings(scratch=ScratchModelSettings(), max_response_tokens=8)
PROMPTS, RESPONSES = [[3, 4], [5]], [[6, 7, END], [8, 9]]
WORD = words().convert_ids_to_tokens(range(12))
BATCH = join(PROMPTS, RESPONSES, PAD)


@pytest.fixture
def functions(monkeypatch):
    """A module of reward functions, as a recipe may name one."""
    module = ModuleType("paying")
    module.words = lambda prompts, responses: [len(text.split()) for text in responses]
    module.known = lambda prompts, responses, references: [
        float(reference == "gold") for reference in references
    ]
    module.short = lambda prompts, responses: [1.0]
    module.broken = lambda prompts, responses: [1.0, float("nan")]
    module.seen = []
    monkeypatch.setitem(sys.modules, "paying", module)
    return module


def reader() -> Reader:
    known = {
        (3, 4): PromptText(f"{WORD[3]} {WORD[4]}", "gold"),
        (5,): PromptText(WORD[5], None),
    }
    return Reader(Encoder(words(), MODEL), SPECIAL, known)


def scorer(*rewards, reward_model=None, **changes) -> Scorer:
    settings = ScoringSettings(rewards=rewards or (RewardSettings(),), **changes)
    found = [load_reward_function(reward) for reward in settings.functions]
    return Scorer(reward_model, settings, functions=found, reader=reader())


def judge(paying: Scorer):
    return paying.judge(BATCH, special=SPECIAL, batch_size=8)


def model_scores(reward_model):
    return member_scores_in_batches(reward_model, PROMPTS, RESPONSES, special=SPECIAL, batch_size=8)


def test_a_reward_model_alone_pays_its_scores():
    reward_model = RewardModel([tiny_scalar_model()]).eval()
    found = judge(scorer(reward_model=reward_model))
    assert_close(found.scores, model_scores(reward_model)[0], atol=1e-5, rtol=0)  # float32
    assert found.parts == {}


def test_functions_read_texts_and_references(functions):
    found = judge(
        scorer(
            RewardSettings(source="paying:words", weight=2.0), RewardSettings(source="paying:known")
        )
    )
    # Two words each, an end is none; the data has a response for the first prompt alone.
    assert found.parts["reward_words"].tolist() == [2, 2]
    assert found.parts["reward_known"].tolist() == [1, 0]
    assert found.scores.tolist() == [5, 4]


def test_a_mix_adds_up_what_each_pays(functions):
    reward_model = RewardModel([tiny_scalar_model()]).eval()
    found = judge(
        scorer(
            RewardSettings(weight=0.5),
            RewardSettings(source="paying:words", weight=-1.0),
            reward_model=reward_model,
        )
    )
    own = model_scores(reward_model)[0]
    assert_close(found.scores, 0.5 * own - 2, atol=1e-5, rtol=0)  # float32
    assert_close(found.parts["reward_model_score"], own, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name,message",
    [
        ("paying:short", "returned 1 numbers for 2 responses"),
        ("paying:broken", "graded response 2 of 2 with nan"),
        ("paying:seen", "has no function 'seen'"),
        ("nowhere:at_all", "the module of 'nowhere:at_all' cannot be imported"),
    ],
)
def test_a_function_that_does_not_pay_is_named(name, message, functions):
    with pytest.raises(RecipeError, match=f"ppo.rewards: .*{message}"):
        judge(scorer(RewardSettings(source=name)))


def test_a_function_that_fails_is_named_with_its_error(functions):
    functions.words = lambda prompts, responses: 1 / 0
    with pytest.raises(RecipeError, match=r"paying:words failed on 2 responses.*division by zero"):
        judge(scorer(RewardSettings(source="paying:words")))


@pytest.mark.parametrize(
    "how,k,combine",
    [
        ("mean", 1.0, lambda members: members.mean(dim=0)),
        ("minimum", 1.0, lambda members: members.min(dim=0).values),
        (
            "mean_minus_k_std",
            2.0,
            lambda members: members.mean(dim=0) - 2 * members.std(dim=0, correction=0),
        ),
    ],
)
def test_an_ensemble_pays_as_the_settings_say_and_its_disagreement_is_told(how, k, combine):
    models = [tiny_scalar_model(seed=seed) for seed in (1, 2, 3)]
    reward_model = RewardModel(models).eval()
    found = judge(scorer(reward_model=reward_model, ensemble_score=how, ensemble_k=k))
    members = model_scores(reward_model)
    assert_close(found.scores, combine(members), atol=1e-4, rtol=1e-4)  # float32
    deviation = members.std(dim=0, correction=0)
    assert_close(found.parts["ensemble_disagreement"], deviation, atol=1e-4, rtol=1e-4)


def test_a_held_out_reward_model_is_told_and_not_paid():
    own, other = (RewardModel([tiny_scalar_model(seed=seed)]).eval() for seed in (1, 2))
    found = judge(Scorer(own, held_out=other))
    assert_close(found.scores, model_scores(own)[0], atol=1e-5, rtol=0)  # float32
    assert_close(found.parts["held_out_score"], model_scores(other)[0], atol=1e-5, rtol=0)


def folders(tmp_path, *, tokenizer, prompt_template="{prompt}"):
    """A policy's folder and a reward model's, with the given tokenizer and template."""
    policy, folder = tmp_path / "policy", tmp_path / "reward_model"
    tiny_policy().save_pretrained(policy)
    words().save_pretrained(policy)
    reward_model = RewardModel([tiny_scalar_model()]).eval()
    save_reward_model(reward_model, folder, prompt_template=prompt_template, response_prefix=" ")
    tokenizer.save_pretrained(folder)
    return policy, folder, reward_model


def load(policy, folder):
    return load_scorer(ScoringSettings(), folder, reader(), policy=policy)


def test_ids_are_shared_where_tokenizer_and_template_are_the_same(tmp_path):
    policy, folder, reward_model = folders(tmp_path, tokenizer=words())
    paying = load(policy, folder)
    assert paying.own_reading is None
    assert_close(judge(paying).scores, model_scores(reward_model)[0], atol=1e-5, rtol=0)


def reordered():
    """The same words, each under the id that follows its own, the last under the first."""
    tokenizer = words()
    text = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = text["model"]["vocab"]
    text["model"]["vocab"] = {
        word: index if index < 3 else 3 + (index - 2) % 9 for word, index in vocabulary.items()
    }
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(text)),
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
    )


def test_another_tokenizer_reads_the_text_with_an_end_only_where_the_policy_ended(tmp_path):
    policy, folder, reward_model = folders(tmp_path, tokenizer=reordered())
    paying = load(policy, folder)
    assert paying.own_reading is not None
    # Every word's id is one further on, and the second response has no end.
    expected = member_scores_in_batches(
        reward_model,
        [[4, 5], [6]],
        [[7, 8, END], [9, 10]],
        special=SpecialTokens([END], PAD),
        batch_size=8,
    )[0]
    assert_close(judge(paying).scores, expected, atol=1e-5, rtol=0)  # float32
    assert not torch.allclose(judge(paying).scores, model_scores(reward_model)[0], atol=1e-3)


def test_another_template_is_put_around_the_text_of_the_prompt(tmp_path):
    policy, folder, reward_model = folders(
        tmp_path, tokenizer=words(), prompt_template=f"{WORD[9]} {{prompt}} {WORD[10]}"
    )
    expected = member_scores_in_batches(
        reward_model, [[9, 3, 4, 10], [9, 5, 10]], RESPONSES, special=SPECIAL, batch_size=8
    )[0]
    assert_close(judge(load(policy, folder)).scores, expected, atol=1e-5, rtol=0)  # float32


def test_a_source_that_is_nothing_of_the_kind_is_refused():
    with pytest.raises(ValueError, match="neither 'reward_model' nor of the form"):
        RewardSettings(source="reward model")


def test_functions_alone_need_a_value_model_from_elsewhere():
    rewards = (RewardSettings(source="a:b"),)
    with pytest.raises(ValueError, match=r"set ppo\.value_init=sft"):
        PpoSettings(rewards=rewards)
    assert PpoSettings(rewards=rewards, value_init="sft").scoring.reward_model_weight is None


def test_a_source_is_named_once():
    with pytest.raises(ValueError, match="names a source twice"):
        PpoSettings(rewards=(RewardSettings(), RewardSettings(weight=2.0)))
