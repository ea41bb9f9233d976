"""Demonstrations as token ids: what is read, what is learnt, and how it is laid out in tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_core.batches import Sequences, join, pad_right


@dataclass(frozen=True)
class Demonstrations:
    """Token ids of prompts, and of the responses to imitate; each response ends with EOS.

    `learnt` says of each response token whether it is a target; without it all of them are.
    """

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]
    learnt: Sequence[Sequence[bool]] | None = None

    def joined(self, rows: Sequence[int], pad_token_id: int) -> Sequences:
        """The given rows as one padded batch."""
        return join(
            [self.prompts[row] for row in rows],
            [self.responses[row] for row in rows],
            pad_token_id,
        )

    def label_mask(self, rows: Sequence[int]) -> Tensor:
        """[batch, response], True at the tokens of `joined` that are targets."""
        return pad_right([[int(label) for label in self.labels(row)] for row in rows], 0)[0].bool()

    def labels(self, row: int) -> Sequence[bool]:
        """For each response token of the row whether it is a target."""
        return [True] * len(self.responses[row]) if self.learnt is None else self.learnt[row]

    def tokens(self, rows: Sequence[int]) -> int:
        """How many targets the rows hold."""
        if self.learnt is None:
            return sum(len(self.responses[row]) for row in rows)
        return sum(sum(self.learnt[row]) for row in rows)

    def longest(self) -> int:
        """Tokens of the longest row, prompt and response together."""
        pairs = zip(self.prompts, self.responses, strict=True)
        return max(len(prompt) + len(response) for prompt, response in pairs)

    def with_loss_on_prompts(self) -> "Demonstrations":
        """The same rows with all but the first prompt token moved to the response (N+)."""
        return Demonstrations(
            [prompt[:1] for prompt in self.prompts],
            [
                [*prompt[1:], *response]
                for prompt, response in zip(self.prompts, self.responses, strict=True)
            ],
        )

    def mixed_with(
        self, texts: Sequence[Sequence[int]], share: float, *, seed: int
    ) -> "Demonstrations":
        """The same rows and so many of the texts, drawn by the seed, that they are that share.

        Of a text every token but the first is learnt. Where there are too few, all are taken.
        """
        wanted = round(share / (1 - share) * len(self.prompts))
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
        chosen = [texts[row] for row in order[:wanted]]
        labels = [self.labels(row) for row in range(len(self.prompts))]
        return Demonstrations(
            [*self.prompts, *(text[:1] for text in chosen)],
            [*self.responses, *(text[1:] for text in chosen)],
            [*labels, *([True] * (len(text) - 1) for text in chosen)],
        )

    def packed(self, rows: Sequence[int], width: int, pad_token_id: int) -> "Packed":
        """The given rows end to end in as few rows of `width` tokens as first-fit finds.

        Positions begin at 0 in each sequence, and what fills a row is a sequence of its own.
        """
        sequences = {row: [*self.prompts[row], *self.responses[row]] for row in rows}
        labels = {row: [False] * len(self.prompts[row]) + [*self.labels(row)] for row in rows}
        lines = _first_fit({row: len(ids) for row, ids in sequences.items()}, width)
        longest = max(sum(len(sequences[row]) for row in line) for line in lines)
        input_ids = torch.full((len(lines), longest), pad_token_id)
        positions = torch.zeros((len(lines), longest), dtype=torch.long)
        label_mask = torch.zeros((len(lines), longest), dtype=torch.bool)
        for number, line in enumerate(lines):
            start = 0
            for row in line:
                end = start + len(sequences[row])
                input_ids[number, start:end] = torch.tensor(sequences[row])
                positions[number, start:end] = torch.arange(end - start)
                label_mask[number, start:end] = torch.tensor(labels[row])
                label_mask[number, start] = False  # nothing of its own stands before it
                start = end
            positions[number, start:] = torch.arange(longest - start)
        return Packed(input_ids, positions, label_mask)


class Packed(NamedTuple):
    """Sequences end to end, each [rows, columns]; a position of 0 begins a new one.

    `label_mask` is True at the targets, each predicted from the column before it.
    """

    input_ids: Tensor
    position_ids: Tensor
    label_mask: Tensor

    def to(self, device: torch.device) -> "Packed":
        """The same on `device`."""
        return Packed(*(tensor.to(device) for tensor in self))


def _first_fit(lengths: dict[int, int], width: int) -> list[list[int]]:
    """Rows in lines of at most `width` tokens, the longest placed first; a longer one stands alone.

    Which line a row gets is decided by the lengths and their order alone.
    """
    lines: list[list[int]] = []
    left: list[int] = []
    for row in sorted(lengths, key=lambda row: -lengths[row]):
        for number, room in enumerate(left):
            if lengths[row] <= room:
                lines[number].append(row)
                left[number] -= lengths[row]
                break
        else:
            lines.append([row])
            left.append(width - lengths[row])
    return lines
