"""Lengths of rows: which are too long for the model, and what length alone would predict.

Tokens are counted with the recipe's own tokenizer and without torch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tokenizers import Tokenizer

from rlhf_core.data.rows import Row
from rlhf_core.data.rules import Fault
from rlhf_core.data.schemas import field_names
from rlhf_core.errors import ModelError
from rlhf_core.settings.model import ModelSettings

Count = Callable[[Sequence[str]], list[int]]


class LengthCounter(NamedTuple):
    """Counts what a prompt and a response add to a sequence, special tokens included."""

    unit: Literal["tokens", "words"]
    prompts: Count
    responses: Count


def length_counter(model: ModelSettings) -> LengthCounter:
    """Tokens of the base model's tokenizer; words where it is yet to be made from the corpus."""
    if model.base is None:

        def words(texts: Sequence[str]) -> list[int]:
            return [len(text.split()) for text in texts]

        return LengthCounter("words", words, lambda texts: [count + 1 for count in words(texts)])
    tokenizer = Tokenizer.from_file(str(_tokenizer_file(model.base, model.revision)))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def prompts(texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts)]

    def responses(texts: Sequence[str]) -> list[int]:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding.ids) + 1 for encoding in encodings]  # the end-of-sequence token

    return LengthCounter("tokens", prompts, responses)


def _tokenizer_file(base: str, revision: str | None) -> Path:
    folder = Path(base).expanduser()
    if folder.is_dir():
        if not (folder / "tokenizer.json").is_file():
            raise ModelError(
                f"model.base: {folder} holds no tokenizer.json: load its tokenizer with "
                "transformers and save it into the folder again, which writes one."
            )
        return folder / "tokenizer.json"
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.hf_hub_download(base, "tokenizer.json", revision=revision))
    except (errors.HTTPError, OSError, ValueError) as error:  # type: ignore[attr-defined]
        raise ModelError(
            f"model.base: {base} is no local folder, and its tokenizer.json could not be had from "
            f"the hub ({type(error).__name__}). Pass a folder: `--set model.base=PATH`."
        ) from error


def check_lengths(rows: Sequence[Row], model: ModelSettings, counter: LengthCounter) -> list[Fault]:
    """A fault for each prompt and each response that is over its limit."""
    faults = []
    prompts = [model.prompt_template.replace("{prompt}", row.prompt) for row in rows]
    for row, length in zip(rows, counter.prompts(prompts), strict=True):
        if length > model.max_prompt_tokens:
            seen = f"{length} {counter.unit}, at most {model.max_prompt_tokens} fit"
            faults.append(Fault("LEN-001", row.file, row.line, "prompt", seen))
    places = [(row, field) for row in rows for field in field_names(row)]
    responses = [model.response_prefix + response for row in rows for response in row.responses]
    for (row, field), length in zip(places, counter.responses(responses), strict=True):
        if length > model.max_response_tokens:
            seen = f"{length} {counter.unit}, at most {model.max_response_tokens} fit"
            faults.append(Fault("LEN-002", row.file, row.line, field, seen))
    return faults


def longer_wins_accuracy(
    responses: Sequence[Sequence[str]], ranks: Sequence[Sequence[int]]
) -> float:
    """Share of comparisons that the response of more words wins; equal lengths count half."""
    wins, comparisons = 0.0, 0
    for texts, places in zip(responses, ranks, strict=True):
        lengths = [len(text.split()) for text in texts]
        for better_length, better in zip(lengths, places, strict=True):
            for worse_length, worse in zip(lengths, places, strict=True):
                if better < worse:
                    comparisons += 1
                    wins += 0.5 * (better_length >= worse_length)
                    wins += 0.5 * (better_length > worse_length)
    return wins / comparisons if comparisons else float("nan")
