"""Warnings of texts that can be read, but hardly as they were meant."""

import numpy as np

from rlhf_core.data.batches import RowBatch, Texts
from rlhf_core.data.faults import Fault
from rlhf_core.data.schemas import TableName, field_names
from rlhf_core.data.texts import odd_places, oddities


def text_warnings(batch: RowBatch, table: TableName) -> list[Fault]:
    """The faults by TXT-005 and TXT-006 of the rows, at most one of each for a text."""
    odd_prompts, odd_responses = _odd(batch.prompts), _odd(batch.responses)
    if not odd_prompts and not odd_responses:
        return []
    odd = odd_prompts | {len(batch) + place for place in odd_responses}
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


def _odd(texts: Texts) -> set[int]:
    """The places of texts in which there may be something."""
    places = odd_places(texts.joined)
    return set(np.searchsorted(texts.offsets[1:], places - 1, side="right").tolist())
