"""What does not fit is dropped or cut as the recipe says, counted, and refused where it is much."""

import pytest

from rlhf_core.errors import DataError
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from rlhf_core.settings.sft import SftSettings
from rlhf_core.truncation import check_truncation, fitted

MODEL = ModelSettings(scratch=ScratchModelSettings(), max_prompt_tokens=3, max_response_tokens=4)
PROMPTS = [[5, 6], [5, 6, 7, 8], [5], [5]]
RESPONSES = [[6, 1], [6, 1], [5, 6, 7, 8, 9, 1], [5, 6, 7, 1]]


def test_a_response_is_never_cut_unasked():
    found = fitted(PROMPTS, RESPONSES, MODEL, SftSettings())
    assert found.rows == [0, 3]
    assert found.responses == [[6, 1], [5, 6, 7, 1]]
    assert found.truncation.document() == {
        "rows": 4,
        "tokens": 2 + 4 + 1 + 1 + 2 + 2 + 6 + 4,
        "prompts_too_long": 1,
        "responses_too_long": 1,
        "rows_dropped": 2,
        "responses_cut": 0,
        "tokens_lost": 6 + 7,
        "rows_without_labels": 0,
        "longest_prompt": 4,
        "longest_response": 6,
        "share": 0.5,
    }


def test_a_response_that_is_cut_has_no_end_put_behind_it():
    found = fitted(PROMPTS, RESPONSES, MODEL, SftSettings(long_responses="cut"))
    assert found.rows == [0, 2, 3]
    assert found.responses[1] == [5, 6, 7, 8]
    assert (found.truncation.rows_dropped, found.truncation.responses_cut) == (1, 1)
    assert found.truncation.tokens_lost == 6 + 2
    assert found.truncation.share == 0.5


def test_more_than_the_stated_share_is_refused_with_the_lengths_found():
    truncation = fitted(PROMPTS, RESPONSES, MODEL, SftSettings()).truncation
    with pytest.raises(DataError) as refused:
        check_truncation(truncation, MODEL, SftSettings(max_truncated_share=0.49))
    message = str(refused.value)
    assert "50.0% of 4 demonstrations do not fit model.max_prompt_tokens=3" in message
    assert "the longest 4 and 6 tokens" in message
    assert "--set sft.max_truncated_share=0.5" in message
    check_truncation(truncation, MODEL, SftSettings(max_truncated_share=0.5))
