"""No alarm for honest texts in many languages, and not a byte of them is changed."""

import json
from pathlib import Path

import pytest

from rlhf_core.data.report_file import read_facts, read_faults
from rlhf_core.report import ignore
from rlhf_core.settings.data import DataSettings
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.stages.data import make_data
from rlhf_core.tables import read_demonstrations, read_preferences, read_text
from tasks.check import check_files, recipe_of_files
from tests.data.clean_rows import LANGUAGES, clean_rows, line_of

COUNT = 10_000
ANY_LENGTH = ModelSettings(
    scratch=ScratchModelSettings(), max_prompt_tokens=10**6, max_response_tokens=10**6
)


def written(path: Path, rows) -> str:
    lines = [f"{line_of(row, number)}\n" for number, row in enumerate(rows)]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    shown = (
        {"prompt": row["prompt"], "response": row["chosen"], "source": "made"}
        for row in clean_rows(COUNT)
    )
    texts = ({"text": f"{row['chosen']}\n\n{row['prompt']}"} for row in clean_rows(COUNT))
    settings = DataSettings.model_validate(
        {
            "preferences": {"source": written(folder / "pairs.jsonl", clean_rows(COUNT))},
            "demonstrations": {"source": written(folder / "shown.jsonl", shown)},
            "text": {"source": written(folder / "texts.jsonl", texts)},
        }
    )
    out = folder / "out"
    out.mkdir()
    make_data(settings, ANY_LENGTH, out_dir=out, report=ignore, seed=1)
    return out


def test_ten_thousand_rows_in_many_languages_raise_no_alarm(made):
    assert len(LANGUAGES) >= 12
    assert list(read_faults(made / "report.json")) == []
    tables = read_facts(made / "report.json")["tables"]
    assert [table["usable"] for table in tables.values()] == [COUNT] * 3


def test_files_of_such_rows_raise_none_either(tmp_path):
    path = Path(written(tmp_path / "pairs.jsonl", clean_rows(2_000)))
    with check_files(recipe_of_files([path], None, {}, []), None) as checked:
        assert (checked.refusal, list(checked.faults)) == (None, [])
        assert checked.facts["tables"]["preferences"]["usable"] == 2_000


def test_every_text_comes_out_with_the_bytes_that_went_in(made):
    """But for white space at the end of a prompt and at the start of a response."""
    expected = list(clean_rows(COUNT))
    seen = 0
    for split in ("train", "validation"):
        for row in read_preferences(made, split).itertuples():
            given = expected[row.line - 1]
            assert row.prompt.encode() == given["prompt"].rstrip(" \t").encode()
            for text, name in zip(row.responses, ("chosen", "rejected"), strict=True):
                assert text.encode() == given[name].lstrip().encode()
            seen += 1
        for row in read_demonstrations(made, split).itertuples():
            assert row.response.encode() == expected[row.line - 1]["chosen"].lstrip().encode()
        for row in read_text(made, split).itertuples():
            given = expected[row.line - 1]
            assert row.text.encode() == f"{given['chosen']}\n\n{given['prompt']}".encode()
    assert seen > 0.8 * COUNT  # the others have an evaluation prompt


def test_the_rows_hold_what_they_are_said_to_hold():
    texts = [json.dumps(row, ensure_ascii=False) for row in clean_rows(COUNT)]
    whole = "".join(texts)
    for held in (
        "\u200d",
        "\u200c",
        "\u200f",
        "\u2067",
        "🇩🇪",
        "\\r\\n",
        "\\t",
        "\u2028",
        "e\u0301",
    ):
        assert held in whole
    assert max(map(len, texts)) > 100_000
    assert len(set(texts)) == COUNT
