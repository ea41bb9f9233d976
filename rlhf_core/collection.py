"""Preferences from a policy's own responses: K to a prompt, ranked by whoever labels them.

A response that did not end is left out: a labeler would judge the half of it, and a reward model
is taught on responses that end (detail R5).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rlhf_core.batches import Encoder, SpecialTokens
from rlhf_core.errors import DataError
from rlhf_core.generation import draw_responses
from rlhf_core.models import end_token_ids
from rlhf_core.pretrained import load_policy, load_tokenizer
from rlhf_core.settings.model import ModelSettings
from rlhf_core.training.optimization import make_accelerator

Answered = Callable[[int, int], None]
"""Called with the number of responses drawn so far and of all that will be."""


@dataclass(frozen=True)
class Draws:
    """How many responses are drawn to a prompt, and how."""

    responses_per_prompt: int
    temperature: float
    batch_size: int = 128
    """Responses generated at a time."""


@dataclass(frozen=True)
class Group:
    """A prompt with different, finished responses of a policy."""

    prompt: str
    responses: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    """The labeler's number for each response; None before it was asked."""

    @property
    def ranks(self) -> tuple[int, ...] | None:
        """Rank of each response, 1 for the best; equal scores share one. None before labeling."""
        if self.scores is None:
            return None
        order = sorted(set(self.scores), reverse=True)
        return tuple(1 + order.index(score) for score in self.scores)

    @property
    def prefers(self) -> bool:
        """Whether some response was ranked above another."""
        return self.scores is not None and len(set(self.scores)) > 1

    def as_row(self) -> dict[str, Any]:
        """The group as a row of JSONL that the data stage reads as a ranking."""
        row: dict[str, Any] = {"prompt": self.prompt, "responses": list(self.responses)}
        if self.scores is not None:
            row |= {"ranks": list(self.ranks or ()), "scores": list(self.scores)}
        return row


@dataclass(frozen=True)
class Collected:
    """Groups of at least two responses, and what was left out on the way to them."""

    groups: Sequence[Group]
    drawn: int
    unfinished: int
    repeated: int
    """Responses equal to another one to the same prompt."""

    lone: int
    """Prompts of which fewer than two different, finished responses were left."""

    def metrics(self) -> dict[str, float]:
        """Counts and shares under the names that the stage reports."""
        ranked = [group for group in self.groups if group.prefers]
        return {
            "collected_rankings": float(len(ranked)),
            "collected_responses": float(sum(len(group.responses) for group in ranked)),
            "collected_tied_prompts": float(len(self.groups) - len(ranked)),
            "collected_lone_prompts": float(self.lone),
            "collected_unfinished_share": self.unfinished / max(1, self.drawn),
            "collected_repeated_share": self.repeated / max(1, self.drawn),
        }


def collect_from(
    policy_folder: Path,
    model: ModelSettings,
    prompts: Sequence[str],
    draws: Draws,
    *,
    limit: int,
    seed: int,
    answered: Answered,
) -> Collected:
    """Let the policy in the folder answer the first `limit` different prompts that fit its budget.

    Raises DataError where none fits, or no responses are of use.
    """
    tokenizer = load_tokenizer(policy_folder)
    policy = load_policy(policy_folder).eval().to(make_accelerator().device)
    encoder = Encoder(tokenizer, model)
    texts = list(dict.fromkeys(prompts))
    ids = encoder.prompts(texts)
    fitting = encoder.fitting(ids, [[]] * len(ids))[:limit]
    if not fitting:
        raise DataError(
            f"None of {len(texts)} prompts fits model.max_prompt_tokens="
            f"{model.max_prompt_tokens}: raise it, or give shorter prompts."
        )
    special = SpecialTokens(
        end_token_ids(policy.generation_config, tokenizer), encoder.pad_token_id
    )
    kept = [texts[row] for row in fitting]
    return collect_responses(
        policy, encoder, kept, draws, special=special, seed=seed, answered=answered
    )


def collect_responses(
    policy: PreTrainedModel,
    encoder: Encoder,
    prompts: Sequence[str],
    draws: Draws,
    *,
    special: SpecialTokens,
    seed: int,
    answered: Answered,
) -> Collected:
    """Draw responses to each prompt; every draw comes from `seed`.

    Raises DataError where no prompt has two different, finished responses.
    """
    ids = encoder.prompts(prompts)
    owners = [row for row in range(len(prompts)) for _ in range(draws.responses_per_prompt)]
    found: list[list[str]] = [[] for _ in prompts]
    unfinished = repeated = 0
    done = 0
    for drawn in draw_responses(
        policy,
        [ids[row] for row in owners],
        special=special,
        max_tokens=encoder.settings.max_response_tokens,
        temperature=draws.temperature,
        batch_size=draws.batch_size,
        seed=seed,
    ):
        part = owners[done : done + len(drawn.ids)]
        for owner, row, text in zip(part, drawn.ids, encoder.texts(drawn.ids), strict=True):
            if row[-1] not in special.end or not text.strip():
                unfinished += 1
            elif text in found[owner]:
                repeated += 1
            else:
                found[owner].append(text)
        done += len(drawn.ids)
        answered(done, len(owners))
    groups = [
        Group(prompt, tuple(texts))
        for prompt, texts in zip(prompts, found, strict=True)
        if len(texts) > 1
    ]
    if not groups:
        raise DataError(
            f"None of {len(prompts)} prompts has two different, finished responses: of "
            f"{len(owners)} drawn, {unfinished} did not end within model.max_response_tokens="
            f"{encoder.settings.max_response_tokens} or were empty, and {repeated} repeat another. "
            "Raise that budget, the temperature or the responses per prompt."
        )
    return Collected(groups, len(owners), unfinished, repeated, len(prompts) - len(groups))
