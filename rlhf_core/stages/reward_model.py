"""The `reward_model` stage: the SFT policy and preferences in, a reward model out."""

import json
from pathlib import Path

import torch
from transformers import GenerationConfig

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import TrainingStopped
from rlhf_core.history import recorded
from rlhf_core.models import end_token_ids
from rlhf_core.pages.scorecard import scorecard_page
from rlhf_core.pretrained import load_outside_scalar_model, load_tokenizer
from rlhf_core.readings import write_readings
from rlhf_core.report import Report
from rlhf_core.reward_models import HELD_OUT, RewardModel, save_reward_model
from rlhf_core.scorecard import Scorecard, ScoredTexts, scorecard
from rlhf_core.settings.model import ModelSettings
from rlhf_core.settings.reward_model import (
    PretrainedRewardModelSettings,
    Readout,
    RewardModelSettings,
)
from rlhf_core.stages.collecting import Preferences, collected_preferences
from rlhf_core.tables import read_demonstrations, read_preferences
from rlhf_core.training.candidates import Candidates, Chosen
from rlhf_core.training.compared import Comparisons, compare
from rlhf_core.training.encoded import encoded_demonstrations
from rlhf_core.training.gate import SCORECARD
from rlhf_core.training.normalization import Reading, SftSamples, Texts, member_scores_of, normalize
from rlhf_core.training.optimization import make_accelerator
from rlhf_core.training.ranked import encoded_rankings, mismatches
from rlhf_core.training.taken_readings import reward_model_readings


def make_reward_model(
    settings: RewardModelSettings,
    model: ModelSettings,
    *,
    data: Path,
    sft: Path,
    out_dir: Path,
    report: Report,
    seed: int,
    checkpoints: Checkpoints | None = None,
) -> dict[str, float]:
    """Write the reward model, its tokenizer, its training's record and scorecard into `out_dir`."""
    tokenizer = load_tokenizer(sft)
    encoder = Encoder(tokenizer, model)
    ends = end_token_ids(GenerationConfig.from_pretrained(sft), tokenizer)
    own = Reading(encoder, SpecialTokens(ends, encoder.pad_token_id))
    reading = own if settings.pretrained is None else outside_reading(settings.pretrained, model)
    special = reading.special
    table = read_demonstrations(data, "train")
    demonstrations = encoded_demonstrations(reading.encoder, table)
    preferences = given_preferences(data)
    if settings.collect is not None:
        preferences = collected_preferences(
            settings.collect,
            model,
            data=data,
            sft=sft,
            out_dir=out_dir,
            report=report,
            seed=seed,
        )
    train, _ = encoded_rankings(reading.encoder, preferences.train)
    validation, rows = encoded_rankings(reading.encoder, preferences.validation)
    samples = SftSamples(sft, own, reading, 4 * settings.batch_size, seed)
    with recorded(out_dir, report) as recording:
        if settings.pretrained is not None:
            chosen = Chosen(outside_reward_model(settings.pretrained, settings.readout), None, 0)
        else:
            mismatched = mismatches(
                demonstrations.prompts,
                demonstrations.responses,
                rows=settings.mismatch_rows,
                group_size=settings.mismatch_group_size,
                seed=seed,
            )
            chosen = Candidates(
                settings,
                sft,
                mismatched,
                validation,
                special,
                make_accelerator(),
                recording,
                checkpoints,
                seed,
            ).train(train)
        first = slice(settings.normalization_rows)
        texts = Texts(demonstrations.prompts[first], demonstrations.responses[first])
        origin = texts
        if settings.normalize_on == "samples":
            origin = samples(list(table.prompt[first]))
        for reward_model in (chosen.reward_model, chosen.held_out):
            if reward_model is not None:
                normalize(reward_model, origin, settings, special)
        comparisons = compare(
            chosen.reward_model, validation, special=special, batch_size=4 * settings.batch_size
        )
        refuse_not_finite(comparisons)
        answers = samples(list(rows.prompt[: settings.scorecard_samples]))
        scored = ScoredTexts(
            *(
                member_scores_of(chosen.reward_model, shown, settings, special).mean(dim=0)
                for shown in (texts, answers)
            )
        )
        card = scorecard(comparisons, rows, scored, seed=seed)
        summary = {"validation_" + name: value for name, value in card.summary.items()}
        recording(chosen.steps, summary)
    write_reward_model(chosen, reading.encoder, out_dir)
    write_scorecard(card, out_dir)
    read = reward_model_readings(chosen.reward_model, reading.encoder, rows, reading.special)
    write_readings(out_dir, read)
    counts = {"steps": chosen.steps, "rankings": len(train.prompts)}
    return {**card.summary, **preferences.metrics, **counts}


def write_scorecard(card: Scorecard, out_dir: Path) -> None:
    """`out_dir` holds the scorecard as a document, and as a page that needs no other file."""
    document = json.dumps(card.document, indent=2, ensure_ascii=False)
    for name, text in ((SCORECARD, document), ("scorecard.html", scorecard_page(card.document))):
        (out_dir / name).write_text(text + "\n", encoding="utf-8", newline="\n")


def refuse_not_finite(comparisons: Comparisons) -> None:
    """Raise TrainingStopped where a validation score is infinite or no number."""
    scores = torch.cat([comparisons.better, comparisons.worse])
    wrong = int((~torch.isfinite(scores)).sum())
    if wrong:
        raise TrainingStopped(
            f"{wrong} of {len(scores)} validation scores of the reward model are not finite: it "
            "diverged, or its weights overflow. Lower reward_model.learning_rate, or look for "
            "extreme rows."
        )


def given_preferences(data: Path) -> Preferences:
    """The rankings of the data artifact."""
    return Preferences(read_preferences(data, "train"), read_preferences(data, "validation"), {})


def write_reward_model(chosen: Chosen, encoder: Encoder, out_dir: Path) -> None:
    """`out_dir` holds the reward model, its tokenizer and template, and the held-out one below."""
    template = {
        "prompt_template": encoder.settings.prompt_template,
        "response_prefix": encoder.settings.response_prefix,
    }
    save_reward_model(chosen.reward_model, out_dir, **template)
    encoder.tokenizer.save_pretrained(out_dir)
    if chosen.held_out is not None:
        save_reward_model(chosen.held_out, out_dir / HELD_OUT, **template)
        encoder.tokenizer.save_pretrained(out_dir / HELD_OUT)


def outside_reading(settings: PretrainedRewardModelSettings, model: ModelSettings) -> Reading:
    """How a reward model from elsewhere reads texts: by its own tokenizer and template."""
    template = {
        "prompt_template": settings.prompt_template,
        "response_prefix": settings.response_prefix,
    }
    tokenizer = load_tokenizer(settings.source, revision=settings.revision)
    encoder = Encoder(tokenizer, model.model_copy(update=template))
    return Reading(encoder, SpecialTokens([encoder.eos_token_id], encoder.pad_token_id))


def outside_reward_model(settings: PretrainedRewardModelSettings, readout: Readout) -> RewardModel:
    """The reward model from elsewhere, to be read as the recipe says."""
    scalar = load_outside_scalar_model(
        settings.source, revision=settings.revision, setting="reward_model.pretrained.source"
    )
    return RewardModel([scalar], readout).eval().to(make_accelerator().device)
