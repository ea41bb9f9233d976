"""Who is held out, where keys are looked at part by part."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_core.data import splits
from rlhf_core.data.held_out import held_out
from rlhf_core.data.keys import Keys, KeySpill
from rlhf_core.data.row_sets import RowSet
from rlhf_core.data.schemas import TableName
from rlhf_core.data.splits import held_out_keys
from rlhf_core.errors import DataError

SALTS = {"demonstrations": ("validation",), "preferences": ("validation",)}


def found_in_parts(tables: dict[TableName, list[str]], share: float) -> frozenset[str]:
    """The keys held out of the tables, by the gate."""
    with TemporaryDirectory() as folder:
        spill = KeySpill(Path(folder), SALTS)
        for table, keys in tables.items():
            spill.add(table, np.arange(len(keys), dtype=np.uint32), keys)

        def members(keys: Keys) -> dict[str, np.ndarray]:
            return {
                table: keys.of_rows(table, RowSet.first(len(rows)))
                for table, rows in tables.items()
            }

        rule = held_out(spill.parts, members, share, salt="validation", split_by="prompt")
        chosen = set()
        for keys in spill.parts():
            among = rule.among(keys, members(keys))
            for table, rows in tables.items():
                chosen |= {rows[number] for number in keys.rows_of(table, among).tolist()}
        spill.remove()
    return frozenset(chosen)


def expected(tables: dict[TableName, list[str]], share: float) -> frozenset[str]:
    return held_out_keys(tables, share, salt="validation", split_by="prompt")


KEYS = st.lists(st.integers(0, 60).map(str), min_size=2, max_size=60)


@settings(max_examples=60, deadline=None)
@given(demonstrations=KEYS, preferences=KEYS, share=st.floats(0.01, 0.49), few=st.integers(2, 40))
def test_the_gate_holds_out_the_keys_that_all_keys_at_once_would(
    demonstrations, preferences, share, few
):
    """`few` is where the count of a table's keys no longer decides, but their hashes alone do."""
    tables: dict[TableName, list[str]] = {
        "demonstrations": ["a", "b", *demonstrations],
        "preferences": ["c", "d", *preferences],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "FEW_KEYS", few)
        patch.setattr("rlhf_core.data.held_out.FEW_KEYS", few)
        assert found_in_parts(tables, share) == expected(tables, share)


def test_keys_on_disk_are_held_out_as_those_in_memory(monkeypatch):
    tables: dict[TableName, list[str]] = {
        "demonstrations": [f"key {number % 5000}" for number in range(7000)],
        "preferences": [f"key {number}" for number in range(4000, 9000)],
    }
    whole = found_in_parts(tables, 0.1)
    monkeypatch.setattr("rlhf_core.data.spills._BYTES_HELD", 1000)
    assert found_in_parts(tables, 0.1) == whole == expected(tables, 0.1)


def test_no_row_changes_sides_when_rows_are_added():
    old = [f"key {number}" for number in range(2000)]
    new = [f"new {number}" for number in range(5000)]
    before = found_in_parts({"preferences": old}, 0.1)
    after = found_in_parts({"preferences": [*new[:2500], *old, *new[2500:]]}, 0.1)
    assert after & set(old) == before
    assert len(after) > len(before) > 100


def test_a_table_of_one_key_cannot_be_split():
    with pytest.raises(DataError, match="All rows of preferences have the same 'prompt'"):
        found_in_parts({"preferences": ["only"] * 3}, 0.1)
