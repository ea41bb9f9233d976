"""The `evaluation` stage: every artifact and held-out prompts in, figures and a report out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.errors import ArtifactError
from rlhf_core.evaluation.answers import (
    Answered,
    Judge,
    JudgedAnswers,
    Prompts,
    Sampler,
    SequenceKl,
    demonstrations,
    picked,
    sequence_kl,
)
from rlhf_core.evaluation.course import course_of
from rlhf_core.evaluation.gold import load_gold
from rlhf_core.evaluation.page import report_page
from rlhf_core.evaluation.pictures import write_pictures
from rlhf_core.evaluation.records import document, judged_lines, samples, summary
from rlhf_core.evaluation.results import Results, SetName, measured
from rlhf_core.evaluation.served_judge import Judgement, judged_pairs
from rlhf_core.evaluation.text_loss import AlignmentTax, alignment_tax, text_losses
from rlhf_core.evaluation.training_records import read_training_records
from rlhf_core.history import read_history
from rlhf_core.judging import Pair
from rlhf_core.models import end_token_ids
from rlhf_core.pretrained import load_policy, load_tokenizer
from rlhf_core.report import Report
from rlhf_core.scorers import SCORING, Reader, load_scorer
from rlhf_core.settings.evaluation import EvaluationSettings
from rlhf_core.settings.model import ModelSettings
from rlhf_core.settings.rewards import ScoringSettings
from rlhf_core.sft_epochs import start_of
from rlhf_core.stages.ppo import fitting_prompts
from rlhf_core.tables import read_prompts, read_text
from rlhf_core.training.optimization import make_accelerator
from rlhf_core.training.ppo_course import kept_policies

SAMPLED_SETS: Mapping[SetName, float] = {
    "sft": 1.0,
    "sft_greedy": 0.0,
    "ppo": 1.0,
    "ppo_greedy": 0.0,
}
"""Sets with one answer of a policy to each prompt, and the temperature; 0 is greedy."""


def make_evaluation(
    settings: EvaluationSettings,
    model: ModelSettings,
    *,
    data: Path,
    sft: Path,
    reward_model: Path | None,
    ppo: Path,
    out_dir: Path,
    report: Report,
    seed: int,
) -> dict[str, float]:
    """Write report.html, its pictures, metrics.json and samples.jsonl into `out_dir`."""
    encoder = Encoder(load_tokenizer(sft), model)
    prompts = held_out_prompts(encoder, read_prompts(data, "evaluation"), settings.prompts)
    results = evaluate(
        settings,
        encoder,
        prompts,
        list(read_text(data, "validation").text[: settings.texts]),
        sft=sft,
        reward_model=reward_model,
        ppo=ppo,
        report=report,
        seed=seed,
    )
    records = read_training_records(sft=sft, reward_model=reward_model, ppo=ppo)
    if make_accelerator().is_main_process:
        _write(out_dir / "metrics.json", json.dumps(document(results), indent=2))
        shown = samples(results, settings.shown_samples)
        lines = [json.dumps(sample, ensure_ascii=False) for sample in shown]
        _write(out_dir / "samples.jsonl", "\n".join(lines))
        if results.judgements:
            asked = [json.dumps(pair, ensure_ascii=False) for pair in judged_lines(results)]
            _write(out_dir / "judgements.jsonl", "\n".join(asked))
        pictures = write_pictures(results, records, out_dir)
        _write(out_dir / "report.html", report_page(results, records, pictures, out_dir))
    return summary(results)


def evaluate(
    settings: EvaluationSettings,
    encoder: Encoder,
    prompts: Prompts,
    texts: Sequence[str],
    *,
    sft: Path,
    reward_model: Path | None,
    ppo: Path,
    report: Report,
    seed: int,
) -> Results:
    """Let both policies answer the prompts, judge every answer, and read the plain texts."""
    gold = None if settings.gold is None else load_gold(settings.gold)
    device = make_accelerator().device
    reference = load_policy(start_of(ppo, sft)).eval().to(device)
    policy = load_policy(ppo).eval().to(device)
    special = SpecialTokens(
        end_token_ids(reference.generation_config, encoder.tokenizer), encoder.pad_token_id
    )
    scoring = ScoringSettings.model_validate_json(_of_ppo(ppo, SCORING))
    reader = Reader(encoder, special, prompts.known())
    scorer = load_scorer(scoring, reward_model, reader, policy=sft).to(device)
    judge = Judge(scorer, _missing_eos_score(ppo), gold, special, settings.batch_size)
    few, count = prompts.first(settings.best_of_n_prompts), settings.best_of_n
    on_the_way = len(kept_policies(ppo))
    along = (on_the_way + 1) * len(few) if on_the_way else 0
    answered = _progress(report, len(SAMPLED_SETS) * len(prompts) + count * len(few) + along)
    sample = Sampler(encoder, special, settings.batch_size, answered)
    first_seed = seed * 1_000_003
    many = judge(few, sample(reference, few, temperature=1.0, copies=count, seed=first_seed))
    sets = {
        name: judge(
            prompts,
            sample(
                policy if name in ("ppo", "ppo_greedy") else reference,
                prompts,
                temperature=temperature,
                copies=1,
                seed=first_seed + number,
            ),
        )
        for number, (name, temperature) in enumerate(SAMPLED_SETS.items(), start=1)
    }
    sets["best_of_n"] = picked(many, many.scores)
    sets["best_of_n_by_likelihood"] = picked(many, many.answers.loglikelihoods)
    references = demonstrations(prompts, encoder)
    if references.rows:
        sets["demonstrations"] = judge(prompts, references)

    def distance(moved: PreTrainedModel, judged: JudgedAnswers) -> SequenceKl:
        return sequence_kl(
            moved,
            reference,
            few,
            judged.answers,
            special=special,
            batch_size=settings.batch_size,
        )

    course = course_of(
        ppo,
        many,
        (last_update(ppo), policy),
        prompts=few,
        answer=lambda moved, update: judge(
            few,
            sample(
                moved, few, temperature=1.0, copies=1, seed=first_seed + len(SAMPLED_SETS) + update
            ),
        ),
        distance=distance,
    )
    kl = sequence_kl(
        policy,
        reference,
        prompts,
        sets["ppo"].answers,
        special=special,
        batch_size=settings.batch_size,
    )
    return measured(
        prompts,
        sets,
        many,
        kl,
        settings,
        judgements=_served_judgements(prompts, sets, settings, seed=seed),
        course=course,
        tax=_tax(reference, policy, encoder, texts, settings, seed=seed),
        seed=seed,
    )


def _served_judgements(
    prompts: Prompts,
    sets: Mapping[SetName, JudgedAnswers],
    settings: EvaluationSettings,
    *,
    seed: int,
) -> dict[SetName, Judgement]:
    """What the served judge says of PPO against each rival that answered; empty without one."""
    judge = settings.judge
    if judge is None:
        return {}
    found: dict[SetName, Judgement] = {}
    ours = dict(zip(sets["ppo"].answers.rows, sets["ppo"].answers.texts, strict=True))
    for rival in judge.rivals:
        if rival not in sets:
            continue
        theirs = sets[rival].answers
        pairs = [
            Pair(prompts.texts[row], ours[row], text)
            for row, text in zip(theirs.rows, theirs.texts, strict=True)
            if row in ours
        ][: judge.prompts]
        found[rival] = judged_pairs(
            pairs, judge, bootstrap_samples=settings.bootstrap_samples, seed=seed
        )
    return found


def _tax(
    reference: PreTrainedModel,
    policy: PreTrainedModel,
    encoder: Encoder,
    texts: Sequence[str],
    settings: EvaluationSettings,
    *,
    seed: int,
) -> AlignmentTax | None:
    """Loss on the held-out texts before and after tuning; None where there are none to read."""
    before, after = (
        text_losses(model, encoder, texts, batch_size=settings.batch_size)
        for model in (reference, policy)
    )
    if not before.tokens:
        return None
    return alignment_tax(before, after, bootstrap_samples=settings.bootstrap_samples, seed=seed)


def last_update(ppo: Path) -> int:
    """How many updates PPO has made."""
    return int(max(entry["step"] or 0 for entry in read_history(ppo)))


def held_out_prompts(encoder: Encoder, table: pd.DataFrame, limit: int) -> Prompts:
    """The first prompts of the evaluation split that fit, at most `limit`; DataError for none."""
    texts, ids = fitting_prompts(encoder, list(table.prompt))
    fitting = set(texts)
    references = [
        reference
        for prompt, reference in zip(table.prompt, table.reference, strict=True)
        if prompt in fitting
    ]
    return Prompts(texts, ids, references).first(limit)


def _missing_eos_score(ppo: Path) -> float:
    """What stood for the score of an unfinished response in PPO, and stands for it here."""
    return float(json.loads(_of_ppo(ppo, "preflight.json"))["missing_eos_score"])


def _of_ppo(ppo: Path, name: str) -> str:
    """The text of a file of PPO's artifact; ArtifactError where it holds none."""
    path = ppo / name
    if not path.exists():
        raise ArtifactError(
            f"{ppo} holds no {path.name}: it is not the artifact of stage 'ppo', or it is "
            "incomplete. Run stage 'ppo' again, or pass the folder that it reported."
        )
    return path.read_text(encoding="utf-8")


def _progress(report: Report, total: int) -> Answered:
    """Reports how many responses have been sampled, batch by batch."""
    done: list[int] = []

    def answered(count: int) -> None:
        done.append(count)
        report(len(done), {"answered": sum(done), "progress": sum(done) / total})

    return answered


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
