import json
import shutil

import pytest
import torch

from rlhf_core.errors import DataError
from rlhf_core.history import read_history
from rlhf_core.models import weights_digest
from rlhf_core.pretrained import load_policy, load_scalar_model
from rlhf_core.report import ignore
from rlhf_core.settings.algorithms import DpoSettings
from rlhf_core.settings.base import LoraSettings
from rlhf_core.settings.course import CourseSettings
from rlhf_core.settings.evaluation import EvaluationSettings
from rlhf_core.settings.ptx import PtxSettings
from rlhf_core.settings.rewards import RewardSettings
from rlhf_core.stages.evaluation import make_evaluation
from rlhf_core.stages.ppo import make_ppo
from rlhf_core.tables import read_prompts, write_table
from rlhf_core.training.ppo_course import kept_policies
from tests.stages.ppo_runs import QUICK, make


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
