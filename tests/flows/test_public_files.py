"""What the gate says of real files, each outcome looked at by a person.

The files lie beside the repository; the limits keep the rows that an outcome rests on.
"""

from pathlib import Path
from typing import NamedTuple

import pytest

from rlhf_core.data.totals import joined_comparisons
from tasks.check import check_files, recipe_of_files

SHARED = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the folder of public data beside the repository is not here"
)


class Outcome(NamedTuple):
    """What is expected of a file, and why that is right."""

    faults: dict[str, int]
    because: str
    refused: bool = False
    settings: tuple[str, ...] = ()


CLEAN = "people wrote these rows and others have cleaned them"
TURNS = "a response goes on with turns of its own, as some of this data set's do"
GARBLED = "its quotes were read as Windows-1252 once"

OUTCOMES: dict[str, Outcome] = {
    "pairs/finegrained_qa.jsonl.gz": Outcome({}, CLEAN),
    "pairs/hh_harmless-base.jsonl.gz": Outcome({"TOK-003": 3}, TURNS),
    "pairs/hh_helpful-base.jsonl.gz": Outcome({"TOK-003": 6}, TURNS),
    "pairs/hh_helpful-base_transcripts_500.jsonl.gz": Outcome({"TOK-003": 3}, TURNS),
    "pairs/hh_helpful-rejection-sampled.jsonl.gz": Outcome({"TOK-003": 3}, TURNS),
    "pairs/piqa_valid.jsonl.gz": Outcome({}, CLEAN),
    "pairs/ukp_convarg1.jsonl.gz": Outcome(
        {"DUP-001": 179, "PREF-005": 11, "PREF-010": 3},
        "debates hold some arguments twice, which makes 1.9 % of the pairs repeats",
        refused=True,
    ),
    "demonstrations/gsm8k_train.jsonl.gz": Outcome(
        {}, CLEAN, settings=("data.demonstrations.limit=2000",)
    ),
    "demonstrations/p3_t0_sample.jsonl.gz": Outcome(
        {"DUP-001": 53, "TXT-001": 300, "TXT-006": 29},
        "some templates have no answer, some rows stand twice, and some pounds are garbled",
        refused=True,
    ),
    "demonstrations/self_instruct_seed.jsonl.gz": Outcome({}, CLEAN),
    "text/tinystories.jsonl.gz": Outcome({}, CLEAN),
    "text/tinystories_jlens_1000.jsonl.gz": Outcome({"TXT-006": 82}, GARBLED),
    "text/wikitext2_valid.txt.gz": Outcome({}, CLEAN),
    "sentiment/hutto_human_ratings.jsonl.gz": Outcome(
        {}, CLEAN, settings=("data.text.limit=2000",)
    ),
    "sentiment/imdb_train_25k.jsonl.gz": Outcome(
        {"TXT-003": 1, "TXT-006": 36},
        "a control character stands in line 1529, and dashes of Windows-1252 in many reviews",
        refused=True,
        settings=("data.text.limit=1600",),
    ),
    "sentiment/vader_lexicon.txt.gz": Outcome({}, "words and figures are text, row by row"),
    "gpt2-tokenizer/merges.txt": Outcome(
        {"TXT-006": 42}, "letters that stand for bytes look garbled, and this is no training text"
    ),
    "gpt2-tokenizer/vocab.json": Outcome(
        {"SCH-004": 1}, "one object of 50,257 keys is no row of text", refused=True
    ),
    "models/stories260K/config.json": Outcome(
        {"DATA-004": 1}, "one object over many lines is a document", refused=True
    ),
    "models/stories260K/tokenizer.json": Outcome(
        {"DATA-004": 1}, "one object over many lines is a document", refused=True
    ),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_public_file_passes_or_fails_for_a_reason_one_can_agree_with(name):
    expected = OUTCOMES[name]
    recipe = recipe_of_files([SHARED / name], None, {}, expected.settings)
    with check_files(recipe, None) as checked:
        found = {rule: facts["faults"] for rule, facts in checked.facts["rules"].items()}
        assert (found, checked.refusal is not None) == (expected.faults, expected.refused)


def test_stories_are_demonstrations_as_well_and_comparisons_of_a_group_are_rankings():
    stories = recipe_of_files([SHARED / "text/tinystories.jsonl.gz"], "demonstrations", {}, [])
    with check_files(stories, None) as checked:
        assert checked.facts["tables"]["demonstrations"]["usable"] == 1600
        assert checked.facts["rules"] == {}
    answers = [SHARED / "pairs/finegrained_qa.jsonl.gz"]
    joined = recipe_of_files(answers, None, {}, ["data.preferences.format=rankings"])
    with check_files(joined, None) as checked:
        # 15 of the groups lack a comparison of responses that others order
        assert checked.facts["rules"]["PREF-008"]["faults"] == 15
        assert checked.refusal is None
        usable = checked.facts["tables"]["preferences"]["usable"]
        assert usable + joined_comparisons(checked.facts) == 2055
