"""The gate's memory and disk, and that nothing depends on how rows come in batches."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gate_rows import write_pairs
from rlhf_core.data import batches, spills
from rlhf_core.data.disk_room import check_disk_room
from rlhf_core.data.report_file import read_facts, read_faults
from rlhf_core.data.sources import LocalFile
from rlhf_core.errors import DataError, StorageError
from rlhf_core.report import ignore
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.stages.data import examine_data, make_data
from rlhf_core.tables import read_demonstrations, read_preferences

ROOT = Path(__file__).parents[2]
MODEL = ModelSettings(
    scratch=ScratchModelSettings(), max_prompt_tokens=10_000, max_response_tokens=10_000
)


def pair(prompt: str, chosen: str, rejected: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def write(path: Path, rows: list[dict[str, object]]) -> str:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return str(path)


def make(out: Path, **data: object) -> dict[str, float]:
    out.mkdir()
    settings = DataSettings.model_validate(data)
    return make_data(settings, MODEL, out_dir=out, report=ignore, seed=1)


def in_small_batches(patch: pytest.MonkeyPatch) -> None:
    """A few rows at a time, and all that waits on disk."""
    patch.setattr("rlhf_core.data.reading.MAX_ROWS", 7)
    patch.setattr(batches, "MAX_ROWS", 7)
    patch.setattr("rlhf_core.data.comparisons.MAX_ROWS", 7)
    patch.setattr(spills, "_BYTES_HELD", 100)
    patch.setattr(spills, "_LINES_HELD", 100)
    patch.setattr("rlhf_core.data.places._HELD", 5)


def contents(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix in (".parquet", ".json", ".jsonl")
    }


def test_batches_of_any_size_give_the_same_artifact(tmp_path, monkeypatch):
    demonstrations = [{"prompt": f"Say {n % 170}.", "response": f"I say {n}."} for n in range(400)]
    texts = [{"text": f"Say {n}. So."} for n in range(300)]
    pairs = [pair(f"Is {n % 130}?", f"{n % 3}", "no", source=f"s{n % 2}") for n in range(400)]
    pairs += [pair("Is 5?", "no", "2"), pair("Is 5?", "1", "2"), pair("Is 5?", "2", "3")]
    pairs += [pair("Is 5?", "3", "1")]
    data = {
        "demonstrations": {"source": write(tmp_path / "d.jsonl", demonstrations)},
        "preferences": {"source": write(tmp_path / "p.jsonl.gz", pairs)},
        "text": {"source": write(tmp_path / "t.jsonl", texts)},
        "max_set_aside_share": 0.5,
    }
    make(tmp_path / "whole", **data)
    in_small_batches(monkeypatch)
    make(tmp_path / "parts", **data)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    rules = read_facts(tmp_path / "whole" / "report.json")["rules"]
    assert {"DUP-001", "PREF-005", "PREF-010"} <= set(rules)


def test_best_responses_alone_are_the_same_in_small_batches(tmp_path, monkeypatch):
    pairs = [pair(f"Is {n % 140}?", f"yes {n % 150}", f"no {n}") for n in range(600)]
    data = {"preferences": {"source": write(tmp_path / "p.jsonl", pairs)}}
    make(tmp_path / "whole", **data)
    in_small_batches(monkeypatch)
    make(tmp_path / "parts", **data)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    best = read_demonstrations(tmp_path / "whole", "train")
    assert not best.duplicated(["prompt", "response"]).any()


@pytest.mark.parametrize("size", [7, 4096])
def test_repeats_and_contradictions_are_found_across_files(tmp_path, monkeypatch, size):
    monkeypatch.setattr("rlhf_core.data.reading.MAX_ROWS", size)
    many = [pair(f"Is {n} even?", "yes", "no") for n in range(200)]
    first = write(tmp_path / "a.jsonl", [*many[:100], pair("Who?", "me", "you")])
    last = [*many[100:], pair("Who?", "you", "me"), pair("Is 3 even?", "yes", "no")]
    second = write(tmp_path / "b.jsonl.gz", last)
    make(tmp_path / "out", preferences={"source": [first, second]})
    found = [
        (fault["rule"], fault["file"], fault["line"], fault["seen"])
        for fault in read_faults(tmp_path / "out" / "report.json")
    ]
    assert found == [
        ("PREF-005", "b.jsonl.gz", 101, "the row says the opposite of a.jsonl:101"),
        ("DUP-001", "b.jsonl.gz", 102, "the row is equal to a.jsonl:4"),
    ]


def test_comparisons_of_one_group_are_joined_across_batches_and_files(tmp_path, monkeypatch):
    wins = [("a", "b"), ("a", "c"), ("b", "c")]
    rows = [
        pair(f"Which {n}?", better, worse, group=f"g{n}")
        for better, worse in wins
        for n in range(150)
    ]
    sources = [write(tmp_path / f"{name}.jsonl", rows[name::2]) for name in (0, 1)]
    data = {"preferences": {"source": sources, "format": "rankings"}}
    in_small_batches(monkeypatch)
    make(tmp_path / "out", **data)
    tables = [read_preferences(tmp_path / "out", split) for split in ("train", "validation")]
    ranked = [
        dict(zip(responses, ranks, strict=True))
        for table in tables
        for responses, ranks in zip(table["responses"], table["ranks"], strict=True)
    ]
    assert len(ranked) == 150
    assert all(one == {"a": 1, "b": 2, "c": 3} for one in ranked)


def test_a_file_of_faults_alone_is_told_whole_and_shown_in_part(tmp_path, monkeypatch):
    in_small_batches(monkeypatch)
    rows = [pair("p", " ", "b") if n % 2 else {"prompt": n} for n in range(300)]
    out = tmp_path / "out"
    with pytest.raises(DataError) as caught:
        make(out, preferences={"source": write(tmp_path / "p.jsonl", rows), "format": "pairs"})
    message = str(caught.value)
    assert message.count("rule TXT-001 blank-text") == 20
    assert "... and 130 more rows of this rule" in message
    assert "300 of 300 rows failed in" in message
    assert sum(fault["rule"] == "TXT-001" for fault in read_faults(out / "report.json")) == 150
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


PEAK = """
import sys
from pathlib import Path
from rlhf_core.report import ignore
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.model import ModelSettings
from rlhf_core.stages.data import examine_data, make_data
from tests.processes import peak_memory
source, out, work = sys.argv[1:]
data = DataSettings.model_validate({"preferences": {"source": source}})
model = ModelSettings.model_validate(
    {"scratch": {}, "max_prompt_tokens": 1000, "max_response_tokens": 1000}
)
work = {"make": make_data, "examine": examine_data}[work]
work(data, model, out_dir=Path(out), report=ignore, seed=1)
print(peak_memory() // 1024)
"""


def peak(source: Path, out: Path, work: str) -> int:
    """Megabytes that a process of its own had resident at most."""
    out.mkdir()
    command = [sys.executable, "-c", PEAK, str(source), str(out), work]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("work", ["examine", "make"])
def test_memory_does_not_grow_with_the_file(tmp_path, work):
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    write_pairs(small, 5_000_000)
    write_pairs(large, 25_000_000)
    peaks = [peak(path, tmp_path / f"{path.stem}-out", work) for path in (small, large)]
    assert peaks[1] < 300
    # Buffers fill up in a file of five megabytes or later; twenty more are not kept.
    assert peaks[1] - peaks[0] < 30


def test_a_check_leaves_the_folder_of_its_report_clean(tmp_path):
    source = write(tmp_path / "p.jsonl", [pair(f"{n}?", "a", "b") for n in range(10)])
    out = tmp_path / "out"
    out.mkdir()
    settings = DataSettings.model_validate({"preferences": {"source": source}})
    examine_data(settings, MODEL, out_dir=out, report=ignore, seed=1)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["report.html", "report.json", "set-aside.jsonl", "sources.json"]


def test_too_little_disk_is_told_before_a_row_is_read(tmp_path):
    huge = LocalFile("p.jsonl.gz", tmp_path / "p.jsonl.gz", "", 10**18)
    with pytest.raises(StorageError, match="some 800,000,000,000,000,000 are needed"):
        check_disk_room([huge], 0.2, tmp_path)
    check_disk_room([huge._replace(bytes=1000)], 0.2, tmp_path)
