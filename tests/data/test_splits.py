from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.data.batches import RowBatch
from rlhf_core.data.length_baseline import longer_wins_accuracy
from rlhf_core.data.row_sets import RowSet
from rlhf_core.data.rows import Row
from rlhf_core.data.sides import Splitter
from rlhf_core.data.splits import held_out_keys
from rlhf_core.data.staging import StagedRows
from rlhf_core.errors import DataError
from rlhf_core.settings.data import DataSettings, TableSettings

MANY = [f"prompt {number}" for number in range(2000)]
DEBATES = [f"debate {number}" for number in range(32)]


def held_out(**tables: list[str]) -> frozenset[str]:
    return held_out_keys(tables, 0.1, salt="validation", split_by="prompt")


def rows(keys: list[str], *responses: str, ranks: tuple[int, ...] = ()) -> list[Row]:
    return [
        Row(key, responses, ranks, "s", "", key, "a.jsonl", line)
        for line, key in enumerate(keys, start=1)
    ]


def settings() -> DataSettings:
    return DataSettings(demonstrations=TableSettings(source="unused"))


def test_about_the_share_of_many_keys_is_held_out():
    # 2000 keys at 0.1: mean 200, standard deviation sqrt(2000 * 0.1 * 0.9) = 13.4; 4 of them
    assert 146 <= len(held_out(rows=MANY)) <= 254


def test_the_share_of_few_keys_is_met_by_count():
    assert len(held_out(rows=DEBATES)) == 3  # round(0.1 * 32)
    assert len(held_out(rows=DEBATES[:4])) == 1  # at least one


def test_a_key_stays_on_its_side_when_others_are_added():
    before = held_out(rows=MANY[:1000])
    assert held_out(rows=MANY) & set(MANY[:1000]) == before


@given(st.permutations(DEBATES))
def test_the_order_of_the_keys_changes_nothing(keys):
    assert held_out(rows=keys) == held_out(rows=DEBATES)


def test_each_table_gets_its_share_and_a_shared_key_one_side():
    found = held_out(small=DEBATES[:10], large=MANY + DEBATES[:5])
    assert len(found & set(DEBATES[:10])) == 1
    assert 146 <= len(found & set(MANY)) <= 254


def test_one_key_alone_cannot_be_split():
    with pytest.raises(DataError, match="All rows of rows have the same 'prompt'"):
        held_out(rows=["only"] * 5)


@dataclass(frozen=True)
class Placed:
    """The rows of every side, and how many of each table stand on none."""

    sides: dict[str, dict[str, list[Row]]]
    removed: dict[str, int]


def placed(tables: dict[str, list[Row]], scratch: Path, chosen: DataSettings | None = None):
    splitter = Splitter(scratch, list(tables), chosen or settings())
    staged = {table: StagedRows(scratch, table) for table in tables}
    for table, of_table in tables.items():
        for start in range(0, len(of_table), 100):
            some = of_table[start : start + 100]
            batch = RowBatch(range(start, start + len(some)), some)
            kept = np.ones(len(some), dtype=bool)
            splitter.add(table, batch, kept)
            staged[table].add(batch, kept)
        staged[table].close()
    usable = {table: RowSet.first(len(of_table)) for table, of_table in tables.items()}
    found = splitter.sides(usable, staged)
    sides = {
        table: {
            split: [
                row
                for number, row in enumerate(tables.get(side.origin, []))
                if side.rows.has(np.array([number], dtype=np.uint32))[0]
            ]
            for split, side in splits.items()
        }
        for table, splits in found.tables.items()
    }
    return Placed(sides, found.removed)


def test_evaluation_and_validation_keys_stand_on_no_training_side(tmp_path):
    keys = MANY[:600]
    tables = {
        "demonstrations": rows(keys[:400], "good"),
        "preferences": rows(keys[200:], "good", "bad", ranks=(1, 2)),
        "prompts": rows(keys),
    }
    found = placed(tables, tmp_path)
    on_side = {
        split: {row.key for splits in found.sides.values() for row in splits.get(split, ())}
        for split in ("train", "validation", "evaluation")
    }
    assert all(on_side.values())
    assert not on_side["train"] & on_side["validation"]
    assert not on_side["train"] & on_side["evaluation"]
    assert not on_side["validation"] & on_side["evaluation"]
    kept = sum(len(side) for splits in found.sides.values() for side in splits.values())
    assert kept + sum(found.removed.values()) == 400 + 400 + 600


def test_prompts_that_are_not_given_are_the_demonstrations_with_their_responses(tmp_path):
    demonstrations = rows(MANY[:300], "good")
    second = replace(demonstrations[0], responses=("another",), line=301)
    sides = placed({"demonstrations": [*demonstrations, second]}, tmp_path).sides

    assert {row.best for row in sides["prompts"]["train"]} == {"good"}
    trained = {row.prompt for row in sides["demonstrations"]["train"]}
    assert {row.prompt for row in sides["prompts"]["train"]} == trained
    prompts = [row.prompt for side in sides["prompts"].values() for row in side]
    assert len(prompts) == len(set(prompts))


def test_demonstrations_that_are_not_given_are_the_best_responses_of_training_rows(tmp_path):
    preferences = rows(MANY[:300], "bad", "good", ranks=(2, 1))
    sides = placed({"preferences": preferences}, tmp_path).sides

    demonstrated = [row for side in sides["demonstrations"].values() for row in side]
    assert {row.best for row in demonstrated} == {"good"}
    assert {row.key for row in demonstrated} == {row.key for row in sides["preferences"]["train"]}
    assert sides["demonstrations"]["validation"]
    assert not sides["prompts"]["train"]
    assert not sides["prompts"]["evaluation"]


def test_longer_wins_counts_every_comparison_and_ties_half():
    # pair: 2 words beat 1, right. Ranking: a (1 word) > b (1 word): half; a > c (2): wrong;
    # b > c: wrong. Two tied responses say nothing. Sum: (1 + 0.5 + 0 + 0) / 4
    responses = [["x y", "z"], ["a", "b", "c d"], ["e f", "g"]]
    assert longer_wins_accuracy(responses, [[1, 2], [1, 2, 3], [1, 1]]) == 0.375
