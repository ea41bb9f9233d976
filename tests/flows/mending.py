"""What somebody does who has read one message of the gate, and nothing else.

File, line, field, rule, finding and mend are taken from the message; the file is changed as they
say. Commands that a message gives are run as they stand there.
"""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_HEAD = re.compile(r'^(?P<file>.+):(?P<line>\d+)  field "(?P<field>[^"]+)"  rule (?P<rule>\S+) \S+')
_PART = re.compile(r"^  (?P<name>seen|why |mend): (?P<text>.+)$")


_REMOVALS = (
    *("remove the line", "split the row or remove it"),
    *("remove the comparison that is wrong", "otherwise remove the wrong one"),
)


class Told(NamedTuple):
    """The six fields of one message, and why it matters."""

    file: str
    line: int
    field: str
    rule: str
    seen: str
    mend: str
    why: str


def told(message: str) -> list[Told]:
    """The faults that a message names, each with the why and the mend that stand below it."""
    found: list[Told] = []
    waiting: list[dict[str, str]] = []
    for line in message.splitlines():
        head, part = _HEAD.match(line), _PART.match(line)
        if head:
            waiting.append(head.groupdict())
        elif part and waiting:
            name, text = part["name"].strip(), part["text"]
            for fault in waiting if name != "seen" else waiting[-1:]:
                fault[name] = text
            if name == "mend":
                found += [
                    Told(**(fault | {"line": int(fault["line"])}))  # type: ignore[arg-type]
                    for fault in waiting
                ]
                waiting = []
    return found


def mend(message: str, folder: Path, originals: Path) -> None:
    """Change a file of `folder` as the first fault of the message says.

    `originals` holds whole copies, for a message that asks for the file to be copied again.
    """
    fault = told(message)[0]
    path = folder / fault.file
    advice = f"{fault.seen} {fault.mend}"
    command = re.search(r"`((?:iconv|jq|sed|tr) .*?)`", fault.seen) or re.search(
        r"`((?:iconv|sed|tr) .*?)`", fault.mend
    )
    renamed = re.search(r"rename it to '(.+?)'", fault.seen)
    if renamed:
        path.rename(folder / renamed[1])
    elif command:
        _run(command[1], path)
    elif "copy or download the file again" in advice or "cut off" in fault.seen:
        shutil.copy(originals / fault.file, path)
    else:
        _mend_line(path, fault)


def _run(command: str, path: Path) -> None:
    """The command with the file's name in it; what it writes as NEW takes the file's place."""
    new = path.with_name("NEW")
    whole = command.replace("FILE", str(path)).replace("NEW", str(new))
    subprocess.run(["bash", "-c", whole], check=True)
    if new.exists():
        new.rename(path)


def _mend_line(path: Path, fault: Told) -> None:
    lines = path.read_bytes().split(b"\n")
    at = fault.line - 1
    column = re.match(r"column (\d+): ", fault.seen)
    line = lines[at].decode("utf-8")
    if "give it a line of its own" in fault.seen and column:
        place = int(column[1]) - 1
        lines[at : at + 1] = [line[:place].encode(), line[place:].encode()]
    elif "a trailing comma" in fault.seen and column:
        place = int(column[1]) - 1
        lines[at] = (line[:place] + line[place + 1 :]).encode()
    elif "write rows with json.dumps" in fault.seen:
        lines[at] = json.dumps(ast.literal_eval(line)).encode()
    elif any(remedy in fault.mend for remedy in _REMOVALS):
        del lines[at]
    else:
        row = json.loads(line)  # of two equal keys it keeps one
        _mend_row(row, fault)
        lines[at] = json.dumps(row).encode()
    path.write_bytes(b"\n".join(lines))


def _mend_row(row: dict, fault: Told) -> None:
    for said, change in _CHANGES.items():
        if said in f"{fault.seen} {fault.mend}":
            change(row, fault)
            return
    raise AssertionError(f"the message does not say what to do: {fault}")


def _at(fault: Told) -> int:
    return int(re.search(r"at index (\d+)", fault.seen)[1])


def _character(fault: Told) -> tuple[str, int]:
    found = re.search(r"U\+([0-9A-F]{4,6}).* at character (\d+)", fault.seen)
    return chr(int(found[1], 16)), int(found[2]) - 1


def _without_character(row: dict, fault: Told) -> None:
    character, place = _character(fault)
    text = row[fault.field]
    assert text[place] == character
    row[fault.field] = text[:place] + text[place + 1 :]


def _restored(row: dict, fault: Told) -> None:
    shown = re.search(r"\((.+)\) at character", fault.seen)[1]
    row[fault.field] = row[fault.field].replace(shown, shown.encode("cp1252").decode("utf-8"))


def _without_token(row: dict, fault: Told) -> None:
    token = re.search(r"'(.+?)' at character", fault.seen)[1]
    assert token in row[fault.field]
    row[fault.field] = row[fault.field].replace(token, "")


def _without_marker(row: dict, fault: Told) -> None:
    message = row[fault.field.split("[")[0]][_at(fault)]
    for marker in ("\n\nHuman:", "\n\nAssistant:"):
        message["content"] = message["content"].replace(marker, "")


def _renamed_key(row: dict, fault: Told) -> None:
    row[fault.field] = row.pop(re.search(r"did '(.+)' mean it", fault.seen)[1])


def _ranked(row: dict, fault: Told) -> None:
    row["ranks"] = list(range(1, len(row["responses"]) + 1))


def _shared_beginning(row: dict, fault: Told) -> None:
    beginning = row["chosen"].rpartition("\n\nAssistant:")
    rejected = row["rejected"].rpartition("\n\nAssistant:")
    row["rejected"] = "".join([*beginning[:2], rejected[2]])


def _role(row: dict, fault: Told) -> None:
    row["messages"][_at(fault)]["role"] = re.search(r"which is '(\w+)' here", fault.seen)[1]


def _joined(row: dict, fault: Told) -> None:
    messages, at = row["messages"], _at(fault)
    messages[at - 1]["content"] += "\n" + messages.pop(at)["content"]


_CHANGES: dict[str, Callable[[dict, Told], None]] = {
    "keep one of the two keys": lambda row, fault: None,
    "or null where there is none": lambda row, fault: row.update({fault.field: None}),
    "mean it?": _renamed_key,
    "fill the value in": lambda row, fault: row.update({fault.field: "filled in"}),
    "fill the text in": lambda row, fault: row.update({fault.field: "filled in"}),
    "add the key": lambda row, fault: row.update({fault.field: "added"}),
    "expected a text": lambda row, fault: row.update({fault.field: str(row[fault.field])}),
    "remove the half": _without_character,
    "remove the character": _without_character,
    "give `ranks` one whole number": _ranked,
    "keep it with `data.rules.PREF-002": _ranked,
    "correct the margin": lambda row, fault: row.update(margin=abs(row["margin"])),
    "swap chosen and rejected if": lambda row, fault: row.update(
        chosen=row["rejected"],
        rejected=row["chosen"],
        chosen_score=row["rejected_score"],
        rejected_score=row["chosen_score"],
    ),
    "give both transcripts the same beginning": _shared_beginning,
    "begin `messages` with a user message": lambda row, fault: row["messages"].insert(
        0, {"role": "user", "content": "added"}
    ),
    "join the two messages": _joined,
    "move the system message to the start": lambda row, fault: row["messages"].insert(
        0, row["messages"].pop(_at(fault))
    ),
    "use one of these roles": _role,
    "an empty list of messages": lambda row, fault: row["messages"].extend(
        [{"role": "user", "content": "added"}, {"role": "assistant", "content": "added"}]
    ),
    "end `messages` with an assistant message": lambda row, fault: row["messages"].append(
        {"role": "assistant", "content": "added"}
    ),
    "turn marker inside": _without_marker,
    "remove it from the text": _without_token,
    "restore the text from its source": _restored,
}
"""What the message says, and what is then done to the row."""
