"""JSON by the grammar of RFC 8259, and nothing beside it; what breaks it is named with its place.

Some things that the grammar allows are refused as well, since no reader after us could be trusted
with them: a key that stands twice, a number that overflows to infinity, numbers of over a thousand
digits, values nested deeper than `MAX_DEPTH`, and more than `MAX_CONTAINERS` lists and objects.
"""

import math
import re
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import NamedTuple

from rlhf_core.data.json_advice import advice_at, number_advice
from rlhf_core.data.shown_text import escaped, shown_key

MAX_DEPTH = 200
MAX_DIGITS = 1000
MAX_CONTAINERS = 250_000
"""Of one text; each costs far more memory than the two bytes in which it can be written."""

_WHITE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NUMBER_LIKE = re.compile(r"[+\-.\w]*")
_NOT_A_NUMBER = re.compile(r"-?(?:NaN|Infinity)\b")

_LITERALS = {"true": True, "false": False, "null": None}
_WRITABLE = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


class JsonError(Exception):
    """The text breaks the grammar, or a limit; `place` counts its characters from 0.

    `cut` says that the text ended between two tokens, so that another line could go on with it.
    """

    def __init__(
        self, rule: str, seen: str, *, place: int, field: str = "", cut: bool = False
    ) -> None:
        super().__init__(seen)
        self.rule, self.seen, self.place, self.field, self.cut = rule, seen, place, field, cut


class _Open(NamedTuple):
    """An array or object that is not closed yet, and where it hangs."""

    container: list[object] | dict[str, object]
    key: str | int | None
    """Under which key or index of the container around it."""


def parse_json(text: str) -> object:
    """The value of the text, which is one JSON value with white space around it.

    Raises JsonError with the first place at which it is none.
    """
    return _Parser(text).document()


class _Parser:
    """One pass over a text with a stack of its own, so that no depth exhausts Python's."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.open: list[_Open] = []
        self.containers = 0
        self.key: str | int | None = None
        """Under which the next value will hang in the innermost container."""

    def document(self) -> object:
        while True:
            value: object = self._value()
            if isinstance(value, _Open):
                continue
            while self.open:
                outer = self.open[-1]
                self._hang(outer.container, value)
                if self._goes_on(outer.container):
                    break
                self.open.pop()
                self.key, value = outer.key, outer.container
            else:
                self._ends(value)
                return value

    def _value(self) -> object:
        """The value at this place; a container with something in it is opened instead."""
        character = self._next("a value")
        if character == '"':
            return self._string()
        if character == "{":
            return self._opened({}, "}")
        if character == "[":
            return self._opened([], "]")
        if character == "-" or "0" <= character <= "9":
            return self._number()
        for word, value in _LITERALS.items():
            if self.text.startswith(word, self.place):
                self.place += len(word)
                return value
        if match := _NOT_A_NUMBER.match(self.text, self.place):
            raise self._error(f"{match.group()}, expected a finite number", rule="NUM-001")
        raise self._unexpected("a value")

    def _opened(self, container: list[object] | dict[str, object], closing: str) -> object:
        """The container itself where it is empty; otherwise that it is open now."""
        if len(self.open) == MAX_DEPTH:
            raise self._error(f"values nested deeper than {MAX_DEPTH}", rule="SIZE-001")
        self.containers += 1
        if self.containers > MAX_CONTAINERS:
            seen = f"more than {MAX_CONTAINERS:,} lists and objects in one row"
            raise self._error(seen, rule="SIZE-001")
        self.place += 1
        if self._next(f"a value or {closing!r}") == closing:
            self.place += 1
            return container
        opened = _Open(container, self.key)
        self.open.append(opened)
        self.key = 0
        if closing == "}":
            self._read_key(container)
        return opened

    def _goes_on(self, container: list[object] | dict[str, object]) -> bool:
        """Whether a comma follows, past which it stands then; the closing bracket ends it."""
        closing = "}" if isinstance(container, dict) else "]"
        character = self._next(f"a comma or {closing!r}")
        if character == closing:
            self.place += 1
            return False
        if character != ",":
            if self.text[self.place - 1] == '"':  # right after the end of a text
                expected = f"a comma or {closing!r}; a quote inside the text lacks its backslash"
                raise self._error(f"{self._shown()}, expected {expected}")
            raise self._unexpected(f"a comma or {closing!r}")
        comma = self.place
        self.place += 1
        if self._next("a value") in "]}":
            self.place = comma
            raise self._error(f"a comma before {closing!r}: remove it (a trailing comma)")
        if isinstance(container, dict):
            self._read_key(container)
        else:
            self.key = len(container)
        return True

    def _read_key(self, container: list[object] | dict[str, object]) -> None:
        self.key = None
        if self._next("a key in double quotes") != '"':
            raise self._unexpected("a key in double quotes")
        start = self.place
        key = self._string()
        if key in container:
            self.place, self.key = start, key
            raise self._error("the key stands twice", rule="JSON-002")
        self.key = key
        if self._next("a colon after the key") != ":":
            raise self._unexpected("a colon after the key")
        self.place += 1

    def _hang(self, container: list[object] | dict[str, object], value: object) -> None:
        if isinstance(container, list):
            container.append(value)
        else:
            container[str(self.key)] = value

    def _string(self) -> str:
        """The text at this place; half a surrogate pair is left in it for the rule about it."""
        start = self.place
        try:
            text, self.place = scanstring(self.text, start + 1, True)
        except JSONDecodeError as error:
            raise self._broken_string(start, error.pos) from None
        found: str = text
        return found

    def _broken_string(self, start: int, near: int) -> JsonError:
        """What breaks the text that begins at `start`, at the place or just before it."""
        character = self.text[near : near + 1]
        if near > start and character < " " and character:
            self.place = near
            named = f"a raw control character U+{ord(character):04X} inside a text"
            if character in _WRITABLE:
                return self._error(f"{named}: write it as {_WRITABLE[character]}")
            return self._error(named, rule="TXT-003")
        escape = self.text.rfind("\\", start, near + 1)
        if escape < 0:
            self.place = len(self.text)
            return self._error(
                f"the line ends inside the text that begins at column {start + 1}: cut off"
            )
        self.place = escape
        shown = self.text[escape : escape + (6 if self.text[escape + 1] == "u" else 2)]
        return self._error(f"the escape {shown_key(shown)}{advice_at(self.text, escape)}")

    def _number(self) -> int | float:
        match = _NUMBER.match(self.text, self.place)
        like = _NUMBER_LIKE.match(self.text, self.place)
        whole = like.group() if like is not None else ""
        if not_a_number := _NOT_A_NUMBER.match(self.text, self.place):
            seen = f"{not_a_number.group()}, expected a finite number"
            raise self._error(seen, rule="NUM-001")
        if match is None or match.group() != whole:
            raise self._error(f"{escaped(whole)}{number_advice(whole)}")
        if len(whole) > MAX_DIGITS:
            raise self._error(f"a number of {len(whole):,} digits", rule="SIZE-001")
        if match.group(1) is None and match.group(2) is None:
            number: int | float = int(whole)
        else:
            number = float(whole)
            if math.isinf(number):
                seen = f"{escaped(whole)}, which overflows to infinity; expected a finite number"
                raise self._error(seen, rule="NUM-001")
        self.place = match.end()
        return number

    def _ends(self, value: object) -> None:
        start = self.place
        white = _WHITE.match(self.text, start)
        self.place = white.end() if white is not None else start
        if self.place == len(self.text):
            return
        between = self.text[start : self.place]
        if isinstance(value, dict) and self.text[self.place] == "{":
            if "\r" in between:
                seen = (
                    "a second object after a carriage return (CR): lines end in CR alone; "
                    "convert them, for example `tr '\\r' '\\n' < FILE > NEW`"
                )
            else:
                seen = "a second object on the same line: give it a line of its own"
            raise self._error(seen)
        raise self._error(
            f"{self._shown()} after the end of the value{advice_at(self.text, self.place)}"
        )

    def _next(self, expected: str) -> str:
        """The next character that is no white space; the text may not end before it."""
        white = _WHITE.match(self.text, self.place)
        if white is not None:
            self.place = white.end()
        if self.place == len(self.text):
            raise self._error(f"the line ends where {expected} must stand: cut off", cut=True)
        return self.text[self.place]

    def _unexpected(self, expected: str) -> JsonError:
        return self._error(
            f"{self._shown()}, expected {expected}{advice_at(self.text, self.place)}"
        )

    def _shown(self) -> str:
        return escaped(self.text[self.place : self.place + 20])

    def _error(self, seen: str, *, rule: str = "JSON-001", cut: bool = False) -> JsonError:
        where = f"column {self.place + 1}: {seen}"
        return JsonError(rule, where, place=self.place, field=self._path(), cut=cut)

    def _path(self) -> str:
        """The keys and indices that lead to the place, as one would write them."""
        keys = [opened.key for opened in self.open[1:4]] + [self.key]
        path = ""
        for key in keys if self.open else []:
            if isinstance(key, int):
                path += f"[{key}]"
            elif key is not None:
                path += f".{shown_key(key)}" if path else shown_key(key)
        return path
