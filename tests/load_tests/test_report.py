"""What people and programs get to see of a load test: everything that matters, and nothing that is not known."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from load_tests.latency import LatencyReport, latency_report
from load_tests.page import load_page, steady_window
from load_tests.report import as_json, markdown, metrics, notes, print_report, tables, title, warnings
from load_tests.rows import LoadRows
from load_tests.sse import Status
from tests.load_tests.made_load import NS, made_record, made_rows


def steady(count: int = 200, **changes: Any) -> LoadRows:
    """Five requests a second, all alike."""
    records = [made_record(place, sent_ns=place * NS // 5, **changes) for place in range(count)]
    return made_rows(records, stop_s=count / 5, simulated=False)


@pytest.fixture(scope="module")
def report() -> LatencyReport:
    return latency_report(steady())


def changed(rows: LoadRows, **end: Any) -> LatencyReport:
    last = rows.ends[0]
    assert last is not None
    return latency_report(replace(rows, ends=(replace(last, **end),)))


def test_a_test_that_went_well_has_nothing_to_warn_of(report: LatencyReport) -> None:
    assert warnings(report) == []


def test_latency_is_shown_from_send_and_from_intended_start_with_the_lag(report: LatencyReport) -> None:
    shown = [row[0] for row in tables(report)[0].rows]
    assert shown == [
        "TTFT from send",
        "TTFT from intended start",
        "ITL, gaps between chunks",
        "TPOT, per request",
        "e2e from send",
        "e2e from intended start",
        "scheduling lag",
    ]
    assert "steady window" in notes(report)[0]


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ({"sent": 203}, "3 requests were sent but left no row"),
        ({"sent": 190}, "10 of 200 requests of the schedule were not sent"),
        ({"cpu_s": 38.0}, "worker 0 of the load generator used 95% of a core"),
        ({"stolen_share": 0.12}, "hypervisor gave 12% of its processor time to others"),
    ],
)
def test_a_client_that_failed_is_told(end: dict[str, Any], told: str) -> None:
    assert any(told in warning for warning in warnings(changed(steady(), **end)))


def test_late_sending_is_told_when_it_shows_in_the_ttft() -> None:
    late = steady()
    records = [replace(record, intended_ns=record.sent_ns - NS // 100) for record in late.records]
    found = warnings(latency_report(replace(late, records=tuple(records))))
    assert any("requests were sent late: p99 10.00 ms is above 5% of the TTFT's median 50.0 ms" in one for one in found)


def test_a_killed_test_is_told() -> None:
    found = warnings(latency_report(replace(steady(), ends=(None,))))
    assert any("killed" in warning for warning in found)
    assert any("nobody knows whether the whole schedule was sent" in warning for warning in found)


def test_no_steady_state_is_told() -> None:
    report = latency_report(made_rows([made_record(0)]))
    assert any(warning.startswith("no steady state: 1 requests were sent") for warning in warnings(report))
    assert "no steady state" in notes(report)[0]


def test_failures_are_told_by_class_wherever_they_are() -> None:
    rows = steady()
    bad = {3: Status.TIMEOUT, 190: Status.INCOMPLETE}
    records = [replace(one, status=bad.get(one.index, one.status)) for one in rows.records]
    found = warnings(latency_report(replace(rows, records=tuple(records))))
    assert any("incomplete requests are the slow ones" in warning for warning in found)
    assert sum("timeout" in warning or "outside the steady window" in warning for warning in found) == 1


def test_prompts_of_the_wrong_length_are_told() -> None:
    workload = {"kind": "synthetic", "prompt_tokens": 100, "shared_prefix": 0.0, "output_tokens": 4}
    rows = made_rows([made_record(0), made_record(1, prompt_tokens=99)], profile={"name": "t", "workload": workload})
    assert any("1 of 2 prompts were not 100 tokens long" in one for one in warnings(latency_report(rows)))


def test_answers_that_were_cut_off_explain_why_they_fit_no_schema() -> None:
    cut_off = steady(schema_valid=False, finish_reason="length")
    assert any("answers were cut off by max_tokens" in one for one in warnings(latency_report(cut_off)))
    assert warnings(latency_report(steady(finish_reason="length"))) == []


@pytest.mark.parametrize(
    ("ttft_s", "shown"), [(0.000123, "0.123"), (0.05, "50.00"), (0.1234, "123.4"), (12.3456, "12,345.6")]
)
def test_latencies_are_shown_with_digits_that_mean_something(ttft_s: float, shown: str) -> None:
    assert tables(latency_report(steady(ttft_s=ttft_s)))[0].rows[0][2] == shown


def test_simulated_figures_say_so_everywhere(report: LatencyReport) -> None:
    simulated = replace(report, start=replace(report.start, simulated=True))
    assert as_json(simulated)["simulated"] is True
    assert "SIMULATED" in markdown(simulated).splitlines()[0]
    assert all("SIMULATED" in table.title for table in tables(simulated))
    assert "SIMULATED" not in markdown(report)


def test_json_holds_what_the_page_needs(report: LatencyReport) -> None:
    rows = steady()
    document = json.loads(json.dumps(as_json(report)))
    assert steady_window(document) == (report.phases.start_s, report.phases.end_s)  # type: ignore[union-attr]
    assert document["ttft_s"]["p50"] == pytest.approx(0.05)
    assert document["scheduling_lag_s"]["n"] == report.in_window
    page = load_page(document, rows, None, None, None)
    assert "TTFT, from intended start" in page
    assert "scheduling lag" in page


def test_json_of_nothing_is_still_json() -> None:
    document = json.loads(json.dumps(as_json(latency_report(made_rows([]))), allow_nan=False))
    assert (document["phases"]["steady"], document["phases"]["start_s"]) == (False, None)


def test_metrics_carry_units_and_leave_out_what_cannot_be_said(report: LatencyReport) -> None:
    found = metrics(report)
    assert found["ttft_s_p50"] == pytest.approx(0.05)
    assert found["ttft_from_intended_s_p99"] == pytest.approx(0.05)
    assert found["steady"] == 1.0
    few = metrics(latency_report(made_rows([made_record(0), made_record(1)])))
    assert few["ttft_n"] == 2
    assert "ttft_s_p99" not in few
    assert "schema_valid_rate" not in few
    assert few["steady"] == 0.0


def test_schema_validity_and_scores_are_shown() -> None:
    rows = steady(200)
    records = [
        replace(one, schema_valid=one.index % 10 > 0, headline=0.5 + one.index % 2 / 2, pipeline_id=f"c{one.index}")
        for one in rows.records
    ]
    found = latency_report(replace(rows, records=tuple(records)))
    assert any(note.startswith("answers that fit their schema: 9") for note in notes(found))
    assert any(note.startswith("headline score: 0.7") for note in notes(found))
    assert {"schema_valid_rate", "schema_valid_rate_low", "headline", "headline_n"} <= set(metrics(found))


def test_names_are_data_and_never_markup(report: LatencyReport, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>|\n# x \x1b[31m[bold]"
    shown = replace(report, start=replace(report.start, model=evil))
    text = markdown(shown)
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\n# x" not in text
    assert "\n" not in title(shown)
    print_report(shown)
    assert "\x1b[31m" not in capsys.readouterr().err
