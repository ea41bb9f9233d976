"""An artifact is there whole or not at all, and a changed byte is noticed."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from rlhf_core.artifacts import (
    MANIFEST,
    PROVENANCE,
    Artifact,
    digest,
    open_artifact,
    publish_artifact,
    verify_artifact,
    write_durably,
)
from rlhf_core.errors import ArtifactError


def staged(folder: Path, *, weights: bytes = b"weights") -> Path:
    (folder / "value_model").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "value_model" / "model.safetensors").write_bytes(weights)
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Artifact:
    return publish_artifact(
        staged(tmp_path / "work"), tmp_path / "objects", stage="ppo", provenance={"run": "a"}
    )


def test_the_digest_is_the_hash_of_the_manifest_that_lists_every_payload_file(published: Artifact):
    manifest = (published.path / MANIFEST).read_bytes()

    assert published.digest == hashlib.sha256(manifest).hexdigest() == published.path.name
    assert json.loads(manifest)["files"] == [
        {"path": "config.json", "size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
        {
            "path": "value_model/model.safetensors",
            "size": 7,
            "sha256": hashlib.sha256(b"weights").hexdigest(),
        },
    ]


def test_equal_payloads_are_one_artifact_and_the_first_keeps_its_past(
    tmp_path: Path, published: Artifact
):
    again = publish_artifact(
        staged(tmp_path / "again"), tmp_path / "objects", stage="ppo", provenance={"run": "b"}
    )

    assert again == published
    assert again.provenance() == {"run": "a"}
    assert not (tmp_path / "again").exists()


def test_one_other_byte_or_another_stage_gives_another_digest(tmp_path: Path, published: Artifact):
    objects = tmp_path / "objects"
    other = publish_artifact(
        staged(tmp_path / "b", weights=b"Weights"), objects, stage="ppo", provenance={}
    )
    sft = publish_artifact(staged(tmp_path / "c"), objects, stage="sft", provenance={})

    assert len({published.digest, other.digest, sft.digest}) == 3


def test_nothing_is_published_when_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    work = staged(tmp_path / "work")

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(Exception, match=r"different file systems.*one writable file system"):
        publish_artifact(work, tmp_path / "objects", stage="ppo", provenance={})

    assert list((tmp_path / "objects").iterdir()) == []


def test_payload_files_are_synced_before_the_rename_and_the_parent_after(
    tmp_path: Path, disk_events: list[str]
):
    publish_artifact(staged(tmp_path / "work"), tmp_path / "objects", stage="ppo", provenance={})

    before, after = (
        disk_events[: disk_events.index("rename")],
        disk_events[disk_events.index("rename") + 1 :],
    )
    assert set(before) == {
        "config.json",
        "model.safetensors",
        "value_model",
        MANIFEST,
        PROVENANCE,
        "work",
        tmp_path.name,  # which holds the new folder of all objects
    }
    assert after == ["objects"]


def test_a_folder_without_manifest_is_refused_and_the_stage_to_run_is_named(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json.*stage 'sft'"):
        open_artifact(tmp_path, "sft")


def test_an_artifact_of_another_stage_is_refused(published: Artifact):
    with pytest.raises(ArtifactError, match="made by stage 'ppo', but an artifact of 'sft'"):
        open_artifact(published.path, "sft")


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_changed_byte_is_found_by_its_hash_and_named(published: Artifact):
    weights = published.path / "value_model" / "model.safetensors"
    rewrite(weights, b"weightz")

    assert open_artifact(published.path).digest == published.digest  # sizes only
    found = hashlib.sha256(b"weightz").hexdigest()
    with pytest.raises(ArtifactError, match=rf"model\.safetensors is damaged.*{found}"):
        verify_artifact(published.path)


def test_a_truncated_missing_extra_or_linked_file_is_refused(published: Artifact):
    folder = published.path
    config = folder / "config.json"

    rewrite(config, b"{")
    with pytest.raises(ArtifactError, match="expected 2 bytes, found 1 bytes"):
        open_artifact(folder)
    config.unlink()
    with pytest.raises(
        ArtifactError, match=r"config\.json is damaged: expected 2 bytes, found nothing"
    ):
        open_artifact(folder)
    config.write_text("{}")
    (folder / "extra.bin").write_text("x")
    with pytest.raises(
        ArtifactError, match=r"extra\.bin is damaged: expected no file of this name"
    ):
        open_artifact(folder)
    (folder / "extra.bin").unlink()
    config.unlink()
    config.symlink_to("/dev/null")
    with pytest.raises(ArtifactError, match="expected a plain file, found a link"):
        open_artifact(folder)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "stage": "ppo", "files": [1]}']
)
def test_a_damaged_manifest_is_refused(published: Artifact, text: bytes):
    rewrite(published.path / MANIFEST, text)
    with pytest.raises(ArtifactError, match="is damaged"):
        open_artifact(published.path)


@pytest.mark.parametrize(
    "path, size",
    [
        ("../manifest.json", 1),
        ("/etc/hostname", 1),
        ("value_model/../config.json", 1),
        ("./config.json", 1),
        ("config.json", 10**30),
        ("config.json", float("nan")),
        ("config.json", float("inf")),
    ],
)
def test_a_manifest_that_names_what_cannot_be_is_refused(published: Artifact, path, size):
    manifest = json.loads((published.path / MANIFEST).read_text())
    manifest["files"][0] |= {"path": path, "size": size}
    rewrite(published.path / MANIFEST, json.dumps(manifest).encode())
    with pytest.raises(ArtifactError, match="is damaged"):
        open_artifact(published.path)


def test_a_file_is_listed_once(published: Artifact):
    manifest = json.loads((published.path / MANIFEST).read_text())
    manifest["files"] *= 2
    rewrite(published.path / MANIFEST, json.dumps(manifest).encode())
    with pytest.raises(ArtifactError, match="listed twice"):
        open_artifact(published.path)


@pytest.mark.parametrize("what", ["file", "link to nothing", "link to a file", "other folder"])
def test_what_took_an_artifacts_place_gives_way_to_it(tmp_path: Path, published: Artifact, what):
    published.path.rename(tmp_path / "moved")
    if what == "other folder":
        published.path.mkdir()
        (published.path / "odd").write_text("")
    elif what == "file":
        published.path.write_text("odd")
    else:
        published.path.symlink_to(tmp_path / ("nowhere" if "nothing" in what else "odd"))
        (tmp_path / "odd").write_text("odd")

    assert publish_again(tmp_path).provenance() == {"run": "b"}
    assert verify_artifact(published.path).digest == published.digest


def test_a_damaged_past_gives_way_when_the_same_bytes_are_made_again(tmp_path, published):
    rewrite(published.path / PROVENANCE, b'{"run": "a", "record_sha256": "ab"}')
    assert publish_again(tmp_path).provenance() == {"run": "b"}


def publish_again(folder: Path) -> Artifact:
    """The bytes of `published` once more, made by another run."""
    return publish_artifact(
        staged(folder / "again"), folder / "objects", stage="ppo", provenance={"run": "b"}
    )


def test_a_manifest_of_another_version_is_refused(published: Artifact):
    rewrite(published.path / MANIFEST, b'{"format": 2, "stage": "ppo", "files": []}')
    with pytest.raises(ArtifactError, match="has format 2, this version reads format 1"):
        open_artifact(published.path)


def test_a_missing_or_damaged_provenance_is_an_error_not_an_empty_past(published: Artifact):
    rewrite(published.path / PROVENANCE, b"{")
    with pytest.raises(ArtifactError, match=r"provenance\.json is damaged"):
        published.provenance()
    (published.path / PROVENANCE).unlink()
    with pytest.raises(ArtifactError, match="its past is not known"):
        published.provenance()


def test_a_file_keeps_its_old_content_when_writing_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "record.json"
    write_durably(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_digest_of_a_value_does_not_depend_on_the_order_of_its_keys():
    assert digest({"a": 1, "b": [1.5, "ä"]}) == digest({"b": [1.5, "ä"], "a": 1})
    text = '{"a":1,"b":"ä"}'.encode()
    assert digest({"b": "ä", "a": 1}) == hashlib.sha256(text).hexdigest()
