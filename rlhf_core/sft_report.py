"""The files that SFT leaves beside the policy: what was read, lost and answered, and the page."""

from pathlib import Path

from rlhf_core.batches import Encoder
from rlhf_core.folders import pretty_json
from rlhf_core.history import read_history
from rlhf_core.repetition import repetition
from rlhf_core.settings.sft import SftSettings
from rlhf_core.sft_page import SftReport, sft_page
from rlhf_core.sft_records import (
    EXAMPLES,
    SAMPLES,
    TRUNCATION,
    examples,
    samples,
    write_lines,
)
from rlhf_core.training.encoded import EncodedRows
from rlhf_core.training.sft_course import EpochSampler, SftOutcome
from rlhf_core.training.sft_notes import overfitting_note, sample_notes

PAGE = "report.html"


def write_sft_records(
    folder: Path,
    *,
    encoder: Encoder,
    train: EncodedRows,
    validation: EncodedRows,
    sampler: EpochSampler | None,
    outcome: SftOutcome,
    settings: SftSettings,
    rows_per_epoch: int,
    seed: int,
) -> None:
    """`folder`, which holds the history, holds examples, samples, truncation report and page too.

    They follow from the history and the outcome alone, so that a continued run writes the same.
    """
    shown = examples(encoder, train.demonstrations, train.table)
    answers = samples(encoder, outcome.samples, validation.table)
    truncations = {"train": train.truncation, "validation": validation.truncation}
    write_lines(folder / EXAMPLES, shown)
    write_lines(folder / SAMPLES, answers)
    documents = {split: found.document() for split, found in truncations.items()}
    (folder / TRUNCATION).write_bytes(pretty_json(documents))
    history = read_history(folder)
    per_epoch = -(-rows_per_epoch // settings.batch_size)
    usual = repetition(
        validation.demonstrations.responses[: max(settings.samples, 1)],
        end_token_ids=[encoder.eos_token_id],
    )
    report = SftReport(
        history=history,
        steps_per_epoch=per_epoch,
        validation_loss=outcome.validation_loss,
        kept_step=outcome.steps if settings.selection == "last" else outcome.best_step,
        turned_at=outcome.turned_at,
        notes=_notes(history, per_epoch, outcome, settings, sampler),
        truncations=truncations,
        usual=usual,
        samples=answers,
        examples=shown,
        seed=seed,
    )
    (folder / PAGE).write_text(sft_page(report) + "\n", encoding="utf-8", newline="\n")


def _notes(
    history: list[dict[str, float | None]],
    per_epoch: int,
    outcome: SftOutcome,
    settings: SftSettings,
    sampler: EpochSampler | None,
) -> list[str]:
    """What was said while it trained, told again from the record."""
    notes = []
    measured = [
        (int(row["step"] or 0), row["validation_loss"])
        for row in history
        if row.get("validation_loss") is not None
    ]
    if outcome.turned_at:
        until = [(loss, step) for step, loss in measured if step < outcome.turned_at and loss]
        best_loss, best_step = min(until)
        notes.append(
            overfitting_note(
                best_loss,
                best_step / per_epoch,
                float(dict(measured)[outcome.turned_at] or 0.0),
                outcome.turned_at / per_epoch,
                keeps_best=settings.selection != "last",
            )
        )
    prefix = "sample_"
    sampled = [row for row in history if f"{prefix}ended_share" in row]
    if sampled and sampler is not None:  # of the epochs the last one counts
        last = sampled[-1]
        notes += sample_notes(
            {name.removeprefix(prefix): value or 0.0 for name, value in last.items()},
            epoch=int(last["step"] or 0) // per_epoch,
            max_tokens=sampler.max_tokens,
            usual_repetition=sampler.usual_repetition,
        )
    return notes
