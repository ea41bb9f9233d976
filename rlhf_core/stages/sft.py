"""The `sft` stage: a base model and demonstrations in, the SFT policy out."""

import copy
from pathlib import Path
from typing import Literal

import torch
from peft import TaskType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.chat import carry_template
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.encoding_check import checked_encoding, write_encoding
from rlhf_core.errors import DataError
from rlhf_core.history import recorded
from rlhf_core.models import (
    fit_vocabulary,
    merged,
    new_policy,
    with_lora,
)
from rlhf_core.new_tokenizers import trained_tokenizer
from rlhf_core.pretrained import (
    load_policy,
    load_tokenizer,
    save_policy,
    separate_padding,
)
from rlhf_core.readings import KEPT, ReadText, write_readings
from rlhf_core.repetition import repetition
from rlhf_core.report import Report
from rlhf_core.settings.model import ModelSettings
from rlhf_core.settings.sft import SftSettings
from rlhf_core.sft_epochs import EPOCHS, write_selection
from rlhf_core.sft_report import write_sft_records
from rlhf_core.tables import read_demonstrations, read_preferences, read_prompts, read_text
from rlhf_core.training.demonstrations import Demonstrations
from rlhf_core.training.encoded import EncodedRows, encoded_rows
from rlhf_core.training.optimization import make_accelerator
from rlhf_core.training.ptx import cut_texts
from rlhf_core.training.sft import train_sft
from rlhf_core.training.sft_course import EpochSampler, SftOutcome
from rlhf_core.training.state import saving_into
from rlhf_core.training.taken_readings import encoded, fitting_texts, policy_readings
from rlhf_core.training.trained import copied_tensors, take_tensors


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
    notice = _unheard if checkpoints is None else checkpoints.notice
    table = read_demonstrations(data, "train")
    answers: Literal["last", "every"] = "every" if settings.loss_on == "assistant" else "last"
    encoding = checked_encoding(encoder, table, notice, answers=answers)
    train = encoded_rows(encoder, table, settings)
    validation = encoded_rows(encoder, read_demonstrations(data, "validation"), settings)
    learnt = _with_pretraining(settings, encoder, train.demonstrations, data, seed=seed)
    sampler = _sampler(settings, encoder, validation)
    accelerator = make_accelerator()
    trained = policy
    if settings.lora is not None:
        torch.manual_seed(seed)  # adapters draw from torch's global generator, dropout too
        trained = with_lora(policy, settings.lora, task=TaskType.CAUSAL_LM)
    with recorded(out_dir, report) as recording:
        outcome = train_sft(
            trained,
            learnt,
            validation.demonstrations,
            settings,
            recording,
            pad_token_id=encoder.pad_token_id,
            seed=seed,
            accelerator=accelerator,
            saving=saving_into(checkpoints, recording),
            sampler=sampler,
            notice=notice,
        )
    if accelerator.is_main_process:
        _write_epochs(trained, tokenizer, outcome, out_dir)
        write_selection(out_dir, by=settings.selection, epochs=sorted(outcome.epochs))
        published = merged(trained)
        save_policy(published, tokenizer, out_dir)
        write_encoding(out_dir, encoding)
        write_readings(out_dir, _readings(published, encoder, validation))
        write_sft_records(
            out_dir,
            encoder=encoder,
            train=train,
            validation=validation,
            sampler=sampler,
            outcome=outcome,
            settings=settings,
            rows_per_epoch=len(learnt.prompts),
            seed=seed,
        )
    truncation = train.truncation
    return {
        "validation_loss": outcome.validation_loss,
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "turned_at_step": outcome.turned_at,
        "demonstrations": len(train.demonstrations.prompts),
        "pretraining_texts": len(learnt.prompts) - len(train.demonstrations.prompts),
        "rows_dropped": truncation.rows_dropped,
        "responses_cut": truncation.responses_cut,
        "tokens_lost": truncation.tokens_lost,
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
    }


def _with_pretraining(
    settings: SftSettings, encoder: Encoder, rows: Demonstrations, data: Path, *, seed: int
) -> Demonstrations:
    """The demonstrations with plain text among them where the recipe says so."""
    if not settings.pretraining_share:
        return rows
    end = encoder.eos_token_id
    texts = encoder.plain_texts(list(read_text(data, "train").text))
    longest = encoder.settings.max_prompt_tokens + encoder.settings.max_response_tokens
    examples = cut_texts([[*ids, end] for ids in texts], max_tokens=longest)
    if not examples:
        raise DataError(
            f"sft.pretraining_share={settings.pretraining_share} mixes in plain text, and the data "
            "artifact has none to train on: give data.text a source with more rows."
        )
    return rows.mixed_with(examples, settings.pretraining_share, seed=seed)


def _readings(policy: PreTrainedModel, encoder: Encoder, validation: EncodedRows) -> list[ReadText]:
    """How the policy reads the first validation demonstrations that were not cut."""
    policy.eval()
    rows = validation.table.head(4 * KEPT)
    texts = fitting_texts(encoder, list(zip(rows.prompt, rows.response, strict=True)), KEPT)
    if not texts:
        return []
    batch = encoded(encoder, texts, encoder.pad_token_id).to(policy.device)
    values = policy_readings(policy, batch)
    return [ReadText(*text, value) for text, value in zip(texts, values, strict=True)]


def _sampler(
    settings: SftSettings, encoder: Encoder, validation: EncodedRows
) -> EpochSampler | None:
    """How the policy is asked after each epoch; None where it shall not be."""
    rows = validation.demonstrations
    shown = min(settings.samples, len(rows.prompts))
    if not shown:
        return None
    ends = [encoder.eos_token_id]
    usual = repetition(rows.responses[:shown], end_token_ids=ends)
    return EpochSampler(
        rows.prompts[:shown],
        SpecialTokens(ends, encoder.pad_token_id),
        encoder.settings.max_response_tokens,
        settings.sample_temperature,
        usual_repetition=usual["repeated_4grams"],
    )


def _write_epochs(
    trained: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    outcome: SftOutcome,
    out_dir: Path,
) -> None:
    """The policy of each kept epoch is in `epochs/N`; the weights of `trained` stay as they are."""
    if not outcome.epochs:
        return
    selected = copied_tensors(trained)
    for epoch, weights in outcome.epochs.items():
        take_tensors(trained, weights)
        save_policy(merged(copy.deepcopy(trained)), tokenizer, out_dir / EPOCHS / str(epoch))
    take_tensors(trained, selected)


def _unheard(_: str) -> None:
    """Nobody listens to what training has to say."""


def base_model(
    model: ModelSettings, data: Path, *, seed: int
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """The model that SFT starts from and its tokenizer: loaded, or made from nothing."""
    if model.base is not None:
        tokenizer = load_tokenizer(model.base, revision=model.revision)
        carry_template(tokenizer, model)
        separate_padding(tokenizer)
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
