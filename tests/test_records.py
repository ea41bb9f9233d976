"""A record tells by itself whether it is as it was written."""

import json
from pathlib import Path

import pytest

from rlhf_core.records import SEAL, read_record, write_record

RECORD = {"digest": "ab", "loss": 0.1 + 0.2, "name": "Größe", "stages": {"sft": {"n": 1}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "record.json"
    write_record(path, RECORD)
    return path


def test_a_record_comes_back_as_it_was_written(path):
    assert read_record(path) == RECORD


def test_no_flipped_bit_goes_unseen(path):
    content = path.read_bytes()
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = read_record(path)
        except ValueError:
            continue
        # what is left: other blanks, or a seal by another name, which makes it one more value
        assert {name: found.get(name) for name in RECORD} == RECORD
        assert len(found) - len(RECORD) in (0, 1)


def test_a_changed_value_is_told_with_both_hashes(path):
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"loss": 0.25}))
    with pytest.raises(ValueError, match=f"its seal says {document[SEAL]}"):
        read_record(path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"loss": NaN}', b'{"loss": Infinity}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_record_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_record(path)


def test_a_record_from_before_there_were_seals_is_taken(path):
    path.write_text(json.dumps(RECORD))
    assert read_record(path) == RECORD
