"""Settings of the reward model."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rlhf_core.settings.base import LoraSettings, Settings, with_usual_learning_rate
from rlhf_core.settings.collection import CollectionSettings
from rlhf_core.settings.sentinel import RewardModelSentinelSettings

Readout = Literal["eos", "last_content_token", "per_token", "mean_pooled"]


class EnsembleSettings(Settings):
    """Several opinions instead of one: where they part, the score is not to be believed."""

    members: int = Field(default=3, ge=2, le=32)
    """How many score each response."""

    kind: Literal["heads", "seeds"] = "heads"
    """`heads` on one body: hardly any more time or memory, and opinions that part little; `seeds`:
    whole models that are trained one after another, each with head, order of the rows and share
    of them drawn from a seed of its own (arXiv:2310.02743)."""

    data_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the rankings that each member learns from, drawn for each; less makes members of
    one body differ more."""


FULL_LEARNING_RATE, ADAPTER_LEARNING_RATE = 9e-6, 9e-5
"""InstructGPT's for all weights (arXiv:2203.02155, C.2), and ten times that for adapters."""


class PretrainedRewardModelSettings(Settings):
    """A reward model that was trained elsewhere, and the texts that it was trained on."""

    source: str
    """Hub id or local folder of a model that classifies sequences or tokens with one label, whose
    head is one linear layer; safetensors only, foreign code is never run."""

    revision: str | None = None
    """Branch, tag or commit of a hub id."""

    prompt_template: str = "{prompt}"
    """What it reads before a response; `{prompt}` stands for the row's prompt."""

    response_prefix: str = ""
    """Put before every response unless it begins with it already."""


class RewardModelSettings(Settings):
    """A scalar head on the SFT model, taught by comparisons (arXiv:2203.02155, eq. 1)."""

    readout: Readout = "eos"
    """Where the score is read. `eos`: at the end token, as InstructGPT and every reproduction of it
    do; the one state that has seen the whole response and that it ended. `last_content_token`: at
    the token before; it differs by response, and an unfinished response can no longer be told from
    a finished one, which fails in PPO, where responses are cut. `per_token`: at the end token too,
    but taught at every token from the first in which a pair differs to the longer one's end, the
    shorter one's padding included (DeepSpeed-Chat); a score for every prefix, at the price of
    blaming prefixes that could not know. `mean_pooled`: the mean over the response's tokens, most
    of which have not seen the rest; length enters the mean, and a value model that starts from it
    starts from numbers that mean nothing alone."""

    loss: Literal["pairs", "best_of_k"] = "pairs"
    """`pairs`: the mean over a prompt's pairs, each by its scores' difference; `best_of_k`: the
    best response is one choice among all of the prompt's (arXiv:1909.08593, eq. 1)."""

    ties: Literal["drop", "half", "davidson"] = "drop"
    """Pairs of equal rank: left out, as InstructGPT does; taken for a label of one half; or given
    a probability of their own (Davidson 1970). Mean over the pairs that are left or count."""

    tie_weight: float = Field(default=1.0, gt=0)
    """Of `davidson`: how much a tie weighs beside the two wins where both scores are equal."""

    margins: bool = True
    """Where the data has a column `margin`, better responses must lead by it (arXiv:2307.09288)."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Probability with which a label is taken to be the wrong way round."""

    pretrained: PretrainedRewardModelSettings | None = None
    """Take a reward model from elsewhere instead of training one; the preferences then only say
    what it is worth. It reads texts by its own tokenizer and template."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the preferences; more than one over-fits (arXiv:2203.02155, C.2)."""

    batch_size: int = Field(default=32, ge=1)
    """Prompts per optimizer step; all ranked responses of a prompt stay in one step."""

    micro_batch_size: int | None = Field(default=None, ge=1)
    """Prompts per forward pass, when fewer than `batch_size` fit in memory."""

    learning_rate: float = Field(default=FULL_LEARNING_RATE, gt=0)
    """Peak learning rate of AdamW; where none is given, 9e-6 for all weights and 9e-5 for the
    adapter of `lora`."""

    final_learning_rate_share: float = Field(default=0.1, ge=0, le=1)
    """The cosine schedule ends at this share of the peak."""

    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps over which the learning rate rises linearly from 0."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""

    mismatch_rows: int = Field(default=0, ge=0)
    """Demonstrations from which the model first learns what belongs to a prompt: each response to
    its own prompt is ranked above the same response to other prompts. It is preference-model
    pre-training (arXiv:2112.00861, section 4) on comparisons that need no label."""

    mismatch_group_size: int = Field(default=2, ge=2)
    """Demonstrations that serve one another as the other prompts in that; a batch holds as many
    groups as fit in it."""

    mismatch_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of that; `learning_rate` when not given."""

    token_loss_weight: float = Field(default=0.0, ge=0)
    """Weight of the same loss on the sum over the response's tokens of a second head, which reads
    one layer below the last and is dropped after training. Each token gets a gradient of its own,
    from which a small model learns what fits the prompt in hundreds of steps."""

    ensemble: EnsembleSettings | None = None
    """Train several members; `ppo.ensemble_score` says how their scores become one."""

    seeds: int = Field(default=1, ge=1, le=32)
    """Train this many, which differ in head and order of the rows, and keep the one that is most
    often right in validation (arXiv:2009.01325 took 3 to 10)."""

    held_out: Literal["no", "other_seed", "other_rows"] = "no"
    """Publish one more reward model that PPO is not paid by, to watch the gap between what it is
    paid and what another would say: the best of the `seeds` that were not kept, or one of a
    further seed; or one taught by the rankings that the others then do not see."""

    held_out_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the training rankings that `other_rows` keeps for it."""

    normalize_on: Literal["demonstrations", "samples", "nothing"] = "demonstrations"
    """After training, shift the head's bias so that these responses score 0 in the mean: the
    demonstrations, as InstructGPT did, or responses of the SFT policy."""

    normalize: Literal["mean", "mean_and_deviation"] = "mean"
    """Shift alone, or also scale the head so that the deviation is 1 (arXiv:1909.08593), which
    changes what `ppo.kl_coef` means."""

    normalization_rows: int = Field(default=512, ge=1)
    """How many of them are scored for that."""

    collect: CollectionSettings | None = None
    """Let the SFT policy answer training prompts and a labeler rank the answers, instead of taking
    the rankings from `data.preferences`."""

    scorecard_samples: int = Field(default=64, ge=0)
    """Responses of the SFT policy whose scores are in the scorecard."""

    lora: LoraSettings | None = None
    """Train an adapter and the head instead of all weights."""

    sentinel: RewardModelSentinelSettings = RewardModelSentinelSettings()
    """What is watched, and when it warns or stops training."""

    @model_validator(mode="before")
    @classmethod
    def _usual_learning_rate(cls, values: object) -> object:
        return with_usual_learning_rate(
            values, full=FULL_LEARNING_RATE, adapter=ADAPTER_LEARNING_RATE
        )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.readout == "per_token" and (self.loss, self.ties) != ("pairs", "drop"):
            raise ValueError(
                "reward_model.readout=per_token is taught by pairs without ties alone: keep "
                "loss=pairs and ties=drop, or take another read-out."
            )
        if self.loss == "best_of_k" and (self.ties != "drop" or self.label_smoothing > 0):
            raise ValueError(
                "reward_model.loss=best_of_k knows neither ties nor label_smoothing: leave them at "
                "their defaults, or use loss=pairs."
            )
        if self.ties == "davidson" and self.label_smoothing > 0:
            raise ValueError(
                "reward_model.ties=davidson has no label_smoothing: set one of the two aside."
            )
        trained = self.seeds > 1 or self.ensemble is not None or self.held_out != "no"
        if self.pretrained is not None and trained:
            raise ValueError(
                "reward_model.pretrained trains nothing, so there are no seeds, ensemble or "
                "held_out: leave these out."
            )
        if self.seeds > 1 and self.ensemble is not None and self.ensemble.kind == "seeds":
            raise ValueError(
                f"reward_model.seeds={self.seeds} keeps one of several, and an ensemble of seeds "
                "keeps all of them: say how many in ensemble.members alone."
            )
        return self

    @model_validator(mode="after")
    def _no_dropout(self) -> Self:
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError(
                "reward_model.lora.dropout must be 0: both responses of a pair have to be scored "
                "by the same function."
            )
        return self

    @property
    def data_share(self) -> float:
        """Share of the rankings that each member learns from."""
        return 1.0 if self.ensemble is None else self.ensemble.data_share
