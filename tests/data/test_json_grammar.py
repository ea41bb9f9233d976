"""JSON as RFC 8259 writes it: what must be read, what must be refused, and that both readers agree.

Each case stands as the value of a field, in a row by itself; some stand as a whole line.
"""

import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlhf_core.data.fast_json import certain_objects
from rlhf_core.data.faults import Fault
from rlhf_core.data.raw_rows import RawRow
from rlhf_core.data.sources import LocalFile, read_file
from rlhf_core.data.strict_json import MAX_DEPTH, JsonError, parse_json

ACCEPTED = {
    "arrays": {
        "[]": [],
        "[ ]": [],
        "[\t1\r]": [1],
        "[[]]": [[]],
        "[[[[[[]]]]]]": [[[[[[]]]]]],
        "[1,2 , 3]": [1, 2, 3],
        "[null]": [None],
        "[true,false]": [True, False],
        '["",""]': ["", ""],
        "[{}]": [{}],
        '[1,"a",null,[],{}]': [1, "a", None, [], {}],
        "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1): None,
    },
    "numbers": {
        "0": 0,
        "-0": 0,
        "-0.0": -0.0,
        "0.0": 0.0,
        "-1": -1,
        "10": 10,
        "123456789": 123456789,
        "0e0": 0.0,
        "0E+0": 0.0,
        "1e5": 1e5,
        "1E5": 1e5,
        "1e+05": 1e5,
        "1e-05": 1e-5,
        "0.5": 0.5,
        "-12.25e-2": -0.1225,
        "1e-400": 0.0,
        "5e-324": 5e-324,
        "1.7976931348623157e308": 1.7976931348623157e308,
        "18446744073709551615": 2**64 - 1,
        "-9223372036854775808": -(2**63),
        "1180591620717411303424": 2**70,
        "0.1000000000000000055511151231257827": 0.1,
        "9007199254740993.0": 9007199254740992.0,
    },
    "objects": {
        "{}": {},
        "{ }": {},
        '{"a":1}': {"a": 1},
        '{ "a" : 1 , "b" : 2 }': {"a": 1, "b": 2},
        '{"":0}': {"": 0},
        '{"a":{"a":{"a":1}}}': {"a": {"a": {"a": 1}}},
        '{"a":1,"A":2}': {"a": 1, "A": 2},
        '{"__class__":"x","$ref":"#/a","__proto__":null}': {
            "__class__": "x",
            "$ref": "#/a",
            "__proto__": None,
        },
        '{"\\u0061":1}': {"a": 1},
        '{"a\\u0000b":1}': {"a\0b": 1},
        '{"ключ":"значение"}': {"ключ": "значение"},
        '{"a\\\\":1,"b":2}': {"a\\": 1, "b": 2},
    },
    "strings": {
        '""': "",
        '"a"': "a",
        '"007"': "007",
        '"\\"\\\\\\/\\b\\f\\n\\r\\t"': '"\\/\b\f\n\r\t',
        '"\\u0041\\u00e9\\u4F60\\uABCD"': "Aé你\uabcd",
        '"\\ud83d\\ude00"': "😀",
        '"\\uD834\\uDD1E"': "𝄞",
        '"é你😀"': "é你😀",
        '"\\u0000"': "\0",
        '"\x7f"': "\x7f",
        '"\u2028\u2029"': "\u2028\u2029",
        '"\u0080\ufeff\uffff\U0010ffff"': "\u0080\ufeff\uffff\U0010ffff",
        '"//"': "//",
        '"\\\\u0041"': "\\u0041",
        '"\\": {\\"a\\": 1}"': '": {"a": 1}',
        '"Bonjour : \\"oui\\" : non"': 'Bonjour : "oui" : non',
        '"=cmd()"': "=cmd()",
    },
    "literals": {"true": True, "false": False, "null": None},
}

REFUSED = {
    "arrays": (
        "[",
        "]",
        "[,]",
        "[,1]",
        "[1,]",
        "[1,,2]",
        "[1 2]",
        "[1:2]",
        "[1}",
        "[1]]",
        "[[]",
        '["a"',
        '["a",',
        '["a" "b"]',
        "[a]",
        "[x",
        "[*]",
        "[\v1]",
        "[1\f]",
        "[\u00a01]",
        "[1,\u2060]",
    ),
    "numbers": (
        "+1",
        "-",
        "--1",
        "- 1",
        "01",
        "-01",
        "00",
        "007",
        "1.",
        ".5",
        "-.5",
        "1.e1",
        "1e",
        "1e+",
        "1e1.5",
        "0e",
        "0x1F",
        "0b1",
        "0o7",
        "1_000",
        "1,5",
        "1 000",
        "1a",
        "1.2.3",
        "-a",
        "\uff11",
        "١",
        "NaN",
        "-NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "Inf",
        "+Inf",
        "1e999",
        "-1e999",
        "1" * 1001,
    ),
    "objects": (
        "{",
        "}",
        "{,}",
        '{"a"}',
        '{"a":}',
        '{"a":1,}',
        '{"a":1,,"b":2}',
        '{,"a":1}',
        '{"a" 1}',
        '{"a"::1}',
        '{"a"=1}',
        '{:"a"}',
        '{"a":1 "b":2}',
        '{"a":1]',
        '{"a":1',
        "{a:1}",
        "{'a':1}",
        "{1:1}",
        "{null:1}",
        "{[]:1}",
        '{"a":1}}',
        '{"a":1}{"b":2}',
        '{"a":1} x',
        '{"a":1}/*c*/',
        '{"a":1}//c',
        '{"a":1}#c',
        '{"a":/*c*/1}',
        '{"a":1,"a":1}',
        '{"a":1,"\\u0061":2}',
        '{"b":{"a":1,"a":2}}',
        '[{"a":1,"b":[{"c":1,"c":2}]}]',
        '{"a" :1,"a":2}',
        '{"a\\\\":1,"a\\\\":2}',
        '{"a":"\\":","a":2}',
    ),
    "strings": (
        '"',
        '"a',
        '"a\\',
        '"\\"',
        "'a'",
        "a",
        "“a”",
        '"a""b"',
        '"\\x41"',
        '"\\a"',
        '"\\ "',
        '"\\\'"',
        '"\\0"',
        '"\\u"',
        '"\\u12"',
        '"\\u123g"',
        '"\\u 123"',
        '"\\u+123"',
        '"\\U00000041"',
        '"\\N{BULLET}"',
        '"\x00"',
        '"\x01"',
        '"\x1f"',
        '"\t"',
        '"\r"',
        'u"a"',
        'b"a"',
        "`a`",
    ),
    "structure": (
        "",
        "<.>",
        "True",
        "False",
        "None",
        "TRUE",
        "tru",
        "nul",
        "truee",
        "nulll",
        "true false",
        "undefined",
        "@",
        "&b",
        "\\u0061",
        "[" * 100_000,
        '[{"":' * 50_000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        "\ufeff1",
        "1;",
        "[1]2",
    ),
}


def cases(table):
    return [
        pytest.param(case, id=f"{kind}-{case[:40]!a}") for kind in table for case in table[kind]
    ]


def in_a_row(value: str) -> str:
    return f'{{"prompt": "p", "extra": {value}}}'


def same(one: object, other: object) -> bool:
    """Equal, and of equal types and signs all the way down."""
    return repr(one) == repr(other)


@pytest.mark.parametrize("case", cases(ACCEPTED))
def test_what_the_grammar_allows_is_read_as_it_stands(case):
    expected = next(values[case] for values in ACCEPTED.values() if case in values)
    found = parse_json(in_a_row(case))
    assert isinstance(found, dict)
    if not case.startswith("[[[[[[["):
        assert same(found["extra"], expected)
    assert same(found, json.loads(in_a_row(case)))
    assert same(parse_json(f" \t{case}\r"), expected) or case.startswith("[[[[[[[")


@pytest.mark.parametrize("case", cases(REFUSED))
def test_what_the_grammar_does_not_allow_is_refused(case):
    with pytest.raises(JsonError):
        parse_json(in_a_row(case))
    with pytest.raises(JsonError):
        parse_json(case)
    assert certain_objects([in_a_row(case).encode(), case.encode()]) == [None, None]


@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff", "\\ud800\\u0041", "\\udc00\\ud800"])
def test_half_a_pair_is_kept_for_the_rule_about_it(escape):
    assert parse_json(f'"{escape}"') == json.loads(f'"{escape}"')


@pytest.mark.parametrize("case", [*cases(ACCEPTED), *cases(REFUSED)])
def test_the_fast_reader_says_what_the_strict_one_says_or_nothing(case):
    for line in (in_a_row(case), case, in_a_row(case) + "\r"):
        (fast,) = certain_objects([line.encode()])
        if fast is not None:
            assert same(fast, parse_json(line))


KEYS = st.sampled_from(["a", "b", "", 'a"', "a\\", "a:", '":', "é", "a\u2028", "\\u0061"])
TEXTS = st.text(st.sampled_from('abé😀": \\,{}[]\n\t0\u2028'), max_size=12)
NUMBERS = st.integers(-(2**72), 2**72) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=3),
    max_leaves=8,
)
SPACES = st.sampled_from(["", "", "", " ", "\t", " \r "])


def written(value: object, draw, *, ascii_only: bool) -> str:
    """JSON of a value in which a list of pairs is an object, with white space anywhere."""
    space = draw(SPACES)
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        pairs = [
            f"{space}{json.dumps(key, ensure_ascii=ascii_only)}{draw(SPACES)}:{draw(SPACES)}"
            f"{written(item, draw, ascii_only=ascii_only)}"
            for key, item in value
        ]
        return "{" + ",".join(pairs) + draw(SPACES) + "}"
    if isinstance(value, list):
        inner = [written(item, draw, ascii_only=ascii_only) for item in value]
        return "[" + space + f"{space},".join(inner) + space + "]"
    return space + json.dumps(value, ensure_ascii=ascii_only) + space


@st.composite
def lines(draw) -> bytes:
    """A JSON line, at times with a byte of it changed, put in or taken away."""
    pairs = draw(st.lists(st.tuples(KEYS, VALUES), max_size=4))
    line = written(pairs, draw, ascii_only=draw(st.booleans())).encode()
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(line)))
        put = draw(st.sampled_from([b"", b'"', b"\\", b":", b",", b"0", b"{", b"}", b"\xff", b" "]))
        line = line[:place] + put + line[place + draw(st.integers(0, 1)) :]
    return line.replace(b"\n", b"")


@given(st.lists(lines(), max_size=5))
@example([b'{"a" :1,"a":2}', b'{"a":1}'])
@example([b'{"a\\\\":1,"a\\\\":2,"b":"\\\\\\":"}'])
@example([b'{"a":"\\":", "a":1}'])
@example([b'":', b'{"a":1,"a":2}', b"\\"])
@example([b'{"a":1180591620717411303424,"b":1e300,"c":-9223372036854775809}'])
def test_no_line_is_read_otherwise_because_it_is_read_fast(block):
    for line, fast in zip(block, certain_objects(block), strict=True):
        try:
            strict = parse_json(line.decode())
        except (JsonError, UnicodeDecodeError):
            strict = None
        if fast is not None:
            assert same(fast, strict)


def test_clean_rows_are_read_fast():
    rows = [
        {"prompt": "p", "chosen": 'He said: "yes"', "rejected": "\\", "margin": 1.5},
        {"messages": [{"role": "user", "content": "a : b"}], "meta": {"n": 2**62, "x": None}},
        {"extra": 2**70, "text": "", "deep": [[[{}]]]},
    ]
    for written_row in (json.dumps, lambda row: json.dumps(row, indent=1).replace("\n", " ")):
        block = [written_row(row).encode() for row in rows]
        assert certain_objects(block) == rows


@pytest.mark.parametrize(
    "line,rule,field,said",
    [
        ('{"a": "cut', "JSON-001", "a", "column 11: the line ends inside the text that begins"),
        ('{"a": 1', "JSON-001", "a", "column 8: the line ends where a comma or '}' must stand"),
        ('{"a": 1} {"a": 2}', "JSON-001", "", "column 10: a second object on the same line"),
        ('{"a": 1}\r{"a": 2}', "JSON-001", "", "lines end in CR alone; convert them"),
        ("{'a': 1}", "JSON-001", "", "looks like a Python dict: write rows with json.dumps"),
        ('{"a": None}', "JSON-001", "a", "looks like a Python dict"),
        ('{"a": 1,}', "JSON-001", "a", "column 8: a comma before '}': remove it"),
        ('{"a": 1} // b', "JSON-001", "", "JSON has no comments"),
        ('{"a": "C:\\dir"}', "JSON-001", "a", "a backslash itself is \\\\"),
        ('{"a": "b" "c": 1}', "JSON-001", "a", "a comma is missing before it"),
        ('{"a": "say "hi""}', "JSON-001", "a", "a quote inside the text lacks its backslash"),
        ('{"a": 012}', "JSON-001", "a", "a number has no leading zero"),
        ("{“a”: 1}", "JSON-001", "", "write straight double quotes"),
        ('{"a": "x\ty"}', "JSON-001", "a", "U+0009 inside a text: write it as \\t"),
        ('{"m": [{"c": "x\0"}]}', "TXT-003", "m[0].c", "column 16: a raw control character U+0000"),
        ('{"a": [1, NaN]}', "NUM-001", "a[1]", "NaN, expected a finite number"),
        ('{"a": -Infinity}', "NUM-001", "a", "-Infinity"),
        ('{"a": 1e999}', "NUM-001", "a", "overflows to infinity"),
        ('{"a": 1, "b": 2, "a": 3}', "JSON-002", "a", "column 18: the key stands twice"),
        ('{"a": {"b": 1, "b": 2}}', "JSON-002", "a.b", "the key stands twice"),
        ('{"a": ' + "9" * 5000 + "}", "SIZE-001", "a", "5,000 digits"),
    ],
)
def test_a_place_that_breaks_the_grammar_is_named_with_its_mend(line, rule, field, said):
    with pytest.raises(JsonError) as caught:
        parse_json(line)
    assert (caught.value.rule, caught.value.field) == (rule, field)
    assert said in caught.value.seen
    assert caught.value.seen.isprintable()


def read(path: Path, content: bytes) -> list[RawRow | Fault]:
    path.write_bytes(content)
    return list(read_file(LocalFile(path.name, path, "", 0)))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_case_is_a_fault_and_the_rows_around_it_are_read(kind, tmp_path):
    good = in_a_row("1")
    for case in REFUSED[kind]:
        found = read(tmp_path / "a.jsonl", f"{good}\n{in_a_row(case)}\n{good}\n".encode())
        assert [(row.line, type(row)) for row in found] == [(1, RawRow), (2, Fault), (3, RawRow)]
        alone = read(tmp_path / "b.jsonl", case.encode())
        assert all(isinstance(row, Fault) for row in alone), case
        assert len(alone) == 1 + case.startswith("\ufeff"), case


@pytest.mark.parametrize("kind", ACCEPTED)
def test_an_accepted_case_is_a_row_or_no_object(kind, tmp_path):
    for case in ACCEPTED[kind]:
        (row,) = read(tmp_path / "a.jsonl", case.encode())
        if case.startswith("{"):
            assert isinstance(row, RawRow), case
        else:
            assert isinstance(row, Fault), case
            assert row.rule == "SCH-004"


def test_minus_zero_keeps_its_sign(tmp_path):
    (row,) = read(tmp_path / "a.jsonl", b'{"margin": -0.0}')
    assert isinstance(row, RawRow)
    assert math.copysign(1, float(str(row.fields["margin"]))) == -1
