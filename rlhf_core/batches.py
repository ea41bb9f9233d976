"""From text to padded token ids and masks, and back.

A prompt and a response are joined as ids, never as text after generation: what training sees is
what generation saw. Tensors name their side of padding: queries pad left, responses pad right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from rlhf_core.chat import ChatCodec, literal_text
from rlhf_core.data.dialogues import messages_of
from rlhf_core.literal_text import LiteralText, Piece, Pieces
from rlhf_core.settings.model import ModelSettings


@dataclass(frozen=True)
class Encoder:
    """Turns prompts and responses into ids by one template, the same in every stage."""

    tokenizer: PreTrainedTokenizerBase
    settings: ModelSettings

    @cached_property
    def chat(self) -> ChatCodec | None:
        """By which conversations are encoded; None where prompts are plain text."""
        return ChatCodec.of(self.tokenizer)

    @cached_property
    def literal(self) -> LiteralText:
        """By which no text yields a control token."""
        return literal_text(self.tokenizer)

    @property
    def pad_token_id(self) -> int:
        """The id that fills; never the one that ends."""
        return cast(int, self.tokenizer.pad_token_id)

    @property
    def eos_token_id(self) -> int:
        """The id that ends every response in training."""
        return cast(int, self.tokenizer.eos_token_id)

    def prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Ids that the model reads before it answers, one list per prompt."""
        if self.chat is not None:
            known = {text: self.chat.prompt(messages_of(text)) for text in dict.fromkeys(prompts)}
            return [known[prompt] for prompt in prompts]
        return self._ids([self._query(prompt) for prompt in prompts], special=True)

    def responses(self, prompts: Sequence[str], responses: Sequence[str]) -> list[list[int]]:
        """Ids of each response as it continues its prompt, ended by the end-of-sequence token.

        The ids come from the joined text where its beginning tokenizes as the prompt alone does,
        which keeps the spaces of any tokenizer; else from the response alone. With a chat template
        they are spliced into it.
        """
        if self.chat is not None:
            pairs = zip(prompts, responses, strict=True)
            return [self.chat.answer(messages_of(prompt), text) for prompt, text in pairs]
        different = list(dict.fromkeys(prompts))
        prefixes = dict(zip(different, self.prompts(different), strict=True))
        texts = [self._prefixed(response) for response in responses]
        queries = [self._query(prompt) for prompt in prompts]
        joined = self._ids([(*a, *b) for a, b in zip(queries, texts, strict=True)], special=True)
        rows = [
            _continued(whole, prefixes[prompt])
            for prompt, whole in zip(prompts, joined, strict=True)
        ]
        missing = [text for text, row in zip(texts, rows, strict=True) if row is None]
        alone = iter(self._ids(missing, special=False))
        end = self.eos_token_id
        return [[*(next(alone) if row is None else row), end] for row in rows]

    def plain_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts as in pretraining: without template, prefix or end-of-sequence token.

        The token that begins a text is there where the tokenizer has one.
        """
        return self._ids([(Piece(text, ours=False),) for text in texts], special=True)

    def joined_apart(self, prompts: Sequence[str], responses: Sequence[str]) -> int:
        """How many responses are not read as they would be in the text they continue (S2)."""
        if self.chat is not None:
            return 0
        queries = [self._query(prompt) for prompt in prompts]
        texts = [self._prefixed(response) for response in responses]
        joined = self._ids([(*a, *b) for a, b in zip(queries, texts, strict=True)], special=True)
        pairs = zip(self.prompts(prompts), joined, strict=True)
        return sum(_continued(whole, prefix) is None for prefix, whole in pairs)

    def fitting(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[int]:
        """Numbers of the rows within both token budgets; nothing is ever cut to fit."""
        longest_prompt = self.settings.max_prompt_tokens
        longest_response = self.settings.max_response_tokens
        return [
            row
            for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
            if len(prompt) <= longest_prompt and len(response) <= longest_response
        ]

    def texts(self, response_ids: Sequence[Sequence[int]]) -> list[str]:
        """The response texts of generated ids, without special tokens and the joining prefix."""
        rows = [list(row) for row in response_ids]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        prefix = "" if self.chat is not None else self.settings.response_prefix
        return [text.removeprefix(prefix).rstrip() for text in texts]

    def _query(self, prompt: str) -> Pieces:
        before, _, after = self.settings.prompt_template.partition("{prompt}")
        return Piece(before, ours=True), Piece(prompt, ours=False), Piece(after, ours=True)

    def _prefixed(self, response: str) -> Pieces:
        prefix = self.settings.response_prefix
        return Piece(prefix, ours=True), Piece(response.removeprefix(prefix), ours=False)

    def _ids(self, texts: Sequence[Pieces], *, special: bool) -> list[list[int]]:
        if not texts:
            return []  # the tokenizer fails on no texts at all
        whole = ["".join(piece.text for piece in pieces) for pieces in texts]
        encoded = self.tokenizer(whole, add_special_tokens=special, return_attention_mask=False)
        rows = self.literal.without_end(
            cast(list[list[int]], encoded["input_ids"]), special=special
        )
        return self.literal.checked(texts, rows, special=special)


def _continued(whole: list[int], prefix: list[int]) -> list[int] | None:
    """What follows `prefix` in `whole`, which may not begin with it."""
    return whole[len(prefix) :] if whole[: len(prefix)] == prefix else None


@dataclass(frozen=True)
class SpecialTokens:
    """The ids with a meaning of their own; the first of `end` is the one learnt in training."""

    end: Sequence[int]
    pad: int


@dataclass(frozen=True)
class Sequences:
    """Prompts and responses side by side, each `[batch, columns]`.

    `prompt_ids` are padded on the left and `response_ids` on the right, so that response token t of
    every row stands in one column.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor

    @property
    def input_ids(self) -> Tensor:
        """[batch, prompt + response]."""
        return torch.cat([self.prompt_ids, self.response_ids], dim=1)

    @property
    def attention_mask(self) -> Tensor:
        """[batch, prompt + response], True at real tokens."""
        return torch.cat([self.prompt_mask, self.response_mask], dim=1)

    def rows(self, index: Tensor, *, spare_columns: int = 0) -> "Sequences":
        """The given rows, without the columns that are padding in all of them.

        `spare_columns` of the padding after the longest response are kept where there are any.
        """
        prompt_mask, response_mask = self.prompt_mask[index], self.response_mask[index]
        start = int((~prompt_mask.any(dim=0)).long().cumprod(dim=0).sum())
        end = int(response_mask.sum(dim=1).max()) + spare_columns
        return Sequences(
            self.prompt_ids[index, start:],
            prompt_mask[:, start:],
            self.response_ids[index, :end],
            response_mask[:, :end],
        )

    def to(self, device: torch.device) -> "Sequences":
        """The same on `device`."""
        return Sequences(
            self.prompt_ids.to(device),
            self.prompt_mask.to(device),
            self.response_ids.to(device),
            self.response_mask.to(device),
        )


@dataclass(frozen=True)
class SharedPrompts:
    """Responses of which several follow one prompt, each prompt standing once.

    `prompt_ids` and `prompt_mask` are [prompts, columns], padded on the left; `response_ids` and
    `response_mask` are [batch, columns], padded on the right; `prompt_index` [batch] is the row of
    each response's prompt.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    prompt_index: Tensor

    def to(self, device: torch.device) -> "SharedPrompts":
        """The same on `device`."""
        return SharedPrompts(
            self.prompt_ids.to(device),
            self.prompt_mask.to(device),
            self.response_ids.to(device),
            self.response_mask.to(device),
            self.prompt_index.to(device),
        )


def join(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_token_id: int
) -> Sequences:
    """Pad prompts on the left and responses on the right."""
    prompt_ids, prompt_mask = pad_left(prompts, pad_token_id)
    return Sequences(prompt_ids, prompt_mask, *pad_right(responses, pad_token_id))


def one_below_the_other(parts: Sequence[Sequences], pad_token_id: int) -> Sequences:
    """The rows of several batches as one batch, padded to its longest prompt and response."""
    before = max(part.prompt_ids.shape[1] for part in parts)
    after = max(part.response_ids.shape[1] for part in parts)

    rows = [
        (
            pad(part.prompt_ids, (before - part.prompt_ids.shape[1], 0), value=pad_token_id),
            pad(part.prompt_mask, (before - part.prompt_mask.shape[1], 0)),
            pad(part.response_ids, (0, after - part.response_ids.shape[1]), value=pad_token_id),
            pad(part.response_mask, (0, after - part.response_mask.shape[1])),
        )
        for part in parts
    ]
    return Sequences(*(torch.cat(column) for column in zip(*rows, strict=True)))


def pad_left(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [batch, longest], padded on the left."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        if row:
            ids[index, -len(row) :] = torch.tensor(row)
            mask[index, -len(row) :] = True
    return ids, mask


def pad_right(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [batch, longest], padded on the right."""
    ids, mask = pad_left([row[::-1] for row in rows], pad_token_id)
    return ids.flip(1), mask.flip(1)


def shuffled_batches(
    prompt_lengths: Sequence[int],
    response_lengths: Sequence[int],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
) -> Iterator[list[int]]:
    """Row numbers of each batch of one pass, every row once, in an order drawn from the seed.

    Padding is spared by letting rows of similar lengths share a batch: a shuffled window of 16
    batches is cut into four by prompt length, each of these into four batches by response length,
    and the batches are shuffled again. The last window's batches may be short.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(prompt_lengths), generator=generator).tolist()
    for window in _cut(order, 16 * batch_size):
        by_prompt = sorted(window, key=lambda row: prompt_lengths[row])
        batches = [
            batch
            for group in _cut(by_prompt, 4 * batch_size)
            for batch in _cut(sorted(group, key=lambda row: response_lengths[row]), batch_size)
        ]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[index]


def _cut(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
