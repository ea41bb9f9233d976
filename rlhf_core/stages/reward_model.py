"""The `reward_model` stage: the SFT policy and preferences in, a reward model out."""

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import TrainingStopped
from rlhf_core.history import recorded
from rlhf_core.models import end_token_ids
from rlhf_core.pages.scorecard import scorecard_page
from rlhf_core.pretrained import load_tokenizer
from rlhf_core.report import Report
from rlhf_core.reward_models import HELD_OUT, save_reward_model
from rlhf_core.scorecard import Scorecard, ScoredTexts, scorecard
from rlhf_core.settings.model import ModelSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.stages.collecting import Preferences, collected_preferences
from rlhf_core.tables import read_demonstrations, read_preferences
from rlhf_core.training.candidates import Candidates, Chosen
from rlhf_core.training.compared import Comparisons, compare
from rlhf_core.training.encoded import encoded_demonstrations
from rlhf_core.training.gate import SCORECARD
from rlhf_core.training.normalization import SftSamples, Texts, member_scores_of, normalize
from rlhf_core.training.optimization import make_accelerator
from rlhf_core.training.ranked import encoded_rankings, mismatches


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
    special = SpecialTokens(
        end_token_ids(GenerationConfig.from_pretrained(sft), tokenizer), encoder.pad_token_id
    )
    accelerator = make_accelerator()
    table = read_demonstrations(data, "train")
    demonstrations = encoded_demonstrations(encoder, table)
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
    train, _ = encoded_rankings(encoder, preferences.train)
    validation, rows = encoded_rankings(encoder, preferences.validation)
    samples = SftSamples(sft, encoder, special, 4 * settings.batch_size, seed)
    with recorded(out_dir, report) as recording:
        chosen = Candidates(
            settings,
            sft,
            mismatches(
                demonstrations.prompts,
                demonstrations.responses,
                rows=settings.mismatch_rows,
                group_size=settings.mismatch_group_size,
                seed=seed,
            ),
            validation,
            special,
            accelerator,
            recording,
            checkpoints,
            seed,
        ).train(train)
        first = slice(settings.normalization_rows)
        texts = Texts(demonstrations.prompts[first], demonstrations.responses[first])
        origin = samples(texts.prompts) if settings.normalize_on == "samples" else texts
        for reward_model in (chosen.reward_model, chosen.held_out):
            if reward_model is not None:
                normalize(reward_model, origin, settings, special)
        comparisons = compare(
            chosen.reward_model, validation, special=special, batch_size=4 * settings.batch_size
        )
        refuse_not_finite(comparisons)
        asked = validation.prompts[: settings.scorecard_samples]
        answers = samples(asked) if asked else Texts([], [])
        scored = ScoredTexts(
            *(
                member_scores_of(chosen.reward_model, shown, settings, special).mean(dim=0)
                for shown in (texts, answers)
            )
        )
        card = scorecard(comparisons, rows, scored, seed=seed)
        summary = {"validation_" + name: value for name, value in card.summary.items()}
        recording(chosen.steps, summary)
    write_reward_model(chosen, model, tokenizer, out_dir)
    write_scorecard(card, out_dir)
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


def write_reward_model(
    chosen: Chosen, model: ModelSettings, tokenizer: PreTrainedTokenizerBase, out_dir: Path
) -> None:
    """`out_dir` holds the reward model, its tokenizer and template, and the held-out one below."""
    template = {
        "prompt_template": model.prompt_template,
        "response_prefix": model.response_prefix,
    }
    save_reward_model(chosen.reward_model, out_dir, **template)
    tokenizer.save_pretrained(out_dir)
    if chosen.held_out is not None:
        save_reward_model(chosen.held_out, out_dir / HELD_OUT, **template)
        tokenizer.save_pretrained(out_dir / HELD_OUT)
