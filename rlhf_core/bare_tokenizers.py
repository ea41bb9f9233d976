"""Copies of a tokenizer that read a text in the middle of another, or no control tokens at all.

They share the model of the original, so that a large vocabulary costs nothing.
"""

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer

from rlhf_core.data.control_tokens import ControlTokens

_PARTS = ("normalizer", "pre_tokenizer")


def bare_copy(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that puts nothing around or before a text."""
    copy = _without_what_comes_before(tokenizer)
    added = list(tokenizer.get_added_tokens_decoder().values())
    return _with_added(copy, tokenizer, added)


def literal_copy(tokenizer: Tokenizer, control: ControlTokens, *, bare: bool) -> Tokenizer:
    """A copy to which every control token, and no other added token, is plain text.

    A `bare` one puts nothing before a text.
    """
    copy = _without_what_comes_before(tokenizer) if bare else _same(tokenizer)
    added = []
    for token in tokenizer.get_added_tokens_decoder().values():
        token.special = token.special or token.content in control.ids
        added.append(token)
    copy = _with_added(copy, tokenizer, added)
    copy.encode_special_tokens = True
    return copy


def _same(tokenizer: Tokenizer) -> Tokenizer:
    copy = Tokenizer(tokenizer.model)
    for part in _PARTS:
        step = getattr(tokenizer, part)
        if step is not None:
            setattr(copy, part, step)
    return copy


def _with_added(copy: Tokenizer, tokenizer: Tokenizer, added: list[AddedToken]) -> Tokenizer:
    """The copy with the added tokens, in the order of their ids, by which they get the same."""
    copy.add_tokens(added)
    same = (copy.token_to_id(of.content) == tokenizer.token_to_id(of.content) for of in added)
    assert all(same), "tokens are numbered in the order in which they are added"
    return copy


def _without_what_comes_before(tokenizer: Tokenizer) -> Tokenizer:
    copy = Tokenizer(tokenizer.model)
    steps = {part: _without_prefix(_described(tokenizer, part)) for part in _PARTS}
    empty: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None}
    empty |= {"added_tokens": [], "post_processor": None, "decoder": None}
    empty["model"] = {"type": "BPE", "vocab": {}, "merges": []}
    parts = Tokenizer.from_str(json.dumps(empty | steps))
    for part in _PARTS:
        if steps[part] is not None:
            setattr(copy, part, getattr(parts, part))
    return copy


def _described(tokenizer: Tokenizer, part: str) -> dict[str, Any] | None:
    step = getattr(tokenizer, part)
    if step is None:
        return None
    described: dict[str, Any] = json.loads(step.__getstate__())
    return described


def _without_prefix(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """The step of a tokenizer, with no space put before a text that has none."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        name = "normalizers" if "normalizers" in step else "pretokenizers"
        inner = list(filter(None, map(_without_prefix, step[name])))
        return {**step, name: inner} if inner else None
    if step["type"] == "Metaspace":
        return {**step, "prepend_scheme": "never"}
    return {**step, "add_prefix_space": False} if "add_prefix_space" in step else step
