"""Which tokens of a tokenizer control a model, and where a text spells one (C11).

Every added token counts, special or not: it ends a turn, begins a role, pads, calls a tool. Two
kinds do not. An added token that is not special and is white space, a word without brackets, or an
HTML tag is ordinary text that a vocabulary keeps whole (the runs of spaces of GPT-NeoX and Phi, the
line breaks and `<td>` of Gemma): code and web pages hold it, it has no meaning to a template, and
it stays the token it is. And the token for what is unknown is what any text of unknown words comes
to, where the tokenizer knows such: it forges nothing, unless it pads or ends too.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer

PAD, EOS = "<pad>", "<eos>"
"""The control tokens of a tokenizer that is made from the texts of a run."""

_BRACKETS = frozenset("<>[]{}|")

_HTML_TAG = re.compile(
    r"</?(?:table|caption|thead|tbody|tfoot|tr|th|td|s|h[1-6]|blockquote|em|b|i|u|strong|code|pre"
    r"|ul|ol|li|a|p|br|hr|div|span|img|sub|sup|strike|title)\s*/?>"
)

_KNOWN_TO_NOBODY = "\U0010fffd"
"""A character that stands in no vocabulary."""


class Spelling(NamedTuple):
    """A control token spelt out in a text, and the character at which it begins."""

    token: str
    place: int


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of one tokenizer by how they are spelt, and where texts spell them."""

    ids: Mapping[str, int]
    unknown: str | None = None
    """The token for what is unknown, where it is one of them: running text of corpora holds it."""

    normalized: Tokenizer | None = None
    """The tokenizer, where it looks for some of the tokens in a text only after changing it."""

    markers: frozenset[str] = frozenset()
    """What a template writes as roles and ends without a token of its own: text can spell it too,
    and no ids tell the two apart."""

    @cached_property
    def all_ids(self) -> frozenset[int]:
        """The ids that come from a template or from training, and from no text."""
        return frozenset(self.ids.values())

    def first_in(self, text: str) -> Spelling | None:
        """The first that `text` spells; None for nearly all texts."""
        return next(self.spelt_in(text), None)

    def spelt_in(self, text: str) -> Iterator[Spelling]:
        """All that `text` spells, from its beginning on."""
        found = False
        for match in self.pattern.finditer(text):
            found = True
            yield Spelling(match[0], match.start())
        if self.normalized is not None and not found:
            encodable = text.encode("utf-8", "replace").decode()  # half a character is none
            changed = self.normalized.normalizer.normalize_str(encodable)
            for match in self.pattern.finditer(changed):
                yield Spelling(match[0], match.start())

    def without_unknown(self) -> "ControlTokens":
        """The same but for the token for what is unknown."""
        ids = {token: of for token, of in self.ids.items() if token != self.unknown}
        return replace(self, ids=ids, unknown=None)

    def with_markers(self, written: Collection[str]) -> "ControlTokens":
        """The same and what a template writes, where it is no token."""
        return replace(self, markers=frozenset(written) - self.ids.keys())

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds any of them in a text; nothing at all where there are none."""
        if not self.ids and not self.markers:
            return re.compile(r"(?!)")
        return re.compile(any_of({*self.ids, *self.markers}))


def control_tokens(tokenizer: Tokenizer, named: Mapping[str, str]) -> ControlTokens:
    """The control tokens of `tokenizer`; `named` are its special tokens, such as `eos_token`."""
    added = list(tokenizer.get_added_tokens_decoder().values())
    chosen = {token.content for token in added if is_control(token)}
    chosen |= {token for token in named.values() if tokenizer.token_to_id(token) is not None}
    unknown = named.get("unk_token")
    others = {token for name, token in named.items() if name != "unk_token"}
    if unknown is not None and unknown not in others and _reads_unknown(tokenizer, unknown):
        chosen.discard(unknown)
    ids = {token: found for token in chosen if (found := tokenizer.token_to_id(token)) is not None}
    changed = tokenizer.normalizer is not None and any(
        token.normalized and token.content in chosen for token in added
    )
    return ControlTokens(
        ids,
        unknown if unknown in chosen else None,
        tokenizer if changed else None,
    )


def is_control(token: AddedToken) -> bool:
    """Whether an added token has a meaning that no text may spell."""
    if token.special:
        return True
    bare = token.content.strip("▁ \t\n\r")
    return not _BRACKETS.isdisjoint(bare) and not _HTML_TAG.fullmatch(bare)


def _reads_unknown(tokenizer: Tokenizer, unknown: str) -> bool:
    """Whether a text of unknown words comes to that token; bytes of unknown words do not."""
    ids = tokenizer.encode(_KNOWN_TO_NOBODY, add_special_tokens=False).ids
    return tokenizer.token_to_id(unknown) in ids


def any_of(words: Collection[str]) -> str:
    """A pattern for any of the words, the longest first, in which equal beginnings stand once."""
    rests: dict[str, list[str]] = {}
    for word in words:
        if word:
            rests.setdefault(word[0], []).append(word[1:])
    branches = [re.escape(first) + any_of(rest) for first, rest in sorted(rests.items()) if first]
    if not branches:
        return ""
    pattern = branches[0] if len(branches) == 1 and "" not in words else f"(?:{'|'.join(branches)})"
    return f"{pattern}?" if "" in words else pattern
