"""The `sft` stage: a base model and demonstrations in, the SFT policy out."""

from pathlib import Path

import pandas as pd
import torch
from peft import TaskType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_core.batches import Encoder, trained_tokenizer
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import DataError
from rlhf_core.history import recorded
from rlhf_core.models import (
    fit_vocabulary,
    merged,
    new_policy,
    with_lora,
)
from rlhf_core.pretrained import load_policy, load_tokenizer, save_policy
from rlhf_core.report import Report
from rlhf_core.settings.model import ModelSettings
from rlhf_core.settings.sft import SftSettings
from rlhf_core.tables import read_demonstrations, read_preferences, read_prompts, read_text
from rlhf_core.training.demonstrations import Demonstrations
from rlhf_core.training.optimization import make_accelerator
from rlhf_core.training.sft import train_sft
from rlhf_core.training.state import saving_into


def make_sft(
    settings: SftSettings,
    model: ModelSettings,
    *,
    data: Path,
    out_dir: Path,
    report: Report,
    seed: int,
    checkpoints: Checkpoints | None = None,
) -> dict[str, float]:
    """Write the SFT policy, its tokenizer and the record of its training into `out_dir`."""
    tokenizer, policy = base_model(model, data, seed=seed)
    encoder = Encoder(tokenizer, model)
    train = encoded_demonstrations(encoder, read_demonstrations(data, "train"))
    validation = encoded_demonstrations(encoder, read_demonstrations(data, "validation"))
    accelerator = make_accelerator()
    trained = policy
    if settings.lora is not None:
        torch.manual_seed(seed)  # adapters draw from torch's global generator, dropout too
        trained = with_lora(policy, settings.lora, task=TaskType.CAUSAL_LM)
    with recorded(out_dir, report) as recording:
        outcome = train_sft(
            trained,
            train,
            validation,
            settings,
            recording,
            pad_token_id=encoder.pad_token_id,
            seed=seed,
            accelerator=accelerator,
            saving=saving_into(checkpoints, recording),
        )
    save_policy(merged(trained), tokenizer, out_dir)
    return {
        "validation_loss": outcome.validation_loss,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "demonstrations": len(train.prompts),
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
    }


def base_model(
    model: ModelSettings, data: Path, *, seed: int
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """The model that SFT starts from and its tokenizer: loaded, or made from nothing."""
    if model.base is not None:
        tokenizer = load_tokenizer(model.base, revision=model.revision)
        policy = load_policy(model.base, revision=model.revision)
        fit_vocabulary(policy, tokenizer)
        return tokenizer, policy
    assert model.scratch is not None, "the settings require one of base and scratch"
    tokenizer = trained_tokenizer(_corpus(data, model), model.scratch)
    longest = model.max_prompt_tokens + model.max_response_tokens
    return tokenizer, new_policy(model.scratch, tokenizer, max_tokens=longest, seed=seed)


def _corpus(data: Path, model: ModelSettings) -> list[str]:
    """Every text that a training stage will read, in the form in which it will read it."""
    demonstrations = read_demonstrations(data, "train")
    preferences = read_preferences(data, "train")
    prompts = [*demonstrations.prompt, *preferences.prompt, *read_prompts(data, "train").prompt]
    responses = [*demonstrations.response, *preferences.responses.explode().dropna()]
    return [
        *(model.prompt_template.replace("{prompt}", prompt) for prompt in prompts),
        *(model.response_prefix + response for response in responses),
        *read_text(data, "train").text,
    ]


def encoded_demonstrations(encoder: Encoder, table: pd.DataFrame) -> Demonstrations:
    """Token ids of the rows that fit the budgets; raises DataError where none does."""
    prompts = encoder.prompts(list(table.prompt))
    responses = encoder.responses(list(table.prompt), list(table.response))
    fitting = encoder.fitting(prompts, responses)
    if not fitting:
        raise DataError(
            f"None of {len(table)} demonstrations fits model.max_prompt_tokens="
            f"{encoder.settings.max_prompt_tokens} and model.max_response_tokens="
            f"{encoder.settings.max_response_tokens}: raise them, or give shorter rows."
        )
    return Demonstrations([prompts[row] for row in fitting], [responses[row] for row in fitting])
