import json
import random
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.data import distributions
from rlhf_core.data.distributions import Lengths, Rankings, Repetitions, Sources, accounts_of
from rlhf_core.data.lengths_seen import DifferencesSeen, LengthsSeen
from rlhf_core.data.rows import Row


def row(prompt="p", responses=("a", "b"), ranks=(1, 2), **given_):
    facts = {"source": "s", "group": "", "key": prompt, "file": "f.jsonl", "line": 1} | given_
    return Row(prompt=prompt, responses=tuple(responses), ranks=tuple(ranks), **facts)


lengths = st.lists(st.integers(0, 4000) | st.integers(0, 2**34), min_size=1, max_size=60)


@given(lengths)
def test_a_histogram_counts_every_length_once_between_its_edges(found):
    seen = LengthsSeen()
    for start in range(0, len(found), 7):
        seen.add(found[start : start + 7])
    facts = seen.facts()

    assert (facts["count"], facts["least"], facts["most"]) == (len(found), min(found), max(found))
    assert facts["mean"] == pytest.approx(fmean(found), abs=0.006)
    short = [length for length in found if length < 4096]
    if len(short) == len(found):
        edges = facts["histogram"]["edges"]
        assert (
            facts["histogram"]["counts"]
            == np.histogram(found, [*edges[:-1], edges[-1] - 0.5])[0].tolist()
        )
    assert sum(facts["histogram"]["counts"]) == len(found)


def test_quantiles_of_short_texts_are_exact_and_of_long_ones_within_a_tenth():
    generator = random.Random(1)
    short = sorted(generator.randrange(4000) for _ in range(999))
    long = sorted(generator.randrange(5_000, 10**7) for _ in range(999))
    for found, tolerance in ((short, 0), (long, 0.1)):
        seen = LengthsSeen()
        seen.add(found)
        facts = seen.facts()
        assert facts["median"] == pytest.approx(found[499], rel=tolerance)
        assert facts["p95"] == pytest.approx(found[949], rel=tolerance)


def test_differences_stand_on_their_side_of_zero():
    seen = DifferencesSeen()
    seen.add([-5, -1, 0, 0, 3, 3, 3, 100])
    facts = seen.facts()
    bins = dict(zip(facts["histogram"]["edges"], facts["histogram"]["counts"], strict=False))

    assert {low: count for low, count in bins.items() if count} == {
        -6: 1,
        -2: 1,
        -1: 2,
        3: 3,
        91: 1,
    }
    assert (facts["share_longer"], facts["share_equal"]) == (0.5, 0.25)
    assert facts["mean"] == pytest.approx(103 / 8, abs=0.006)


def test_lengths_of_a_row_are_those_of_its_texts_and_the_lead_is_best_minus_worst():
    account = Lengths("prompt")
    account.add([row("four", ("12345", "1", "123"), (3, 1, 2)), row("six66", ("1", "123"), (1, 2))])
    facts = account.facts()
    assert facts["prompt_characters"]["mean"] == 4.5
    assert facts["response_characters"]["count"] == 5
    assert facts["chosen_minus_rejected_characters"]["mean"] == ((1 - 5) + (1 - 3)) / 2


def test_the_largest_sources_are_named_and_the_rest_counted_together(monkeypatch):
    monkeypatch.setattr(distributions, "SHOWN_NAMES", 2)
    account = Sources()
    account.add([row(source=name) for name in "aaabbcd"])
    facts = account.facts()
    assert facts["rows_by_source"] == {"a": 3, "b": 2, "(others)": 2}
    assert facts["rows_by_file"] == {"f.jsonl": 7}


def test_rankings_count_responses_and_ties():
    account = Rankings()
    account.add(
        [row(), row(responses="abc", ranks=(1, 1, 2)), row(responses="abc", ranks=(3, 2, 1))]
    )
    assert account.facts() == {"rows_by_responses": {"2": 1, "3": 2}, "rows_with_ties": 1}


def test_agreement_is_how_often_two_judgements_of_one_comparison_say_the_same():
    account = Repetitions()
    account.add([row(), row(responses=("b", "a"), ranks=(2, 1))])  # the same, told another way
    account.add([row(ranks=(2, 1)), row("q"), row("q", ranks=(2, 2)), row("r", ("a", "c"))])
    repeated = account.facts()["repeated"]

    # a over b twice and b over a once: of the three pairs of judgements, one agrees
    assert repeated["agreement"] == round(1 / 3, 4)
    assert repeated["comparisons"]["distinct"] == 3
    assert repeated["prompts"] == {
        "distinct": 3,
        "rows_each": 2.0,
        "share_repeated": round(2 / 3, 4),
        "most": 3,
        "followed": 3,
    }


def test_of_many_prompts_a_sample_tells_the_same_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(distributions, "SAMPLE", 200)
    account = Repetitions()
    for start in range(0, 9000, 1000):
        numbers = range(start, start + 1000)
        # of every prompt three rows far apart, of which one contradicts the other two
        account.add([row(f"p{n % 3000}", ranks=(1, 2) if n < 6000 else (2, 1)) for n in numbers])
    repeated = account.facts()["repeated"]

    assert repeated["prompts"]["distinct"] == pytest.approx(3000, rel=0.25)
    assert (repeated["prompts"]["most"], repeated["prompts"]["rows_each"]) == (3, 3.0)
    assert repeated["prompts"]["followed"] <= 400
    assert (repeated["comparisons"]["most"], repeated["agreement"]) == (3, round(1 / 3, 4))


def test_batches_change_no_fact_and_no_rows_make_none():
    generator = random.Random(5)
    rows = [
        row(f"p{generator.randrange(20)}", ("x" * generator.randrange(9), "y"), group="g")
        for _ in range(100)
    ]
    for table in ("demonstrations", "preferences", "prompts", "text"):
        for one, other in zip(accounts_of(table), accounts_of(table), strict=True):
            one.add(rows)
            for start in range(0, 100, 13):
                other.add(rows[start : start + 13])
            other.add([])
            assert json.loads(json.dumps(one.facts())) == json.loads(json.dumps(other.facts()))


def test_half_a_character_can_be_counted():
    account = Repetitions()
    account.add([row("\ud800", ("\udfff", "b"))])
    assert account.facts()["repeated"]["prompts"]["distinct"] == 1
