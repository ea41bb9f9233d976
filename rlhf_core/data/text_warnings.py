"""Warnings of texts that can be read, but hardly as they were meant."""

from itertools import accumulate

import numpy as np

from rlhf_core.data.batches import RowBatch
from rlhf_core.data.rules import Fault
from rlhf_core.data.schemas import TableName, field_names
from rlhf_core.data.texts import odd_places, oddities


def text_warnings(batch: RowBatch, table: TableName) -> list[Fault]:
    """The faults by TXT-005 and TXT-006 of the rows, at most one of each for a text."""
    texts = [*batch.prompts, *batch.responses]
    places = odd_places(b"".join(texts))
    if not len(places):
        return []
    ends = np.fromiter(accumulate(map(len, texts)), dtype=np.int64, count=len(texts))
    odd = set(np.searchsorted(ends, places - 1, side="right").tolist())
    found = []
    response = len(batch)
    for place, row in enumerate(batch.rows):
        names = ["text" if table == "text" else "prompt", *field_names(row)]
        numbers = [place, *range(response, response + len(row.responses))]
        response += len(row.responses)
        for name, number, text in zip(names, numbers, (row.prompt, *row.responses), strict=True):
            if number in odd:
                found += [
                    Fault(one.rule, row.file, row.line, name, one.seen) for one in oddities(text)
                ]
    return found
