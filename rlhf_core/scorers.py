"""What PPO is paid: a reward model's scores, functions of the texts, or a weighted sum of them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlhf_core.artifacts import digest, sha256_of
from rlhf_core.batches import Encoder, Sequences, SpecialTokens
from rlhf_core.errors import RecipeError
from rlhf_core.maths.ensembles import cautious_score, disagreement, least_score, mean_score
from rlhf_core.named_functions import checked_numbers, load_function
from rlhf_core.pretrained import load_tokenizer
from rlhf_core.reward_models import (
    RewardModel,
    load_held_out,
    load_reward_model,
    member_scores_in_batches,
    read_description,
)
from rlhf_core.settings.rewards import RewardSettings, ScoringSettings
from rlhf_core.threads import side_by_side

SCORING = "scoring.json"
"""File of a policy's folder that says what its responses were paid."""

HELD_OUT_SCORE = "held_out_score"
"""Metric: what the reward model says that PPO is not paid by."""


class Judgement(NamedTuple):
    """One score per response, and what else was found of it, by metric; each [batch]."""

    scores: Tensor
    parts: Mapping[str, Tensor]


class PromptText(NamedTuple):
    """A prompt as it stands in the data, and the response that the data has for it, if any."""

    prompt: str
    reference: str | None


@dataclass(frozen=True)
class Reader:
    """Brings the policy's ids back to the texts of the data."""

    encoder: Encoder
    special: SpecialTokens
    prompts: Mapping[tuple[int, ...], PromptText]

    def texts(self, sequences: Sequences) -> "Texts":
        """Prompts, responses and references as text; a prompt that is not known is decoded."""
        prompts, responses = [], []
        for ids, mask, own, own_mask in zip(
            sequences.prompt_ids.cpu(),
            sequences.prompt_mask.cpu(),
            sequences.response_ids.cpu(),
            sequences.response_mask.cpu(),
            strict=True,
        ):
            prompts.append(self._prompt(tuple(ids[mask].tolist())))
            responses.append(own[own_mask].tolist())
        ended = [bool(row) and row[-1] in self.special.end for row in responses]
        return Texts(
            [known.prompt for known in prompts],
            self.encoder.texts(responses),
            [known.reference for known in prompts],
            ended,
        )

    def _prompt(self, ids: tuple[int, ...]) -> PromptText:
        known = self.prompts.get(ids)
        if known is not None:
            return known
        (text,) = self.encoder.tokenizer.batch_decode([list(ids)], skip_special_tokens=True)
        return PromptText(text, None)


class Texts(NamedTuple):
    """A batch as text."""

    prompts: list[str]
    responses: list[str]
    references: list[str | None]
    ended: list[bool]


@dataclass(frozen=True)
class OwnReading:
    """How a reward model of another tokenizer or template than the policy's reads a text."""

    encoder: Encoder
    special: SpecialTokens

    def scores(self, reward_model: RewardModel, texts: Texts, *, batch_size: int) -> Tensor:
        """[members, batch]: every response encoded anew, its end token there if it ended."""
        prompts = self.encoder.prompts(texts.prompts)
        whole = self.encoder.responses(texts.prompts, texts.responses)
        responses = [
            row if ended or len(row) == 1 else row[:-1]
            for row, ended in zip(whole, texts.ended, strict=True)
        ]
        return member_scores_in_batches(
            reward_model, prompts, responses, special=self.special, batch_size=batch_size
        )


class RewardFunction(NamedTuple):
    """A function of the recipe, and what its numbers weigh."""

    name: str
    function: Callable[..., Any]
    weight: float
    takes_references: bool

    def __call__(self, texts: Texts) -> list[float]:
        """One finite number for each response; RecipeError where it gives anything else."""
        more = {"references": texts.references} if self.takes_references else {}
        try:
            found = self.function(texts.prompts, texts.responses, **more)
        except Exception as error:
            raise RecipeError(
                f"ppo.rewards: {self.name} failed on {len(texts.prompts)} responses with "
                f"{type(error).__name__}: {error}. Mend the function, or the rows it reads."
            ) from error
        return checked_numbers(found, len(texts.prompts), setting="ppo.rewards", name=self.name)


def load_reward_function(settings: RewardSettings) -> RewardFunction:
    """The function that `settings.source` names; RecipeError where there is none."""
    function = load_function(
        settings.source, setting="ppo.rewards", called_as="function(prompts, responses)"
    )
    takes_references = "references" in inspect.signature(function).parameters
    return RewardFunction(settings.source, function, settings.weight, takes_references)


class Scorer(nn.Module):
    """Judges responses as the settings say; its reward models are frozen."""

    def __init__(
        self,
        reward_model: RewardModel | None,
        settings: ScoringSettings | None = None,
        *,
        functions: Sequence[RewardFunction] = (),
        held_out: RewardModel | None = None,
        reader: Reader | None = None,
        own_reading: OwnReading | None = None,
    ) -> None:
        super().__init__()
        self.reward_model = reward_model
        self.held_out = held_out
        self.settings = settings or ScoringSettings()
        self.functions = functions
        self.reader = reader
        self.own_reading = own_reading

    @property
    def device(self) -> torch.device:
        """Where its reward models lie; the CPU where it has none."""
        weights = next(self.parameters(), None)
        return torch.device("cpu") if weights is None else weights.device

    @property
    def sharing_ids(self) -> list[RewardModel]:
        """The reward models that read the policy's own ids."""
        if self.own_reading is not None:
            return []
        return [model for model in (self.reward_model, self.held_out) if model is not None]

    @torch.no_grad()
    def judge(self, sequences: Sequences, *, special: SpecialTokens, batch_size: int) -> Judgement:
        """The weighted sum of what the reward model and each function say of every response."""
        texts = None
        if self.functions or self.own_reading is not None:
            assert self.reader is not None, "texts are read where something needs them"
            texts = self.reader.texts(sequences)
        found: dict[str, Tensor] = {}
        parts: list[Tensor] = []
        if self.reward_model is not None:
            members = self._members(self.reward_model, sequences, texts, special, batch_size)
            own = self.combined(members)
            parts.append((self.settings.reward_model_weight or 0.0) * own)
            if len(members) > 1:
                found["ensemble_disagreement"] = disagreement(members)
            if self.functions:
                found["reward_model_score"] = own
        for function in self.functions:
            assert texts is not None, "a function reads texts"
            numbers = torch.tensor(function(texts), device=sequences.response_ids.device)
            parts.append(function.weight * numbers)
            found[f"reward_{function.name.rpartition(':')[2]}"] = numbers
        if self.held_out is not None:
            members = self._members(self.held_out, sequences, texts, special, batch_size)
            found[HELD_OUT_SCORE] = members.mean(dim=0)
        return Judgement(torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0], found)

    def combined(self, members: Tensor) -> Tensor:
        """One score per response from those of the members: [members, batch] -> [batch]."""
        if self.settings.ensemble_score == "minimum":
            return least_score(members)
        if self.settings.ensemble_score == "mean_minus_k_std":
            return cautious_score(members, deviations=self.settings.ensemble_k)
        return mean_score(members)

    def _members(
        self,
        reward_model: RewardModel,
        sequences: Sequences,
        texts: Texts | None,
        special: SpecialTokens,
        batch_size: int,
    ) -> Tensor:
        """[members, batch], from ids where the reward model shares them, else from text."""
        device = sequences.response_ids.device
        if self.own_reading is not None:
            assert texts is not None, "it reads texts"
            return self.own_reading.scores(reward_model, texts, batch_size=batch_size).to(device)

        def score(index: Tensor) -> Tensor:
            rows = sequences.rows(index)
            return reward_model.member_scores(rows, end_token_ids=special.end)

        order = sequences.response_mask.sum(dim=1).argsort(stable=True)
        parts = side_by_side(score, torch.split(order, batch_size), device=order.device)
        return torch.cat(parts, dim=1)[:, order.argsort()]


def load_scorer(
    settings: ScoringSettings, folder: Path | None, reader: Reader, *, policy: Path
) -> Scorer:
    """What the settings pay by, read from the reward model's `folder` and the recipe's functions.

    `policy` is the folder of the policy whose ids are judged. Ids are shared only where tokenizer
    and template are the same; else responses are read as text.
    """
    functions = [load_reward_function(function) for function in settings.functions]
    if folder is None:
        return Scorer(None, settings, functions=functions, reader=reader)
    description = read_description(folder)
    template = {name: description[name] for name in ("prompt_template", "response_prefix")}
    own = reader.encoder.settings.model_copy(update=template)
    same_tokenizer = tokenizer_digest(folder) == tokenizer_digest(policy)
    own_reading = None
    if not same_tokenizer or own != reader.encoder.settings:
        encoder = Encoder(load_tokenizer(folder), own)
        special = SpecialTokens([encoder.eos_token_id], encoder.pad_token_id)
        own_reading = OwnReading(encoder, special)
    return Scorer(
        load_reward_model(folder) if settings.reward_model_weight is not None else None,
        settings,
        functions=functions,
        held_out=load_held_out(folder),
        reader=reader,
        own_reading=own_reading,
    )


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of what decides the ids that the tokenizer in `folder` gives a text."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
    return digest({name: sha256_of(folder / name) for name in names if (folder / name).exists()})
