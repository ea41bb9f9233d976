import re

import pytest

from rlhf_core.data.distributions import accounts_of, facts_of
from rlhf_core.data.faults import SHOWN_PER_RULE
from rlhf_core.data.page import SHOWN_FAULTS, data_page
from rlhf_core.data.rows import Row
from rlhf_core.data.rules import RULES
from rlhf_core.data.totals import rule_facts


def report(counts, *, rows=1000, usable=True, **more):
    accounts = accounts_of("preferences")
    for account in accounts:
        account.add([Row(f"p{n}", ("a" * n, "b"), (1, 2), "s", "", "k", "f", n) for n in range(9)])
    tables = {
        "preferences": {
            "rows": rows,
            "usable": rows - 1,
            "set_aside": 1,
            "prompts_cut": 0,
            "faults_by_rule": counts,
            "distributions": facts_of(accounts),
        }
    }
    actions = {rule.id: rule.action for rule in RULES.values()}
    return {
        "split_by": "prompt",
        "lengths_counted_in": "words",
        "tables": tables,
        "rules": rule_facts(tables, actions | {"TXT-001": "set_aside"}),
        "usable": usable,
        **more,
    }


def fault(rule, line, *, file="f.jsonl", field="chosen", seen="null"):
    facts = {"table": "preferences", "rule": rule, "file": file, "line": line, "field": field}
    return {**facts, "seen": seen, "title": RULES[rule].title}


def test_the_page_names_the_rows_at_fault_with_rule_action_and_mend():
    page = data_page(
        report({"TXT-001": 1, "PREF-005": 1}, usable=False),
        [fault("TXT-001", 17), fault("PREF-005", 4)],
    )
    assert "f.jsonl:17" in page
    assert RULES["TXT-001"].mend in page
    assert "changed by the recipe; default: refused" in page
    assert "Nothing was trained" in page


def test_a_page_without_faults_says_so_and_holds_the_splits():
    sides = {
        "preferences": {
            "train": {"rows": 900, "keys": 450},
            "validation": {"rows": 99, "keys": 50},
        },
        "removed": {"preferences": 3, "text": 0},
    }
    page = data_page(report({}, sides=sides, metrics={"longer_wins_accuracy": 0.53}), [])
    assert "No row breaks any rule" in page
    assert "3 of preferences" in page
    assert "longer wins accuracy" in page
    assert "1 metrics of the stage" in page
    assert "The rows at fault" not in page


def test_a_hundred_thousand_faults_make_a_page_of_some_hundred():
    rules = sorted(RULES)
    count = 100_000
    faults = (fault(rules[n % len(rules)], n) for n in range(count))
    page = data_page(report(dict.fromkeys(rules, count // len(rules))), faults)
    shown = len(re.findall(r"<code>f\.jsonl:\d+</code>", page))
    assert shown <= min(SHOWN_FAULTS, SHOWN_PER_RULE * len(rules))
    assert shown > 10 * len(rules)
    assert len(page) < 500_000
    assert "every one" in page


HOSTILE = ["<script>alert(1)</script>", "\u202e\x1b[31m", "\ud800", "a\nb", "__class__", "=cmd()"]


@pytest.mark.parametrize("words", HOSTILE)
def test_whatever_a_file_is_called_or_holds_is_text(words):
    found = report({"SCH-001": 1}, **{words: {"<i>": words}})
    page = data_page(found, [fault("SCH-001", 1, file=words, field=words, seen=words)])
    assert "<script>" not in page
    assert "<i>" not in page.replace('<i style="', "")
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    page.encode("utf-8")


def test_the_page_asks_for_nothing_from_elsewhere_and_runs_nothing():
    page = data_page(report({"SCH-001": 1}), [fault("SCH-001", 1)])
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(", page)


def test_facts_that_the_page_has_no_place_for_are_shown_under_their_names():
    found = report({}, tokens={"prompts": {"median": 12.5}, "cut": [1, 2]}, checked_by="x")
    page = data_page(found, [])
    assert "<h2>Tokens</h2>" in page
    assert "12.5" in page
    assert "Checked by" in page


def test_lengths_stand_beside_their_budgets_and_what_length_alone_would_score():
    lengths = {"count": 9, "mean": 20.34, "least": 6, "median": 18.0, "p95": 33.25, "most": 71}
    over = {"rows": 3, "share": 0.25, "prompts": 2, "responses": 1, "pairs_equal": 0}
    interval = {"mean": 0.598, "low": 0.5756, "high": 0.6201}
    found = report({})
    found["tables"]["preferences"] |= {
        "literal_texts": 7,
        "tokens": {
            "unit": "tokens",
            "budgets": {"prompt": 128, "response": 1384},
            "sampled_rows": 9,
            "prompt": lengths,
            "response": {"count": 0},
            "over_budget": over,
        },
        "length_baseline": {
            "<hh>": {
                "comparisons": 9,
                "longer_wins": interval,
                "shorter_wins": interval,
                "chosen_minus_rejected": {"mean": -3.5, "median": 18.0},
            }
        },
    }
    page = data_page(found, [])
    assert "<td>33.2</td><td>71</td><td>128</td>" in page
    assert "25.0 % of the rows are over a budget: 2 prompts over their budget, 1 responses" in page
    assert "<td>&lt;hh&gt;</td><td>9</td><td>59.8 %<small>57.6 to 62.0 %</small>" in page
    assert "Literal texts" in page
