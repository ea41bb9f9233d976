"""PPO: rollouts of the current policy, and the clipped optimization on each of them.

The loop follows the specification's ordered algorithm (section 3.2), from Ziegler et al.
(arXiv:1909.08593), InstructGPT (arXiv:2203.02155) and N+ (arXiv:2403.17031).
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice, repeat

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from rlhf_core.batches import SpecialTokens
from rlhf_core.errors import UserError
from rlhf_core.maths.rewards import adapted_kl_coef
from rlhf_core.maths.running import RunningMoments
from rlhf_core.maths.schedules import cosine_to_a_tenth, linear_to_zero, warmup_from_a_tenth
from rlhf_core.report import Report
from rlhf_core.settings.ppo import PpoSettings
from rlhf_core.training.averaging import WeightAverage
from rlhf_core.training.optimization import summed
from rlhf_core.training.ppo_course import PpoCourse
from rlhf_core.training.ppo_metrics import rollout_metrics
from rlhf_core.training.ppo_networks import make_networks
from rlhf_core.training.ppo_optimization import Optimization
from rlhf_core.training.ppo_watch import PpoWatch
from rlhf_core.training.ptx import PtxTerm, TextOfUpdate, examples_per_step
from rlhf_core.training.rollouts import PpoModels, collect_rollout
from rlhf_core.training.state import Saving, TrainingState, notice_of
from rlhf_core.training.trained import Trained


def train_ppo(
    models: PpoModels,
    prompts: Sequence[Sequence[int]],
    settings: PpoSettings,
    report: Report,
    *,
    special: SpecialTokens,
    max_response_tokens: int,
    missing_eos_score: float,
    seed: int,
    accelerator: Accelerator,
    saving: Saving | None = None,
    average: WeightAverage[PreTrainedModel] | None = None,
    text: Sequence[Sequence[int]] = (),
    course: PpoCourse | None = None,
) -> dict[str, float]:
    """Raise the reward of `models.policy` in place, and fit its value model to the returns.

    With `rloo` and `grpo` there is no value model: the other responses to a prompt stand for it.
    `average` follows the policy's weights, `course` keeps them after some updates, and the examples
    of `text` are learnt beside where the settings have `ptx`.

    Gives the last update's metrics and what the sentinel counted. Raises TrainingStopped, with the
    last good state in place, where an alarm of `settings.sentinel` or the guard's ladder says so.
    """
    check_shares(settings, accelerator.num_processes)
    networks = make_networks(accelerator, models, settings)
    prompts_a_rollout = settings.rollout_batch_size // settings.responses_per_prompt
    batches = prompt_batches(len(prompts), prompts_a_rollout, seed=seed)
    controller = {"kl_coef": settings.kl_coef}
    scores_seen = RunningMoments()._asdict()
    metrics: dict[str, float] = {}
    term = None if settings.ptx is None else PtxTerm(text, settings.ptx, special.pad)
    texts = texts_of_updates(term, settings, seed=seed)
    trained = {name: Trained(of.bare, of.optimizer) for name, of in networks.by_name().items()}
    watch = PpoWatch(
        settings,
        models,
        trained,
        report,
        special=special,
        max_response_tokens=max_response_tokens,
        missing_eos_score=missing_eos_score,
        notice=notice_of(saving),
    )
    state = TrainingState(
        saving,
        accelerator,
        trained,
        numbers={
            "controller": controller,
            "scores_seen": scores_seen,
            "metrics": metrics,
            "text": {} if term is None else term.numbers,
            **watch.numbers,
        },
        tensors={
            **watch.tensors,
            **({} if average is None else {"average": average.tensors}),
            **({} if course is None else course.tensors),
        },
        frozen={"reference": models.reference, "scorer": models.scorer},
    )
    with state.continued(steps=settings.updates):
        watch.guard.keep_first()
        if average is not None:
            average.begin()
        plan = enumerate(zip(batches, texts, strict=True))
        for update, (batch, of_text) in islice(plan, state.done, settings.updates):
            kl_coef, returns = controller["kl_coef"], watch.guard.numbers["returns"]
            started = time.monotonic()
            rows = batch[accelerator.process_index :: accelerator.num_processes]
            rollout_seed = _seed(seed, update, accelerator.process_index)
            rollout = collect_rollout(
                models,
                [prompts[row] for row in rows],
                settings,
                special=special,
                max_response_tokens=max_response_tokens,
                kl_coef=kl_coef,
                missing_eos_score=missing_eos_score,
                seed=rollout_seed,
                accelerator=accelerator,
                scores_seen=RunningMoments(**scores_seen),
            )
            scores_seen |= rollout.scores_seen._asdict()
            metrics.clear()
            metrics |= rollout_metrics(rollout, kl_coef=kl_coef, accelerator=accelerator)
            metrics |= watch.signals(rollout)
            asked = [row for row in rows for _ in range(settings.responses_per_prompt)]
            is_good = watch.admits(update + 1, rollout, metrics, seed=rollout_seed, rows=asked)
            share = learning_rate_share(update, settings) * watch.guard.rate_share
            networks.set_share(share)
            if is_good:
                optimization = Optimization(
                    networks,
                    rollout,
                    settings,
                    special,
                    accelerator,
                    update,
                    kl_coef,
                    watch.guard,
                    asked,
                    average=average,
                    text=of_text,
                )
                metrics |= optimization.run(seed=_seed(seed, update, settings.updates))
            if course is not None:
                course.update_done(models.policy, update + 1)
            metrics["progress"] = (update + 1) / settings.updates
            metrics["learning_rate"] = settings.learning_rate * share
            tokens = summed(accelerator, float(rollout.response_mask.sum()))
            speed = {"tokens_per_second": tokens / (time.monotonic() - started)}
            report(update + 1, metrics | speed)
            if is_good:
                watch.optimized(update + 1, rollout, metrics)
                _adapt(controller, metrics["kl_to_reference"], settings)
            if average is not None and watch.guard.numbers["returns"] > returns:
                average.begin_anew()
            state.step_done(update + 1, is_last=update + 1 == settings.updates)
    return metrics | watch.finish()


def check_shares(settings: PpoSettings, processes: int) -> None:
    """Raise UserError unless every process has the same number of responses in each step."""
    prompts = settings.rollout_batch_size // settings.responses_per_prompt
    for share, found in (
        ("the prompts of a rollout, ppo.rollout_batch_size / ppo.responses_per_prompt", prompts),
        ("the responses of a step, ppo.mini_batch_size", settings.mini_batch_size),
    ):
        if found % processes:
            raise UserError(
                f"{processes} processes cannot share {share} = {found}, evenly: choose a multiple "
                f"of {processes}, or start another number of processes."
            )


def _adapt(controller: dict[str, float], kl_to_reference: float, settings: PpoSettings) -> None:
    """Bring the controller's `kl_coef` nearer to the one that keeps the KL at its target."""
    if settings.kl_target is not None:
        controller["kl_coef"] = adapted_kl_coef(
            controller["kl_coef"],
            kl_to_reference,
            kl_target=settings.kl_target,
            episodes=settings.rollout_batch_size,
            kl_horizon=settings.kl_horizon,
        )


def _seed(seed: int, update: int, stream: int) -> int:
    """A seed of its own for every update and process: no rollout repeats another's draws (P28)."""
    return (seed * 1_000_003 + update) * 1_009 + stream


def prompt_batches(prompts: int, batch_size: int, *, seed: int) -> Iterator[list[int]]:
    """Rows of each rollout's prompts, for ever: a new order for every pass over the prompts.

    A batch that a pass cannot fill goes on with the next pass.
    """
    epoch, pending = 0, list[int]()
    while True:
        while len(pending) < batch_size:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            pending += torch.randperm(prompts, generator=generator).tolist()
            epoch += 1
        yield pending[:batch_size]
        pending = pending[batch_size:]


def texts_of_updates(
    term: PtxTerm | None, settings: PpoSettings, *, seed: int
) -> Iterator[TextOfUpdate | None]:
    """The plain text of each update, for ever: every example once before any comes again.

    An update that ends early leaves its last ones out, so that the next one's are the same.
    """
    if term is None:
        yield from repeat(None)
        return
    per_step = examples_per_step(term.settings, settings.mini_batch_size)
    steps = settings.ppo_epochs * settings.rollout_batch_size // settings.mini_batch_size
    of_updates = prompt_batches(len(term.examples), steps * per_step, seed=seed + 2**31)
    yield from (TextOfUpdate(term, rows, per_step) for rows in of_updates)


def learning_rate_share(update: int, settings: PpoSettings) -> float:
    """Share of the peak learning rate at `update`, counted from 0."""
    share = warmup_from_a_tenth(update, warmup_updates=settings.warmup_updates)
    if settings.learning_rate_schedule == "linear":
        share *= linear_to_zero(update, updates=settings.updates)
    elif settings.learning_rate_schedule == "cosine":
        share *= cosine_to_a_tenth(update, updates=settings.updates)
    return share
