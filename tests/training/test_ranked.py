from rlhf_core.training.ranked import Rankings, mismatches

PROMPTS = [[3, index] for index in range(9)]
RESPONSES = [[4, index, 1] for index in range(9)]


def found(*, rows=9, group_size=2, seed=1, prompts=PROMPTS, responses=RESPONSES):
    return mismatches(prompts, responses, rows=rows, group_size=group_size, seed=seed)


def compared(ranked):
    """Of each comparison the response, and the ranks it has after which prompts."""
    groups = {}
    for response, prompt, rank, group in zip(
        ranked.responses, ranked.prompt_index, ranked.ranks, ranked.comparison, strict=True
    ):
        groups.setdefault(int(group), {})[ranked.prompts[prompt][1]] = (int(rank), response[1])
    return list(groups.values())


def test_a_ranking_compares_the_responses_of_a_prompt_which_stands_once():
    rankings = Rankings(
        [[3], [4, 5]], [[[6, 1], [7, 1]], [[8, 1], [9, 1], [3, 1]]], [[2, 1], [1, 1, 2]]
    )
    ranked = rankings.ranked([1, 0])
    assert ranked.prompts == [[4, 5], [3]]
    assert ranked.responses == [[8, 1], [9, 1], [3, 1], [6, 1], [7, 1]]
    assert ranked.prompt_index.tolist() == ranked.comparison.tolist() == [0, 0, 0, 1, 1]
    assert ranked.ranks.tolist() == [1, 1, 2, 2, 1]


def test_each_response_of_a_group_is_compared_after_its_own_and_every_other_prompt():
    rows = found(rows=7, group_size=3)
    assert len(rows) == len({prompt[1] for prompt in rows.prompts}) == 7
    groups = compared(rows.ranked(range(7)))
    assert sorted(len(group) for group in groups) == [3] * 3 + [4] * 4  # 7 in groups of 3 and 4
    for group in groups:
        (own,) = [prompt for prompt, (rank, _) in group.items() if rank == 1]
        assert {response for _, response in group.values()} == {own}
        assert {rank for prompt, (rank, _) in group.items() if prompt != own} == {2}


def test_a_batch_that_is_no_group_compares_nothing():
    assert compared(found().ranked([4])) == [{found().prompts[4][1]: (1, found().prompts[4][1])}]


def test_which_demonstrations_are_taken_comes_from_the_seed():
    assert found(rows=4).prompts == found(rows=4).prompts != found(rows=4, seed=2).prompts


def test_without_two_demonstrations_nothing_can_be_set_beside():
    assert found(rows=0) is None
    assert found(rows=1) is None
    assert found(prompts=PROMPTS[:1], responses=RESPONSES[:1]) is None
