import json

from rlhf_core.history import read_history, recorded


def test_every_report_is_recorded_in_order_and_passed_on(tmp_path):
    heard = []
    with recorded(tmp_path, lambda step, metrics: heard.append((step, dict(metrics)))) as report:
        report(1, {"loss": 0.5})
        report(1, {"validation_loss": 0.25})
        report(2, {"loss": 0.125})

    assert heard == [(1, {"loss": 0.5}), (1, {"validation_loss": 0.25}), (2, {"loss": 0.125})]
    assert read_history(tmp_path) == [
        {"step": 1, "loss": 0.5},
        {"step": 1, "validation_loss": 0.25},
        {"step": 2, "loss": 0.125},
    ]


def test_timings_are_reported_and_not_recorded(tmp_path):
    heard = []
    with recorded(tmp_path, lambda step, metrics: heard.append(dict(metrics))) as report:
        report(1, {"loss": 0.5, "tokens_per_second": 1234.5})
    assert heard == [{"loss": 0.5, "tokens_per_second": 1234.5}]
    assert read_history(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_number_that_is_not_finite_is_recorded_as_null(tmp_path):
    with recorded(tmp_path, lambda step, metrics: None) as report:
        report(1, {"loss": float("nan"), "score": float("-inf"), "kl_to_reference": 0.0})
    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(line, parse_constant=refuse)
    assert found == {"step": 1, "loss": None, "score": None, "kl_to_reference": 0.0}


def test_what_was_reported_before_a_failure_is_kept(tmp_path):
    try:
        with recorded(tmp_path, lambda step, metrics: None) as report:
            report(1, {"loss": 0.5})
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert read_history(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_equal_reports_make_equal_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with recorded(tmp_path / name, lambda step, metrics: None) as report:
            report(1, {"loss": 1 / 3, "tokens_per_second": float(len(name) + hash(name) % 7)})
    one, two = ((tmp_path / name / "history.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    assert one.endswith(b"\n")
    assert b"\r" not in one
