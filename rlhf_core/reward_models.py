"""The reward model as a value: one or several scalar models under one read-out.

Its folder holds one model in the hub's format, what else an ensemble needs, and a description by
which PPO, the evaluation and everybody else read it alike.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_core.batches import Sequences, SpecialTokens, join
from rlhf_core.errors import ArtifactError
from rlhf_core.maths.masking import has_ended
from rlhf_core.maths.normalization import Affine
from rlhf_core.maths.readouts import at_last, before_end, over_tokens
from rlhf_core.models import ScalarModel
from rlhf_core.pretrained import load_scalar_model, save_scalar_model
from rlhf_core.settings.reward_model import Readout
from rlhf_core.threads import side_by_side

DESCRIPTION = "reward_model.json"
HEADS = "heads.safetensors"
MEMBERS = "members"
HELD_OUT = "held_out"


class RewardModel(nn.Module):
    """One or several scalar models, read alike; several are the members of an ensemble.

    With `heads` the members are these heads on the body of the one model given, whose own head is
    their mean.
    """

    def __init__(
        self,
        models: Sequence[ScalarModel],
        readout: Readout = "eos",
        heads: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.readout = readout
        self.heads = heads

    @property
    def first(self) -> ScalarModel:
        """The one model, the best member, or the body of all heads under their mean."""
        return cast(ScalarModel, self.models[0])

    @property
    def kind(self) -> Literal["one", "heads", "seeds"]:
        """Of what it consists."""
        if self.heads is not None:
            return "heads"
        return "one" if len(self.models) == 1 else "seeds"

    def __len__(self) -> int:
        return len(self.models) if self.heads is None else self.heads.out_features

    def member_scores(self, sequences: Sequences, *, end_token_ids: Sequence[int]) -> Tensor:
        """What each member says of each response: [members, batch]."""
        response_ids = with_one_end(sequences.response_ids, sequences.response_mask, end_token_ids)
        ids = torch.cat([sequences.prompt_ids, response_ids], dim=1)
        mask, start = sequences.attention_mask, sequences.prompt_ids.shape[1]
        ends = torch.tensor(list(end_token_ids), device=ids.device)
        ended = has_ended(response_ids, ends, sequences.response_mask)
        return torch.stack(
            [
                read_out(per_column[:, start:], sequences.response_mask, ended, self.readout)
                for per_column in self._per_column(ids, mask)
            ]
        )

    def _per_column(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """The numbers of each member: [batch, sequence]."""
        if self.heads is None:
            return [model(ids, mask) for model in self.models]
        hidden = self.first.hidden_states(ids, mask)[-1]
        return list(head_numbers(self.heads, hidden).unbind())


def new_heads(model: ScalarModel, members: int, *, seed: int) -> nn.Linear:
    """Heads for an ensemble on one body, each as a new one is drawn (detail R2)."""
    size = model.head.in_features
    heads = nn.Linear(size, members)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        drawn = torch.randn(heads.weight.shape, generator=generator)
        heads.weight.copy_(drawn / math.sqrt(size + 1))
        heads.bias.zero_()
    return heads


def head_numbers(heads: nn.Linear, hidden: Tensor) -> Tensor:
    """What each head says of each state, in float32: [..., d] -> [heads, ...] (detail R12)."""
    with torch.autocast(hidden.device.type, enabled=False):
        return cast(Tensor, heads(hidden.float())).movedim(-1, 0)


def read_out(per_token: Tensor, response_mask: Tensor, ended: Tensor, readout: Readout) -> Tensor:
    """One score per response from one number per token: [batch, response] -> [batch]."""
    if readout == "last_content_token":
        return before_end(per_token, response_mask, ended)
    if readout == "mean_pooled":
        return over_tokens(per_token, response_mask)
    return at_last(per_token, response_mask)


def with_one_end(
    response_ids: Tensor, response_mask: Tensor, end_token_ids: Sequence[int]
) -> Tensor:
    """The ids with every end token replaced by the first of `end_token_ids`.

    Where the policy may end in several ways, the one that the reward model was trained on stands
    for all of them.
    """
    ends = torch.tensor(list(end_token_ids), device=response_ids.device)
    is_end = torch.isin(response_ids, ends) & response_mask
    return response_ids.masked_fill(is_end, end_token_ids[0])


@torch.no_grad()
def member_scores_in_batches(
    reward_model: RewardModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    special: SpecialTokens,
    batch_size: int,
) -> Tensor:
    """Scores of any number of responses, on the CPU: [members, responses].

    Rows of similar length are scored together; the order of the result is that of the input.
    """
    device = next(reward_model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(responses[row]))
    scores = torch.zeros(len(reward_model), len(prompts))

    def score(rows: list[int]) -> Tensor:
        batch = join(
            [prompts[row] for row in rows], [responses[row] for row in rows], special.pad
        ).to(device)
        return reward_model.member_scores(batch, end_token_ids=special.end).cpu()

    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for rows, found in zip(parts, side_by_side(score, parts, device=device), strict=True):
        scores[:, torch.tensor(rows)] = found
    return scores


@torch.no_grad()
def rescale_member(reward_model: RewardModel, member: int, affine: Affine) -> None:
    """Each score s of one member becomes gain * s + bias, by its head's weights in place.

    Every read-out is a mean of numbers that are linear in the head, so the head carries it.
    """
    if reward_model.heads is None:
        head = cast(ScalarModel, reward_model.models[member]).head
        head.weight.mul_(affine.gain)
        head.bias.mul_(affine.gain).add_(affine.bias)
        return
    reward_model.heads.weight[member].mul_(affine.gain)
    reward_model.heads.bias[member].mul_(affine.gain).add_(affine.bias)
    take_mean_of_heads(reward_model)


@torch.no_grad()
def take_mean_of_heads(reward_model: RewardModel) -> None:
    """The body's own head becomes the mean of the ensemble's heads, in place."""
    if reward_model.heads is not None:
        own = reward_model.first.head
        own.weight.copy_(reward_model.heads.weight.mean(dim=0, keepdim=True))
        own.bias.copy_(reward_model.heads.bias.mean(dim=0, keepdim=True))


def save_reward_model(reward_model: RewardModel, folder: Path, **facts: object) -> None:
    """`folder` holds the models, the description with `facts` added, and no tokenizer."""
    save_scalar_model(reward_model.first, folder)
    if reward_model.heads is not None:
        tensors = {
            name: w.detach().contiguous() for name, w in reward_model.heads.state_dict().items()
        }
        save_file(tensors, folder / HEADS)
    for number, model in enumerate(list(reward_model.models)[1:], start=2):
        save_scalar_model(cast(ScalarModel, model), folder / MEMBERS / str(number))
    description = {
        "readout": reward_model.readout,
        "kind": reward_model.kind,
        "members": len(reward_model),
        **facts,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_reward_model(folder: Path) -> RewardModel:
    """The reward model of a folder, frozen, to be read as its description says."""
    description = read_description(folder)
    readout = description["readout"]
    if readout not in get_args(Readout):
        raise ArtifactError(
            f"{folder / DESCRIPTION} names the read-out {readout!r}; this version knows "
            f"{', '.join(get_args(Readout))}. Read elsewhere its scores would mean nothing: use "
            "the version that wrote it, or run stage 'reward_model' again."
        )
    models = [load_scalar_model(folder)]
    heads = None
    if description["kind"] == "heads":
        tensors = load_file(folder / HEADS)
        heads = nn.Linear(tensors["weight"].shape[1], tensors["weight"].shape[0])
        heads.load_state_dict(tensors)
    if description["kind"] == "seeds":
        count = cast(int, description["members"])
        models += [load_scalar_model(folder / MEMBERS / str(n)) for n in range(2, count + 1)]
    reward_model = RewardModel(models, cast(Readout, readout), heads).eval()
    return reward_model.requires_grad_(False)


def load_held_out(folder: Path) -> RewardModel | None:
    """The reward model that PPO is not paid by, where the artifact in `folder` holds one."""
    place = folder / HELD_OUT
    return load_reward_model(place) if place.is_dir() else None


def read_description(folder: Path) -> dict[str, object]:
    """How the reward model in `folder` is to be read."""
    path = folder / DESCRIPTION
    if not path.exists():
        raise ArtifactError(
            f"{folder} holds no {path.name}: it is not the artifact of stage 'reward_model', or it "
            "is of an earlier version. Run stage 'reward_model' again, or pass the folder that it "
            "reported."
        )
    description: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return description
