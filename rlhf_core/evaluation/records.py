"""The evaluation's figures as the files and metrics that other programs read."""

from collections.abc import Mapping
from typing import TypedDict

from rlhf_core.evaluation.answers import JudgedAnswers
from rlhf_core.evaluation.measures import best_of_n_kl
from rlhf_core.evaluation.results import RIVALS, Results, SetName
from rlhf_core.statistics import Interval

DESCRIBED: tuple[SetName, ...] = ("sft", "ppo")
"""Sets whose length, ends and variety are among the flat metrics; metrics.json has all."""


def summary(results: Results) -> dict[str, float]:
    """The flat metrics; what was not measured is left out."""
    metrics: dict[str, float] = {}
    for name, measures in results.measures.items():
        if measures.gold is not None:
            metrics[f"gold_{name}"] = measures.gold.mean
        metrics[f"score_{name}"] = measures.score.mean
        if measures.held_out is not None:
            metrics[f"held_out_score_{name}"] = measures.held_out.mean
    for rival, win_rate in results.win_rates.items():
        metric = RIVALS[rival]
        metrics[metric] = win_rate.rate.mean
        metrics[f"{metric}_low"] = win_rate.rate.low
        metrics[f"{metric}_high"] = win_rate.rate.high
        if win_rate.similar_length is not None:
            metrics[f"{metric}_at_similar_length"] = win_rate.similar_length.mean
    metrics["kl_to_reference"] = results.kl.mean
    metrics["kl_to_reference_k3"] = results.kl_k3.mean
    metrics["best_of_n_kl"] = best_of_n_kl(results.settings.best_of_n)
    for rival, judgement in results.judgements.items():
        metrics[f"judge_win_rate_over_{rival}"] = judgement.rate.mean
        metrics[f"judge_win_rate_over_{rival}_low"] = judgement.rate.low
        metrics[f"judge_win_rate_over_{rival}_high"] = judgement.rate.high
    if results.tax is not None:
        metrics["text_loss_sft"] = results.tax.sft.mean
        metrics["text_loss_ppo"] = results.tax.ppo.mean
        metrics["alignment_tax"] = results.tax.difference.mean
    for name in DESCRIBED:
        measures = results.measures[name]
        metrics[f"ended_share_{name}"] = measures.ended_share
        metrics[f"response_tokens_{name}"] = measures.response_tokens
        for n, share in measures.distinct_ngrams.items():
            if share is not None:
                metrics[f"distinct_{n}_{name}"] = share
        metrics[f"distinct_responses_{name}"] = measures.distinct_responses
    metrics["prompts"] = float(len(results.prompts))
    return metrics


def document(results: Results) -> dict[str, object]:
    """Everything that was measured, intervals included: the content of metrics.json."""
    return {
        "judge": results.judge,
        "gold": results.settings.gold,
        "prompts": len(results.prompts),
        "best_of_n": results.settings.best_of_n,
        "best_of_n_prompts": results.common_prompts,
        "bootstrap_samples": results.settings.bootstrap_samples,
        "seed": results.seed,
        "metrics": summary(results),
        "sets": {
            name: {
                "responses": measures.responses,
                "score": _interval(measures.score),
                "gold": _interval(measures.gold),
                "held_out_score": _interval(measures.held_out),
                "ended_share": measures.ended_share,
                "response_tokens": measures.response_tokens,
                "distinct_ngrams": {str(n): share for n, share in measures.distinct_ngrams.items()},
                "distinct_responses": measures.distinct_responses,
            }
            for name, measures in results.measures.items()
        },
        "win_rates_of_ppo_over": {
            rival: {
                **win_rate._asdict(),
                "rate": _interval(win_rate.rate),
                "lead": _interval(win_rate.lead),
                "similar_length": _interval(win_rate.similar_length),
            }
            for rival, win_rate in results.win_rates.items()
        },
        "lead_of_best_of_n_over_likelihood": _interval(results.lead_over_likelihood),
        "kl_to_reference": _interval(results.kl),
        "kl_to_reference_k3": _interval(results.kl_k3),
        "best_of_k": [point._asdict() for point in results.frontier],
        "best_of_n_law": None if results.best_of_n_law is None else results.best_of_n_law._asdict(),
        "course": _course(results),
        "served_judge": _served_judge(results),
        "alignment_tax": None
        if results.tax is None
        else {
            **results.tax._asdict(),
            "sft": _interval(results.tax.sft),
            "ppo": _interval(results.tax.ppo),
            "difference": _interval(results.tax.difference),
        },
    }


def _course(results: Results) -> Mapping[str, object] | None:
    course = results.course
    if course is None:
        return None
    turned = course.turned_at
    return {
        "start": course.start._asdict(),
        "points": [point._asdict() for point in course.points],
        "law": None if course.law is None else course.law._asdict(),
        "turned_at": None if turned is None else turned.update,
    }


def _served_judge(results: Results) -> Mapping[str, object] | None:
    settings = results.settings.judge
    if settings is None:
        return None
    return {
        "model": settings.model,
        "win_rates_of_ppo_over": {
            rival: {
                "pairs": len(judgement.asked),
                "rate": _interval(judgement.rate),
                "disagreement": judgement.disagreement,
                "first_wins": judgement.first_wins,
                "unclear": judgement.unclear,
            }
            for rival, judgement in results.judgements.items()
        },
    }


class JudgedPair(TypedDict):
    """One pair with the judge's two verdicts: a line of judgements.jsonl."""

    rival: SetName
    prompt: str
    ours: str
    theirs: str
    ours_first: str
    ours_second: str


def judged_lines(results: Results) -> list[JudgedPair]:
    """Every pair that the served judge was asked about; A is the response that it read first."""
    return [
        JudgedPair(
            rival=rival,
            prompt=one.pair.prompt,
            ours=one.pair.ours,
            theirs=one.pair.theirs,
            ours_first=one.ours_first,
            ours_second=one.ours_second,
        )
        for rival, judgement in results.judgements.items()
        for one in judgement.asked
    ]


def _interval(interval: Interval | None) -> Mapping[str, float] | None:
    return None if interval is None else interval._asdict()


class SampledAnswer(TypedDict):
    """One answer with what the judges say of it."""

    response: str
    ended: bool
    tokens: int
    score: float
    gold: float | None


class Sample(TypedDict):
    """One prompt with the answers to it: a line of samples.jsonl."""

    prompt: str
    reference: str | None
    answers: dict[SetName, SampledAnswer]


def samples(results: Results, count: int) -> list[Sample]:
    """The first prompts, at most `count`, each with every set's answer to it."""
    return [
        Sample(
            prompt=prompt,
            reference=results.prompts.references[row],
            answers={
                name: _answer(judged, list(judged.answers.rows).index(row))
                for name, judged in results.sets.items()
                if row in judged.answers.rows
            },
        )
        for row, prompt in enumerate(results.prompts.texts[:count])
    ]


def _answer(judged: JudgedAnswers, place: int) -> SampledAnswer:
    return SampledAnswer(
        response=judged.answers.texts[place],
        ended=judged.answers.ended[place],
        tokens=len(judged.answers.ids[place]),
        score=judged.scores[place],
        gold=None if judged.golds is None else judged.golds[place],
    )
