"""What a place that breaks JSON's grammar most likely is, and what to write instead."""

_PYTHON = "; this looks like a Python dict: write rows with json.dumps"


def advice_at(text: str, place: int) -> str:
    """A clause on what stands at the place, to be put after it; empty where nothing is known."""
    rest = text[place : place + 12]
    character = rest[:1]
    if character == "'" or rest.startswith(("None", "True", "False")):
        return _PYTHON
    if character in "“”„‟«»‘’" and character:
        return "; typographic quotes do not delimit: write straight double quotes"
    if rest.startswith(("//", "/*", "#")):
        return "; JSON has no comments: remove it"
    if character == "\\":
        return _escape_advice(rest)
    if character == "\0":
        return "; a run of NUL bytes comes from a write that was cut short: copy the file again"
    if character == "\ufeff":
        return "; a byte-order mark inside the line: remove it"
    if character == ",":
        return "; a comma too many, or rows of an array: `jq -c '.[]' FILE` makes lines of it"
    if character == '"':
        return "; a comma is missing before it, or a quote inside the text lacks its backslash"
    if character.isspace():
        return f"; U+{ord(character):04X} is no white space of JSON: remove it"
    if character.isalpha() or character in "_$":
        return "; texts and keys stand in double quotes"
    return ""


def number_advice(written: str) -> str:
    """A clause on what is wrong with a number that JSON does not know."""
    digits = written.lstrip("-")
    if written.startswith("-") and not digits:
        return "; digits must follow the minus"
    if digits[:1] == "0" and digits[1:2].isdigit():
        return "; a number has no leading zero: remove it, or put quotes around what is no number"
    if digits[:2].lower() in ("0x", "0b", "0o"):
        return "; numbers are decimal"
    if digits.endswith(".") or digits.startswith(".") or "." in digits[:1]:
        return "; digits stand on both sides of the point"
    return ", expected a number: put quotes around what is none"


def _escape_advice(rest: str) -> str:
    if rest[1:2] == "u":
        return ": four hexadecimal digits must follow \\u"
    if rest[1:2] == "'":
        return ": a single quote needs no backslash"
    if rest[1:2] == "x":
        return ": write \\u00.. with four digits instead of \\x.."
    return ': JSON knows \\" \\\\ \\/ \\b \\f \\n \\r \\t and \\u....; a backslash itself is \\\\'
