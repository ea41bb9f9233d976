"""The `ppo` stage: SFT policy, reward model and prompts in, the tuned policy out."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.checkpoints import Checkpoints
from rlhf_core.errors import DataError
from rlhf_core.history import NOT_RECORDED, recorded
from rlhf_core.models import (
    end_token_ids,
    merged,
    weights_digest,
)
from rlhf_core.pretrained import (
    load_tokenizer,
    save_model,
    save_policy,
)
from rlhf_core.readings import read_readings
from rlhf_core.report import Report
from rlhf_core.scorers import SCORING, PromptText, Reader, load_scorer
from rlhf_core.settings.model import ModelSettings
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.settings.ptx import PtxSettings
from rlhf_core.sft_epochs import write_start
from rlhf_core.sharing import published_value_model
from rlhf_core.stages.course import settled_course, write_course
from rlhf_core.stages.policies import LeftPolicies, last_good_kept, left_policies
from rlhf_core.stages.shown import sample_lines
from rlhf_core.stages.starting import chosen_start
from rlhf_core.tables import read_preferences, read_prompts, read_text
from rlhf_core.training.averaging import WeightAverage
from rlhf_core.training.dpo import Preferences, train_dpo
from rlhf_core.training.gate import Gate
from rlhf_core.training.likelihoods import with_reference
from rlhf_core.training.optimization import make_accelerator
from rlhf_core.training.ppo import check_shares, train_ppo
from rlhf_core.training.ppo_course import PpoCourse, kept_updates
from rlhf_core.training.ppo_metrics import rollout_metrics
from rlhf_core.training.ppo_models import load_models, said_of_bodies
from rlhf_core.training.preflight import check_before_ppo
from rlhf_core.training.ptx import cut_texts
from rlhf_core.training.ranked import encoded_rankings
from rlhf_core.training.rollouts import PpoModels, collect_rollout
from rlhf_core.training.startup import (
    check_readings,
    check_same_reference,
)
from rlhf_core.training.state import saving_into

SHOWN_SAMPLES = 20
"""Prompts whose responses are kept beside the policy, to be read by a person (section 6.4)."""

COMPARED = ("score", "kl_to_reference", "ended_share")
"""Metrics of a rollout that are measured of the last and of the averaged weights."""


def make_ppo(
    settings: PpoSettings,
    model: ModelSettings,
    *,
    data: Path,
    sft: Path,
    reward_model: Path | None,
    out_dir: Path,
    report: Report,
    seed: int,
    checkpoints: Checkpoints | None = None,
) -> dict[str, float]:
    """Write the policy, its value model, samples and the record of the run into `out_dir`.

    An algorithm without a value model writes none.
    """
    tokenizer = load_tokenizer(sft)
    encoder = Encoder(tokenizer, model)
    accelerator = make_accelerator()
    check_shares(settings, accelerator.num_processes)
    table = read_prompts(data, "train")
    texts, prompts = fitting_prompts(encoder, list(table.prompt))
    special = SpecialTokens(
        end_token_ids(GenerationConfig.from_pretrained(sft), tokenizer), encoder.pad_token_id
    )
    gate = Gate(settings.gate)
    if checkpoints is not None:
        gate.notice = checkpoints.notice
    if reward_model is not None and settings.algorithm != "dpo":  # which is not paid by it
        gate.check_reward_model(reward_model)
    reader = Reader(encoder, special, known_prompts(texts, prompts, table))
    scorer = load_scorer(settings.scoring, reward_model, reader, policy=sft)
    start = chosen_start(settings, encoder, special, scorer, data=data, sft=sft, seed=seed)
    models = load_models(settings, start.folder, reward_model, scorer, seed=seed)
    if settings.lora is not None and checkpoints is not None:
        checkpoints.notice(said_of_bodies(models))
    for part in models.by_name().values():
        part.to(accelerator.device)
    reference_digest = weights_digest(models.reference)
    average = (
        None if settings.ema_decay is None else WeightAverage(models.policy, settings.ema_decay)
    )
    course = (
        None
        if settings.course is None
        else PpoCourse(kept_updates(settings.updates, settings.course.kept))
    )
    roll = partial(
        collect_rollout,
        settings=settings,
        special=special,
        max_response_tokens=model.max_response_tokens,
        kl_coef=settings.kl_coef,
        accelerator=accelerator,
    )
    check_readings(
        models,
        encoder,
        settings,
        special,
        of_policy=read_readings(start.folder),
        of_reward_model=read_readings(reward_model),
    )
    first = roll(
        models,
        prompts=[
            prompts[row % len(prompts)]
            for row in range(settings.rollout_batch_size // settings.responses_per_prompt)
        ],
        missing_eos_score=settings.missing_eos_score,
        seed=seed,
    )
    gate.check_scores(first.raw_scores)
    preflight = check_before_ppo(models, first, settings, special, notice=gate.notice)
    roll = partial(roll, missing_eos_score=preflight.missing_eos_score)
    with (
        recorded(out_dir, report) as recording,
        last_good_kept(models.policy, tokenizer, out_dir),
    ):
        saving = saving_into(checkpoints, recording)
        if settings.algorithm == "dpo":
            last = train_dpo(
                models,
                _preferences(settings, data, encoder, special, models),
                settings,
                recording,
                prompts=prompts,
                roll=partial(roll, models),
                seed=seed,
                accelerator=accelerator,
                saving=saving,
            )
        else:
            last = train_ppo(
                models,
                prompts,
                settings,
                recording,
                special=special,
                max_response_tokens=model.max_response_tokens,
                missing_eos_score=preflight.missing_eos_score,
                seed=seed,
                accelerator=accelerator,
                saving=saving,
                average=average,
                course=course,
                text=[] if settings.ptx is None else plain_text(encoder, data, settings.ptx),
            )
    check_same_reference(models, reference_digest, step=settings.updates)
    left = left_policies(models.policy, average, settings)
    settled = settled_course(
        course,
        settings,
        models,
        roll=partial(roll, seed=seed + 3),
        prompts=prompts,
        accelerator=accelerator,
    )
    if settled is not None and settled.measured:
        left = left._replace(published=settled.policy)
    measured = partial(
        roll,
        prompts=prompts[: settings.rollout_batch_size // settings.responses_per_prompt],
        seed=seed + 2,
    )
    of_weights = {
        name: rollout_metrics(
            measured(replace(models, policy=policy)),
            kl_coef=settings.kl_coef,
            accelerator=accelerator,
        )
        for name, policy in left.by_weights().items()
    }
    shown_prompts = -(-SHOWN_SAMPLES // settings.responses_per_prompt)
    shown = roll(
        replace(models, policy=left.published), prompts=prompts[:shown_prompts], seed=seed + 1
    )
    if accelerator.is_main_process:
        write_start(out_dir, start)
        _write(out_dir / "preflight.json", json.dumps(asdict(preflight), indent=2))
        verdicts = [verdict._asdict() for verdict in gate.verdicts]
        _write(out_dir / "gate.json", json.dumps(verdicts, indent=2))
        _write(out_dir / SCORING, settings.scoring.model_dump_json(indent=2))
        asked = [text for text in texts for _ in range(settings.responses_per_prompt)]
        _write(out_dir / "samples.jsonl", "\n".join(sample_lines(asked, shown, encoder)))
        _write_models(out_dir, models, left, tokenizer)
        write_course(course, settled, models.policy, tokenizer, out_dir, updates=settings.updates)
    starts = {f"start_{name}": value for name, value in asdict(preflight).items()}
    starts |= {} if start.epoch is None else {"sft_epoch": start.epoch}
    kept = {name: value for name, value in last.items() if name not in NOT_RECORDED}
    updates = {} if settings.algorithm == "dpo" else {"updates": settings.updates}
    compared = {f"{name}_{of}": found[of] for name, found in of_weights.items() for of in COMPARED}
    selected = {} if settled is None else {"published_update": float(settled.update)}
    return {**kept, **updates, **starts, **compared, **selected}


def _write_models(
    out_dir: Path, models: PpoModels, left: LeftPolicies, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The artifact's policy, what lies beside it, and the value model if there is one."""
    for folder, policy in {".": left.published, **left.beside}.items():
        save_policy(merged(policy), tokenizer, out_dir / folder)
    if models.value_model is not None:
        value_model = published_value_model(models.value_model, models.policy)
        save_model(value_model, out_dir / "value_model")
        tokenizer.save_pretrained(out_dir / "value_model")


def _preferences(
    settings: PpoSettings,
    data: Path,
    encoder: Encoder,
    special: SpecialTokens,
    models: PpoModels,
) -> Preferences:
    """The rankings of the data artifact that DPO learns from and is measured on."""
    tables = read_preferences(data, "train"), read_preferences(data, "validation")
    train, validation = (encoded_rankings(encoder, table)[0] for table in tables)
    return Preferences(
        with_reference(train, models.reference, settings, special),
        with_reference(validation, models.reference, settings, special),
    )


def plain_text(encoder: Encoder, data: Path, settings: PtxSettings) -> list[list[int]]:
    """Examples of the plain text to learn beside, each text ended as a response is."""
    texts = encoder.plain_texts(list(read_text(data, "train").text))
    examples = cut_texts(
        [[*ids, encoder.eos_token_id] for ids in texts], max_tokens=settings.max_tokens
    )
    if not examples:
        raise DataError(
            "ppo.ptx learns plain text, and the data artifact has none to train on: give data.text "
            "a source with more rows."
        )
    return examples


def known_prompts(
    texts: list[str], prompts: list[list[int]], table: pd.DataFrame
) -> dict[tuple[int, ...], PromptText]:
    """The texts behind the prompts' ids, with the responses that the data has for them."""
    references = dict(zip(table.prompt, table.reference, strict=True))
    return {
        tuple(ids): PromptText(text, references[text])
        for text, ids in zip(texts, prompts, strict=True)
    }


def fitting_prompts(encoder: Encoder, texts: list[str]) -> tuple[list[str], list[list[int]]]:
    """The prompts within `model.max_prompt_tokens`, as text and as ids; DataError where none is."""
    encoded = encoder.prompts(texts)
    fitting = encoder.fitting(encoded, [[]] * len(encoded))
    if not fitting:
        raise DataError(
            f"None of {len(texts)} prompts fits model.max_prompt_tokens="
            f"{encoder.settings.max_prompt_tokens}: raise it, or give shorter prompts."
        )
    return [texts[row] for row in fitting], [encoded[row] for row in fitting]


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
