"""A judge behind a real HTTP server on loopback."""

import pytest

from rlhf_core import judging
from rlhf_core.errors import RecipeError, ServiceError
from rlhf_core.evaluation.served_judge import judged_pairs
from rlhf_core.judging import Pair, read_verdict
from rlhf_core.settings.judge import JudgeSettings
from tests.evaluation.served import served

INSTRUCTION = "P={prompt}|A={first}|B={second}|"
PAIRS = [Pair("p1", "long answer", "short"), Pair("p2", "no", "a longer one"), Pair("p3", "x", "y")]


def texts(question: str) -> tuple[str, str]:
    parts = dict(part.split("=", 1) for part in question.split("|") if part)
    return parts["A"], parts["B"]


def longer(question: str) -> str:
    first, second = texts(question)
    return "T" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def always_the_first(question: str) -> str:
    return "The answer is A"


def judge(address: str, **changes):
    settings = JudgeSettings(address=address, model="judge", instruction=INSTRUCTION, **changes)
    return judged_pairs(PAIRS, settings, bootstrap_samples=100, seed=1)


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(judging, "LONGEST_WAIT_SECONDS", 0.0)


def test_each_pair_is_asked_about_in_both_orders():
    with served(longer) as (address, seen):
        found = judge(address)

    assert len(seen) == 2 * len(PAIRS)
    assert {request["path"] for request in seen} == {"/v1/chat/completions"}
    assert [one.points for one in found.asked] == [1.0, 0.0, 0.5]
    assert found.rate.mean == 0.5
    assert (found.disagreement, found.first_wins, found.unclear) == (0.0, 0.5, 0.0)


def test_a_judge_that_favours_what_it_reads_first_makes_ties_and_is_shown():
    with served(always_the_first) as (address, _):
        found = judge(address)
    assert [one.points for one in found.asked] == [0.5, 0.5, 0.5]
    assert (found.disagreement, found.first_wins) == (1.0, 1.0)


def test_a_text_that_holds_a_place_holder_is_judged_as_text():
    pairs = [Pair("p", "{second}", "the other"), Pair("p", "plain", "the other")]
    with served(longer) as (address, seen):
        settings = JudgeSettings(address=address, model="judge", instruction=INSTRUCTION)
        judged_pairs(pairs, settings, bootstrap_samples=100, seed=1)
    questions = {request["messages"][0]["content"] for request in seen}
    assert "P=p|A={second}|B=the other|" in questions


def test_passing_faults_are_tried_again(no_waiting):
    with served(longer, faults=[500, 429, 503]) as (address, seen):
        found = judge(address, requests_together=1)
    assert len(seen) == 2 * len(PAIRS) + 3
    assert found.rate.mean == 0.5


def test_a_judge_that_stays_away_is_named_and_may_come_back(no_waiting):
    with pytest.raises(ServiceError, match=r"gave no answer in 2 tries \(last: ConnectError"):
        judge("http://127.0.0.1:9/v1", attempts=2)


def test_a_refusal_is_told_at_once_with_its_status(no_waiting):
    with (
        served(longer, faults=[404] * 10) as (address, _),
        pytest.raises(RecipeError, match=r"refused the request with status 404"),
    ):
        judge(address, requests_together=1)


def test_answers_that_are_no_verdicts_are_refused():
    with (
        served(lambda _: "I cannot say") as (address, _),
        pytest.raises(RecipeError, match=r"100% of the 6 answers of 'judge' are no verdict"),
    ):
        judge(address)


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with served(longer) as (address, seen):
        with pytest.raises(RecipeError, match="JUDGE_KEY is not set"):
            judge(address, api_key_variable="JUDGE_KEY")
        monkeypatch.setenv("JUDGE_KEY", "secret")
        judge(address, api_key_variable="JUDGE_KEY")
    assert {request["key"] for request in seen} == {"Bearer secret"}


@pytest.mark.parametrize(
    "answer, verdict",
    [("A", "A"), ("Response B.", "B"), ("A is good, but B", "B"), ("T", "T"), ("neither", "?")],
)
def test_a_verdict_is_the_last_letter_that_stands_alone(answer, verdict):
    assert read_verdict(answer) == verdict
