"""All that is asked of the rows with the recipe's own tokenizer, and what is found out on the way.

Torch and transformers stay unloaded.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rlhf_core.data.base_tokenizer import BaseTokenizer, read_base_tokenizer
from rlhf_core.data.control_checks import (
    JoinedRows,
    check_control_tokens,
    check_turn_markers,
)
from rlhf_core.data.faults import Fault
from rlhf_core.data.known_tokens import check_known_tokens
from rlhf_core.data.lengths import LengthCounter, length_counter
from rlhf_core.data.rows import Row
from rlhf_core.data.schemas import TableName
from rlhf_core.data.table_lengths import TableLengths
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.model import ModelSettings


@dataclass(frozen=True)
class RecipeTokens:
    """The tokenizer that a recipe means, read once for all of its tables."""

    settings: DataSettings
    model: ModelSettings
    of_a_recipe: bool = True
    """Whether the model is one that somebody will train: files may come without a recipe."""

    @cached_property
    def base(self) -> BaseTokenizer | None:
        """The base model's tokenizer; None where it is yet to be made from the corpus."""
        return None if self.model.base is None else read_base_tokenizer(self.model)

    @cached_property
    def counter(self) -> LengthCounter:
        """By which lengths are counted."""
        return length_counter(self.model, self.base)

    def checks(self, table: TableName) -> "TokenChecks":
        """The checks of one table, which remember what they have seen."""
        return TokenChecks(table, self)

    def facts(self) -> dict[str, object]:
        """Which tokenizer it is, and what is done with texts that spell its control tokens."""
        return {
            "unit": self.counter.unit,
            "sha256": None if self.base is None else self.base.sha256,
            "context": None if self.base is None else self.base.context,
            "end": self.counter.end,
            "control_tokens": {
                "policy": self.settings.control_tokens,
                "known": len(self.counter.control.ids),
            },
        }


class TokenChecks:
    """Faults of a table's rows, batch by batch, and the facts once all batches were seen."""

    def __init__(self, table: TableName, tokens: RecipeTokens) -> None:
        self._table: TableName = table
        self._tokens = tokens
        self._kept: Counter[str] = Counter()
        base = tokens.base
        context = None if base is None else base.context
        self._lengths = TableLengths(table, tokens.settings, tokens.model, tokens.counter, context)

    def texts(self, rows: Sequence[Row]) -> list[Fault]:
        """A fault for every text that spells a control token or marks a turn that is none."""
        rows = JoinedRows(rows)
        markers = check_turn_markers(rows, self._table)
        if not self._tokens.of_a_recipe and self._tokens.base is None:
            return [*check_known_tokens(rows, self._table), *markers]
        counter = self._tokens.counter
        found = check_control_tokens(rows, self._table, counter.control, end=counter.end)
        if self._tokens.settings.control_tokens == "refuse":
            return [*found, *markers]
        self._kept.update(fault.field for fault in found)
        return [*self._ends_written_out(rows), *markers]

    def lengths(self, rows: Sequence[Row]) -> list[Fault]:
        """A fault for every text that is too long, and for pairs that are equal to the model."""
        return self._lengths.check(rows)

    def closing(self) -> list[Fault]:
        """The faults of the table as a whole; they name a source and its first line."""
        return self._lengths.closing()

    def fits(self, prompt: str) -> bool:
        """Whether a prompt is within its budget."""
        return self._lengths.fits(prompt)

    def facts(self) -> Mapping[str, object]:
        """What the table's tokens come to, under keys of its own."""
        literal = {"literal_texts": self._kept.total()} if self._kept else {}
        return {**self._lengths.facts(), **literal}

    def _ends_written_out(self, rows: Sequence[Row]) -> list[Fault]:
        end = self._tokens.counter.end
        if end is None or self._table in ("prompts", "text"):
            return []
        faults = []
        for row in rows:
            if any(response.rstrip().endswith(end) for response in row.responses):
                seen = f"a response ends in {end!r}"
                faults.append(Fault("TOK-004", row.file, row.line, "response", seen))
        return faults
