from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from rlhf_core.batches import Encoder, join, pad_left, shuffled_batches
from rlhf_core.new_tokenizers import byte_pair_tokenizer, trained_tokenizer, word_tokenizer
from rlhf_core.settings.model import ModelSettings, ScratchModelSettings
from tests.tiny_models import END, PAD

SCRATCH = ScratchModelSettings()
CORPUS = ["the printer is on fire", "the printer is here", " the fire is out", "abc abc abc bc bc"]
BYTES = byte_pair_tokenizer(CORPUS * 5, 300)


def encoder(tokenizer=BYTES, **changes) -> Encoder:
    return Encoder(tokenizer, ModelSettings(scratch=SCRATCH, **changes))


def test_prompt_and_response_meet_where_generation_begins():
    encode = encoder(prompt_template="Q: {prompt}\nA:")
    prompts, responses = ["the printer is on fire"], ["the fire is out"]
    (prompt,) = encode.prompts(prompts)
    (response,) = encode.responses(prompts, responses)

    # Training reads prompt + response; generation reads the prompt's ids and then writes its own.
    whole = BYTES.encode("Q: the printer is on fire\nA: the fire is out")
    assert [*prompt, *response] == [*whole, END]
    assert BYTES.decode(prompt) == "Q: the printer is on fire\nA:"
    assert BYTES.decode(response[:-1]) == " the fire is out"


def test_a_response_that_would_merge_with_its_prompt_is_encoded_apart():
    encode = encoder(response_prefix="")
    (joined,) = BYTES(["abc"])["input_ids"]
    assert len(joined) == 1  # "abc" is one token, so no border stands in the joined text

    (prompt,) = encode.prompts(["ab"])
    (response,) = encode.responses(["ab"], ["c"])

    assert (BYTES.decode(prompt), BYTES.decode(response[:-1])) == ("ab", "c")


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    prompt=st.text(min_size=1, max_size=12),
    response=st.text(st.characters(exclude_characters=" "), min_size=1, max_size=12),
)
def test_the_ids_of_a_prompt_and_its_response_spell_both(prompt, response):
    encode = encoder()
    (prompt_ids,) = encode.prompts([prompt])
    (response_ids,) = encode.responses([prompt], [response])
    assert BYTES.decode(prompt_ids) + BYTES.decode(response_ids[:-1]) == f"{prompt} {response}"


def test_the_end_token_is_appended_once_and_counts():
    encode = encoder()
    prompts = ["the printer", "fire"]
    responses = encode.responses(prompts, ["is out", "is on the printer here"])
    batch = join(encode.prompts(prompts), responses, PAD)

    assert [row.count(END) for row in responses] == [1, 1]
    assert [row[-1] for row in responses] == [END, END]
    is_end = batch.response_ids == END
    assert is_end.sum(dim=1).tolist() == [1, 1]
    assert batch.response_mask[is_end].tolist() == [True, True]


def test_a_tokenizer_that_ends_texts_by_itself_ends_no_prompt_and_a_response_once():
    tokenizer = word_tokenizer(CORPUS)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", END)]
    )
    encode = encoder(tokenizer)

    (prompt,) = encode.prompts(["the printer"])
    (response,) = encode.responses(["the printer"], ["is here"])

    assert tokenizer("the printer")["input_ids"] == [*prompt, END]
    assert END not in prompt
    assert response == [*tokenizer("is here", add_special_tokens=False)["input_ids"], END]


def test_a_beginning_token_stands_before_the_prompt_alone():
    tokenizer = word_tokenizer([*CORPUS, "<s>"])
    begin = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begin)]
    )
    encode = encoder(tokenizer)

    (prompt,) = encode.prompts(["the printer"])
    (response,) = encode.responses(["the printer"], ["is here"])

    assert prompt[0] == begin
    assert begin not in response


def test_a_plain_text_is_read_without_template_prefix_or_end():
    encode = encoder(prompt_template="Q: {prompt}\nA:")
    (ids,) = encode.plain_texts([" the fire is out"])
    assert ids == BYTES.encode(" the fire is out")


def test_a_leading_space_makes_no_difference():
    encode = encoder()
    without, with_space = encode.responses(["fire"] * 2, ["the fire", " the fire"])
    assert without == with_space == [*BYTES.encode(" the fire"), END]


def test_padding_never_ends_and_the_end_never_pads():
    for tokenizer in (BYTES, word_tokenizer(CORPUS)):
        encode = encoder(tokenizer)
        assert (encode.pad_token_id, encode.eos_token_id) == (PAD, END)


def test_rows_over_either_budget_are_left_out_whole():
    encode = encoder(max_prompt_tokens=2, max_response_tokens=3)
    prompts = [[5, 6], [5, 6, 7], [5], [5]]
    responses = [[5, 6, 1], [5, 1], [5, 6, 7, 1], [1]]
    assert encode.fitting(prompts, responses) == [0, 3]


def test_generated_ids_become_the_response_as_the_data_has_it():
    encode = encoder()
    (ids,) = encode.responses(["fire"], ["the printer is out"])
    assert encode.texts([[*ids, PAD, PAD]]) == ["the printer is out"]


def test_the_tokens_of_a_word_tokenizer_are_its_words_by_frequency():
    tokenizer = word_tokenizer(["b a", "b c b", "c"])
    assert tokenizer.get_vocab() == {"<pad>": 0, "<eos>": 1, "<unk>": 2, "b": 3, "c": 4, "a": 5}
    assert tokenizer("c  x\nb")["input_ids"] == [4, 2, 3]


def test_words_that_spell_the_special_tokens_have_no_token_of_their_own():
    tokenizer = word_tokenizer(["b <unk> <eos> <pad> b c"])
    assert tokenizer.get_vocab() == {"<pad>": 0, "<eos>": 1, "<unk>": 2, "b": 3, "c": 4}


def test_a_vocabulary_size_asks_for_byte_pairs():
    assert len(trained_tokenizer(CORPUS * 9, ScratchModelSettings(vocabulary_size=300))) <= 300
    assert trained_tokenizer(CORPUS, SCRATCH)("fire fire")["input_ids"][0] != PAD
    # 4 special and known words, against one token or more for every byte
    assert len(trained_tokenizer(["one"], SCRATCH)) == 4


@settings(max_examples=40, derandomize=True, deadline=None)
@given(text=st.text(max_size=20))
def test_byte_pairs_spell_any_text(text):
    assert BYTES.decode(BYTES(text)["input_ids"]) == text


def test_prompts_are_padded_on_the_left_and_responses_on_the_right():
    batch = join([[3, 4, 5], [6]], [[7, 1], [8, 9, 1]], PAD)
    assert batch.input_ids.tolist() == [[3, 4, 5, 7, 1, 0], [0, 0, 6, 8, 9, 1]]
    on, off = True, False
    assert batch.attention_mask.tolist() == [[on] * 5 + [off], [off, off] + [on] * 4]


def test_padding_is_masked_even_where_a_real_token_has_its_id():
    ids, mask = pad_left([[PAD, 4], [5, PAD, 6]], PAD)
    assert ids.tolist() == [[0, 0, 4], [5, 0, 6]]
    assert mask.tolist() == [[False, True, True], [True, True, True]]


def test_rows_come_without_the_columns_that_are_padding_in_all_of_them():
    batch = join([[3, 4, 5], [6], [7, 8]], [[7, 1], [8, 9, 2, 1], [1]], PAD)
    chosen = batch.rows(torch.tensor([2, 0]))
    assert chosen.input_ids.tolist() == [[0, 7, 8, 1, 0], [3, 4, 5, 7, 1]]
    short = batch.rows(torch.tensor([2]))
    assert short.input_ids.tolist() == [[7, 8, 1]]
    assert batch.rows(torch.tensor([2]), spare_columns=1).input_ids.tolist() == [[7, 8, 1, 0]]
    # The longest row has no column to spare.
    assert batch.rows(torch.tensor([1]), spare_columns=1).response_ids.tolist() == [[8, 9, 2, 1]]


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=90),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 5),
)
def test_one_pass_holds_every_row_once_and_keeps_the_short_batch(lengths, batch_size, seed):
    prompts, responses = zip(*lengths, strict=True)
    batches = list(shuffled_batches(prompts, responses, batch_size, seed=seed, epoch=0))
    assert Counter(row for batch in batches for row in batch) == Counter(range(len(lengths)))
    sizes = Counter(len(batch) for batch in batches)
    full, rest = divmod(len(lengths), batch_size)
    assert sizes == Counter({batch_size: full}) + Counter({rest: 1} if rest else {})


def test_batches_are_drawn_from_the_seed_and_the_epoch():
    def order(seed, epoch):
        return list(shuffled_batches([1] * 40, [1] * 40, 4, seed=seed, epoch=epoch))

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_rows_of_similar_length_share_a_batch():
    lengths = [1, 9] * 32
    batches = list(shuffled_batches(lengths, [1] * 64, 4, seed=0, epoch=0))
    assert all(len({lengths[row] for row in batch}) == 1 for batch in batches)


@pytest.mark.parametrize("response", ["", " "])
def test_an_empty_response_is_still_ended(response):
    (ids,) = encoder().responses(["fire"], [response])
    assert ids[-1] == END
    assert ids.count(END) == 1
