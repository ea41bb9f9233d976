import pytest
import torch

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.collection import Collected, Draws, Group, collect_responses
from rlhf_core.errors import DataError, RecipeError
from rlhf_core.ranking import judged, labeled, load_labeler
from rlhf_core.settings.judge import PairJudgeSettings
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from tests.evaluation.served import served
from tests.tiny_models import END, PAD, SPECIAL, tiny_policy, words

MODEL = ModelSettings(scratch=ScratchModelSettings(), max_prompt_tokens=4, max_response_tokens=6)
PROMPTS = ["w3 w4", "w5", "w6 w7 w8"]


def by_length(prompts, responses):
    return [len(response) for response in responses]


def one_number(prompts, responses):
    return [1.0]


def not_a_number(prompts, responses):
    return [float("nan")] * len(responses)


def collect(*, special=SPECIAL, responses=6, seed=1, told=None):
    policy = tiny_policy().eval()
    with torch.no_grad():
        policy.lm_head.weight[END] *= 3  # so that about half of the responses end
    return collect_responses(
        policy,
        Encoder(words(), MODEL),
        PROMPTS,
        Draws(responses, 1.0, batch_size=4),
        special=special,
        seed=seed,
        answered=lambda done, total: None if told is None else told.append((done, total)),
    )


def test_every_draw_is_kept_or_counted_as_left_out():
    told = []
    collected = collect(told=told)

    lone = collected.drawn - collected.unfinished - collected.repeated
    lone -= sum(len(group.responses) for group in collected.groups)
    assert collected.drawn == 18
    assert collected.unfinished > 0
    assert 0 <= lone <= collected.lone  # a prompt with one response left is no group
    assert [group.prompt for group in collected.groups] == [
        prompt for prompt in PROMPTS if prompt in {group.prompt for group in collected.groups}
    ]
    assert all(len(set(group.responses)) == len(group.responses) for group in collected.groups)
    assert told[-1] == (18, 18)


def test_responses_come_from_the_seed_alone():
    assert collect(seed=5) == collect(seed=5)
    assert collect(seed=5) != collect(seed=6)


def test_a_policy_whose_responses_never_end_is_named_with_the_counts():
    never = SpecialTokens(end=[END + 1_000], pad=PAD)
    with pytest.raises(DataError, match=r"None of 3 prompts.*of 18 drawn, 18 did not end"):
        collect(special=never)


def test_higher_scores_rank_first_and_equal_ones_share_a_rank():
    group = Group("p", ("a", "b", "c", "d"), (0.5, 2.0, 0.5, -1.0))
    assert group.ranks == (2, 1, 2, 3)
    assert group.as_row() == {
        "prompt": "p",
        "responses": ["a", "b", "c", "d"],
        "ranks": [2, 1, 2, 3],
        "scores": [0.5, 2.0, 0.5, -1.0],
    }


def test_a_labeler_scores_each_response_beside_its_own_prompt():
    asked = []

    def labeler(prompts, responses):
        asked.extend(zip(prompts, responses, strict=True))
        return [float(len(asked) - place) for place in range(len(responses))]

    groups = [Group("p", ("a", "b")), Group("q", ("c", "d", "e"))]
    scored = labeled(Collected(groups, 5, 0, 0, 0), labeler)

    assert asked == [("p", "a"), ("p", "b"), ("q", "c"), ("q", "d"), ("q", "e")]
    assert [group.scores for group in scored.groups] == [(5.0, 4.0), (3.0, 2.0, 1.0)]


def longer(question):
    first, second = question.split("|")[1:]
    return "T" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def judge(address, **changes):
    return PairJudgeSettings(
        address=address, model="m", instruction="{prompt}|{first}|{second}", **changes
    )


def test_a_served_judge_ranks_by_all_pairs_of_a_prompt_in_both_orders():
    groups = [Group("p", ("aa", "b", "cccc", "d")), Group("q", ("e", "ff"))]
    told = []
    with served(longer) as (address, seen):
        collected = Collected(groups, 6, 0, 0, 0)
        scored = judged(
            collected, judge(address), setting="--judge", answered=lambda *now: told.append(now)
        )
    assert len(seen) == 2 * (6 + 1)
    assert told[-1] == (7, 7)
    assert scored.groups[0].scores == pytest.approx((2 / 3, 0.5 / 3, 1.0, 0.5 / 3))
    assert scored.groups[0].ranks == (2, 3, 1, 3)
    assert scored.groups[1].ranks == (2, 1)


def test_a_judge_that_favours_what_it_reads_first_prefers_nothing():
    with served(lambda _: "A") as (address, _):
        collected = Collected([Group("p", ("a", "bb", "ccc"))], 3, 0, 0, 0)
        scored = judged(collected, judge(address), setting="--judge", answered=lambda *_: None)
    assert not scored.groups[0].prefers


def test_a_judge_that_gives_no_verdict_is_refused_by_the_name_of_the_setting():
    with (
        served(lambda _: "hm") as (address, _),
        pytest.raises(RecipeError, match=r"reward_model.collect.judge: 100% of the 2 answers"),
    ):
        judged(
            Collected([Group("p", ("a", "bb"))], 2, 0, 0, 0),
            judge(address),
            setting="reward_model.collect.judge",
            answered=lambda *_: None,
        )


def test_a_group_without_any_preference_is_counted_as_tied():
    groups = [Group("p", ("a", "bb"), (1.0, 1.0)), Group("q", ("c", "dd"), (1.0, 2.0))]
    metrics = Collected(groups, 8, 2, 1, 0).metrics()
    assert metrics["collected_rankings"] == 1
    assert metrics["collected_tied_prompts"] == 1
    assert metrics["collected_unfinished_share"] == 0.25


@pytest.mark.parametrize(
    "name, found",
    [
        ("tests.test_collection:one_number", "returned 1 numbers for 2 responses"),
        ("tests.test_collection:not_a_number", "graded response 1 of 2 with nan"),
    ],
)
def test_what_a_labeler_returns_is_checked(name, found):
    label = load_labeler(name, setting="--labeler")
    with pytest.raises(RecipeError, match=f"--labeler.*{found}"):
        label(["p", "p"], ["a", "b"])


def test_a_labeler_that_is_not_there_is_named():
    with pytest.raises(RecipeError, match=r"has no function 'nobody'"):
        load_labeler("tests.test_collection:nobody", setting="--labeler")
    with pytest.raises(RecipeError, match=r"cannot be imported"):
        load_labeler("no_such_module:label", setting="--labeler")
