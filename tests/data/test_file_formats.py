"""Files of another kind than their name says, damaged ones, and packed ones that never end."""

import gzip
import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf_core.data.faults import Fault
from rlhf_core.data.parquet_pages import PageSizes, page_sizes
from rlhf_core.data.rules import RULES
from rlhf_core.data.sources import MAX_ROW_BYTES, LocalFile, RawRow, read_file

ROOT = Path(__file__).parents[2]
ROWS = [{"prompt": f"Count to {n}.", "response": f"I count: {n}"} for n in range(100)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def zstd(content: bytes) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(content)
    return packed.getvalue().to_pybytes()


def parquet(rows=ROWS, **options) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, **options)
    return file.getvalue()


GZIPPED, ZSTD, PARQUET = gzip.compress(LINES, mtime=0), zstd(LINES), parquet()


def read(folder: Path, name: str, content: bytes) -> list[RawRow | Fault]:
    path = folder / name
    path.write_bytes(content)
    return list(read_file(LocalFile(name, path, "", len(content))))


def fault_of(folder: Path, name: str, content: bytes) -> Fault:
    """The only fault of the file, which must be the last thing in it."""
    *rows, fault = read(folder, name, content)
    assert all(isinstance(row, RawRow) for row in rows)
    assert isinstance(fault, Fault)
    assert fault.seen.isprintable()
    return fault


SKIPPABLE = struct.pack("<II", 0x184D2A50, 3) + b"abc"


@pytest.mark.parametrize(
    "name,content",
    [
        ("a.jsonl", LINES),
        ("A.JSONL", LINES),
        ("a.ndjson", LINES),
        ("a.json", LINES.replace(b"\n", b"\r\n")),
        ("a.jsonl", LINES[:-1]),
        ("a.jsonl.gz", GZIPPED),
        ("a.jsonl.GZ", GZIPPED),
        (
            "a.jsonl.gz",
            b"".join(gzip.compress(part, mtime=0) for part in (LINES[:2000], b"", LINES[2000:])),
        ),
        ("a.jsonl.gz", GZIPPED + b"\0" * 1000),
        ("a.jsonl.zst", ZSTD),
        ("a.json.zst", zstd(LINES[:2000]) + SKIPPABLE + zstd(LINES[2000:])),
        ("a.parquet", PARQUET),
        ("a.parquet", parquet(compression="zstd", use_dictionary=False, row_group_size=7)),
        ("a.parquet", parquet(data_page_version="2.0", write_page_checksum=True)),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, name, content):
    found = read(tmp_path, name, content)
    assert found == [RawRow(name, line, row) for line, row in enumerate(ROWS, start=1)]


def test_a_text_file_is_read_line_by_line_in_every_packing(tmp_path):
    text = b"<html> is a tag.\nBZh, ORC and PARE are names\n"
    for name, content in (
        ("a.txt", text),
        ("a.txt.gz", gzip.compress(text, mtime=0)),
        ("a.txt.zst", zstd(text)),
    ):
        found = read(tmp_path, name, content)
        assert [row.line for row in found if isinstance(row, RawRow)] == [1, 2]


@pytest.mark.parametrize(
    "name,content,rule,said",
    [
        ("a.jsonl", b"", "DATA-001", "is empty"),
        ("a.jsonl", b"\n \r\n\t\n", "DATA-001", "blank lines and nothing else"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "DATA-001", "is empty (0 bytes) once unpacked"),
        ("a.parquet", parquet([{"a": 1}])[:0], "DATA-001", "is empty"),
        (
            "a.jsonl",
            GZIPPED,
            "DATA-002",
            "holds gzip, but is named as plain text: rename it to 'a.jsonl.gz'",
        ),
        (
            "a.jsonl",
            ZSTD,
            "DATA-002",
            "holds zstd, but is named as plain text: rename it to 'a.jsonl.zst'",
        ),
        ("a.jsonl", PARQUET, "DATA-002", "rename it to 'a.parquet'"),
        (
            "a.jsonl.gz",
            LINES,
            "DATA-002",
            "holds plain text, but is named as gzip: rename it to 'a.jsonl'",
        ),
        ("a.jsonl.gz", ZSTD, "DATA-002", "rename it to 'a.jsonl.zst'"),
        ("a.jsonl.zst", GZIPPED, "DATA-002", "rename it to 'a.jsonl.gz'"),
        ("a.jsonl.zst", LINES, "DATA-002", "rename it to 'a.jsonl'"),
        ("a.parquet", LINES, "DATA-002", "rename it to 'a.jsonl'"),
        ("a.parquet", GZIPPED, "DATA-002", "rename it to 'a.jsonl.gz'"),
        ("a.txt", LINES, "DATA-002", "each line is a JSON object"),
        ("a.jsonl", b"PK\x03\x04....", "DATA-002", "a zip archive"),
        (
            "a.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid x\n",
            "DATA-002",
            "git lfs pull",
        ),
        ("a.jsonl", b"<!DOCTYPE html><p>404", "DATA-002", "download the file itself"),
        ("a.jsonl", b"\x80\x04\x95....", "DATA-002", "a pickle, which is never loaded"),
        ("a.jsonl", b"prompt,response\na,b\nc,d\n", "DATA-002", "a table separated by ','"),
        ("a.jsonl", b"Once upon a time.\nThe end.\n", "DATA-002", "plain text"),
        ("a.jsonl.gz", gzip.compress(GZIPPED, mtime=0), "DATA-002", "holds gzip again"),
        (
            "a.jsonl.gz",
            gzip.compress(b"a" * 257 + b"ustar" + b"\0" * 300, mtime=0),
            "DATA-002",
            "tar archive",
        ),
        ("a.jsonl.gz", GZIPPED[:-20], "DATA-003", "it was cut off"),
        ("a.jsonl.gz", GZIPPED[:6], "DATA-003", "it was cut off"),
        ("a.jsonl.gz", GZIPPED + b"more", "DATA-003", "other bytes follow the end"),
        ("a.jsonl.gz", GZIPPED[:-6] + b"\0" + GZIPPED[-5:], "DATA-003", "packed data is damaged"),
        ("a.jsonl.zst", ZSTD[:-3], "DATA-003", "damaged or cut off"),
        ("a.jsonl.zst", ZSTD + b"more", "DATA-003", "damaged or cut off"),
        ("a.jsonl", b"\0" * 9000, "DATA-003", "zero bytes"),
        ("a.parquet", b"PAR1 and no more", "DATA-003", "row 1 cannot be read"),
        ("a.parquet", PARQUET[:-9], "DATA-003", "row 1 cannot be read"),
        (
            "a.jsonl",
            b'[\n {"a": 1},\n {"a": 2}\n]\n',
            "DATA-004",
            "one JSON array over several lines",
        ),
        ("a.jsonl", b'[{"a": 1},\n{"a": 2}]', "DATA-004", "jq -c '.[]' FILE"),
        (
            "a.jsonl",
            b'{\n "a": 1\n}\n{\n "a": 2\n}\n',
            "DATA-004",
            "one JSON object over several lines",
        ),
        (
            "a.json",
            b'[\n {"a": 1},\n {"a": }\n]\n',
            "JSON-001",
            "column 8: '}\\n]', expected a value",
        ),
        ("a.jsonl", LINES.replace(b"\n", b"\r"), "JSON-001", "lines end in CR alone"),
        ("a.txt", b"one\rtwo\rthree\r", "DATA-002", "3 lines that end in a carriage return"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_once(tmp_path, name, content, rule, said):
    fault = fault_of(tmp_path, name, content)
    assert (fault.rule, fault.file) == (rule, name)
    assert said in fault.seen
    assert RULES[rule].action == "refuse"


def test_a_long_array_is_told_once_as_well(tmp_path):
    rows = ",\n".join(json.dumps(row) for row in ROWS * 400)
    assert len(rows) > 2 * 2**20
    fault = fault_of(tmp_path, "a.json", f"[\n{rows}\n]\n".encode())
    assert (fault.rule, fault.line) == ("DATA-004", 1)


@pytest.mark.parametrize("first", [b'{"a": [1,', b'{"a": 1,', b'{"a": {"b": 1'])
def test_a_first_line_that_was_cut_is_one_fault_and_the_rest_is_read(tmp_path, first):
    fault, *rows = read(tmp_path, "a.jsonl", first + b"\n" + LINES)
    assert isinstance(fault, Fault)
    assert (fault.rule, fault.line) == ("JSON-001", 1)
    assert len(rows) == 100


@pytest.mark.parametrize("place", range(0, len(PARQUET), 97))
def test_a_parquet_file_with_a_flipped_byte_is_read_or_refused(tmp_path, place):
    damaged = bytearray(PARQUET)
    damaged[place] ^= 0xFF
    for found in read(tmp_path, "a.parquet", bytes(damaged)):
        assert isinstance(found, RawRow) or found.rule in (
            "DATA-001",
            "DATA-002",
            "DATA-003",
            "ENC-001",
        )


def test_a_damaged_page_is_named_by_its_row_where_pages_have_checksums(tmp_path):
    rows = [{"text": f"row {n} of many"} for n in range(3000)]
    content = bytearray(
        parquet(rows, write_page_checksum=True, compression="none", row_group_size=1000)
    )
    content[content.find(b"row 1500")] ^= 1
    *whole, fault = read(tmp_path, "a.parquet", bytes(content))
    assert isinstance(fault, Fault)
    assert fault.rule == "DATA-003"
    assert fault.line == len(whole) + 1 == 1001


def test_parquet_tells_texts_that_are_no_utf8_and_columns_that_stand_twice(tmp_path):
    names = pa.array([b"ok", b"caf\xe9", b"ok"]).cast(pa.string(), safe=False)
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": names}), file)
    one, fault, other = read(tmp_path, "a.parquet", file.getvalue())
    assert isinstance(one, RawRow)
    assert isinstance(other, RawRow)
    assert isinstance(fault, Fault)
    assert (fault.rule, fault.line, fault.field) == ("ENC-001", 2, "prompt")

    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([["a"], ["b"]], names=["prompt", "prompt"]), file)
    fault = fault_of(tmp_path, "b.parquet", file.getvalue())
    assert (fault.rule, fault.field) == ("JSON-002", "prompt")


MEASURED = """
import sys
from pathlib import Path
from rlhf_core.data.sources import LocalFile, read_file
from tests.processes import peak_memory
before = peak_memory()
for path in map(Path, sys.argv[1:]):
    found = read_file(LocalFile(path.name, path, "", 0))
    print(path.name, *(f"{row.line}:{getattr(row, 'rule', 'row')}" for row in found))
    grown = peak_memory() - before
    assert grown < 300 * 1024, f"{grown} KiB more than before with {path.name}"
"""


def huge_rows(path: Path) -> str:
    path.write_bytes(
        b'{"a": "' + b"x" * 50_000_000 + b'"}\n'
        b'{"messages": [' + b'{"role":"user","content":"x"},' * 10**6 + b"{}]}\n"
        b'{"deep": ' + b"[" * 10**5 + b"]" * 10**5 + b"}\n"
        b'{"deep": ' + b'{"a":' * 10**5 + b"1" + b"}" * 10**5 + b"}\n"
        b'{"list": [' + b"1," * 10**6 + b"1]}\n"
        b'{"list": [' + b"{}," * (5 * 10**6) + b"1]}\n"
        b'{"code": "' + b"{[" * 10**6 + b'"}\n'
        b'{"a": "' + b"x" * (MAX_ROW_BYTES - 100) + b'"}\n'
    )
    return "1:SIZE-001 2:SIZE-001 3:SIZE-001 4:SIZE-001 5:row 6:SIZE-001 7:row 8:row"


def blank_lines(path: Path) -> str:
    path.write_bytes(b'{"a": 1}\n' + b"\n" * 10**7 + b'{"a": 2}')
    return "1:row 10000002:row"


def packed_line(path: Path) -> str:
    path.write_bytes(zstd(b'{"a": "' + b"\0" * (100 * 2**20) + b'"}\n{"a": 1}\n'))
    return "1:SIZE-001 2:row"


def huge_values(path: Path) -> str:
    values = ["x" * 20_000_000, "small", "y" * 10_000_000]
    pq.write_table(pa.table({"text": values}), path)
    return "1:SIZE-001 2:row 3:row"


def repeated_value(path: Path) -> str:
    places, value = pa.array([0] * 100, pa.int32()), pa.array(["x" * 8_000_000])
    repeated = pa.DictionaryArray.from_arrays(places, value)
    pq.write_table(pa.table({"text": repeated}), path, store_schema=False)
    assert path.stat().st_size < 1_000_000
    return " ".join(f"{line}:row" for line in range(1, 101))


def test_no_file_fills_the_memory_and_what_follows_is_read(tmp_path):
    files = {
        "a.jsonl": huge_rows,
        "b.jsonl": blank_lines,
        "c.jsonl.zst": packed_line,
        "d.parquet": huge_values,
        "e.parquet": repeated_value,
    }
    expected = [f"{name} {write(tmp_path / name)}" for name, write in files.items()]
    found = subprocess.run(
        [sys.executable, "-c", MEASURED, *(str(tmp_path / name) for name in files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == expected


def packed_zeros(megabytes: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    zeros = b"0" * 2**20
    return b"".join(packer.compress(zeros) for _ in range(megabytes)) + packer.flush()


def test_a_packed_line_that_never_ends_is_left_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_core.data.physical_lines.ENDLESS_BYTES", 64 * 2**20)
    bomb = gzip.compress(b'{"a": 1}\n') + packed_zeros(100)
    assert len(bomb) < 200_000
    row, first, second = read(tmp_path, "a.jsonl.gz", bomb)
    assert isinstance(row, RawRow)
    assert isinstance(first, Fault)
    assert isinstance(second, Fault)
    assert (first.rule, first.line, second.rule, second.line) == ("SIZE-001", 2, "DATA-003", 2)
    assert "nothing after it was read" in second.seen


def test_a_file_that_unpacks_without_end_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_core.data.packed_files.MOST_UNPACKED_BYTES", 2**20)
    rows = LINES * 600  # 3 MB, packed to a three-hundredth
    for name, packed in (("a.jsonl.gz", gzip.compress(rows)), ("a.jsonl.zst", zstd(rows))):
        monkeypatch.setattr("rlhf_core.data.packed_files.MOST_TIMES", 10_000)
        assert len(read(tmp_path, name, packed)) == 60_000
        monkeypatch.setattr("rlhf_core.data.packed_files.MOST_TIMES", 20)
        fault = fault_of(tmp_path, name, packed)
        assert fault.rule == "DATA-003"
        assert "20 times its size" in fault.seen


def test_an_array_on_one_endless_line_is_told_to_be_one(tmp_path):
    (fault,) = read(tmp_path, "a.json", b"[" + b'{"a": 1}, ' * 2_000_000 + b"1]")
    assert isinstance(fault, Fault)
    assert fault.rule == "SIZE-001"
    assert "jq -c '.[]'" in fault.seen


def test_an_array_on_one_long_line_is_told_to_be_one(tmp_path, monkeypatch):
    rows = b", ".join([b'{"a": "' + b"x" * 40 + b'"}'] * 2000)
    for content, rule in ((b"[" + rows + b"]", "SCH-004"), (b"[" + rows + b", []]]", "JSON-001")):
        fault = fault_of(tmp_path, "a.json", content)
        assert (fault.rule, fault.line) == (rule, 1)
    for module in ("fast_json", "strict_json"):
        monkeypatch.setattr(f"rlhf_core.data.{module}.MAX_CONTAINERS", 1000)
    fault = fault_of(tmp_path, "a.json", b"[" + rows + b"]")
    assert fault.rule == "SIZE-001"
    assert "the line begins as a JSON array: `jq -c '.[]'" in fault.seen


def test_the_sizes_of_pages_are_known_before_they_are_unpacked(tmp_path, monkeypatch):
    rows = [{"text": "x" * 100_000, "n": 1}, {"text": "y" * 50_000, "n": 2}]
    written = {
        "dictionary": parquet(rows * 10, compression="zstd"),
        "plain": parquet(rows, use_dictionary=False, data_page_version="2.0", row_group_size=1),
    }
    # Each value stands with its length, in four bytes; that it is not null takes two more.
    assert list(page_sizes(io.BytesIO(written["dictionary"]))) == [PageSizes(150_008, 150_008)]
    assert list(page_sizes(io.BytesIO(written["plain"]))) == [
        PageSizes(100_006, 0),
        PageSizes(50_006, 0),
    ]
    monkeypatch.setattr("rlhf_core.data.parquet_rows._LARGEST_PAGE", 100_000)
    for content in written.values():
        fault = fault_of(tmp_path, "a.parquet", content)
        assert (fault.rule, fault.line) == ("DATA-003", 1)
        assert "can be written again with pages of 1 MiB" in fault.seen


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\xff" * 64, b"\x15" * 64, PARQUET[:-30]])
def test_pages_that_cannot_be_understood_have_no_sizes(content):
    assert list(page_sizes(io.BytesIO(content))) == []
