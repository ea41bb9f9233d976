"""Text as token ids, spliced so that no text yields a control token and every other id stays.

A text is given as pieces: what the recipe writes itself, whose control tokens are meant, and what
a row says, whose are not (C11). A row that spells none has the ids of the whole text, as the
tokenizer reads it; one that does is read again, with its control tokens as plain characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from tokenizers import Tokenizer

from rlhf_core.bare_tokenizers import bare_copy, literal_copy
from rlhf_core.data.control_tokens import ControlTokens
from rlhf_core.errors import DataError


class Piece(NamedTuple):
    """Text of the recipe, which may hold control tokens, or text of a row, which may not."""

    text: str
    ours: bool


Pieces = tuple[Piece, ...]


class _Around(NamedTuple):
    before: list[int]
    behind: list[int]


@dataclass(frozen=True)
class LiteralText:
    """Encodes with `tokenizer`; ids of `control` come from what the recipe writes, and no text.

    `end` is the token that ends a response: a tokenizer that puts it behind every text ends none.
    """

    tokenizer: Tokenizer
    control: ControlTokens
    end: int
    _expected: dict[tuple[str, bool], list[int]] = field(default_factory=dict)

    def checked(
        self, texts: Sequence[Pieces], rows: Sequence[list[int]], *, special: bool
    ) -> list[list[int]]:
        """The rows of ids, as the tokenizer reads whole texts, with the forged ones mended.

        `special` says whether the tokenizer puts a beginning before a text.
        """
        return [
            row
            if self._controls(row) == self._meant(pieces, special=special)
            else self.ids(pieces, special=special)
            for pieces, row in zip(texts, rows, strict=True)
        ]

    def ids(self, pieces: Pieces, *, special: bool) -> list[int]:
        """The ids of a text that spells control tokens, where `pieces` has them as ours alone."""
        found: list[int] = []
        for number, segment in enumerate(self._segments(pieces)):
            if isinstance(segment, int):
                found.append(segment)
            else:
                found.extend(self.text_ids(segment, self._bare if number else self._plain))
        whole = [*self._around.before, *found, *self._around.behind] if special else found
        return self.without_end([whole], special=special)[0]

    def continued_ids(self, text: str) -> list[int]:
        """Ids of a text in the middle of another: nothing is put before it."""
        return self.text_ids(text, self._bare)

    def continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text in the middle of another."""
        rows = [encoding.ids for encoding in self._bare.encode_batch_fast(list(texts))]
        return [
            row if self.control.all_ids.isdisjoint(row) else self.continued_ids(text)
            for text, row in zip(texts, rows, strict=True)
        ]

    def template_ids(self, text: str) -> list[int]:
        """Ids of what a template writes in the middle of a text, control tokens and all."""
        return list(self._with_control.encode(text, add_special_tokens=False).ids)

    def text_ids(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """Ids of a row's text by one of the tokenizers without control tokens.

        Where a word of the vocabulary is a control token itself, it is read in two halves.
        """
        encoding = tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self.control.all_ids.isdisjoint(ids):
            return ids
        at = next(place for place, token in enumerate(ids) if token in self.control.all_ids)
        start, end = encoding.offsets[at]
        middle = (start + end) // 2
        if middle <= start:
            raise DataError(
                f"A text holds {text[start:end]!r}, a single character that is a control token of "
                "this tokenizer, so it cannot be read as text: remove it (rule TOK-001)."
            )
        return [
            *self.text_ids(text[:middle], tokenizer),
            *self.text_ids(text[middle:], self._bare),
        ]

    def _controls(self, ids: Sequence[int]) -> list[int]:
        if self.control.all_ids.isdisjoint(ids):
            return []
        return [token for token in ids if token in self.control.all_ids]

    def _meant(self, pieces: Pieces, *, special: bool) -> list[int]:
        """The control tokens that the recipe's own pieces, and the tokenizer, put into a text."""
        ours = "".join(piece.text for piece in pieces if piece.ours)
        if (ours, special) not in self._expected:
            ids = self.tokenizer.encode(ours, add_special_tokens=special).ids
            self._expected[ours, special] = self._controls(
                self.without_end([ids], special=special)[0]
            )
        return self._expected[ours, special]

    def without_end(self, rows: list[list[int]], *, special: bool) -> list[list[int]]:
        """The rows without the end that some tokenizers put behind every text."""
        ended = special and self._around.behind[-1:] == [self.end]
        return [row[:-1] for row in rows] if ended else rows

    @cached_property
    def _around(self) -> "_Around":
        """What the tokenizer puts before and behind every text."""
        probe = self.tokenizer.encode("a", add_special_tokens=True)
        own = [place for place, added in enumerate(probe.special_tokens_mask) if not added]
        return _Around(probe.ids[: own[0]], probe.ids[own[-1] + 1 :])

    def _segments(self, pieces: Pieces) -> list[str | int]:
        """The text as stretches without control tokens, and the ids of those that are meant."""
        segments: list[str | int] = [""]
        for piece in pieces:
            rest = 0
            for spelt in list(self.control.spelt_in(piece.text)) if piece.ours else []:
                _put(segments, piece.text[rest : spelt.place])
                segments.extend([self.control.ids[spelt.token], ""])
                rest = spelt.place + len(spelt.token)
            _put(segments, piece.text[rest:])
        return [segment for segment in segments if segment != ""] or [""]

    @cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer, to which a control token is text."""
        return literal_copy(self.tokenizer, self.control, bare=False)

    @cached_property
    def _bare(self) -> Tokenizer:
        """The same, which puts nothing before a text."""
        return literal_copy(self.tokenizer, self.control, bare=True)

    @cached_property
    def _with_control(self) -> Tokenizer:
        return bare_copy(self.tokenizer)


def _put(segments: list[str | int], text: str) -> None:
    """Add the text to the stretch at the end of `segments`."""
    last = segments[-1]
    segments[-1] = last + text if isinstance(last, str) else text
