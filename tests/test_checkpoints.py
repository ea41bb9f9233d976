"""A checkpoint is there whole or not at all, and the newest whole one is continued."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from rlhf_core.checkpoints import Checkpoint, Checkpoints
from rlhf_core.errors import ArtifactError, StorageError
from rlhf_core.folders import MANIFEST, publish_folder

IDENTITY = {"settings": "aa", "data": "bb"}
FILES = {
    "policy.safetensors": b"weights",
    "policy-optimizer.safetensors": b"moments",
    "generators.safetensors": b"generators",
    "carried.safetensors": b"best",
    "history.jsonl": b"{}\n",
    "state.json": b"{}",
}


def opened(folder: Path, lines: list[str] | None = None, **changes) -> Checkpoints:
    heard = [] if lines is None else lines
    checkpoints = Checkpoints(
        folder, **{"identity": IDENTITY, "every_steps": 1, "notice": heard.append} | changes
    )
    checkpoints.prepare(1)
    return checkpoints


def save(checkpoints: Checkpoints, step: int) -> Checkpoint:
    def write(folder: Path) -> None:
        for name, content in FILES.items():
            (folder / name).write_bytes(content + str(step).encode())

    return checkpoints.save(step, write, {"threads": "1"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 1 and 2."""
    checkpoints = opened(tmp_path / "checkpoints")
    for step in (1, 2):
        save(checkpoints, step)
    return tmp_path / "checkpoints"


def of_step(folder: Path, step: int) -> Path:
    (path,) = folder.glob(f"step-{step:010}-*")
    return path


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_nothing_saved_is_nothing_to_continue(tmp_path: Path):
    assert opened(tmp_path / "none").newest() is None


def test_the_newest_is_found_and_says_its_step_environment_and_bytes(folder: Path):
    found = opened(folder).newest()
    assert found is not None
    assert (found.step, found.environment) == (2, {"threads": "1"})
    assert found.read("policy.safetensors") == b"weights2"


def test_the_name_holds_the_hash_of_the_manifest_that_lists_every_file(folder: Path):
    path = of_step(folder, 2)
    text = (path / MANIFEST).read_bytes()
    manifest = json.loads(text)
    assert path.name == f"step-0000000002-{hashlib.sha256(text).hexdigest()}"
    assert (manifest["step"], manifest["identity"]) == (2, IDENTITY)
    assert [file["path"] for file in manifest["files"]] == sorted(FILES)
    weights = next(file for file in manifest["files"] if file["path"] == "policy.safetensors")
    assert weights["sha256"] == hashlib.sha256(b"weights2").hexdigest()


def test_the_last_two_are_kept_and_an_older_one_goes_after_the_newer_one_is_there(folder: Path):
    checkpoints = opened(folder)
    checkpoints.newest()
    for step in (3, 4, 5):
        save(checkpoints, step)
    assert [path.name[:15] for path in sorted(folder.iterdir())] == [
        "step-0000000004",
        "step-0000000005",
    ]


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("damage", ["a bit", "the tail", "all"])
def test_a_damaged_file_sends_back_to_the_one_before_with_one_line(folder, name, damage):
    path = of_step(folder, 2) / name
    content = path.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:]
    rewrite(path, {"a bit": flipped, "the tail": content[:-1], "all": b""}[damage])
    lines: list[str] = []

    found = opened(folder, lines).newest()

    assert found is not None
    assert found.step == 1
    (line,) = lines
    assert str(of_step(folder, 2)) in line
    assert f"{name}: expected" in line
    assert "found" in line
    if damage == "a bit":
        assert hashlib.sha256(content).hexdigest() in line
        assert hashlib.sha256(flipped).hexdigest() in line


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_sends_back_to_the_one_before(folder: Path, name: str):
    (of_step(folder, 2) / name).unlink()
    lines: list[str] = []
    found = opened(folder, lines).newest()
    assert found is not None
    assert (found.step, len(lines)) == (1, 1)
    assert f"{name}: expected" in lines[0]
    assert "found nothing" in lines[0]


def _empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def _no_manifest_yet(path: Path) -> None:
    (path / MANIFEST).unlink()


def _half_of_the_files(path: Path) -> None:
    for name in list(FILES)[:3]:
        (path / name).unlink()


def _a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def _a_link_to_the_other(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(of_step(path.parent, 1))


def _a_link_in_it(path: Path) -> None:
    (path / "policy.safetensors").unlink()
    (path / "policy.safetensors").symlink_to(of_step(path.parent, 1) / "policy.safetensors")


def _a_linked_manifest(path: Path) -> None:
    text = (path / MANIFEST).read_bytes()
    (path / MANIFEST).unlink()
    (path.parent / "elsewhere").write_bytes(text)
    (path / MANIFEST).symlink_to(path.parent / "elsewhere")


def _a_file_more(path: Path) -> None:
    (path / "scheduler.pt").write_bytes(b"\x80\x04")


def _a_folder_more(path: Path) -> None:
    (path / "more").mkdir()
    (path / "more" / "weights.bin").write_bytes(b"\x80\x04")


def _a_pipe(path: Path) -> None:
    (path / "policy.safetensors").unlink()
    os.mkfifo(path / "policy.safetensors")


def _the_files_of_the_other(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(of_step(path.parent, 1), path)


def _another_name(path: Path) -> None:
    path.rename(path.with_name("step-0000000007"))


VARIANTS = (
    _empty,
    _no_manifest_yet,
    _half_of_the_files,
    _a_file,
    _a_link_to_the_other,
    _a_link_in_it,
    _a_linked_manifest,
    _a_file_more,
    _a_folder_more,
    _a_pipe,
    _the_files_of_the_other,
    _another_name,
)


@pytest.mark.parametrize("spoil", VARIANTS, ids=lambda variant: variant.__name__.strip("_"))
def test_a_folder_that_is_not_as_it_was_written_is_passed_over_and_later_removed(folder, spoil):
    spoil(of_step(folder, 2))
    lines: list[str] = []
    checkpoints = opened(folder, lines)

    found = checkpoints.newest()
    assert found is not None
    assert (found.step, len(lines)) == (1, 1)

    save(checkpoints, 2)
    again = opened(folder, lines).newest()
    assert again is not None
    assert (again.step, len(lines)) == (2, 1)
    kept = {path.name[:15] for path in folder.iterdir() if path.name != "elsewhere"}
    assert kept == {"step-0000000001", "step-0000000002"}


def test_one_of_another_format_is_passed_over_as_such(folder: Path, monkeypatch):
    monkeypatch.setattr("rlhf_core.checkpoints.FORMAT", 2)
    checkpoints = opened(folder)
    save(checkpoints, 3)
    monkeypatch.undo()
    lines: list[str] = []
    with pytest.raises(ArtifactError, match="format 1, found format 2"):
        opened(folder, lines).newest()


def test_where_none_is_whole_all_that_were_tried_are_named_and_nothing_starts_over(folder: Path):
    for step in (1, 2):
        rewrite(of_step(folder, step) / "state.json", b"{")
    with pytest.raises(ArtifactError, match="does not start over unasked") as refused:
        opened(folder).newest()
    assert refused.value.exit_code == 2
    for step in (1, 2):
        assert str(of_step(folder, step)) in str(refused.value)


@pytest.mark.parametrize(
    "identity, named",
    [
        ({"settings": "xx", "data": "bb"}, "settings: expected xx, found aa"),
        ({"settings": "aa", "data": "yy"}, "data: expected yy, found bb"),
        ({"settings": "aa", "data": "bb", "seed": "1"}, "seed: expected 1, found None"),
        ({"settings": "aa"}, "data: expected None, found bb"),
    ],
)
def test_one_of_another_identity_is_refused_and_the_keys_are_named(folder, identity, named):
    with pytest.raises(ArtifactError, match=named) as refused:
        opened(folder, identity=identity).newest()
    assert refused.value.exit_code == 2


def test_what_a_kill_left_of_a_save_or_a_removal_is_gone_at_the_start(folder: Path):
    (folder / ".stage-3-abcd").mkdir()
    (folder / ".stage-3-abcd" / "policy.safetensors").write_bytes(b"half")
    (folder / ".remove-step-0000000000-x").mkdir()
    opened(folder)
    assert all(path.name.startswith("step-") for path in folder.iterdir())


def test_every_file_is_on_the_disk_before_the_rename_and_the_folder_after(tmp_path, disk_events):
    checkpoints = opened(tmp_path / "checkpoints")
    disk_events.clear()
    save(checkpoints, 1)

    before, after = (
        disk_events[: disk_events.index("rename")],
        disk_events[disk_events.index("rename") + 1 :],
    )
    assert before[-1].startswith(".stage-1-")
    assert set(before[:-1]) == {*FILES, MANIFEST}
    assert after == ["checkpoints"]


def test_folders_made_on_the_way_are_on_the_disk_too(tmp_path, disk_events):
    opened(tmp_path / "work" / "sft-ab" / "checkpoints")
    assert disk_events == [tmp_path.name, "work", "sft-ab"]


def test_bytes_that_changed_after_they_were_checked_are_not_handed_out(folder: Path):
    found = opened(folder).newest()
    assert found is not None
    rewrite(found.folder / "policy.safetensors", b"weightsX")
    with pytest.raises(ArtifactError, match=r"policy\.safetensors was changed while it was read"):
        found.read("policy.safetensors")
    assert found.read("history.jsonl") == b"{}\n2"


def test_older_ones_stay_where_the_new_one_does_not_read_back_as_it_was_written(
    folder: Path, monkeypatch
):
    checkpoints = opened(folder)
    checkpoints.newest()

    def publish_badly(staged: Path, target: Path) -> bool:
        rewrite(staged / "policy.safetensors", b"weightsX")
        return publish_folder(staged, target)

    monkeypatch.setattr("rlhf_core.checkpoints.publish_folder", publish_badly)
    with pytest.raises(StorageError, match=r"not as it was written: policy\.safetensors: expected"):
        save(checkpoints, 3)
    assert {of_step(folder, step).name[:15] for step in (1, 2)} == {
        "step-0000000001",
        "step-0000000002",
    }
    found = opened(folder).newest()
    assert found is not None
    assert found.step == 2


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def kill_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends at the nth system call that changes a folder or waits for the disk."""
    calls = iter(range(call))

    def dying(right):
        def die(*args, **named):
            if next(calls, None) is None:
                raise Killed
            return right(*args, **named)

        return die

    for owner, names in ((os, ["fsync", "rmdir", "unlink"]), (Path, ["rename", "mkdir", "chmod"])):
        for name in names:
            monkeypatch.setattr(owner, name, dying(getattr(owner, name)))


def test_a_kill_at_any_call_of_a_save_leaves_the_old_state_or_the_new_one(folder, monkeypatch):
    for call in range(200):
        checkpoints = opened(folder)
        before = checkpoints.newest()
        assert before is not None
        with monkeypatch.context() as patch:
            kill_at(call, patch)
            try:
                save(checkpoints, before.step + 1)
                break
            except Killed:
                pass
        lines: list[str] = []
        after = opened(folder, lines).newest()
        assert after is not None
        assert after.step in (before.step, before.step + 1)
        assert lines == []  # nothing half-done is ever taken for a checkpoint
    assert call > 20


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_full_or_failing_disk_ends_with_the_old_state_kept(folder, monkeypatch, fault):
    checkpoints = opened(folder)
    checkpoints.newest()

    def refuse(descriptor: int) -> None:
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match=r"step 3 cannot be saved.*kept"):
            save(checkpoints, 3)
    assert [path.name[:15] for path in sorted(folder.iterdir())] == [
        "step-0000000001",
        "step-0000000002",
    ]


def test_a_folder_that_was_removed_meanwhile_is_told_as_such(folder: Path):
    checkpoints = opened(folder)
    shutil.rmtree(folder)
    with pytest.raises(StorageError, match=r"was removed while .* starts the stage over"):
        save(checkpoints, step=3)


def test_too_little_room_is_told_with_both_numbers_before_anything_is_trained(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", IDENTITY)
    with pytest.raises(StorageError, match=r"bytes free, but 2,\d{3},.* are needed") as refused:
        checkpoints.prepare(10**18 + 1)
    assert refused.value.exit_code == 4


def test_a_place_that_takes_no_files_is_refused_at_the_start(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        Checkpoints(tmp_path / "file", IDENTITY).prepare(1)


def test_it_is_time_to_save_by_steps_or_by_seconds():
    by_steps = Checkpoints(Path("x"), {}, every_seconds=None, every_steps=3)
    assert [by_steps.is_due(step) for step in range(1, 7)] == [False, False, True] * 2
    by_seconds = Checkpoints(Path("x"), {}, every_seconds=60.0)
    assert not by_seconds.is_due(1)
    at_once = Checkpoints(Path("x"), {}, every_seconds=0.0)
    assert at_once.is_due(1)
