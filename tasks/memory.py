"""When memory did not do: what an error says of it, and what the kernel says of whom it killed.

The kernel kills without a word. It counts those that it killed for want of memory, by memory cgroup
and for the whole machine; a count that rose while a process ran is the word.
"""

import errno
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WORDS = (
    *("can't allocate memory", "not enough memory", "out of memory", "bad_alloc"),
    *("cannot allocate memory", "can't start new thread", "unable to mmap"),
)
"""What libraries that know no class of error for it say: torch's allocator of the CPU, C++."""

_NEARLY_ALL = 0.9
"""A process that used so much of what it may have was probably killed for it."""

_CGROUPS = Path("/sys/fs/cgroup")
_OF_PROCESS = Path("/proc/self/cgroup")
_STATUS = Path("/proc/self/status")
_VMSTAT = Path("/proc/vmstat")
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Memory:
    """What a process uses and may use, and how many processes the kernel had killed by then."""

    used: int | None
    limit: int | None
    """The least of what its memory cgroup and its address-space limit leave it."""

    cgroup: str | None
    """Folder of its memory cgroup."""

    cgroup_kills: int | None
    machine_kills: int | None


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether the error, or what it was raised from, says that memory could not be had."""
    while error is not None:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"MemoryError", "OutOfMemoryError"}:
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        text = str(error).lower()
        if isinstance(error, RuntimeError | OSError) and any(word in text for word in _WORDS):
            return True
        error = error.__cause__
    return False


def memory_now() -> Memory:
    """The memory of this process, as far as the system tells."""
    folder = _memory_cgroup()
    limits = [_cgroup_limit(folder), resource.getrlimit(resource.RLIMIT_AS)[0]]
    known = [limit for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
    return Memory(
        used=_in_status("VmRSS"),
        limit=min(known, default=None),
        cgroup=None if folder is None else str(folder),
        cgroup_kills=_cgroup_kills(folder),
        machine_kills=_count(_VMSTAT, "oom_kill"),
    )


def killed_for_memory(before: Mapping[str, Any] | None) -> str | None:
    """A sentence where a process of this machine that is gone was, or may have been, killed for it.

    `before` is the `Memory` that it was last known to have.
    """
    if before is None:
        return None
    then = Memory(**before)
    folder = None if then.cgroup is None else Path(then.cgroup)
    if _rose(then.cgroup_kills, _cgroup_kills(folder)):
        return f"the kernel killed a process of its memory cgroup {folder} for want of memory"
    if _rose(then.machine_kills, _count(_VMSTAT, "oom_kill")):
        return "the kernel killed a process of this machine for want of memory, perhaps this one"
    if then.used is not None and then.limit is not None and then.used > _NEARLY_ALL * then.limit:
        return f"it used {then.used:,} of the {then.limit:,} bytes of memory that it might have"
    return None


def how_to_need_less(stage: str | None, settings: Mapping[str, Any] | None) -> str:
    """What a user can do: smaller parts of a batch, where the stage has them and is not at one row.

    `settings` is the stage's section of the recipe, or None where it is not known.
    """
    if stage not in ("sft", "reward_model", "ppo"):
        return "Let it have more memory, or give it fewer or shorter rows, and run it again."
    whole = "mini_batch_size" if stage == "ppo" else "batch_size"
    known = settings or {}
    rows = known.get("micro_batch_size") or known.get(whole)
    if rows == 1:
        return (
            f"It computes one row at a time already: let it have more memory, or set {stage}.lora, "
            "a smaller model, or a lower model.max_prompt_tokens or model.max_response_tokens."
        )
    now = "" if rows is None else f", which is {rows} now"
    return (
        f"Let it have more memory and run it again: it goes on from its last checkpoint. Or lower "
        f"{stage}.micro_batch_size{now}: fewer rows are computed at a time, the batch stays what "
        f"it is. `rlhf rerun RUN --set {stage}.micro_batch_size=N --allow-change "
        f"{stage}.micro_batch_size` goes on from the last checkpoint with that too."
    )


def _rose(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now > before


def _memory_cgroup() -> Path | None:
    """The folder of this process's memory cgroup, of version 2 or 1."""
    try:
        lines = _OF_PROCESS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, place = line.split(":", 2)
        below = place.lstrip("/")
        if "memory" in controllers.split(","):
            candidates = [_CGROUPS / "memory" / below, _CGROUPS / "memory"]
        elif not controllers:
            candidates = [_CGROUPS / below, _CGROUPS]  # in a container the root is its own
        else:
            continue
        for folder in candidates:
            if _kill_file(folder) is not None:
                return folder
    return None


def _kill_file(folder: Path) -> Path | None:
    files = (folder / "memory.events", folder / "memory.oom_control")
    return next((path for path in files if path.is_file()), None)


def _cgroup_kills(folder: Path | None) -> int | None:
    path = None if folder is None else _kill_file(folder)
    return None if path is None else _count(path, "oom_kill")


def _cgroup_limit(folder: Path | None) -> int | None:
    if folder is None:
        return None
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):  # not of this version, or "max"
            continue
    return None


def _in_status(name: str) -> int | None:
    """A size in bytes from /proc/self/status."""
    found = _count(_STATUS, f"{name}:")
    return None if found is None else found * 1024


def _count(path: Path, name: str) -> int | None:
    """The number that follows `name` in a file of lines `name number`."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    words = (line.split() for line in lines)
    return next((int(line[1]) for line in words if len(line) > 1 and line[0] == name), None)
