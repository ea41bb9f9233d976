"""Our numbers beside those of other people's code on the same random inputs, to 1e-5.

TRL's losses stand in the middle of its trainers, so its own statements are run, found in its source
by the names that they assign. `python -m benchmarks.references` installs the releases and runs this
module with each of them; without TRL only the comparison with transformers runs.
"""

import ast
import importlib
import inspect
import textwrap
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from rlhf_core.batches import Sequences
from rlhf_core.maths.advantages import gae
from rlhf_core.maths.logprobs import log_distribution, taken_logprobs
from rlhf_core.maths.losses import bradley_terry_loss, ppo_policy_loss, ppo_value_loss
from rlhf_core.maths.masking import (
    fill_after_end,
    last_index,
    masked_variance,
    rescale,
    until_end,
    value_mask_after_end,
    whiten,
)
from rlhf_core.maths.rewards import kl_estimates, shape_rewards_after_end, subtract_from_unfinished
from rlhf_core.reward_models import RewardModel
from rlhf_core.training.demonstrations import Demonstrations
from rlhf_core.training.rollouts import values_before
from rlhf_core.training.sft import validation_loss
from tests.tiny_models import PAD, tiny_policy, tiny_scalar_model

close = partial(assert_close, atol=1e-5, rtol=1e-5)

BATCH, TOKENS, VOCABULARY, END = 16, 12, 12, 1


def installed(release: str) -> bool:
    try:
        return version("trl").startswith(release)
    except PackageNotFoundError:
        return False


with_ppo = pytest.mark.skipif(not installed("1.12."), reason="TRL 1.12 is not installed")
with_pairs = pytest.mark.skipif(not installed("1.16."), reason="TRL 1.16 is not installed")


def of_trl(module: str) -> Any:
    return importlib.import_module(f"trl.{module}")


def statements(function: Any, first: str, last: str) -> Any:
    """The block of `function` from the statement that assigns `first` to the last one to `last`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    blocks = (getattr(node, "body", None) for node in ast.walk(tree))
    for body in (block for block in blocks if isinstance(block, list)):
        starts = [
            n
            for n, line in enumerate(body)
            if isinstance(line, ast.Assign) and first in assigned(line)
        ]
        ends = [n for n, line in enumerate(body) if last in assigned(line)]
        if starts and ends:
            block = ast.Module(body[starts[0] : ends[-1] + 1], type_ignores=[])
            return compile(block, function.__qualname__, "exec")
    raise AssertionError(f"{function} assigns no {first} and {last} in one block")


def assigned(line: ast.stmt) -> set[str]:
    """The names that a statement assigns, in all of its branches."""
    return {
        node.id
        for node in ast.walk(line)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def drawn(seed: int) -> SimpleNamespace:
    """Responses of every length, log-probabilities, values and scores."""
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator)
    responses = torch.randint(3, VOCABULARY, (BATCH, TOKENS), generator=generator)
    ends = torch.randint(0, TOKENS + 4, (BATCH,), generator=generator)  # some do not end
    for row, end in enumerate(ends.tolist()):
        responses[row, end : end + 1] = END
    mask = until_end(responses, torch.tensor([END]))
    return SimpleNamespace(
        responses=responses,
        mask=mask,
        ended=ends < TOKENS,
        logprobs=-normal(BATCH, TOKENS).abs(),
        ref_logprobs=-normal(BATCH, TOKENS).abs(),
        values=normal(BATCH, TOKENS),
        scores=normal(BATCH),
        changes=0.3 * normal(BATCH, TOKENS),
        new_values=normal(BATCH, TOKENS),
    )


def unbiased(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """TRL divides by n - 1, our moments by n."""
    return masked_variance(values, mask) * mask.sum() / (mask.sum() - 1)


def trl_rollout(given: SimpleNamespace, **arguments: object) -> dict[str, Any]:
    """All that TRL's trainer makes of a rollout, by its own names."""
    module = of_trl("experimental.ppo.ppo_trainer")
    names = vars(module) | {
        "responses": given.responses,
        "sequence_lengths": last_index(given.mask),
        "logprobs": given.logprobs,
        "ref_logprobs": given.ref_logprobs,
        "values": given.values,
        "scores": given.scores,
        "args": SimpleNamespace(
            **{"kl_estimator": "k1", "kl_coef": 0.05, "gamma": 1.0, "lam": 0.95}
            | {"whiten_rewards": False}
            | arguments
        ),
    }
    exec(statements(module.PPOTrainer.train, "response_idxs", "advantages"), names)
    return names


@with_ppo
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gamma,lam", [(1.0, 0.95), (1.0, 1.0), (0.9, 0.8)])
@pytest.mark.parametrize("estimator", ["k1", "k3"])
@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_rewards_advantages_and_whitening_are_those_of_trl(
    seed, gamma, lam, estimator, whiten_rewards
):
    given = drawn(seed)
    theirs = trl_rollout(
        given, gamma=gamma, lam=lam, kl_estimator=estimator, whiten_rewards=whiten_rewards
    )
    kl = getattr(kl_estimates(given.logprobs, given.ref_logprobs, given.mask), estimator)
    rewards = shape_rewards_after_end(given.scores, kl, given.mask, kl_coef=0.05)
    value_mask = value_mask_after_end(given.mask)
    if whiten_rewards:
        mean = rewards[value_mask].mean()
        rewards = rescale(rewards, value_mask, mean=mean, variance=unbiased(rewards, value_mask))
    estimates = gae(rewards, given.values, value_mask, gamma=gamma, gae_lambda=lam)
    raw = estimates.advantages
    mean, variance = raw[given.mask].mean(), unbiased(raw, given.mask)
    advantages = whiten(raw, given.mask, mean=mean, variance=variance)
    close(rewards, theirs["rewards"])
    close(estimates.returns, theirs["returns"])
    close(advantages, theirs["advantages"])


@with_ppo
@pytest.mark.parametrize("seed", range(5))
def test_both_losses_and_their_gradients_are_those_of_trl(seed):
    given = drawn(seed)
    module = of_trl("experimental.ppo.ppo_trainer")
    rollout = trl_rollout(given)
    ours, theirs = (
        [
            (given.logprobs + given.changes).requires_grad_(),
            given.new_values.clone().requires_grad_(),
        ]
        for _ in range(2)
    )
    rows = torch.arange(BATCH)
    names = rollout | {
        "micro_batch_inds": rows,
        "mb_logprobs": rollout["logprobs"],
        "mb_values": rollout["values"],
        "mb_advantage": rollout["advantages"],
        "mb_return": rollout["returns"],
        "new_logprobs": theirs[0].masked_fill(rollout["padding_mask"], module.INVALID_LOGPROB),
        "vpred": theirs[1].masked_fill(rollout["padding_mask_p1"], 0),
        "args": SimpleNamespace(cliprange=0.2, cliprange_value=0.2, vf_coef=0.1),
    }
    exec(statements(module.PPOTrainer.train, "vpredclipped", "loss"), names)
    names["loss"].backward()

    policy = ppo_policy_loss(
        ours[0], given.logprobs, rollout["advantages"], given.mask, clip_range=0.2
    )
    value = ppo_value_loss(
        ours[1],
        rollout["values"],
        rollout["returns"],
        value_mask_after_end(given.mask),
        value_clip_range=0.2,
    )
    (policy.loss + 0.1 * value.loss).backward()
    close(policy.loss, names["pg_loss"])
    close(value.loss, names["vf_loss"])
    close(value.clip_fraction, names["vf_clipfrac"])
    for own, other in zip(ours, theirs, strict=True):
        close(own.grad, other.grad)


@with_ppo
def test_truncation_and_the_missing_end_are_those_of_trl():
    given = drawn(0)
    module = of_trl("experimental.ppo.ppo_trainer")
    truncated = module.truncate_response(END, PAD, given.responses)
    assert torch.equal(fill_after_end(given.responses, given.mask, PAD), truncated)
    names = vars(module) | {
        "self": SimpleNamespace(
            processing_class=SimpleNamespace(eos_token_id=END),
            args=SimpleNamespace(missing_eos_penalty=1.0),
        ),
        "postprocessed_responses": truncated,
        "scores": given.scores.clone(),
    }
    exec(statements(module.PPOTrainer.train, "contain_eos_token", "contain_eos_token"), names)
    assert torch.equal(names["contain_eos_token"], given.ended)
    names["scores"][~names["contain_eos_token"]] -= 1.0
    lowered = subtract_from_unfinished(given.scores, given.ended, missing_eos_penalty=1.0)
    close(lowered, names["scores"])


@with_ppo
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_trl(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, TOKENS, VOCABULARY, generator=generator)
    taken = drawn(0).responses
    theirs = of_trl("trainer.utils").selective_log_softmax(logits / (temperature + 1e-7), taken)
    close(taken_logprobs(log_distribution(logits, temperature=temperature), taken), theirs)


@with_ppo
def test_scores_and_values_are_read_where_trl_reads_them():
    given = drawn(1)
    model = tiny_scalar_model().eval()
    prompts = torch.full((BATCH, 4), PAD)
    for row in range(BATCH):
        prompts[row, row % 4 :] = 3 + row % 9
    truncated = fill_after_end(given.responses, given.mask, PAD)
    ids = torch.cat([prompts, truncated], dim=1)
    values, scores, _ = of_trl("experimental.utils").get_reward(model.model, ids, PAD, 4)
    batch = Sequences(prompts, prompts != PAD, truncated, given.mask)
    with torch.no_grad():
        ours = values_before(model, batch)
        close(ours[given.mask], values[:, 3:-1].squeeze(-1)[given.mask])
        close(RewardModel([model]).member_scores(batch, end_token_ids=[END])[0], scores)


@with_pairs
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margins", [None, torch.linspace(0, 2, BATCH)], ids=["", "margins"])
def test_the_pair_loss_is_that_of_trl(seed, margins):
    logits = 3 * torch.randn(2 * BATCH, 1, generator=torch.Generator().manual_seed(seed))
    module = of_trl("trainer.reward_trainer")
    names = vars(module) | {
        "outputs": SimpleNamespace(logits=logits),
        "inputs": {} if margins is None else {"margin": margins},
        "self": SimpleNamespace(args=SimpleNamespace(center_rewards_coefficient=None)),
    }
    exec(statements(module.RewardTrainer.compute_loss, "rewards_chosen", "loss"), names)
    chosen, rejected = logits.squeeze(-1).chunk(2)
    if margins is not None:
        chosen = chosen - margins
    close(bradley_terry_loss(chosen, rejected), names["loss"])


def test_the_loss_of_supervised_training_is_that_of_transformers():
    policy = tiny_policy().eval()
    prompts = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]
    responses = [[4, 5, 1], [6, 7, 8, 9, 1], [3, 1]]
    rows = list(zip(prompts, responses, strict=True))
    width = max(len(prompt) + len(response) for prompt, response in rows)
    ids, labels = torch.full((3, width), PAD), torch.full((3, width), -100)
    for row, (prompt, response) in enumerate(rows):
        whole = torch.tensor([*prompt, *response])
        ids[row, : len(whole)] = whole
        labels[row, len(prompt) : len(whole)] = torch.tensor(response)
    mask = (torch.arange(width) < torch.tensor([len(a) + len(b) for a, b in rows])[:, None]).long()
    with torch.no_grad():
        theirs = policy(input_ids=ids, attention_mask=mask, labels=labels).loss
        ours = validation_loss(policy, Demonstrations(prompts, responses), 2, PAD, Accelerator())
    close(torch.tensor(ours), theirs)
