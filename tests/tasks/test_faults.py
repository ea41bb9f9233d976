"""What the disk does to a run is told in a sentence, and all else stays what it is."""

import shutil

import pytest

from rlhf_core.errors import StorageError
from tasks.faults import later_faults_logged, storage_faults_named
from tasks.store import Store


def test_a_folder_removed_from_the_store_meanwhile_is_a_storage_fault(tmp_path):
    store = Store(tmp_path / "store")
    payload = store.stage_payload("job")
    shutil.rmtree(store.work("job"))

    said = r"report\.json is not there .* removed from the store"
    with pytest.raises(StorageError, match=said), storage_faults_named(store):
        (payload / "report.json").write_text("{}")


def test_a_file_that_is_missing_elsewhere_is_no_fault_of_the_store(tmp_path):
    with pytest.raises(FileNotFoundError), storage_faults_named(Store(tmp_path / "store")):
        (tmp_path / "raw.jsonl").read_text()


def test_the_first_fault_is_the_one_that_is_told(tmp_path, caplog):
    def end_badly():
        try:
            raise StorageError("the checkpoint cannot be saved")
        except StorageError:
            with later_faults_logged():
                (tmp_path / "gone" / "run.json").write_text("{}")
            raise

    with pytest.raises(StorageError, match="the checkpoint cannot be saved"):
        end_badly()
    assert "not in its record: [Errno 2]" in caplog.text
