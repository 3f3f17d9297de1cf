"""What MLflow keeps of a load test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from load_tests.latency import latency_report
from load_tests.logged import MOST_POINTS, log_load_test, series
from load_tests.rows import write_parquet
from load_tests.run_folder import RunFolder
from load_tests.sse import Status
from tests.load_tests.made_load import NS, START_AT_S, made_record, made_rows


def test_course_of_a_test_by_hand() -> None:
    """Two requests in the first second, one of which fails, none in the second, one in the third."""
    records = [made_record(0, sent_ns=0), made_record(1, sent_ns=NS // 10), made_record(2, sent_ns=5 * NS // 2)]
    records[1] = replace(records[1], status=Status.TIMEOUT, ttft_s=None, first_content_ns=None)
    found = series(made_rows(records, stop_s=3.0))
    assert [point.value for point in found["over_time_requests_sent_per_s"]] == [2, 0, 1]
    assert [point.value for point in found["over_time_requests_failed_per_s"]] == [1, 0, 0]
    assert [(point.step, point.value) for point in found["over_time_ttft_s_p50"]] == [(0, 0.05), (2, 0.05)]
    assert found["over_time_ttft_s_p50"][1].at_ms == round((START_AT_S + 2) * 1e3)


def test_long_tests_have_no_more_points_than_a_chart() -> None:
    found = series(made_rows([made_record(number) for number in range(1000)], stop_s=3600.0))
    assert all(len(points) <= MOST_POINTS for points in found.values())


def test_test_without_requests_has_no_course() -> None:
    assert series(made_rows([])) == {}


@pytest.mark.slow
def test_whole_test_is_logged_with_its_course_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    rows = made_rows([made_record(number, sent_ns=number * NS // 20) for number in range(6000)], stop_s=300.0)
    folder = RunFolder.create(tmp_path / "run")
    write_parquet(rows, folder.parquet)
    folder.report_json.write_text("{}")
    report = latency_report(rows)
    first = log_load_test(folder, rows, report)  # makes the database
    logged = log_load_test(folder, rows, report, metrics={"server_queue": 1.0}, tags={"verdict": "met"})
    assert first.run_id != logged.run_id

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=logged.tracking_uri)
    run = client.get_run(logged.run_id)
    assert run.data.params["arrivals.rate_per_s"] == "5.0"
    assert run.data.metrics["server_queue"] == 1.0
    assert (run.data.tags["simulated"], run.data.tags["verdict"]) == ("true", "met")
    assert run.data.metrics["ttft_s_p50"] == pytest.approx(0.05)
    course = client.get_metric_history(logged.run_id, "over_time_requests_in_flight")
    assert 90 < len(course) <= MOST_POINTS
    assert [point.step for point in course] == sorted(point.step for point in course)
    names = {artifact.path for artifact in client.list_artifacts(logged.run_id)}
    assert {"requests.parquet", "report.json", "report.md"} <= names
