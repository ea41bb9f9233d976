"""A table is checked here: rows to train on, rows set aside with their reasons, or a refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rlhf_core.data.cutting import cut_prompt
from rlhf_core.data.reading import ReadTable
from rlhf_core.data.rows import Row
from rlhf_core.data.rules import (
    FILE_RULES,
    LENGTH_RULES,
    RULES,
    Action,
    Fault,
    count_by_rule,
    render_faults,
)
from rlhf_core.data.schemas import TableName, check_rows
from rlhf_core.data.token_checks import TokenChecks
from rlhf_core.settings.data import DataSettings


@dataclass(frozen=True, slots=True)
class SetAside:
    """A row that is not trained on, with the rules it breaks; no row where none could be read."""

    file: str
    line: int
    rules: tuple[str, ...]
    row: Row | None


@dataclass(frozen=True, slots=True)
class CheckedTable:
    """What became of the rows of one table."""

    table: TableName
    row_count: int
    usable: list[Row]
    set_aside: list[SetAside]
    faults: list[Fault]
    prompts_cut: int
    """Usable rows whose prompt was cut to its budget."""

    refusals: list[str]
    """One message for each reason not to train at all; none where the table can be used."""


def check_table(
    read: ReadTable,
    table: TableName,
    settings: DataSettings,
    tokens: TokenChecks,
) -> CheckedTable:
    """Apply every rule to the table's rows, and to each fault the action of its rule."""
    actions = rule_actions(settings)
    faults = [*read.faults, *check_rows(read.rows, table), *tokens.texts(read.rows)]
    broken = _places(faults, actions, "refuse") | _places(faults, actions, "set_aside")
    whole = [row for row in read.rows if (row.file, row.line) not in broken]
    of_tokens = tokens.lengths(whole)
    cut = 0
    if settings.long_prompts == "cut":
        whole, of_tokens, cut = _with_cut_prompts(whole, of_tokens, tokens)
    too_long = [fault for fault in of_tokens if fault.rule in LENGTH_RULES]
    faults.extend([*of_tokens, *tokens.closing()])
    refused = [fault for fault in faults if actions[fault.rule] == "refuse"]
    aside = _places(faults, actions, "set_aside")
    usable = [row for row in whole if (row.file, row.line) not in aside]
    refusals = []
    if refused:
        refusals.append(f"{render_faults(refused)}\n{_other_way(refused)}")
    counted = [fault for fault in faults if fault.rule not in LENGTH_RULES]
    faulty = _places(counted, actions, "set_aside")
    if len(faulty) > settings.max_set_aside_share * read.row_count:
        refusals.append(_over_the_limit(table, counted, actions, read, settings))
    over_budget = len({(fault.file, fault.line) for fault in too_long}) + cut
    if over_budget > settings.max_too_long_share * read.row_count:
        refusals.append(_too_many_too_long(table, too_long, over_budget, read, settings))
    elif not refused and not usable:
        refusals.append(
            f"data.{table}: no row is left (rule DATA-001): {read.row_count} were read, and all "
            f"were set aside ({_counts(faults)}). Mend the rows or raise the limits named."
        )
    return CheckedTable(
        table=table,
        row_count=read.row_count,
        usable=usable,
        set_aside=_set_aside(read.rows, faults, aside),
        faults=faults,
        prompts_cut=cut,
        refusals=refusals,
    )


def rule_actions(settings: DataSettings) -> Mapping[str, Action]:
    """What is done by each rule under these settings."""
    by_choice: dict[str, Action] = {
        "drop": "set_aside",
        "cut": "set_aside",  # of which nothing would have been left
        "keep": "warn",
        "refuse": "refuse",
    }
    lengths = {
        "LEN-001": by_choice[settings.long_prompts],
        "LEN-002": by_choice[settings.long_responses],
    }
    return {rule.id: rule.action for rule in RULES.values()} | lengths | settings.rules


def refusal(tables: Sequence[CheckedTable], report_name: str) -> str | None:
    """The whole message for data that cannot be used; None where all of it can."""
    messages = [message for table in tables for message in table.refusals]
    if not messages:
        return None
    rows = sum(table.row_count for table in tables)
    faults = [fault for table in tables for fault in table.faults]
    failed = len(
        {(table.table, fault.file, fault.line) for table in tables for fault in table.faults}
    )
    rules = len(count_by_rule(faults))
    messages.append(
        f"{failed:,} of {rows:,} rows failed in {rules} {'rule' if rules == 1 else 'rules'}. "
        f"Nothing was trained. Full list: {report_name}"
    )
    return "\n".join(messages)


def _with_cut_prompts(
    rows: Sequence[Row], faults: Sequence[Fault], tokens: TokenChecks
) -> tuple[list[Row], list[Fault], int]:
    """The rows with over-long prompts cut, the faults that are left, and how many were cut."""
    over = {(fault.file, fault.line) for fault in faults if fault.rule == "LEN-001"}
    cut: dict[tuple[str, int], Row] = {}
    for row in rows:
        if (row.file, row.line) in over:
            prompt = cut_prompt(row.prompt, tokens.fits)
            if prompt is not None:
                cut[row.file, row.line] = replace(row, prompt=prompt)
    left = [
        fault for fault in faults if fault.rule != "LEN-001" or (fault.file, fault.line) not in cut
    ]
    return [cut.get((row.file, row.line), row) for row in rows], left, len(cut)


def _too_many_too_long(
    table: TableName,
    faults: Sequence[Fault],
    count: int,
    read: ReadTable,
    settings: DataSettings,
) -> str:
    enough = -(-100 * count // read.row_count) / 100  # the share, rounded up to whole percent
    return (
        f"{render_faults(faults)}\n"
        f"data.{table}: {count / read.row_count:.2%} of {read.row_count:,} rows are over the token "
        f"budgets, more than max_too_long_share={settings.max_too_long_share:.2%}. Raise "
        "model.max_prompt_tokens or model.max_response_tokens, or accept it: "
        f"`--set data.max_too_long_share={enough}`."
    )


def _set_aside(
    rows: Sequence[Row], faults: Sequence[Fault], aside: set[tuple[str, int]]
) -> list[SetAside]:
    row_at = {(row.file, row.line): row for row in rows}
    rules: dict[tuple[str, int], set[str]] = {}
    for fault in faults:
        rules.setdefault((fault.file, fault.line), set()).add(fault.rule)
    return [
        SetAside(file, line, tuple(sorted(rules[file, line])), row_at.get((file, line)))
        for file, line in sorted(aside)
    ]


def _other_way(refused: Sequence[Fault]) -> str:
    """How such rows are set aside instead."""
    lengths = {"LEN-001": "data.long_prompts=drop", "LEN-002": "data.long_responses=drop"}
    options = [
        f"--set {lengths[rule]}" if rule in lengths else f"--set data.rules.{rule}=set_aside"
        for rule in count_by_rule(refused)
        if rule not in FILE_RULES
    ]
    if not options:
        return "A file of which this is true cannot be used at all."
    return f"To train without these rows, set them aside: {' '.join(options)}"


def _over_the_limit(
    table: TableName,
    faults: Sequence[Fault],
    actions: Mapping[str, Action],
    read: ReadTable,
    settings: DataSettings,
) -> str:
    aside = [fault for fault in faults if actions[fault.rule] == "set_aside"]
    count = len(_places(aside, actions, "set_aside"))
    enough = -(-100 * count // read.row_count) / 100  # the share, rounded up to whole percent
    return (
        f"{render_faults(aside)}\n"
        f"data.{table}: {count / read.row_count:.2%} of {read.row_count:,} rows had to be set "
        f"aside ({_counts(aside)}), more than "
        f"max_set_aside_share={settings.max_set_aside_share:.2%}. Mend the rows, or accept "
        f"it: `--set data.max_set_aside_share={enough}`."
    )


def _counts(faults: Sequence[Fault]) -> str:
    return ", ".join(f"{rule}: {count}" for rule, count in count_by_rule(faults).items())


def _places(
    faults: Sequence[Fault], actions: Mapping[str, Action], action: Action
) -> set[tuple[str, int]]:
    return {(fault.file, fault.line) for fault in faults if actions[fault.rule] == action}
