from pathlib import Path

from rlhf_core.data.rule_table import rule_table
from rlhf_core.data.rules import RULES

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_document_lists_every_rule_as_the_program_has_it():
    """`rlhf check --list-rules` prints what has to stand at the end of docs/data.md."""
    _, _, table = DOCUMENT.read_text(encoding="utf-8").partition("prints this table.\n\n")
    assert table.splitlines() == rule_table().splitlines()


def test_the_table_has_a_line_for_every_rule_with_its_mend():
    lines = rule_table().splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == sorted(RULES)
    for line in lines:
        rule = RULES[line[2:].split(" ", 1)[0]]
        assert line.endswith(f"{rule.mend.replace('|', chr(92) + '|')} |")
        assert line.count(" | ") == 4
