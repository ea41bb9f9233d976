"""The `reward_model` stage: the SFT policy and preferences in, a reward model out."""

import json
from pathlib import Path

import pandas as pd
import torch
from peft import TaskType
from transformers import GenerationConfig

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import DataError
from rlhf_core.history import recorded
from rlhf_core.models import end_token_ids, merged, with_lora
from rlhf_core.pretrained import (
    load_tokenizer,
    new_scalar_model,
    save_model,
)
from rlhf_core.report import Report
from rlhf_core.scorecard import scorecard
from rlhf_core.scoring import score_in_batches
from rlhf_core.settings.model import ModelSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.stages.collecting import Preferences, collected_preferences
from rlhf_core.stages.sft import encoded_demonstrations
from rlhf_core.tables import read_demonstrations, read_preferences
from rlhf_core.training.optimization import make_accelerator
from rlhf_core.training.ranked import Rankings, mismatches
from rlhf_core.training.reward_model import compare, shift_scores, train_reward_model
from rlhf_core.training.state import saving_into


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
    reward_model = new_scalar_model(sft, seed=seed)
    if settings.lora is not None:
        torch.manual_seed(seed)  # adapters draw from torch's global generator
        reward_model.model = with_lora(reward_model.model, settings.lora, task=TaskType.TOKEN_CLS)
    demonstrations = encoded_demonstrations(encoder, read_demonstrations(data, "train"))
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
    with recorded(out_dir, report) as recording:
        steps = train_reward_model(
            reward_model,
            train,
            settings,
            recording,
            special=special,
            mismatched=mismatches(
                demonstrations.prompts,
                demonstrations.responses,
                rows=settings.mismatch_rows,
                group_size=settings.mismatch_group_size,
                seed=seed,
            ),
            seed=seed,
            accelerator=accelerator,
            saving=saving_into(checkpoints, recording),
        )
        reward_model.model = merged(reward_model.model)
        reward_model.eval()
        chosen = slice(settings.normalization_rows)
        scores = score_in_batches(
            reward_model,
            demonstrations.prompts[chosen],
            demonstrations.responses[chosen],
            special=special,
            batch_size=4 * settings.batch_size,
        )
        if settings.normalize_on == "demonstrations":
            shift_scores(reward_model, float(scores.mean()))
            scores = scores - scores.mean()
        comparisons = compare(
            reward_model,
            validation,
            special=special,
            batch_size=4 * settings.batch_size,
        )
        card = scorecard(comparisons, rows, demonstration_scores=scores, seed=seed)
        summary = {"validation_" + name: value for name, value in card.summary.items()}
        recording(steps, summary)
    save_model(reward_model.model, out_dir)
    tokenizer.save_pretrained(out_dir)
    (out_dir / "scorecard.json").write_text(json.dumps(card.document, indent=2) + "\n")
    counts = {"steps": steps, "rankings": len(train.prompts)}
    return {**card.summary, **preferences.metrics, **counts}


def given_preferences(data: Path) -> Preferences:
    """The rankings of the data artifact."""
    return Preferences(read_preferences(data, "train"), read_preferences(data, "validation"), {})


def encoded_rankings(encoder: Encoder, table: pd.DataFrame) -> tuple[Rankings, pd.DataFrame]:
    """Token ids of the rows that fit the budgets, and those rows; DataError where none does."""
    prompts = encoder.prompts(list(table.prompt))
    counts = [len(responses) for responses in table.responses]
    flat = encoder.responses(
        [prompt for prompt, count in zip(table.prompt, counts, strict=True) for _ in range(count)],
        [response for responses in table.responses for response in responses],
    )
    rows = iter(flat)
    responses = [[next(rows) for _ in range(count)] for count in counts]
    fitting = encoder.fitting(prompts, [max(group, key=len) for group in responses])
    if not fitting:
        raise DataError(
            f"None of {len(table)} preferences fits model.max_prompt_tokens="
            f"{encoder.settings.max_prompt_tokens} and model.max_response_tokens="
            f"{encoder.settings.max_response_tokens}: raise them, or give shorter rows."
        )
    kept = table.iloc[fitting].reset_index(drop=True)
    rankings = Rankings(
        [prompts[row] for row in fitting],
        [responses[row] for row in fitting],
        [list(ranks) for ranks in kept.ranks],
    )
    return rankings, kept
