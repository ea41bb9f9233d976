import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

import datasets
import huggingface_hub
import pandas as pd
import pytest

from rlhf_core.data.faults import Fault
from rlhf_core.data.hub import HubData, find_sources, read_rows
from rlhf_core.data.rules import RULES
from rlhf_core.data.sources import MAX_ROW_BYTES, LocalFile, RawRow, local_file, read_file
from rlhf_core.errors import DataError
from rlhf_core.settings.data import TableSettings

ROWS: Sequence[dict[str, object]] = [
    {"prompt": "2 + 2?", "response": "4"},
    {"prompt": "سلام\u2028", "response": "🙂 =cmd()"},
]


def write(path: Path, content: bytes) -> LocalFile:
    path.write_bytes(content)
    return local_file(path, path.name)


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def faults(file: LocalFile) -> list[tuple[int, str, str]]:
    return [(row.line, row.rule, row.seen) for row in read_file(file) if isinstance(row, Fault)]


def fields(file: LocalFile) -> list[object]:
    rows = list(read_file(file))
    assert all(isinstance(row, RawRow) for row in rows), rows
    return [row.fields for row in rows if isinstance(row, RawRow)]


def test_plain_gzip_and_parquet_give_the_same_rows(tmp_path):
    plain = write(tmp_path / "a.jsonl", lines(*ROWS))
    packed = write(tmp_path / "a.jsonl.gz", gzip.compress(lines(*ROWS)))
    pd.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    parquet = local_file(tmp_path / "a.parquet", "a.parquet")

    assert fields(plain) == fields(packed) == fields(parquet) == ROWS
    assert [row.line for row in read_file(parquet)] == [1, 2]


def test_a_line_of_a_text_file_is_a_row_of_text(tmp_path):
    content = b" = Heading =\n \n\nA paragraph {not JSON}.\r\n\xff\n"
    plain = write(tmp_path / "a.txt", content)
    packed = write(tmp_path / "a.txt.gz", gzip.compress(content, mtime=0))
    for file in (plain, packed):
        heading, paragraph, fault = read_file(file)
        assert heading == RawRow(file.name, 1, {"text": " = Heading ="})
        assert paragraph == RawRow(file.name, 4, {"text": "A paragraph {not JSON}."})
        assert isinstance(fault, Fault)
        assert (fault.rule, fault.line) == ("ENC-001", 5)


def test_a_row_is_named_by_its_physical_line(tmp_path):
    # line 2 is blank, line 3 ends in CR LF, line 4 holds a raw U+2028, which ends no line
    content = b'{"a": 1}\n\n{"a": 2}\r\n' + '{"a": "x\u2028y"}\n'.encode() + b'{"a": 4}'
    file = write(tmp_path / "a.jsonl", content)
    found = [(row.line, row.fields["a"]) for row in read_file(file) if isinstance(row, RawRow)]
    assert found == [(1, 1), (3, 2), (4, "x\u2028y"), (5, 4)]


def test_a_byte_order_mark_is_accepted_at_the_start_and_nowhere_else(tmp_path):
    mark = b"\xef\xbb\xbf"
    file = write(tmp_path / "a.jsonl", mark + b'{"a": 1}\n' + mark + b'{"a": 2}\n')
    note, row, fault = read_file(file)
    assert isinstance(note, Fault)
    assert (note.rule, note.line) == ("ENC-003", 1)
    assert RULES[note.rule].action == "warn"
    assert row == RawRow("a.jsonl", 1, {"a": 1})
    assert fault == Fault("ENC-002", "a.jsonl", 2, "", "a byte-order mark (EF BB BF)")


@pytest.mark.parametrize(
    "line,rule,seen",
    [
        (b'{"a": "cut', "JSON-001", "the line ends inside the text that begins at column 7"),
        (b'{"a": 1} {"a": 2}', "JSON-001", "column 10: a second object on the same line"),
        (b'{"a": 1}\r{"a": 2}', "JSON-001", "column 10: a second object after a carriage return"),
        (b'{"a": "raw \x00"}', "TXT-003", "column 12: a raw control character U+0000"),
        (b"{'a': 1}", "JSON-001", "looks like a Python dict"),
        (b'{"a": 1, "b": 2, "a": 3}', "JSON-002", "the key stands twice"),
        (b'{"a": {"b": 1, "b": 2}}', "JSON-002", "the key stands twice"),
        (b'{"a": "caf\xe9"}', "ENC-001", "byte 0xe9 at offset 10 of the line and 19 of the file"),
        (b'{"a": NaN}', "NUM-001", "NaN"),
        (b'{"a": -Infinity}', "NUM-001", "-Infinity"),
        (b"[1]", "SCH-004", "a list, expected one JSON object"),
        (b"null", "SCH-004", "null, expected one JSON object"),
        (b"[" * 100_000, "SIZE-001", "nested deeper"),
        (b'{"a": ' + b"9" * 5000 + b"}", "SIZE-001", "digits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_line_that_is_no_row_is_named_and_the_next_one_is_read(tmp_path, line, rule, seen):
    file = write(tmp_path / "a.jsonl", b'{"a": 0}\n' + line + b'\n{"a": 3}\n')
    ((number, found, said),) = faults(file)
    assert (number, found) == (2, rule)
    assert seen in said
    assert [row.line for row in read_file(file) if isinstance(row, RawRow)] == [1, 3]


def test_an_oversized_line_is_one_fault_and_counts_as_one_line(tmp_path):
    huge = b'{"a": "' + b"x" * (2 * MAX_ROW_BYTES + 5) + b'"}\n'
    file = write(tmp_path / "a.jsonl", huge + b'{"a": 1}\n')
    fault, row = read_file(file)
    assert isinstance(fault, Fault)
    assert (fault.rule, fault.line) == ("SIZE-001", 1)
    assert row == RawRow("a.jsonl", 2, {"a": 1})


def test_a_file_is_recorded_by_name_size_and_hash(tmp_path):
    file = write(tmp_path / "a.jsonl", b"abc")
    # SHA-256 of "abc": FIPS 180-2, appendix B.1
    assert file.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (file.name, file.bytes) == ("a.jsonl", 3)


def test_a_file_whose_name_is_no_text_is_named_all_the_same(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    file = write(path, b'{"a": 1}')
    assert file.name == "caf\\udce9.jsonl"
    assert fields(file) == [{"a": 1}]


def test_a_folder_in_the_hubs_layout_gives_its_split_and_subset(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    for subset, split in [("helpful", "train"), ("helpful", "test"), ("harmless", "train")]:
        (folder / subset).mkdir(parents=True, exist_ok=True)
        content = gzip.compress(lines({"text": f"{subset} {split}"}))
        write(folder / subset / f"{split}.jsonl.gz", content)

    settings = TableSettings(source=str(folder), subset="helpful")
    (source,) = find_sources(settings, "demonstrations")
    (row,) = read_rows(source, settings, "demonstrations")
    assert row == RawRow("helpful/train.jsonl.gz", 1, {"text": "helpful train"})

    whole = find_sources(TableSettings(source=str(folder)), "demonstrations")
    assert {file.name for file in whole} == {"harmless/train.jsonl.gz", "helpful/train.jsonl.gz"}

    with pytest.raises(DataError, match="no split 'dev', but train, test"):
        find_sources(TableSettings(source=str(folder), split="dev"), "demonstrations")


def test_a_file_that_is_not_there_is_refused_with_the_override_that_mends_it(tmp_path):
    settings = TableSettings(source=str(tmp_path / "missing.jsonl"))
    with pytest.raises(DataError, match=r"--set data\.preferences\.source=PATH"):
        find_sources(settings, "preferences")


def test_a_hub_id_without_a_connection_is_refused_with_the_way_round(tmp_path, monkeypatch):
    def unreachable(*arguments: object, **options: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    settings = TableSettings(source="somebody/some-data")
    (source,) = find_sources(settings, "demonstrations")
    assert source == HubData("somebody/some-data", None, "train", commit=None)
    with pytest.raises(DataError) as caught:
        list(read_rows(source, settings, "demonstrations"))
    assert "somebody/some-data" in str(caught.value)
    assert "the hub could not be reached" in str(caught.value)
    assert "--set data.demonstrations.source=PATH" in str(caught.value)


def test_hub_rows_are_numbered_and_read_at_the_commit(monkeypatch):
    asked: dict[str, object] = {}

    def load(name: str, **options: object) -> datasets.Dataset:
        asked.update(options, name=name)
        return datasets.Dataset.from_list([{"text": "one"}, {"text": "two"}])

    info = huggingface_hub.DatasetInfo(id="somebody/some-data", sha="c0ffee")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    settings = TableSettings(source="somebody/some-data", revision="main")
    (source,) = find_sources(settings, "demonstrations")
    rows = list(read_rows(source, settings, "demonstrations"))

    assert rows == [
        RawRow("somebody/some-data", 1, {"text": "one"}),
        RawRow("somebody/some-data", 2, {"text": "two"}),
    ]
    assert (asked["name"], asked["revision"]) == ("somebody/some-data", "c0ffee")


def test_hub_rows_that_stop_coming_are_told_by_their_number(monkeypatch):
    class Rows:
        def __iter__(self):
            yield {"text": "one"}
            yield {"text": "two"}
            raise ConnectionError("reset by peer")

    info = huggingface_hub.DatasetInfo(id="somebody/some-data", sha="c0ffee")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: info)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Rows())
    settings = TableSettings(source="somebody/some-data")
    (source,) = find_sources(settings, "demonstrations")
    with pytest.raises(DataError, match=r"somebody/some-data:3: .*DATA-003.*reset by peer"):
        list(read_rows(source, settings, "demonstrations"))


@pytest.mark.parametrize("kind", ["empty", "pipe"])
def test_a_source_that_holds_nothing_to_read_is_refused_with_its_rule(tmp_path, kind):
    path = tmp_path / kind
    if kind == "empty":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(DataError, match=r"rule DATA-00[12]"):
        find_sources(TableSettings(source=str(path)), "prompts")
