"""What a kill, a power cut or a full disk can do to a journal, byte by byte."""

import resource

import pytest

from tasks.journal import Journal, make_journal, read_records

RECORDS = [{"kind": "metrics", "step": 1}, {"kind": "text", "text": "ü\ud800\n"}, {"kind": "end"}]


def new_journal(path):
    make_journal(path)
    return Journal(path)


def write_journal(path, records=RECORDS):
    journal = new_journal(path)
    ends = []
    for record in records:
        journal.append(record)
        ends.append(journal.end)
    journal.close()
    return ends


def read(path):
    return [placed.record for placed in read_records(path)]


def test_a_journal_torn_at_any_byte_keeps_its_whole_records_and_goes_on(tmp_path):
    ends = write_journal(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()

    for length in range(len(whole)):
        path = tmp_path / "torn"
        path.write_bytes(whole[:length])
        kept = [record for record, end in zip(RECORDS, ends, strict=True) if end <= length]
        journal = Journal(path)
        assert journal.cut == length - max([0, *(end for end in ends if end <= length)])
        journal.append({"kind": "after"})
        journal.close()
        assert read(path) == [*kept, {"kind": "after"}]


def test_a_flipped_bit_in_the_last_record_cuts_it(tmp_path):
    ends = write_journal(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()

    for place in range(ends[-2], ends[-1]):
        path = tmp_path / "flipped"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        journal = Journal(path)
        journal.close()
        assert read(path) == RECORDS[:2]
        assert path.stat().st_size == ends[-2]


def test_zeros_after_a_power_cut_are_no_records(tmp_path):
    path = tmp_path / "zeros"
    ends = write_journal(path)
    path.write_bytes(path.read_bytes() + bytes(4096))

    journal = Journal(path)

    assert (journal.cut, journal.end) == (4096, ends[-1])


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path):
    path = tmp_path / "full"
    journal = new_journal(path)
    journal.append(RECORDS[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.end + 12, hard))  # half a record fits
    try:
        with pytest.raises(OSError, match="too large"):
            journal.append(RECORDS[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == journal.end

    journal.append(RECORDS[2])
    assert read(path) == [RECORDS[0], RECORDS[2]]


def test_a_journal_has_one_writer(tmp_path):
    journal = new_journal(tmp_path / "held")
    with pytest.raises(BlockingIOError):
        Journal(tmp_path / "held")
    journal.close()
    Journal(tmp_path / "held").close()


def test_a_journal_that_was_removed_is_not_made_again_by_whoever_looks_for_it(tmp_path):
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "removed")
    assert list(tmp_path.iterdir()) == []
