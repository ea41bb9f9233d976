"""Collected responses in the formats of labelling tools, and the rankings that come back.

Argilla: the dictionaries of its records, with a field `prompt`, fields `response-1` and so on, and
a ranking question `ranking` (`Record.from_dict`, `dataset.records.from_json`). Label Studio: tasks
for a `List` named `responses` and a `Ranker` named `rank` (`LABEL_STUDIO_CONFIG`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rlhf_core.collection import Group
from rlhf_core.errors import DataError

Format = Literal["rlhf", "argilla", "label-studio"]

LABEL_STUDIO_CONFIG = """\
<View>
  <Text name="prompt" value="$prompt"/>
  <List name="responses" value="$responses" title="Drag the best response to the top"/>
  <Ranker name="rank" toName="responses"/>
</View>
"""
"""The labelling interface that the tasks are made for."""

_RESPONSE = "response-"


def exported(groups: Sequence[Group], form: Format, origin: Mapping[str, Any]) -> list[Any]:
    """One document for each group; `origin` says in a few words whose responses they are.

    Where the groups were labeled, their ranking is the tool's suggestion.
    """
    write: Callable[[int, Group, Mapping[str, Any]], Any] = {
        "rlhf": lambda _, group, __: group.as_row(),
        "argilla": _argilla_record,
        "label-studio": _label_studio_task,
    }[form]
    return [write(number, group, origin) for number, group in enumerate(groups, start=1)]


def write_documents(path: Path, documents: Sequence[Any]) -> None:
    """`path` holds the documents: one JSON list where it ends in `.json`, else one to a line."""
    lines = [json.dumps(document, ensure_ascii=False) for document in documents]
    joined = "[\n" + ",\n".join(lines) + "\n]" if path.suffix == ".json" else "\n".join(lines)
    path.write_text(joined + "\n", encoding="utf-8", newline="\n")


def read_labeled(path: Path) -> list[dict[str, Any]]:
    """The rankings in an export of either tool: prompt, responses, ranks, and who ranked.

    Each person's ranking of a prompt is a row of its own, with the person as `source`. Raises
    DataError where the file is neither tool's, or holds no ranking.
    """
    rows: list[dict[str, Any]] = []
    for place, document in enumerate(_documents(path), start=1):
        try:
            read = _from_argilla if "fields" in document else _from_label_studio
            rows += read(document)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(
                f"{path}: document {place} is not an export of Argilla (records.to_json) or Label "
                f"Studio (JSON) of what `rlhf collect` wrote ({type(error).__name__}: {error}). "
                "Export the dataset again in one of these formats."
            ) from error
    if not rows:
        raise DataError(
            f"{path} holds no ranking that somebody submitted: label at least one record, then "
            "export it again."
        )
    return rows


def policies_in(path: Path) -> list[str]:
    """Digests of the policies whose responses the export holds, as `exported` wrote them."""
    found = (
        (document.get("metadata") or document.get("meta") or {}).get("policy")
        for document in _documents(path)
    )
    return sorted({str(digest) for digest in found if digest})


def _argilla_record(number: int, group: Group, origin: Mapping[str, Any]) -> dict[str, Any]:
    names = [f"{_RESPONSE}{place}" for place in range(1, len(group.responses) + 1)]
    suggestions = {}
    if group.ranks is not None:
        value = [name for _, name in sorted(zip(group.ranks, names, strict=True))]
        suggestions["ranking"] = {"value": value, "agent": str(origin.get("labeler"))}
    return {
        "id": str(number),
        "fields": {"prompt": group.prompt, **dict(zip(names, group.responses, strict=True))},
        "metadata": {name: str(value) for name, value in origin.items() if value is not None},
        "suggestions": suggestions,
        "responses": {},
        "vectors": {},
        "status": "pending",
    }


def _label_studio_task(number: int, group: Group, origin: Mapping[str, Any]) -> dict[str, Any]:
    ids = [f"{_RESPONSE}{place}" for place in range(1, len(group.responses) + 1)]
    responses = [
        {"id": name, "title": f"Response {place}", "body": text}
        for place, (name, text) in enumerate(zip(ids, group.responses, strict=True), start=1)
    ]
    task: dict[str, Any] = {
        "data": {"prompt": group.prompt, "responses": responses, "number": number},
        "meta": {name: str(value) for name, value in origin.items() if value is not None},
    }
    if group.ranks is not None:
        order = [name for _, name in sorted(zip(group.ranks, ids, strict=True))]
        result = {
            "from_name": "rank",
            "to_name": "responses",
            "type": "ranker",
            "value": {"ranker": {"rank": order}},
        }
        task["predictions"] = [{"model_version": str(origin.get("labeler")), "result": [result]}]
    return task


def _documents(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): pass an existing file."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}): "
            "export it again as UTF-8 JSON."
        ) from None
    documents: list[dict[str, Any]]
    try:
        if text.lstrip().startswith("["):
            documents = json.loads(text)
        else:
            documents = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not JSON ({error}): export it as JSON, one list or one record to a line."
        ) from None
    for place, document in enumerate(documents, start=1):
        if not isinstance(document, dict):
            raise DataError(
                f"{path}: document {place} is a {type(document).__name__}, where a record of "
                "Argilla or a task of Label Studio is expected."
            )
    return documents


def _from_argilla(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    fields = record["fields"]
    names = sorted(
        (name for name in fields if name.startswith(_RESPONSE)),
        key=lambda name: int(name.removeprefix(_RESPONSE)),
    )
    for response in (record.get("responses") or {}).get("ranking", []):
        if response.get("status", "submitted") == "submitted":
            order = response["value"]
            yield _ranking(
                fields["prompt"], {name: fields[name] for name in names}, order, response["user_id"]
            )


def _from_label_studio(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    data = task["data"]
    texts = {response["id"]: response["body"] for response in data["responses"]}
    for annotation in task.get("annotations", []):
        if annotation.get("was_cancelled"):
            continue
        for result in annotation["result"]:
            if result.get("type") == "ranker":
                (order,) = result["value"]["ranker"].values()
                yield _ranking(data["prompt"], texts, order, annotation.get("completed_by"))


def _ranking(
    prompt: str, texts: Mapping[str, str], order: Sequence[str], who: object
) -> dict[str, Any]:
    """The row of one person's ranking; what was not placed is left out."""
    placed = [texts[name] for name in order]
    if len(placed) < 2:
        raise ValueError(f"a ranking of {len(placed)} responses; two are the least")
    return {
        "prompt": prompt,
        "responses": placed,
        "ranks": list(range(1, len(placed) + 1)),
        "source": f"labeler {who}",
    }
