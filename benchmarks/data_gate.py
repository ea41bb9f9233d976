"""Rows per second of processor time and peak memory of the data gate, beside other readers.

    python -m benchmarks.data_gate --folder /path/with/room --sizes 0.1 1 4

Each reader runs in a process of its own, start-up included: `rlhf check FILE` and `rlhf check
RECIPE` as the gate does them, all rules on (the recipe's rows are split and looked through for
leaks too); pandas with pandera on the whole file, with a few of the gate's rules; and `datasets`,
which reads and checks nothing but JSON. Memory is the largest resident size; processor time is of
user and system together, which other work on the machine changes little.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gate_rows import write_pairs

GIGABYTE = 10**9

PANDAS_NEEDS = 8
"""Times the file's size in memory, roughly: larger files are left out."""


def check_file(path: Path, _folder: Path) -> None:
    """`rlhf check FILE`."""
    _rlhf("check", str(path))


def check_recipe(path: Path, folder: Path) -> None:
    """`rlhf check RECIPE` where words are counted; rows are split and compared too."""
    values = {
        "name": "measured",
        "last_stage": "data",
        "data": {"preferences": {"source": str(path)}},
        "model": {"scratch": {}, "max_prompt_tokens": 1000, "max_response_tokens": 1000},
    }
    recipe = folder / "measured.yaml"
    recipe.write_text(json.dumps(values), encoding="utf-8")
    _rlhf("check", str(recipe))


def _rlhf(*arguments: str) -> None:
    from flows.cli import main as rlhf

    sys.argv = ["rlhf", *arguments]
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        rlhf()


def pandas_and_pandera(path: Path, _folder: Path) -> None:
    """The whole file as one frame; texts that are not blank, pairs that differ, no repeats."""
    import pandas as pd
    import pandera.pandas as pa

    text = pa.Column(str, pa.Check(lambda texts: texts.str.strip().str.len() > 0))
    schema = pa.DataFrameSchema(
        {"prompt": text, "chosen": text, "rejected": text},
        checks=pa.Check(lambda rows: rows["chosen"].str.strip() != rows["rejected"].str.strip()),
    )
    frame = pd.read_json(path, lines=True, dtype=False)
    schema.validate(frame, lazy=True)
    frame.duplicated().sum()


def datasets_alone(path: Path, folder: Path) -> None:
    """The file in the cache of `datasets`, of which no row is checked."""
    import datasets

    datasets.disable_progress_bars()
    datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(folder / "cache")
    )


READERS: Mapping[str, Callable[[Path, Path], None]] = {
    "rlhf check FILE": check_file,
    "rlhf check RECIPE": check_recipe,
    "pandas + pandera": pandas_and_pandera,
    "datasets": datasets_alone,
}


def measured(reader: str, path: Path, folder: Path) -> dict[str, float]:
    """Seconds of the processor and of the clock, and the peak memory in MB, of one process."""
    with TemporaryDirectory(prefix="measured-", dir=folder) as own:
        command = [sys.executable, "-m", "benchmarks.data_gate", "--reader", reader]
        command += ["--folder", own, "--file", str(path)]
        environment = {**os.environ, "TMPDIR": own, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        start = time.monotonic()
        process = subprocess.Popen(command, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{reader} ended with {process.returncode} on {path}")
        return {
            "processor_seconds": used.ru_utime + used.ru_stime,
            "seconds": time.monotonic() - start,
            "peak_mb": used.ru_maxrss / 1000,
        }


def compare(sizes: list[float], folder: Path, readers: list[str]) -> list[dict[str, Any]]:
    """Every reader on a file of each size, which is removed afterwards."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = []
    for size in sizes:
        path = folder / f"pairs-{size:g}.jsonl"
        needed = int(2.5 * size * GIGABYTE)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise SystemExit(
                f"{folder} has {free / GIGABYTE:.1f} GB free, and {needed / GIGABYTE:.1f} GB are "
                "needed: name another folder."
            )
        rows = write_pairs(path, int(size * GIGABYTE))
        for reader in readers:
            if reader == "pandas + pandera" and PANDAS_NEEDS * size * GIGABYTE > memory:
                print(f"{reader:18} {size:5g} GB  left out: more than the machine's memory")
                continue
            took = measured(reader, path, folder)
            speed = rows / took["processor_seconds"]
            found.append({"reader": reader, "gigabytes": size, "rows": rows, **took})
            print(
                f"{reader:18} {size:5g} GB  {rows:>10,} rows  {speed:>9,.0f} rows per CPU second  "
                f"{took['peak_mb']:>7,.0f} MB peak  {took['seconds']:>7.1f} s",
                flush=True,
            )
        path.unlink()
    return found


def main() -> None:
    """Measure, and print a line for each reader and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where files are written")
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.1, 1.0, 4.0], help="GB")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reader is not None:
        READERS[arguments.reader](arguments.file, arguments.folder)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    found = compare(arguments.sizes, arguments.folder, arguments.readers)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
