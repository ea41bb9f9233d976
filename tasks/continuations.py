"""Going on from a checkpoint with other settings, where somebody said so: and never a trace lost.

A changed setting makes another fingerprint, hence another job, which starts over. `--allow-change`
makes a third one: it begins from the newest checkpoint of the unfinished job, and its fingerprint
holds that job's fingerprint, the step, the checkpoint's hash and every value that was changed. So
its result is that of no other job, and tells its past wherever it goes.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_core.checkpoints import Checkpoint, Checkpoints, Inherited
from rlhf_core.errors import UserError
from rlhf_core.records import read_record, write_record
from rlhf_core.settings.base import Stage
from tasks.changes import differences
from tasks.fingerprints import Fingerprint, with_past
from tasks.handles import StageJob
from tasks.leaves import leaves
from tasks.locks import hold
from tasks.store import CHECKPOINTS, FINGERPRINT, INHERITED, WORK, Store


def checkpoint_identity(stage: str, fingerprint: str) -> dict[str, str]:
    """What a checkpoint has to say of itself to be continued by this job."""
    return {"stage": stage, "fingerprint": fingerprint}


def changed_values(old: Fingerprint, new: Fingerprint) -> dict[str, dict[str, Any]]:
    """Dotted name to `from` and `to`, of every setting that differs, the seed included."""
    before, after = (dict(leaves(of.settings)) | {"seed": of.seed} for of in (old, new))
    names = dict.fromkeys([*after, *before])
    return {
        name: {"from": before.get(name), "to": after.get(name)}
        for name in names
        if before.get(name) != after.get(name)
    }


def continue_changed(
    store: Store, stage: Stage, old: Fingerprint, new: Fingerprint, allowed: Sequence[str]
) -> dict[str, Any]:
    """What the fingerprint of the job says that goes on from `old` as `new` has it.

    The checkpoint lies in the new job's folder afterwards: it stays there whatever becomes of the
    old job. Refuses changes that are not in `allowed`, and where there is nothing to go on from.
    """
    changed = changed_values(old, new)
    refused = [name for name in changed if name not in allowed]
    if refused:
        lines = "\n".join(
            f"  {name}: {changed[name]['from']} -> {changed[name]['to']}" for name in refused
        )
        flags = " ".join(f"--allow-change {name}" for name in refused)
        raise UserError(
            f"The unfinished {stage} was trained with other settings, and does not go on with "
            f"these unasked:\n{lines}\nAdd {flags} to go on from its last checkpoint, which its "
            "lineage will tell; or run the changed recipe with `rlhf run`, which starts over."
        )
    job = f"{stage}-{old.digest}"
    with hold(store.lock(job)):
        checkpoint = _newest(store, stage, old, job)
        past: dict[str, Any] = {
            "fingerprint": old.digest,
            "step": checkpoint.step,
            "checkpoint": checkpoint.folder.name.rpartition("-")[2],
            "changed": changed,
        }
        if old.continued is not None:
            past["before"] = old.continued
        _hand_on(checkpoint, store.work(f"{stage}-{with_past(new, stage, past).digest}"))
    return past


def inherited(store: Store, job: StageJob) -> Inherited | None:
    """The checkpoint that the job begins from, where it goes on from one of other settings."""
    past = job.fingerprint.continued
    if past is None:
        return None
    folder = store.work(job.key) / INHERITED / f"step-{past['step']:010}-{past['checkpoint']}"
    return Inherited(folder, checkpoint_identity(job.stage, past["fingerprint"]))


def past_lines(past: Mapping[str, Any] | None) -> list[str]:
    """A sentence for each time that training went on with other settings, the first one first."""
    if past is None:
        return []
    changes = ", ".join(
        f"{name} {value['from']} -> {value['to']}" for name, value in past["changed"].items()
    )
    own = f"went on after step {past['step']} of {past['fingerprint'][:12]} with {changes}"
    return [*past_lines(past.get("before")), own]


def note_job(store: Store, job: StageJob, pipeline_run: str) -> None:
    """The job's folder says what the job is, and which run began or went on with it last."""
    record = {"fingerprint": job.fingerprint.record(), "pipeline_run": pipeline_run}
    write_record(store.work(job.key) / FINGERPRINT, record)


def unfinished_others(store: Store, job: StageJob) -> Iterator[str]:
    """One line where an unfinished job of the stage has checkpoints that this one may not take.

    It names all that differs in the one that differs least.
    """
    if any((store.work(job.key) / CHECKPOINTS).glob("step-*")) or job.fingerprint.continued:
        return
    found: list[tuple[list[str], str]] = []
    for path in (store.folder / WORK).glob(f"{job.stage}-*/{FINGERPRINT}"):
        if path.parent.name == job.key or not any(path.parent.glob(f"{CHECKPOINTS}/step-*")):
            continue
        try:
            record = read_record(path)
            lines = list(differences(record["fingerprint"], job.fingerprint.parts()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        found.append((lines, str(record["pipeline_run"])))
    if not found:
        return
    lines, run = min(found, key=lambda other: len(other[0]))
    names = [line.partition(":")[0] for line in lines]
    own = (f"{job.stage}.", "seed")
    how = "it starts over"
    if all(name.startswith(own) for name in names):
        flags = " ".join(f"--set {name}=… --allow-change {name}" for name in names)
        how += f"; to go on from that one's last checkpoint: rlhf rerun {run} {flags}"
    yield f"an unfinished {job.stage} is not continued, for it differs in {'; '.join(lines)}: {how}"


def _newest(store: Store, stage: Stage, old: Fingerprint, job: str) -> Checkpoint:
    rejected: list[str] = []
    found = Checkpoints(
        store.work(job) / CHECKPOINTS,
        checkpoint_identity(stage, old.digest),
        notice=rejected.append,
    ).newest()
    if found is None:
        raise UserError(
            f"The store {store.folder} has no checkpoint of this {stage} to go on from: none was "
            "saved yet, it has finished, or its code or inputs have changed since. `rlhf run` with "
            "the changed recipe starts it over."
        )
    return found


def _hand_on(checkpoint: Checkpoint, work: Path) -> None:
    """The checkpoint is in the job's folder too, whole or not at all; its bytes are shared."""
    target = work / INHERITED / checkpoint.folder.name
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".stage-{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(checkpoint.folder, staged, copy_function=_link_or_copy)
    staged.rename(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
