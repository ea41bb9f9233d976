"""The evaluation stage on models that were never trained, so that only its own doing is tested."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.errors import ArtifactError, DataError
from rlhf_core.evaluation.answers import Prompts, Sampler, demonstrations, sequence_kl
from rlhf_core.models import new_policy
from rlhf_core.new_tokenizers import word_tokenizer
from rlhf_core.pretrained import new_scalar_model, save_policy
from rlhf_core.report import ignore
from rlhf_core.reward_models import HELD_OUT, RewardModel, save_reward_model
from rlhf_core.scorers import SCORING
from rlhf_core.settings.evaluation import EvaluationSettings
from rlhf_core.settings.judge import JudgeSettings
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.settings.rewards import RewardSettings, ScoringSettings
from rlhf_core.stages.evaluation import held_out_prompts, make_evaluation
from rlhf_core.tables import write_table
from tests.evaluation.served import served

WORDS = "a b c d e f g h i j k l m n o p"
NASTY = "<script>alert('boo')</script> & <b>"
MODEL = ModelSettings(
    scratch=ScratchModelSettings(hidden_size=16, layers=1, heads=2, intermediate_size=32),
    prompt_template="{prompt} ->",
    max_prompt_tokens=8,
    max_response_tokens=24,
)
SETTINGS = EvaluationSettings(
    prompts=10,
    best_of_n=3,
    best_of_n_prompts=4,
    bootstrap_samples=100,
    shown_samples=2,
    batch_size=4,
    gold="tests.evaluation.graders:shorter_is_better",
)
WITHOUT_GOLD = SETTINGS.model_copy(update={"gold": None})


class Folders(NamedTuple):
    data: Path
    sft: Path
    reward_model: Path
    ppo: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Folders:
    """A data artifact of twelve prompts, half of them with a demonstration, and random models."""
    root = tmp_path_factory.mktemp("artifacts")
    made = Folders(*(root / name for name in Folders._fields))
    for folder in made:
        folder.mkdir()
    prompts = [NASTY, *(f"a {word}" for word in WORDS.split()[1:12])]
    write_table(
        made.data,
        "prompts",
        "evaluation",
        [
            {"prompt": prompt, "reference": None if row % 2 else "b c d", "file": "f", "line": row}
            for row, prompt in enumerate(prompts)
        ],
    )
    _write_texts(made.data, [])
    tokenizer = word_tokenizer([WORDS, "->", NASTY])
    for folder, seed in ((made.sft, 1), (made.ppo, 2)):
        policy = new_policy(MODEL.scratch, tokenizer, max_tokens=32, seed=seed)
        save_policy(policy, tokenizer, folder)
    template = {"prompt_template": MODEL.prompt_template, "response_prefix": MODEL.response_prefix}
    reward_model = RewardModel([new_scalar_model(made.sft, seed=3)])
    save_reward_model(reward_model, made.reward_model, **template)
    tokenizer.save_pretrained(made.reward_model)
    _write_records(made)
    return made


def _write_texts(folder: Path, texts: list[str]) -> None:
    rows = [{"text": text, "file": "t", "line": line} for line, text in enumerate(texts, start=1)]
    write_table(folder, "text", "validation", rows)


def _write_records(folders: Folders) -> None:
    history = {
        "sft": {"loss": 1.0, "validation_loss": 1.1},
        "reward_model": {"loss": 0.7, "accuracy": 0.6},
        "ppo": {"score": 0.1, "kl_to_reference": 0.2, "entropy": 2.0, "clip_fraction": None},
    }
    for name, metrics in history.items():
        lines = [json.dumps({"step": step, **metrics}) for step in (1, 2, 3)]
        (getattr(folders, name) / "history.jsonl").write_text("\n".join(lines) + "\n")
    card = {
        "accuracy": 0.7,
        "accuracy_low": 0.65,
        "accuracy_high": 0.75,
        "loss": 0.6,
        "margin": 0.4,
        "longer_wins_accuracy": 0.55,
        "longer_wins_interval": {"mean": 0.55, "low": 0.5, "high": 0.6},
        "length_correlation": 0.1,
        "pairs": 90.0,
        "calibration": [{"margin": 0.1, "promised": 0.52, "found": 0.6, "pairs": 90.0}],
        "accuracy_by_source": {NASTY: {"mean": 0.7, "low": 0.6, "high": 0.8, "pairs": 9.0}},
    }
    (folders.reward_model / "scorecard.json").write_text(json.dumps(card))
    (folders.ppo / SCORING).write_text(ScoringSettings().model_dump_json())
    (folders.ppo / "preflight.json").write_text(json.dumps({"missing_eos_score": -7.0}))


def evaluate(folders: Folders, out_dir: Path, settings=SETTINGS, report=ignore):
    out_dir.mkdir()
    return make_evaluation(
        settings, MODEL, **folders._asdict(), out_dir=out_dir, report=report, seed=5
    )


@pytest.fixture(scope="module")
def evaluated(folders, tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("evaluation") / "out"
    return evaluate(folders, out_dir), out_dir


def test_the_same_inputs_and_seed_give_the_same_bytes(folders, evaluated, tmp_path):
    summary, first = evaluated

    assert evaluate(folders, tmp_path / "again") == summary
    names = sorted(path.name for path in first.iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    for name in names:
        assert (first / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_another_seed_draws_other_answers(folders, evaluated, tmp_path):
    tmp_path.joinpath("out").mkdir()
    make_evaluation(
        SETTINGS, MODEL, **folders._asdict(), out_dir=tmp_path / "out", report=ignore, seed=6
    )

    theirs = (tmp_path / "out" / "samples.jsonl").read_text()
    assert theirs != (evaluated[1] / "samples.jsonl").read_text()


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data


def read_page(folder: Path) -> Page:
    page = Page()
    page.feed((folder / "report.html").read_text(encoding="utf-8"))
    return page


def test_the_report_shows_a_prompt_full_of_tags_as_text(evaluated):
    page = read_page(evaluated[1])

    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(NASTY) == 2  # in the sample, and in the accuracy by source


def test_the_report_needs_no_other_file(evaluated):
    page = read_page(evaluated[1])

    addresses = [
        attributes[name]
        for _, attributes in page.tags
        for name in ("src", "href", "action")
        if name in attributes
    ]
    pictures = len(list(evaluated[1].glob("*.png")))
    assert pictures == 5
    assert len(addresses) == pictures
    assert all(address.startswith("data:image/png;base64,") for address in addresses)


def test_the_flat_metrics_are_the_means_of_what_was_judged(evaluated):
    summary, folder = evaluated
    document = json.loads((folder / "metrics.json").read_text())

    assert document["metrics"] == summary
    # every demonstration is "b c d", three words: 1 / (1 + 3)
    assert summary["gold_demonstrations"] == 0.25
    assert document["sets"]["demonstrations"]["responses"] == 5  # every other prompt of ten
    assert document["win_rates_of_ppo_over"]["demonstrations"]["pairs"] == 5
    assert document["win_rates_of_ppo_over"]["best_of_n"]["pairs"] == 4
    assert summary["win_rate_over_sft_low"] <= summary["win_rate_over_sft"]


def test_a_response_that_did_not_end_has_the_score_that_ppo_gave_it(evaluated):
    _, folder = evaluated
    lines = (folder / "samples.jsonl").read_text().splitlines()
    answers = [answer for line in lines for answer in json.loads(line)["answers"].values()]
    unfinished = [answer for answer in answers if not answer["ended"]]

    assert unfinished
    assert {answer["score"] for answer in unfinished} == {-7.0}
    assert {answer["tokens"] for answer in unfinished} == {24}
    assert all(answer["score"] != -7.0 for answer in answers if answer["ended"])


def test_best_of_n_scores_above_its_own_samples(evaluated):
    curve = json.loads((evaluated[1] / "metrics.json").read_text())["best_of_k"]

    assert [point["k"] for point in curve] == [1, 2, 3]
    assert curve[0]["score"] < curve[1]["score"] < curve[2]["score"]
    assert curve[2]["score"] == pytest.approx(evaluated[0]["score_best_of_n"])


def test_without_gold_the_report_says_that_its_judge_is_not_independent(folders, tmp_path):
    summary = evaluate(folders, tmp_path / "out", WITHOUT_GOLD)

    assert not any(name.startswith("gold") for name in summary)
    assert "win_rate_over_sft" in summary
    page = read_page(tmp_path / "out")
    assert "No independent judge." in page.text
    assert "no independent evidence" in page.text
    assert "gold score" not in page.text


def test_the_loss_on_plain_text_is_measured_before_and_after(folders, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(folders.data, data)
    _write_texts(data, ["a b c d", "e f", "g"])
    summary = evaluate(folders._replace(data=data), tmp_path / "out")

    assert summary["alignment_tax"] == pytest.approx(
        summary["text_loss_ppo"] - summary["text_loss_sft"]
    )
    tax = json.loads((tmp_path / "out" / "metrics.json").read_text())["alignment_tax"]
    assert (tax["texts"], tax["tokens"]) == (2, 4)  # nothing predicts a first token
    assert "alignment tax" in read_page(tmp_path / "out").text


def test_the_policies_that_ppo_kept_are_judged_on_the_way(folders, tmp_path):
    ppo = tmp_path / "ppo"
    shutil.copytree(folders.ppo, ppo)
    tokenizer = word_tokenizer([WORDS, "->", NASTY])
    for update, seed in ((1, 1), (2, 4)):  # the SFT policy itself, and a third one
        policy = new_policy(MODEL.scratch, tokenizer, max_tokens=32, seed=seed)
        save_policy(policy, tokenizer, ppo / "course" / f"update-{update:06d}")
    seen = []
    evaluate(
        folders._replace(ppo=ppo),
        tmp_path / "out",
        report=lambda step, metrics: seen.append(metrics["progress"]),
    )

    course = json.loads((tmp_path / "out" / "metrics.json").read_text())["course"]
    assert [point["update"] for point in course["points"]] == [1, 2, 3]
    assert course["points"][0]["kl"] == pytest.approx(0, abs=1e-5)
    assert course["points"][2]["kl"] > 0.1
    assert course["law"] is None  # two points beyond the start are too few for two numbers
    assert seen[-1] == 1.0
    assert "over-optimisation" in read_page(tmp_path / "out").text


def test_a_served_judge_is_asked_about_the_same_answers(folders, tmp_path):
    with served(lambda question: "A" if "FIRST: b c d" in question else "B") as (address, seen):
        judge = JudgeSettings(
            address=address,
            model="a <b>judge</b>",
            instruction="{prompt} FIRST: {first} SECOND: {second}",
            rivals=("sft", "demonstrations"),
            prompts=4,
        )
        settings = SETTINGS.model_copy(update={"judge": judge})
        summary = evaluate(folders, tmp_path / "out", settings)

    assert len(seen) == 2 * (4 + 4)
    assert summary["judge_win_rate_over_demonstrations"] == 0.0  # "b c d" wins in either place
    lines = (tmp_path / "out" / "judgements.jsonl").read_text().splitlines()
    assert [json.loads(line)["rival"] for line in lines] == ["sft"] * 4 + ["demonstrations"] * 4
    page = read_page(tmp_path / "out")
    assert "Win rates of PPO by a <b>judge</b>" in page.text


def test_progress_is_reported_until_every_response_is_sampled(folders, tmp_path):
    seen: list[tuple[int, float, float]] = []
    evaluate(
        folders,
        tmp_path / "out",
        WITHOUT_GOLD,
        report=lambda step, metrics: seen.append((step, metrics["answered"], metrics["progress"])),
    )

    assert [step for step, _, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][1:] == (4 * 10 + 3 * 4, 1.0)


def test_a_folder_without_ppos_own_measurements_is_refused(folders, tmp_path):
    with pytest.raises(ArtifactError, match=r"scoring\.json.*stage 'ppo'"):
        evaluate(folders._replace(ppo=folders.sft), tmp_path / "out")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(word_tokenizer([WORDS, "->"]), MODEL)


def test_only_prompts_within_the_budget_are_asked_and_keep_their_reference(encoder):
    table = pd.DataFrame(
        {
            "prompt": ["a b", "a b c d e f g h", "c d"],  # eight words and "->" are nine tokens
            "reference": ["one", "two", None],
        },
        dtype=object,
    )

    prompts = held_out_prompts(encoder, table, 10)

    assert list(prompts.texts) == ["a b", "c d"]
    assert list(prompts.references) == ["one", None]
    assert list(held_out_prompts(encoder, table, 1).texts) == ["a b"]


def test_evaluating_on_no_prompt_at_all_is_refused(encoder):
    with pytest.raises(DataError, match="max_prompt_tokens"):
        held_out_prompts(encoder, pd.DataFrame({"prompt": [], "reference": []}), 10)


def test_demonstrations_over_the_token_budget_are_left_out(encoder):
    texts = ["a", "b", "c"]
    long = " ".join(["d"] * 24)  # 24 tokens and the end token are one too many
    answers = demonstrations(Prompts(texts, encoder.prompts(texts), ["e f", long, None]), encoder)

    assert list(answers.rows) == [0]
    assert list(answers.texts) == ["e f"]
    assert answers.ids[0][-1] == encoder.eos_token_id


def test_kl_is_the_summed_difference_of_the_responses_log_probabilities(encoder):
    tokenizer = encoder.tokenizer
    policy, reference = (
        new_policy(MODEL.scratch, tokenizer, max_tokens=32, seed=seed).eval() for seed in (1, 2)
    )
    special = SpecialTokens([encoder.eos_token_id], encoder.pad_token_id)
    texts = ["a b c", "d"]
    prompts = Prompts(texts, encoder.prompts(texts), [None, None])
    sample = Sampler(encoder, special, 8, lambda _: None)
    answers = sample(policy, prompts, temperature=1.0, copies=3, seed=4)

    found = sequence_kl(policy, reference, prompts, answers, special=special, batch_size=4)

    for place, row in enumerate(answers.rows):
        prompt, response = prompts.ids[row], answers.ids[place]
        logprobs = []  # sums of up to 80 nats, each rounded to about 1e-5
        for model in (policy, reference):
            logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
            logits[:, encoder.pad_token_id] = -torch.inf  # padding is no action
            logprobs.append(logits.log_softmax(-1)[range(len(response)), response].sum())
        assert_close(torch.tensor(found.k1[place]), (logprobs[0] - logprobs[1]).detach())
        sampler = torch.tensor(answers.loglikelihoods[place])
        assert_close(sampler, logprobs[0].detach(), rtol=1e-5, atol=1e-4)


def test_greedy_answers_do_not_depend_on_the_seed(encoder):
    policy = new_policy(MODEL.scratch, encoder.tokenizer, max_tokens=32, seed=1).eval()
    special = SpecialTokens([encoder.eos_token_id], encoder.pad_token_id)
    prompts = Prompts(["a b"], encoder.prompts(["a b"]), [None])
    sample = Sampler(encoder, special, 8, lambda _: None)

    greedy = [sample(policy, prompts, temperature=0.0, copies=1, seed=seed) for seed in (1, 2)]
    drawn = [sample(policy, prompts, temperature=1.0, copies=1, seed=seed) for seed in (1, 2)]

    assert greedy[0].ids == greedy[1].ids
    assert drawn[0].ids != drawn[1].ids


def test_a_held_out_reward_model_grades_every_set_of_answers(folders, tmp_path):
    reward_model = tmp_path / "reward_model"
    shutil.copytree(folders.reward_model, reward_model)
    template = {"prompt_template": MODEL.prompt_template, "response_prefix": MODEL.response_prefix}
    other = RewardModel([new_scalar_model(folders.sft, seed=4)])
    save_reward_model(other, reward_model / HELD_OUT, **template)
    metrics = evaluate(folders._replace(reward_model=reward_model), tmp_path / "out")
    assert metrics["held_out_score_ppo"] != pytest.approx(metrics["score_ppo"])
    assert "held-out reward model" in (tmp_path / "out" / "report.html").read_text()
    assert "held_out_score_ppo" not in evaluate(folders, tmp_path / "without")


def few_words(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward without a model."""
    return [-float(len(response.split())) for response in responses]


def test_where_functions_paid_alone_they_judge_and_there_is_no_reward_model(folders, tmp_path):
    ppo = tmp_path / "ppo"
    shutil.copytree(folders.ppo, ppo)
    paid = ScoringSettings(rewards=(RewardSettings(source=f"{__name__}:few_words"),))
    (ppo / SCORING).write_text(paid.model_dump_json())
    metrics = evaluate(folders._replace(ppo=ppo, reward_model=None), tmp_path / "out")
    assert metrics["score_demonstrations"] == -3  # each is "b c d"
    report = (tmp_path / "out" / "report.html").read_text()
    assert "validation pairs" not in report  # nothing is said of a reward model's worth
    assert not (tmp_path / "out" / "learning-reward-model.png").exists()
