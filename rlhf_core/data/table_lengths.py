"""The lengths of one table's rows against the budgets, and what they say, batch by batch.

Each text is read once, by the recipe's own tokenizer. A row that fits whatever its tokens are,
since a token is a byte or more, is read only where the sample has it; all counts are exact.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_core.data.faults import Fault
from rlhf_core.data.length_baseline import Compared, Prediction, predictions
from rlhf_core.data.lengths import LengthCounter, Units
from rlhf_core.data.row_sample import RowSample
from rlhf_core.data.rows import Row
from rlhf_core.data.schemas import TableName, field_names
from rlhf_core.data.shown_text import escaped
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.model import ModelSettings

SAMPLED_ROWS = 2_500
"""Rows whose lengths are kept; a share among them is known to two percent."""

_READ_AT_ONCE = 2**18
"""Characters that are tokens at one time."""


class Budgets(NamedTuple):
    """How long a prompt and a response may be, and both together; None where nothing says so."""

    prompt: int
    response: int
    context: int | None

    @property
    def prompt_limit(self) -> int:
        """The longest prompt that leaves an answer of one token its room."""
        return self.prompt if self.context is None else min(self.prompt, self.context - 2)


class _Lengths(NamedTuple):
    row: Row
    prompt: int
    responses: tuple[int, ...]


class TableLengths:
    """Checks the lengths of a table's rows and remembers what they come to."""

    def __init__(
        self,
        table: TableName,
        settings: DataSettings,
        model: ModelSettings,
        counter: LengthCounter,
        context: int | None,
    ) -> None:
        self._table = table
        self._kept_long = settings.long_responses == "keep"
        self._is_asked = "LEN-004" in settings.rules
        self._counter = counter
        self._budgets = Budgets(model.max_prompt_tokens, model.max_response_tokens, context)
        self._sample = RowSample[tuple[int, Compared]](SAMPLED_ROWS)
        self._counts: Counter[str] = Counter()

    def check(self, rows: Sequence[Row]) -> list[Fault]:
        """A fault for each prompt and response that is too long, and each pair that is one text."""
        if self._table == "text":  # which whoever reads it cuts to the length that it needs
            return []
        self._counts["rows"] += len(rows)
        tickets = self._sample.tickets(rows)
        read = np.flatnonzero(self._sample.drawn(tickets) | ~self._surely_fit(rows)).tolist()
        faults: list[Fault] = []
        for places in _parts(rows, read):
            part = [rows[place] for place in places]
            prompts = self._counter.prompts([row.prompt for row in part])
            answers = iter(
                self._counter.responses([text for row in part for text in row.responses])
            )
            for place, row, prompt in zip(places, part, prompts, strict=True):
                units = [next(answers) for _ in row.responses]
                lengths = _Lengths(row, len(prompt), tuple(len(one) + 1 for one in units))
                faults.extend(self._found(lengths, units))
                ranks = row.ranks or (1,) * len(units)
                kept = Compared(row.source, row.file, lengths.responses, ranks)
                self._sample.keep(int(tickets[place]), (lengths.prompt, kept))
        return faults

    def fits(self, prompt: str) -> bool:
        """Whether the prompt is within its budget."""
        return len(self._counter.prompts([prompt])[0]) <= self._budgets.prompt_limit

    def closing(self) -> list[Fault]:
        """A fault for each source whose preferences length alone predicts too well.

        It stands at the first line of a file of that source: no single row is at fault. Where the
        recipe does not name the rule, `facts` say the same and it is a note.
        """
        if self._table != "preferences" or not self._is_asked:
            return []
        faults = []
        for source, found in self._baseline().items():
            beyond = found.beyond_the_limit
            if beyond is not None:
                seen = f"of {found.comparisons:,} comparisons of {escaped(source)} {beyond}"
                faults.append(Fault("LEN-004", found.file, 1, "responses", seen))
        return faults

    def facts(self) -> dict[str, object]:
        """Lengths of the sampled rows, what is over the budgets, and what length predicts."""
        if self._table == "text":
            return {}
        sampled = self._sample.everything()
        responses = [length for _, row in sampled for length in row.lengths]
        rows = self._counts["rows"]
        over = self._counts["rows_over_budget"]
        facts: dict[str, object] = {
            "unit": self._counter.unit,
            "budgets": self._budgets._asdict(),
            "sampled_rows": len(sampled),
            "prompt": _distribution([prompt for prompt, _ in sampled]),
            "response": _distribution(responses),
            "over_budget": {
                "rows": over,
                "share": round(over / rows, 6) if rows else 0.0,
                **{name: self._counts[name] for name in _COUNTED},
            },
        }
        found: dict[str, object] = {"tokens": facts}
        if self._table == "preferences":
            found["length_baseline"] = {
                source: of.document() for source, of in self._baseline().items()
            }
        return found

    def _baseline(self) -> dict[str, Prediction]:
        rows = [row for _, row in self._sample.everything()]
        return dict(predictions(rows))

    def _surely_fit(self, rows: Sequence[Row]) -> NDArray[np.bool_]:
        """Which rows are within all limits however their bytes come to tokens."""
        counter, budgets = self._counter, self._budgets
        if counter.prompt_bound is None or counter.response_bound is None:
            return np.zeros(len(rows), dtype=np.bool_)
        prompts = counter.prompt_bound.most([row.prompt for row in rows])
        longest = np.zeros(len(rows))
        counts = np.array([len(row.responses) for row in rows], dtype=np.int64)
        if counts.any():
            some = counter.response_bound.most([text for row in rows for text in row.responses])
            starts = (np.cumsum(counts) - counts)[counts > 0]
            longest[counts > 0] = np.maximum.reduceat(some, starts)
        fit: NDArray[np.bool_] = (prompts <= budgets.prompt_limit) & (longest <= budgets.response)
        if budgets.context is not None:
            room = budgets.response if self._table == "prompts" else longest
            fit &= prompts + room <= budgets.context
        return fit

    def _found(self, lengths: _Lengths, units: Sequence[Units]) -> Iterator[Fault]:
        row, budgets = lengths.row, self._budgets
        over = False
        if lengths.prompt > budgets.prompt_limit:
            over = True
            self._counts["prompts"] += 1
            yield self._fault("LEN-001", row, "prompt", self._seen_of_prompt(lengths.prompt))
        elif self._table == "prompts" and self._is_over(lengths.prompt + budgets.response):
            self._counts["prompts_without_room"] += 1
            left = (budgets.context or 0) - lengths.prompt
            seen = f"{lengths.prompt} {self._counter.unit} leave {left} of {budgets.context}"
            yield self._fault("LEN-005", row, "prompt", seen)
        for field, length in zip(field_names(row), lengths.responses, strict=True):
            wrong = self._seen_of_response(lengths.prompt, length)
            if wrong is not None:
                over = True
                self._counts["responses"] += 1
                yield self._fault("LEN-002", row, field, wrong)
        self._counts["rows_over_budget"] += over
        yield from self._equal(row, lengths.responses, units)

    def _seen_of_prompt(self, length: int) -> str:
        budgets, unit = self._budgets, self._counter.unit
        if length <= budgets.prompt:
            return f"{length} {unit}, and the model's context of {budgets.context} has no room left"
        return f"{length} {unit}, at most {budgets.prompt_limit} fit"

    def _seen_of_response(self, prompt: int, length: int) -> str | None:
        """What is wrong with a response of this length; None where nothing is."""
        budgets, unit = self._budgets, self._counter.unit
        if length > budgets.response:
            return f"{length} {unit}, at most {budgets.response} fit"
        if prompt <= budgets.prompt_limit and self._is_over(prompt + length):
            self._counts["over_context"] += 1
            return f"{length} {unit} after {prompt}, and the model's context is {budgets.context}"
        return None

    def _is_over(self, length: int) -> bool:
        return self._budgets.context is not None and length > self._budgets.context

    def _equal(self, row: Row, lengths: Sequence[int], units: Sequence[Units]) -> Iterator[Fault]:
        """A fault where a response and a worse one are equal as far as the budget goes."""
        if len(set(row.ranks)) < 2:
            return
        limit = self._budgets.response
        seen_before: dict[Units, tuple[int, str]] = {}
        responses = (text.strip() for text in row.responses)
        for text, read, length, rank in zip(responses, units, lengths, row.ranks, strict=True):
            first_rank, first = seen_before.setdefault(tuple(read[:limit]), (rank, text))
            if first_rank != rank and first != text:
                self._counts["pairs_equal_when_cut"] += 1
                if length <= limit or self._kept_long:
                    seen = f"equal in the first {min(limit, len(read))} {self._counter.unit}"
                    yield self._fault("LEN-003", row, "responses", seen)
                return

    @staticmethod
    def _fault(rule: str, row: Row, field: str, seen: str) -> Fault:
        return Fault(rule, row.file, row.line, field, seen)


_COUNTED = ("prompts", "responses", "over_context", "prompts_without_room", "pairs_equal_when_cut")


def _parts(rows: Sequence[Row], places: Sequence[int]) -> Iterator[list[int]]:
    """The places in parts whose rows are not too much to hold as tokens."""
    part: list[int] = []
    held = 0
    for place in places:
        part.append(place)
        held += len(rows[place].prompt) + sum(map(len, rows[place].responses))
        if held > _READ_AT_ONCE:
            yield part
            part, held = [], 0
    if part:
        yield part


def _distribution(lengths: Sequence[int]) -> dict[str, float]:
    if not lengths:
        return {"count": 0}
    found = np.array(lengths)
    return {
        "count": len(lengths),
        "mean": round(float(found.mean()), 2),
        "least": int(found.min()),
        "median": float(np.median(found)),
        "p95": float(np.percentile(found, 95)),
        "most": int(found.max()),
    }
