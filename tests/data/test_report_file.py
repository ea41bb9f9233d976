import json

import pytest

from rlhf_core.data.report_file import read_facts, read_faults, write_report

FACTS = {"usable": True, "tables": {"x": {"rows": 3, "names": ["a\n b", ' "faults": [']}}}


@pytest.mark.parametrize("facts", [{}, FACTS])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_report_is_one_json_object_whose_parts_can_be_read_apart(facts, count, tmp_path):
    faults = [{"rule": "TXT-001", "seen": f"\u2028\n{number}\ud800"} for number in range(count)]
    path = tmp_path / "report.json"
    write_report(path, facts, iter(faults))
    assert json.loads(path.read_text(encoding="utf-8")) == {**facts, "faults": faults}
    assert read_facts(path) == facts
    assert list(read_faults(path)) == faults
