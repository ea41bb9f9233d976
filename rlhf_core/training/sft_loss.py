"""The loss of SFT on token ids, padded or packed."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_core.batches import Sequences
from rlhf_core.errors import ModelError
from rlhf_core.generation import response_distribution
from rlhf_core.maths.logprobs import log_distribution, taken_logprobs
from rlhf_core.maths.losses import language_model_loss
from rlhf_core.training.demonstrations import Demonstrations, Packed
from rlhf_core.training.optimization import Part

PACKING_TOLERANCE = 1e-3
"""Largest difference of a log-probability in float32 that packing may make; attention that leaks
from one sequence into another makes far larger ones."""


def sft_loss(policy: torch.nn.Module, batch: Sequences) -> Tensor:
    """Mean negative log-likelihood in nats per response token, end token included."""
    return language_model_loss(response_logprobs(policy, batch), batch.response_mask)


def response_logprobs(policy: torch.nn.Module, batch: Sequences) -> Tensor:
    """Log-probability of each response token: [batch, response]."""
    log_probs = response_distribution(policy, batch, pad_token_id=None, temperature=1.0)
    return taken_logprobs(log_probs, batch.response_ids)


def packed_logprobs(policy: torch.nn.Module, packed: Packed) -> Tensor:
    """Log-probability of each token but a row's first: [rows, columns - 1].

    There is no attention mask: positions that begin anew tell transformers where sequences begin,
    and it lets each attend to itself alone, by a block-diagonal mask or by flash attention's
    variable lengths.
    """
    logits = policy(
        input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False
    ).logits
    return taken_logprobs(
        log_distribution(logits[:, :-1], temperature=1.0), packed.input_ids[:, 1:]
    )


class Targets:
    """The loss on the targets of any rows of the demonstrations, on one device."""

    def __init__(
        self,
        demonstrations: Demonstrations,
        pad_token_id: int,
        device: torch.device,
        *,
        packing: bool,
    ) -> None:
        self._demonstrations = demonstrations
        self._pad_token_id = pad_token_id
        self._device = device
        self._packed_width = demonstrations.longest() if packing else None

    def part(self, model: torch.nn.Module, rows: list[int]) -> Part:
        """The mean loss over the targets of the rows, and how many there are (vector AGG)."""
        if self._packed_width is not None:
            packed = self._demonstrations.packed(rows, self._packed_width, self._pad_token_id)
            packed = packed.to(self._device)
            label_mask = packed.label_mask[:, 1:]
            loss = language_model_loss(packed_logprobs(model, packed), label_mask)
            return Part(loss, int(label_mask.sum()), {})
        batch = self._demonstrations.joined(rows, self._pad_token_id).to(self._device)
        label_mask = self._demonstrations.label_mask(rows).to(self._device)
        loss = language_model_loss(response_logprobs(model, batch), label_mask)
        return Part(loss, self._demonstrations.tokens(rows), {})


@torch.no_grad()
def check_packing(policy: PreTrainedModel, train: Demonstrations, pad_token_id: int) -> None:
    """Raise ModelError where two demonstrations in one row do not read as each of them alone."""
    was_training = policy.training
    policy.eval()
    rows = list(range(min(2, len(train.prompts))))
    width = sum(len(train.prompts[row]) + len(train.responses[row]) for row in rows)

    def learnt(chosen: list[int]) -> Tensor:
        packed = train.packed(chosen, width, pad_token_id).to(policy.device)
        return packed_logprobs(policy, packed)[packed.label_mask[:, 1:]]

    in_order = sorted(rows, key=lambda row: -(len(train.prompts[row]) + len(train.responses[row])))
    error = (learnt(rows) - torch.cat([learnt([row]) for row in in_order])).abs().max()
    policy.train(was_training)
    if not float(error) <= PACKING_TOLERANCE:
        raise ModelError(
            f"sft.packing: in one row, two demonstrations change each other's log-probabilities by "
            f"up to {float(error):.2g}: the attention of a {type(policy).__name__} does not keep "
            "them apart. Set sft.packing to false."
        )
