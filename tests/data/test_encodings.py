"""Bytes that are not UTF-8 are named with their place and what they look like; odd texts warn."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.data.batches import RowBatch
from rlhf_core.data.comparing import check_rows
from rlhf_core.data.faults import Fault
from rlhf_core.data.rows import Row
from rlhf_core.data.rules import RULES
from rlhf_core.data.sources import LocalFile, RawRow, read_file
from rlhf_core.data.text_warnings import text_warnings
from rlhf_core.data.texts import odd_places, oddities

MARK = b"\xef\xbb\xbf"
PLAIN = b'{"prompt": "Say a.", "response": "a"}\n'


def read(folder: Path, content: bytes, name: str = "a.jsonl") -> list[RawRow | Fault]:
    path = folder / name
    path.write_bytes(content)
    return list(read_file(LocalFile(name, path, "", len(content))))


def row_of(text: str) -> str:
    return f'{{"prompt": "{text}", "response": "ok"}}\n'


@pytest.mark.parametrize(
    "text,encoding,looks,iconv",
    [
        ("A café in Zürich", "latin-1", "Latin-1 text", "iconv -f ISO-8859-1 -t UTF-8"),
        ("It’s 5 € – “cheap”", "cp1252", "Windows-1252 text", "iconv -f CP1252 -t UTF-8"),
        ("Привет, как твои дела?", "cp1251", "CP1251 text", "iconv -f CP1251 -t UTF-8"),
        ("Привет, как твои дела?", "koi8-r", "KOI8-R text", "iconv -f KOI8-R -t UTF-8"),
        ("你好，我是中国的学生", "gbk", "GB18030 text", "iconv -f GB18030 -t UTF-8"),
        ("これはペンです", "shift_jis", "SHIFT_JIS text", "iconv -f SHIFT_JIS -t UTF-8"),
        ("これはペンです", "euc-jp", "EUC-JP text", "iconv -f EUC-JP -t UTF-8"),
        ("안녕하세요 반갑습니다", "euc-kr", "EUC-KR text", "iconv -f EUC-KR -t UTF-8"),
    ],
)
def test_a_line_of_another_encoding_is_named_with_the_command(
    tmp_path, text, encoding, looks, iconv
):
    line = row_of(text).encode(encoding)
    row, fault, last = read(tmp_path, PLAIN + line + PLAIN)
    assert isinstance(row, RawRow)
    assert isinstance(last, RawRow)
    assert isinstance(fault, Fault)
    place = next(place for place, byte in enumerate(line) if byte >= 0x80)
    assert (fault.rule, fault.line, fault.field) == ("ENC-001", 2, "prompt")
    offsets = f"offset {place} of the line and {len(PLAIN) + place} of the file"
    assert fault.seen.startswith(f"byte 0x{line[place]:02x} at {offsets}")
    assert f"looks like {looks}" in fault.seen
    assert iconv in fault.seen


@pytest.mark.parametrize(
    "damage,looks",
    [
        (b"\xc0\xaf", "an overlong form"),
        (b"\xc0\x80", "an overlong form"),
        (b"\xe0\x80\xaf", "an overlong form"),
        (b"\xf0\x80\x80\xaf", "an overlong form"),
        (b"\xed\xa0\xbd\xed\xb8\x80", "CESU-8"),
        (b"\xed\xb0\x80", "CESU-8"),
        (b"\xff", "damaged UTF-8"),
        (b"\xf4\x90\x80\x80", "damaged UTF-8"),
    ],
)
def test_bytes_that_only_look_like_utf8_are_refused(tmp_path, damage, looks):
    (fault,) = read(tmp_path, b'{"prompt": "\xe4\xbd\xa0\xe5\xa5\xbd ' + damage + b'"}')
    assert isinstance(fault, Fault)
    assert (fault.rule, fault.line) == ("ENC-001", 1)
    assert looks in fault.seen


@pytest.mark.parametrize("mark", ["with a byte-order mark", "without a byte-order mark"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["Say a.", "你好吗，我是学生", "😀" * 3000])
def test_a_file_of_wide_characters_is_told_once(tmp_path, text, encoding, mark):
    start = "\ufeff" if mark.startswith("with ") else ""
    (fault,) = read(tmp_path, (start + row_of(text) * 3).encode(encoding))
    assert isinstance(fault, Fault)
    assert (fault.rule, fault.line) == ("ENC-001", 1)
    assert f"it is {encoding[:6].upper()}" in fault.seen
    assert mark in fault.seen
    assert "offset 0 of the file" in fault.seen or "offset 1 of the file" in fault.seen


def test_a_mark_at_the_start_is_a_note_and_changes_no_place(tmp_path):
    note, first, fault = read(tmp_path, MARK + PLAIN + b'{"prompt": "\xff"}')
    assert isinstance(note, Fault)
    assert (note.rule, note.line) == ("ENC-003", 1)
    assert isinstance(first, RawRow)
    assert first.fields["prompt"] == "Say a."
    assert isinstance(fault, Fault)
    assert f"offset 12 of the line and {len(MARK + PLAIN) + 12} of the file" in fault.seen


@pytest.mark.parametrize("content", [MARK, MARK + b"\n\n"])
def test_a_mark_alone_is_no_row(tmp_path, content):
    assert [fault.rule for fault in read(tmp_path, content) if isinstance(fault, Fault)][-1] == (
        "DATA-001"
    )


def test_a_mark_inside_a_text_is_a_character_like_others(tmp_path):
    (row,) = read(tmp_path, row_of("a\ufeffb").encode())
    assert isinstance(row, RawRow)
    assert row.fields["prompt"] == "a\ufeffb"


def test_line_breaks_of_unicode_count_no_lines(tmp_path):
    content = row_of("a\u2028b\u2029c\u0085d").encode() + b"\n" + PLAIN
    assert [row.line for row in read(tmp_path, content)] == [1, 3]


def row(line: int, prompt: str, response: str = "ok") -> Row:
    return Row(prompt, (response,), (), "a", "", prompt, "a.jsonl", line)


@pytest.mark.parametrize(
    "text,rule,seen",
    [
        ("a\u202eb", "TXT-005", "U+202E at character 2"),
        ("\u202da", "TXT-005", "U+202D at character 1"),
        ("lost \ufffd", "TXT-006", "U+FFFD at character 6"),
        ("It\u0092s", "TXT-006", "U+0092 at character 3"),
        ("Itâ€™s", "TXT-006", "U+00E2 U+20AC U+2122 (â€™) at character 3"),
        ("cafÃ©", "TXT-006", "U+00C3 U+00A9 (Ã©) at character 4"),
        ("a price of Â£3", "TXT-006", "U+00C2 U+00A3 (Â£) at character 12"),
        ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "TXT-006", "U+00D0"),
    ],
)
def test_a_text_that_was_hardly_meant_so_is_a_warning(text, rule, seen):
    rows = [row(1, "clean"), row(2, "clean: é", text), row(3, "你好")]
    (found,) = text_warnings(RowBatch(range(len(rows)), rows), "demonstrations")
    assert (found.rule, found.line, found.field) == (rule, 2, "response")
    assert found.seen.startswith(seen)
    assert RULES[rule].action == "warn"


def test_what_people_write_warns_of_nothing():
    texts = [
        "שלום, עולם! 123 (abc)",
        "مرحبا \u200fبالعالم\u200e 2024",
        "می\u200cخواهم",
        "👨\u200d👩\u200d👧 🏳️\u200d🌈",
        "soft\u00adhyphen, nbsp\u00a0, zero\u200bwidth, \ufeffmark",
        "\u2067isolated\u2069 and \u202bembedded\u202c",
        "São Paulo, MANHÃ, PÃO, ÂNGULO, NÃO: «Ã»",
        "Ñandú, ÑOÑO, Ð in Icelandic: Ðe",
        "Je l’ai – « déjà » – vu…",
        "naïve façade, Ångström, Übergröße, 25 °C, £5, ©®™",
        "Ελληνικά, Русский, Ћирилица, हिन्दी, ไทย, 中文，日本語、한국어",
        "∀x∈ℝ: x²≥0 ⇒ ∑ᵢ αᵢ ≤ 1",
        "line\u2028separator and next\u0085line",
    ]
    rows = [row(line, text, f"{text}!") for line, text in enumerate(texts, start=1)]
    assert text_warnings(RowBatch(range(len(rows)), rows), "demonstrations") == []
    assert check_rows(rows, "demonstrations") == []


@given(st.text(st.sampled_from("aéÃÂâ€™©ÐÑ\u0085\u0092\u00a0\u202e\ufffd你😀\ud800·"), max_size=8))
def test_no_text_is_thought_even_that_is_odd(text):
    content = text.encode("utf-8", "surrogatepass")
    if not len(odd_places(content)):
        assert list(oddities(text)) == []
