"""The schemas of texts and rows; whoever imports this loads pandas and pandera."""

from collections.abc import Mapping, Sequence

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

TEXTS = pa.DataFrameSchema(
    {
        "is_blank": pa.Column(bool, pa.Check(lambda found: ~found, name="TXT-001")),
        "surrogate_at": pa.Column(int, pa.Check(lambda place: place < 0, name="TXT-002")),
        "control_at": pa.Column(int, pa.Check(lambda place: place < 0, name="TXT-003")),
    }
)
"""Every prompt and response: something to read, and encodable.

The frame holds what was found in a text, not the text: pandas cannot hold half a character, and
pandera's messages would quote it.
"""

ROWS = pa.DataFrameSchema(
    {
        "no_preference": pa.Column(bool, pa.Check(lambda found: ~found, name="PREF-002")),
        "equal_yet_ranked": pa.Column(bool, pa.Check(lambda found: ~found, name="PREF-004")),
    }
)
"""Every row of a table for itself: where it ranks, it prefers something to something else."""


def failures(
    schema: pa.DataFrameSchema, columns: Mapping[str, Sequence[object]]
) -> list[tuple[str, int]]:
    """The rule and the place in the columns of every check that fails."""
    try:
        schema.validate(pd.DataFrame(columns), lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        return [
            (str(rule), int(place))
            for rule, place in zip(cases["check"], cases["index"], strict=True)
        ]
    return []
