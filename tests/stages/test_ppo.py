import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.errors import DataError, RecipeError, TrainingStopped
from rlhf_core.history import read_history
from rlhf_core.models import weights_digest, zero_head
from rlhf_core.pretrained import load_policy, load_scalar_model, save_model
from rlhf_core.report import ignore
from rlhf_core.reward_models import load_reward_model
from rlhf_core.scorers import Scorer
from rlhf_core.settings.algorithms import DpoSettings
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.course import CourseSettings
from rlhf_core.settings.evaluation import EvaluationSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.ptx import PtxSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.settings.rewards import RewardSettings
from rlhf_core.settings.sentinel import PpoSentinelSettings
from rlhf_core.stages.evaluation import make_evaluation
from rlhf_core.stages.ppo import make_ppo
from rlhf_core.stages.reward_model import make_reward_model
from rlhf_core.tables import read_preferences, read_prompts, write_table
from rlhf_core.training.ppo import train_ppo
from rlhf_core.training.ppo_course import kept_policies
from rlhf_core.training.ppo_models import load_models, said_of_bodies
from tests.tiny_models import SPECIAL, tiny_scorer

QUICK = PpoSettings(
    updates=2,
    rollout_batch_size=32,
    mini_batch_size=16,
    ppo_epochs=2,
    learning_rate=0.003,
    warmup_updates=0,
)


def make(chain, out_dir, *, model=None, data=None, reward_model=None, seed=1, **changes):
    out_dir.mkdir()
    return make_ppo(
        QUICK.model_copy(update=changes),
        model or chain.model,
        data=data or chain.data,
        sft=chain.sft,
        reward_model=reward_model or chain.reward_model,
        out_dir=out_dir,
        report=ignore,
        seed=seed,
    )


@pytest.fixture(scope="module")
def ppo(chain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage") / "ppo"
    return folder, make(chain, folder)


def test_the_policy_and_its_value_model_have_moved_and_are_saved(chain, ppo):
    folder, _ = ppo
    before, after = (load_policy(path).state_dict() for path in (chain.sft, folder))
    assert before.keys() == after.keys()
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    head = load_scalar_model(folder / "value_model").head.weight
    assert not torch.equal(head, load_scalar_model(chain.reward_model).head.weight)


def test_the_run_starts_at_the_reference_and_is_recorded(ppo):
    folder, summary = ppo
    history = read_history(folder)
    assert [row["step"] for row in history] == [1, 2]
    assert history[0]["kl_to_reference"] == 0.0
    assert history[0]["first_ratio_error"] < 1e-5
    assert "tokens_per_second" not in history[0]
    assert summary["score"] == history[1]["score"]
    assert summary["start_kl_to_reference"] == 0.0


def test_a_missing_end_scores_less_than_nearly_all_responses_that_ended(ppo):
    preflight = json.loads((ppo[0] / "preflight.json").read_text())
    # Mean - 1.64 deviations is a normal distribution's 5th percentile.
    bound = preflight["score"] - preflight["score_deviation"]
    assert preflight["missing_eos_score"] <= min(-1.0, bound + 1e-6)
    assert preflight["ended_share"] > 0.9


def test_samples_show_prompts_responses_and_scores(chain, ppo):
    samples = [json.loads(line) for line in (ppo[0] / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 20
    assert samples[0]["prompt"] == "w0 w0"
    answers = [sample["response"].split() for sample in samples]
    assert any(answer == ["so", "done"] for answer in answers)  # no prefix, no special tokens
    assert all(sample.keys() == {"prompt", "response", "ended", "score"} for sample in samples)


def test_the_same_seed_gives_the_same_bytes_twice(chain, ppo, tmp_path, read_bytes):
    make(chain, tmp_path / "again")
    make(chain, tmp_path / "other", seed=2)
    one = read_bytes(ppo[0])
    assert one == read_bytes(tmp_path / "again")
    assert one["model.safetensors"] != read_bytes(tmp_path / "other")["model.safetensors"]


def test_adapters_are_merged_into_policy_and_value_model(chain, tmp_path):
    lora = LoraSettings(rank=2, target_modules=("q_proj",))
    make(chain, tmp_path / "ppo", lora=lora)
    q_proj = "model.layers.0.self_attn.q_proj.weight"
    before, after = (load_policy(path).state_dict() for path in (chain.sft, tmp_path / "ppo"))
    assert [name for name in before if not torch.equal(before[name], after[name])] == [q_proj]
    before, after = (
        load_scalar_model(path).model.state_dict()
        for path in (chain.reward_model, tmp_path / "ppo" / "value_model")
    )
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == [q_proj, "score.weight", "score.bias"]


def test_adapters_on_all_layers_start_at_the_reference_too(chain, tmp_path):
    summary = make(chain, tmp_path / "ppo", lora=LoraSettings(rank=2))
    assert summary["start_kl_to_reference"] == 0.0


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_policies_are_kept_along_the_way_and_the_last_is_the_artifact_s(chain, tmp_path, lora):
    summary = make(chain, tmp_path / "ppo", course=CourseSettings(kept=1), lora=lora)
    ((update, folder),) = kept_policies(tmp_path / "ppo").items()
    assert update == 1
    kept, last, sft = (load_policy(path) for path in (folder, tmp_path / "ppo", chain.sft))
    assert summary["published_update"] == 2
    halfway, whole = (
        sum(
            float((weight - sft.state_dict()[name]).square().sum())
            for name, weight in policy.state_dict().items()
        )
        for policy in (kept, last)
    )
    assert 0 < halfway < whole


def test_the_best_policy_within_the_budget_becomes_the_artifact_s(chain, tmp_path):
    course = CourseSettings(kept=1, choose="score", max_kl=1e-9, prompts=16)
    summary = make(chain, tmp_path / "ppo", course=course)

    record = json.loads((tmp_path / "ppo" / "selection.json").read_text())
    nearest = min(record["measured"], key=lambda one: one["kl"])["update"]
    assert record["chosen_update"] == nearest == summary["published_update"]
    kept = kept_policies(tmp_path / "ppo")
    assert weights_digest(load_policy(tmp_path / "ppo")) == weights_digest(
        load_policy(kept[nearest])
    )
    assert set(kept) == {1, 2}  # the last is there too, since it is not the artifact's


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_an_algorithm_without_a_value_model_publishes_none(chain, tmp_path, algorithm):
    summary = make(chain, tmp_path / "ppo", algorithm=algorithm, responses_per_prompt=4)
    assert not (tmp_path / "ppo" / "value_model").exists()
    samples = [json.loads(row) for row in (tmp_path / "ppo" / "samples.jsonl").open()]
    assert [sample["prompt"] for sample in samples[:8:4]] == ["w0 w0", "w1 w5"]
    assert len({sample["prompt"] for sample in samples[:4]}) == 1
    assert summary["start_kl_to_reference"] == 0.0


def test_dpo_learns_from_the_preferences_and_publishes_what_ppo_does(chain, tmp_path):
    summary = make(
        chain, tmp_path / "ppo", algorithm="dpo", dpo=DpoSettings(batch_size=16, measurements=2)
    )
    history = read_history(tmp_path / "ppo")
    assert [row["step"] for row in history if "score" in row] == [4, 8]  # 120 rankings
    assert summary["validation_implicit_accuracy"] > 0.9
    assert summary["score"] == history[-1]["score"]
    assert summary["start_kl_to_reference"] == 0.0
    assert load_policy(tmp_path / "ppo") is not None
    assert not (tmp_path / "ppo" / "value_model").exists()
    assert (tmp_path / "ppo" / "preflight.json").exists()
    assert len((tmp_path / "ppo" / "samples.jsonl").read_text().splitlines()) == 20


def test_the_evaluation_reads_what_any_algorithm_leaves(chain, tmp_path):
    data = shutil.copytree(chain.data, tmp_path / "data")
    held_out = read_prompts(chain.data, "train").head(8).to_dict("records")
    write_table(data, "prompts", "evaluation", held_out)
    write_table(data, "text", "evaluation", [])
    make(chain, tmp_path / "dpo", algorithm="dpo", dpo=DpoSettings(batch_size=60))
    out_dir = tmp_path / "evaluation"
    out_dir.mkdir()
    summary = make_evaluation(
        EvaluationSettings(best_of_n=2, best_of_n_prompts=2, bootstrap_samples=100),
        chain.model,
        data=data,
        sft=chain.sft,
        reward_model=chain.reward_model,
        ppo=tmp_path / "dpo",
        out_dir=out_dir,
        report=ignore,
        seed=1,
    )
    assert summary["kl_to_reference"] != 0.0
    assert (out_dir / "learning-ppo.png").stat().st_size > 10_000
    assert "report.html" in {path.name for path in out_dir.iterdir()}


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_a_shared_trunk_is_published_as_two_models_that_load(chain, tmp_path, lora):
    make(chain, tmp_path / "ppo", value_network="shared_trunk", lora=lora)
    policy = load_policy(tmp_path / "ppo").model.state_dict()
    value_model = load_scalar_model(tmp_path / "ppo" / "value_model")
    trunk = value_model.model.model.state_dict()
    assert trunk.keys() == policy.keys()
    assert all(torch.equal(trunk[name], policy[name]) for name in trunk)
    assert value_model.head.weight.any()
    moved = load_policy(chain.sft).model.state_dict()
    assert not all(torch.equal(moved[name], policy[name]) for name in policy)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_last_and_averaged_weights_are_both_left_and_measured(chain, tmp_path, lora):
    summary = make(chain, tmp_path / "last", lora=lora, ema_decay=0.5)
    make(chain, tmp_path / "average", lora=lora, ema_decay=0.5, published_weights="average")

    def weights(folder):
        return load_policy(tmp_path / folder).state_dict()

    last, average = weights("last"), weights("last/average_policy")
    assert not all(torch.equal(last[name], average[name]) for name in last)
    for name, tensor in weights("average").items():
        assert torch.equal(tensor, average[name])
    for name, tensor in weights("average/last_policy").items():
        assert torch.equal(tensor, last[name])
    assert 0 != summary["average_kl_to_reference"] != summary["last_kl_to_reference"] != 0
    assert {"last_score", "average_score", "average_ended_share"} <= summary.keys()


def test_without_an_average_nothing_lies_beside_the_policy(ppo):
    folder, summary = ppo
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"value_model"}
    assert not [name for name in summary if name.startswith(("average_", "last_"))]


def test_plain_text_of_the_data_artifact_is_learnt_beside(chain, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(chain.data, data)
    where = {"file": "text.jsonl", "line": 1}
    texts = [{"text": f"w{n % 12} w{(n + 1) % 12} so done so", **where} for n in range(40)]
    write_table(data, "text", "train", texts)
    ptx = PtxSettings(coef=1.0, max_tokens=4)
    summary = make(chain, tmp_path / "ppo", data=data, ptx=ptx)
    assert 0 < summary["ptx_loss"] < 10
    assert summary["ptx_coef"] == 1.0
    history = read_history(tmp_path / "ppo")
    assert all(row["ptx_grad_norm_ratio"] > 0 for row in history)


def test_text_that_is_asked_for_and_not_there_is_refused(chain, tmp_path):
    with pytest.raises(DataError, match=r"give data\.text a source"):
        make(chain, tmp_path / "ppo", ptx=PtxSettings(coef=1.0))


@pytest.fixture(scope="module")
def adapter_reward_model(chain, tmp_path_factory):
    """A reward model that was trained as an adapter on the SFT policy's body."""
    folder = tmp_path_factory.mktemp("adapter") / "reward_model"
    folder.mkdir()
    make_reward_model(
        RewardModelSettings(epochs=2, learning_rate=0.01, batch_size=16, lora=LoraSettings(rank=4)),
        chain.model,
        data=chain.data,
        sft=chain.sft,
        out_dir=folder,
        report=ignore,
        seed=1,
    )
    return folder


def with_adapters(chain, reward_model, **changes):
    settings = QUICK.model_copy(update={"lora": LoraSettings(rank=2), **changes})
    scorer = Scorer(load_reward_model(reward_model))
    return settings, load_models(settings, chain.sft, reward_model, scorer, seed=1)


def bodies(models):
    parts = [models.policy, models.reference, models.scorer.reward_model.first.model]
    parts += [] if models.value_model is None else [models.value_model.model]
    return {part.get_input_embeddings().weight.data_ptr() for part in parts}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"value_init": "sft"},
        {"value_network": "shared_trunk"},
        {"algorithm": "grpo", "responses_per_prompt": 4},
    ],
)
def test_four_adapters_share_one_body(chain, adapter_reward_model, changes):
    _, models = with_adapters(chain, adapter_reward_model, **changes)
    assert len(bodies(models)) == 1
    assert said_of_bodies(models) == "all models are adapters on one body in memory"
    own = {weights.data_ptr() for weights in models.reference.parameters()}
    added = {
        name: weights.numel()
        for part in models.by_name().values()
        for name, weights in part.named_parameters()
        if weights.data_ptr() not in own
    }
    assert all("lora_" in name or "score" in name for name in added)


def test_a_reward_model_trained_in_full_keeps_its_body_and_the_value_model_shares_it(chain):
    _, models = with_adapters(chain, chain.reward_model)
    assert len(bodies(models)) == 2
    assert "2 bodies in memory: the reward model is no adapter" in said_of_bodies(models)
    first = models.scorer.reward_model.first.model
    own = {weights.data_ptr() for weights in first.model.parameters()}
    assert own <= {weights.data_ptr() for weights in models.value_model.parameters()}


@pytest.mark.parametrize("reward_model", ["adapter", "in full"])
def test_training_on_shared_bodies_is_training_on_copies(chain, adapter_reward_model, reward_model):
    folder = adapter_reward_model if reward_model == "adapter" else chain.reward_model

    def trained(arrange):
        settings, models = with_adapters(chain, folder)
        models = arrange(models)
        frozen = [weights_digest(part) for part in (models.reference, models.scorer)]
        metrics = train_ppo(
            models,
            [[3, 4], [5, 6], [7, 8]],
            settings,
            ignore,
            special=SPECIAL,
            max_response_tokens=8,
            missing_eos_score=-1.0,
            seed=1,
            accelerator=Accelerator(),
        )
        assert [weights_digest(part) for part in (models.reference, models.scorer)] == frozen
        moved = [weights for weights in models.policy.parameters() if weights.requires_grad]
        moved += [weights for weights in models.value_model.parameters() if weights.requires_grad]
        return metrics, moved

    def copied(models):
        return replace(
            models,
            **{name: copy.deepcopy(getattr(models, name)) for name in models.by_name()},
        )

    (shared, one), (apart, two) = trained(lambda models: models), trained(copied)
    # A matrix at another address is multiplied in another order.
    assert_close(shared["score"], apart["score"], atol=1e-4, rtol=1e-4)
    assert_close(shared["kl_to_reference"], apart["kl_to_reference"], atol=1e-4, rtol=1e-3)
    for own, other in zip(one, two, strict=True):
        assert_close(own, other, atol=1e-4, rtol=1e-3)


def test_what_adapters_on_one_body_publish_says_what_they_said(
    chain, adapter_reward_model, tmp_path
):
    make(chain, tmp_path / "ppo", reward_model=adapter_reward_model, lora=LoraSettings(rank=2))
    before, after = (load_policy(path).state_dict() for path in (chain.sft, tmp_path / "ppo"))
    q_proj = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[q_proj], after[q_proj])
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    own = load_scalar_model(tmp_path / "ppo" / "value_model").model.state_dict()
    start = load_scalar_model(adapter_reward_model).model.state_dict()
    # The value model went on from the reward model's adapter, not from the policy's.
    assert_close(own[q_proj], start[q_proj], atol=0.05, rtol=0)
    assert not torch.equal(own[q_proj], start[q_proj])
    assert (start[q_proj] - before[q_proj]).abs().max() > 0.05


def test_a_value_model_from_the_policy_starts_without_an_opinion(chain):
    models = load_models(
        QUICK.model_copy(update={"value_init": "sft"}),
        chain.sft,
        chain.reward_model,
        tiny_scorer(),
        seed=1,
    )
    ids = torch.tensor([[3, 4, 5]])
    assert models.value_model(ids, ids > 0).tolist() == [[0.0, 0.0, 0.0]]


def test_policy_and_reference_start_alike_and_reward_model_and_reference_are_frozen(chain):
    scorer = Scorer(load_reward_model(chain.reward_model))
    models = load_models(QUICK, chain.sft, chain.reward_model, scorer, seed=1)
    for frozen in (models.reference, models.scorer):
        assert not any(parameter.requires_grad for parameter in frozen.parameters())
    for name, weights in models.policy.state_dict().items():
        assert_close(models.reference.state_dict()[name], weights, atol=0, rtol=0)
    assert models.value_model is not models.scorer.reward_model.first


def test_a_reward_model_of_another_tokenizer_cannot_be_the_value_models_beginning(chain, tmp_path):
    other = tmp_path / "reward_model"
    shutil.copytree(chain.reward_model, other)
    text = (other / "tokenizer.json").read_text().replace('"w3"', '"w99"')
    (other / "tokenizer.json").write_text(text)
    with pytest.raises(RecipeError, match=r"another tokenizer.*Set ppo.value_init=sft"):
        make(chain, tmp_path / "ppo", reward_model=other)


def test_a_reward_model_that_says_the_same_of_everything_is_refused(chain, tmp_path):
    other = tmp_path / "reward_model"
    shutil.copytree(chain.reward_model, other)
    constant = load_scalar_model(chain.reward_model)
    zero_head(constant)
    save_model(constant.model, other)
    with pytest.raises(TrainingStopped, match="says the same of every response"):
        make(chain, tmp_path / "ppo", reward_model=other)


def test_a_policy_that_goes_too_far_stops_the_stage(chain, tmp_path):
    limits = PpoSentinelSettings(kl_to_reference={"stop": 0.02})
    with pytest.raises(TrainingStopped, match=r"PPO stopped at update \d: .*\(limit 0\.01\)"):
        make(chain, tmp_path / "ppo", learning_rate=0.1, updates=5, sentinel=limits)
    kept, sft = (load_policy(path) for path in (tmp_path / "ppo" / "last_good", chain.sft))
    assert weights_digest(kept) == weights_digest(sft)  # no state after it was good


def test_prompts_over_the_budget_are_refused_when_none_is_left(chain, tmp_path):
    model = chain.model.model_copy(update={"max_prompt_tokens": 1})
    with pytest.raises(DataError, match=r"None of 120 prompts fits.*raise it"):
        make(chain, tmp_path / "ppo", model=model)


def short_and_ended(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward without a model: few words."""
    return [-float(len(response.split())) for response in responses]


def test_functions_alone_pay_without_a_reward_model(chain, tmp_path):
    rewards = (RewardSettings(source=f"{__name__}:short_and_ended"),)
    (tmp_path / "ppo").mkdir()
    summary = make_ppo(
        QUICK.model_copy(update={"rewards": rewards, "value_init": "sft"}),
        chain.model,
        data=chain.data,
        sft=chain.sft,
        reward_model=None,
        out_dir=tmp_path / "ppo",
        report=ignore,
        seed=1,
    )
    assert summary["score"] == summary["reward_short_and_ended"]
    assert summary["raw_score"] < -1  # "so done" has two words


def test_a_reward_model_of_swapped_labels_is_refused_before_any_step(chain, tmp_path):
    data, other = tmp_path / "data", tmp_path / "reward_model"
    shutil.copytree(chain.data, data)
    rows = read_preferences(data, "validation").to_dict("records")
    swapped = [row | {"ranks": [3 - rank for rank in row["ranks"]]} for row in rows]
    write_table(data, "preferences", "validation", swapped)
    other.mkdir()
    summary = make_reward_model(
        RewardModelSettings(epochs=2, learning_rate=0.003, batch_size=16),
        chain.model,
        data=data,
        sft=chain.sft,
        out_dir=other,
        report=ignore,
        seed=1,
    )
    assert summary["accuracy"] < 0.1
    with pytest.raises(
        TrainingStopped, match="chosen and rejected are probably swapped"
    ) as stopped:
        make(chain, tmp_path / "ppo", reward_model=other)
    assert stopped.value.exit_code == 3
    assert not (tmp_path / "ppo" / "history.jsonl").exists()


@pytest.mark.parametrize(
    "number,reason", [(torch.nan, "not finite"), (torch.inf, "not finite"), (1e30, "over ppo")]
)
def test_a_reward_model_whose_scores_are_no_scores_is_refused(number, reason, chain, tmp_path):
    other = tmp_path / "reward_model"
    shutil.copytree(chain.reward_model, other)
    broken = load_scalar_model(chain.reward_model)
    with torch.no_grad():
        broken.head.bias.fill_(number)
    broken.model.save_pretrained(other)  # as ours would not
    with pytest.raises(TrainingStopped, match=f"PPO did not start: .*{reason}"):
        make(chain, tmp_path / "ppo", reward_model=other)
    assert not (tmp_path / "ppo" / "history.jsonl").exists()


def test_the_gates_verdicts_lie_beside_the_policy(ppo):
    verdicts = json.loads((ppo[0] / "gate.json").read_text())
    assert {verdict["check"]: verdict["verdict"] for verdict in verdicts} == {
        "swapped_labels": "passed",
        "accuracy": "passed",
        "no_better_than_length": "passed",
        "finite_scores": "passed",
        "constant_scores": "passed",
        "extreme_scores": "passed",
    }
