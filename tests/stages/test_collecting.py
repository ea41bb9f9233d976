import json

import pytest
from pydantic import ValidationError

from rlhf_core.errors import DataError
from rlhf_core.report import ignore
from rlhf_core.settings.collection import CollectionSettings
from rlhf_core.settings.reward_model import RewardModelSettings
from rlhf_core.stages.collecting import COLLECTED, collected_preferences
from rlhf_core.stages.reward_model import make_reward_model
from tests.evaluation.served import served


def fewer_words(prompts, responses):
    return [-len(response.split()) for response in responses]


def all_alike(prompts, responses):
    return [0.0] * len(responses)


def settings(labeler="fewer_words", **changes):
    return CollectionSettings(
        labeler=f"tests.stages.test_collecting:{labeler}", temperature=3.0, **changes
    )


def collect(chain, out_dir, collection):
    return collected_preferences(
        collection,
        chain.model,
        data=chain.data,
        sft=chain.sft,
        out_dir=out_dir,
        report=ignore,
        seed=1,
    )


def test_rankings_stand_in_the_artifact_and_each_prompt_on_one_side(chain, tmp_path):
    found = collect(chain, tmp_path, settings())

    rows = [json.loads(line) for line in (tmp_path / COLLECTED).read_text().splitlines()]
    assert (
        len(found.train) + len(found.validation) == len(rows) == found.metrics["collected_rankings"]
    )
    assert not set(found.train.prompt) & set(found.validation.prompt)
    assert len(found.validation) > 0
    for row in rows:
        lengths = [len(response.split()) for response in row["responses"]]
        assert [sorted(set(lengths)).index(length) + 1 for length in lengths] == row["ranks"]
    for frame in (found.train, found.validation):
        for prompt, line in zip(frame.prompt, frame.line, strict=True):
            assert rows[line - 1]["prompt"] == prompt


def test_a_reward_model_learns_what_the_labeler_likes(chain, tmp_path):
    metrics = make_reward_model(
        RewardModelSettings(
            epochs=4,
            learning_rate=0.003,
            batch_size=16,
            collect=settings(responses_per_prompt=6),
        ),
        chain.model,
        data=chain.data,
        sft=chain.sft,
        out_dir=tmp_path,
        report=ignore,
        seed=1,
    )
    assert metrics["rankings"] > 20
    assert metrics["accuracy"] > 0.75


def test_a_labeler_that_prefers_nothing_is_refused(chain, tmp_path):
    with pytest.raises(DataError, match=r"all_alike preferred a response in 0 of \d+ rankings"):
        collect(chain, tmp_path, settings("all_alike"))


def test_a_served_judge_may_rank_instead_of_a_labeler(chain, tmp_path):
    def shorter(question):
        first, second = (len(text.split()) for text in question.split("|")[1:])
        return "T" if first == second else "A" if first < second else "B"

    with served(shorter) as (address, _):
        judge = {"address": address, "model": "m", "instruction": "{prompt}|{first}|{second}"}
        found = collect(chain, tmp_path, CollectionSettings(judge=judge, temperature=3.0))
    assert set(found.train.source) == {"judge m"}
    row = found.train.iloc[0]
    lengths = [len(response.split()) for response in row.responses]
    assert lengths[row.ranks.index(1)] == min(lengths)


@pytest.mark.parametrize(
    "given", [{}, {"labeler": "a:b", "judge": {"address": "http://h/v1", "model": "m"}}]
)
def test_one_ranks_and_only_one(given):
    with pytest.raises(ValidationError, match="give `labeler`, a function, or `judge`"):
        CollectionSettings(**given)
