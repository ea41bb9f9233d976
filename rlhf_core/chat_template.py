"""A chat template: Jinja text from outside, rendered in a sandbox and within limits.

The template belongs to the tokenizer. It can call nothing but what is given to it here, cannot
change what it is given, and has neither clock nor files: equal messages give equal text.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NoReturn

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlhf_core.data.dialogues import Message
from rlhf_core.errors import ModelError

MAX_TEMPLATE_BYTES = 200_000
MAX_EXTRA_CHARACTERS = 100_000
"""A rendered conversation may be this much longer than twice its messages."""

TRIAL_CPU_SECONDS, TRIAL_BYTES = 2, 512 * 2**20
"""What a template may use for its trial, which runs in a process of its own."""


class TemplateRefused(TemplateError):
    """The template itself says that it cannot render these messages."""


@dataclass(frozen=True)
class ChatTemplate:
    """The text of a template and the special tokens that it may write, by name."""

    text: str
    special_tokens: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """What names the template in records."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The conversation as text; ModelError where the template cannot render it."""
        limit = MAX_EXTRA_CHARACTERS + 2 * sum(len(message["content"]) for message in messages)
        values: dict[str, Any] = {
            **self.special_tokens,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
        }
        parts, length = list[str](), 0
        try:
            for part in self._compiled.generate(values):
                length += len(part)
                if length > limit:
                    raise TemplateRefused(f"it writes more than {limit:,} characters")
                parts.append(part)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(
                f"The chat template cannot render a conversation of {roles}: {error}. Give "
                "conversations that it knows, or another template: model.chat_template."
            ) from error
        return "".join(parts)

    def check_on_trial(self) -> None:
        """Raise ModelError for a template that does not compile, or takes too long or too much.

        It renders one conversation in a process of its own that is ended when it passes its limits.
        """
        fault = _fault_on_trial(self.text, tuple(sorted(self.special_tokens.items())))
        if fault:
            raise ModelError(f"The chat template (SHA-256 {self.sha256[:12]}) {fault}")

    @cached_property
    def _compiled(self) -> Template:
        try:
            return _environment().from_string(self.text)
        except TemplateError as error:
            raise ModelError(
                f"The chat template is no valid Jinja text ({error}): mend it, or give another: "
                "model.chat_template."
            ) from error


@cache
def _fault_on_trial(text: str, special_tokens: tuple[tuple[str, str], ...]) -> str:
    """What is wrong with a template of this text; empty where nothing is."""
    if len(text.encode()) > MAX_TEMPLATE_BYTES:
        return f"is over {MAX_TEMPLATE_BYTES:,} bytes: give another."
    probe = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    ended = subprocess.run(
        [sys.executable, "-m", "rlhf_core.chat_trial"],
        input=json.dumps({"text": text, "special_tokens": special_tokens, "messages": probe}),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    if ended.returncode < 0:
        return (
            f"did not render one short conversation within {TRIAL_CPU_SECONDS} seconds and "
            f"{TRIAL_BYTES // 2**20} MiB: it is broken or hostile. Give another: "
            "model.chat_template."
        )
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"fails: {reason}"
    return ""


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks what the assistant says: it renders as it is.

    What is learnt is told from the messages, not from these marks.
    """

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(message)
