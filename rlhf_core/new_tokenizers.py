"""Tokenizers that are made from the texts of a run."""

from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlhf_core.data.control_tokens import EOS, PAD
from rlhf_core.settings.model import ScratchModelSettings

UNKNOWN = "<unk>"
"""What a word tokenizer made here reads words as that it does not know."""


def trained_tokenizer(
    texts: Sequence[str], settings: ScratchModelSettings
) -> PreTrainedTokenizerFast:
    """A tokenizer of the corpus: its words, or byte pairs where a vocabulary size is given."""
    if settings.vocabulary_size is None:
        return word_tokenizer(texts)
    return byte_pair_tokenizer(texts, settings.vocabulary_size)


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words of `texts`, split at white space, most frequent first.

    Ids 0 to 2 pad, end and stand for unknown words; prompts have no beginning token.
    """
    counts = Counter(word for text in texts for word in text.split())
    words = sorted(counts.keys() - {PAD, EOS, UNKNOWN}, key=lambda word: (-counts[word], word))
    vocabulary = {word: index for index, word in enumerate([PAD, EOS, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN
    )


def byte_pair_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level byte pairs of `texts`: any text can be encoded, and none is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS)
