"""DPO: the policy learns from the preferences directly, beside a reference that never moves.

It maximizes what PPO maximizes, the reward less `kl_coef` times the KL to the reference
(arXiv:2305.18290), so that the two can be compared; the reward model only measures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from accelerate import Accelerator

from rlhf_core.batches import shuffled_batches
from rlhf_core.report import Report
from rlhf_core.sentinel.alarms import BEFORE_STEPS
from rlhf_core.sentinel.watch import Sentinel
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.guard import Guard
from rlhf_core.training.likelihoods import ReferenceLikelihoods
from rlhf_core.training.optimization import micro_batches, optimizer_step, own_share
from rlhf_core.training.ppo import learning_rate_share, prompt_batches
from rlhf_core.training.ppo_metrics import rollout_metrics
from rlhf_core.training.ppo_networks import make_networks
from rlhf_core.training.rollouts import PpoModels, Rollout
from rlhf_core.training.state import Saving, TrainingState, notice_of
from rlhf_core.training.trained import Trained

Roll = Callable[..., Rollout]
"""Draws the responses to `prompts` from the `seed`, as PPO does, and estimates nothing."""


KL_ALARMS = [alarm for alarm in BEFORE_STEPS if alarm.name == "kl_to_reference"]


@dataclass(frozen=True)
class Preferences:
    """What DPO learns from and is measured on, each with the reference's log-probabilities."""

    train: ReferenceLikelihoods
    validation: ReferenceLikelihoods


def train_dpo(
    models: PpoModels,
    preferences: Preferences,
    settings: PpoSettings,
    report: Report,
    *,
    prompts: Sequence[Sequence[int]],
    roll: Roll,
    seed: int,
    accelerator: Accelerator,
    saving: Saving | None = None,
) -> dict[str, float]:
    """Teach `models.policy` in place to prefer what the labelers preferred.

    All ranked responses of a prompt are in one step, and every prompt counts once. Rollouts on
    `prompts` are measured as PPO measures its own, `dpo.measurements` times; the metrics of the
    last step, where that is so too, are given. Raises TrainingStopped, with the last good state in
    place, where the guard's ladder ends or the KL to the reference passes its limit.
    """
    networks = make_networks(accelerator, models, settings)
    policy, train = networks.policy, preferences.train
    metrics: dict[str, float] = {}
    trained = {"policy": Trained(policy.bare, policy.optimizer)}
    guard = Guard("dpo", settings.sentinel, trained, notice=notice_of(saving))
    sentinel = Sentinel(settings.sentinel, guard, {"kl_coef": settings.kl_coef})
    state = TrainingState(
        saving,
        accelerator,
        trained,
        numbers={"metrics": metrics, "guard": guard.numbers, "sentinel": sentinel.numbers},
        tensors=guard.tensors,
        frozen={"reference": models.reference, "scorer": models.scorer},
    )
    batches = [
        rows
        for epoch in range(settings.dpo.epochs)
        for rows in shuffled_batches(
            *train.rankings.lengths, settings.dpo.batch_size, seed=seed, epoch=epoch
        )
    ]
    schedule = settings.model_copy(update={"updates": len(batches)})
    # The same prompts each time, so that what is measured differs by the policy alone.
    asked = next(prompt_batches(len(prompts), settings.rollout_batch_size, seed=seed))
    measured_at = measuring_steps(len(batches), settings.dpo.measurements)
    with state.continued(steps=len(batches)):
        guard.keep_first()
        for step, rows in islice(enumerate(batches, start=1), state.done, None):
            share = learning_rate_share(step - 1, schedule) * guard.rate_share
            networks.set_share(share)
            taken = optimizer_step(
                accelerator,
                policy.prepared,
                policy.optimizer,
                micro_batches(own_share(rows, accelerator), settings.micro_batch_size),
                partial(train.part, policy.prepared),
                max_grad_norm=settings.max_grad_norm,
                guard=guard,
            )
            guard.judge(step, taken.bad, rows)
            metrics.clear()
            metrics |= {"policy_loss": taken.loss, "policy_grad_norm": taken.grad_norm}
            metrics |= taken.metrics
            metrics["progress"] = step / len(batches)
            metrics["learning_rate"] = settings.learning_rate * share
            if step in measured_at:
                rollout = roll(
                    prompts=[prompts[row] for row in own_share(asked, accelerator)],
                    seed=seed * 1_009 + accelerator.process_index,
                )
                metrics |= rollout_metrics(
                    rollout, kl_coef=settings.kl_coef, accelerator=accelerator
                )
                metrics |= preferences.validation.measured(models.policy, accelerator)
            report(step, metrics)
            guard.note(step, metrics)
            if step in measured_at:
                sentinel.remember(metrics)
                sentinel.look(step, metrics, KL_ALARMS, lambda _: {})
            guard.step_done(step)
            state.step_done(step, is_last=step == len(batches))
    guard.finish()
    return metrics | guard.summary


def measuring_steps(steps: int, measurements: int) -> list[int]:
    """The steps after which a rollout is measured, spread evenly; the last is one of them."""
    return sorted({-(-steps * number // measurements) for number in range(1, measurements + 1)})
