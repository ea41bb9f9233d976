"""Models that share weights, so that no body lies in memory twice."""

from typing import NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_core.models import ScalarModel, adapted, zero_head


class LogitsAndValues(NamedTuple):
    """What one pass of a trunk with two heads gives."""

    logits: Tensor
    values: Tensor
    """[batch, sequence], float32."""


class PolicyAndValue(nn.Module):
    """A policy, and a value head on the states of its trunk; each weight is a parameter once."""

    def __init__(self, policy: PreTrainedModel, value_model: ScalarModel) -> None:
        super().__init__()
        self.policy = policy
        self.value_model = value_model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        *,
        use_cache: bool,
        logits_to_keep: int,
    ) -> LogitsAndValues:
        """Both heads' outputs from one pass of the trunk; arguments are those of the policy."""
        outputs = self.policy(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            output_hidden_states=True,
        )
        return LogitsAndValues(outputs.logits, self.value_model.read(outputs.hidden_states[-1]))


def put_on_trunk(value_model: ScalarModel, policy: PreTrainedModel) -> None:
    """Give `value_model` the body of `policy` in place of its own, and a head of 0 (P16)."""
    whole = adapted(policy)
    setattr(value_model.model, whole.base_model_prefix, getattr(whole, whole.base_model_prefix))
    zero_head(value_model)
