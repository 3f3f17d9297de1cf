"""Figures against cases computed by hand, and against the wrong ways that look right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from load_tests.latency import latency_report, needed_samples, summarize, tokens_until, tpot_s
from load_tests.report import as_json, markdown, metrics, warnings
from load_tests.rows import LoadRows, RunEnd, RunStart
from load_tests.sse import RequestRecord, Status

S = 1_000_000_000
START = RunStart({"name": "t"}, "http://x/v1", "m", False, "grounded", 1, 2, "2026-01-01T00:00:00+00:00", 0, "test")


def record(
    sent_s: float = 0.0, *, ttft_s: float = 0.1, gaps_s: tuple[float, ...] = (0.1, 0.1), status: Status = Status.OK
) -> RequestRecord:
    """A request that got its first token `ttft_s` after `sent_s` and one more after each gap."""
    sent_ns, first_ns = round(sent_s * S), round((sent_s + ttft_s) * S)
    last_ns = first_ns + round(sum(gaps_s) * S)
    return RequestRecord(
        index=0,
        user=0,
        stage="quality",
        pipeline_id="p",
        status=status,
        http_status=200,
        error="",
        intended_ns=sent_ns,
        sent_ns=sent_ns,
        first_content_ns=first_ns,
        last_content_ns=last_ns,
        ended_ns=last_ns,
        ttft_s=ttft_s,
        e2e_s=ttft_s + sum(gaps_s),
        itl_s=list(gaps_s),
        prompt_tokens=5,
        output_tokens=len(gaps_s) + 1,
        content_chunks=len(gaps_s) + 1,
        finish_reason="stop",
        lag_s=None,
    )


def rows(*records: RequestRecord, stop_s: float = 10.0, sent: int | None = None, cpu_s: float = 0.1) -> LoadRows:
    stop_ns = round(stop_s * S)
    return LoadRows(START, records, RunEnd(stop_ns, stop_ns, len(records) if sent is None else sent, cpu_s))


def test_two_requests_computed_by_hand() -> None:
    report = latency_report(rows(record(0, ttft_s=0.1, gaps_s=(0.1, 0.3)), record(1, ttft_s=0.3, gaps_s=(0.2, 0.2))))
    assert report.ttft.percentiles[50] == pytest.approx(0.2)
    assert report.itl.percentiles[50] == pytest.approx(0.2)
    assert report.itl.n == 4
    assert report.e2e.percentiles[50] == pytest.approx(0.6)
    assert report.tpot.percentiles[50] == pytest.approx(0.2)
    assert report.requests_per_s == pytest.approx(0.2)
    assert report.output_tokens_per_s == pytest.approx(0.6)


def test_itl_is_every_gap_and_not_the_mean_of_each_request() -> None:
    """One stall of 1 s among 20 gaps: the mean per request (0.06 s) would hide it, the 95th percentile must not."""
    stalled = record(gaps_s=(0.01,) * 19 + (1.0,))
    smooth = record(gaps_s=(0.01,) * 10)
    itl = latency_report(rows(stalled, smooth, stop_s=60)).itl
    assert itl.n == 30
    assert itl.percentiles[95] == pytest.approx(0.01)
    assert np.percentile([0.01] * 29 + [1.0], 99) > 0.7
    assert latency_report(rows(*[stalled] * 10, stop_s=60)).itl.percentiles[99] == pytest.approx(1.0)


def test_failures_are_counted_and_have_no_say_in_latencies() -> None:
    quick = replace(record(status=Status.HTTP_ERROR, ttft_s=0.0), ttft_s=None, e2e_s=None, itl_s=[], content_chunks=0)
    broken = record(status=Status.CUT_STREAM, ttft_s=0.001)
    report = latency_report(rows(record(), record(1), quick, broken))
    assert (report.ok, report.ttft.n) == (2, 2)
    assert report.ttft.percentiles[50] == pytest.approx(0.1)
    assert report.failures == {Status.HTTP_ERROR: 1, Status.CUT_STREAM: 1}
    assert {"1 of 4 requests: cut_stream", "1 of 4 requests: http_error"} <= set(warnings(report))


def test_requests_sent_after_the_window_are_not_measured() -> None:
    report = latency_report(rows(record(0), record(9.9), record(10.1, ttft_s=5.0)))
    assert (report.sent, report.in_window, report.ttft.n) == (3, 2, 2)


def test_tokens_after_the_windows_end_do_not_count_as_its_throughput() -> None:
    """Sent at 9.85 with tokens at 9.95, 10.05, 10.15: one of three came in time."""
    late = record(9.85)
    assert tokens_until(late, 10 * S) == pytest.approx(1)
    assert latency_report(rows(late)).output_tokens_per_s == pytest.approx(0.1)
    assert latency_report(rows(late)).requests_per_s == 0


def test_a_chunk_of_several_tokens_counts_for_all_of_them() -> None:
    bundled = replace(record(), output_tokens=6)
    assert tokens_until(bundled, 10 * S) == pytest.approx(6)
    assert tpot_s(bundled) == pytest.approx(0.2 / 5)
    assert latency_report(rows(bundled)).tokens_per_chunk == pytest.approx(2)


@pytest.mark.parametrize("output_tokens", [None, 0, 1])
def test_no_time_per_token_without_a_second_token(output_tokens: int | None) -> None:
    assert tpot_s(replace(record(), output_tokens=output_tokens)) is None


@pytest.mark.parametrize(("percentile", "needed"), [(50, 2), (90, 10), (95, 20), (99, 100)])
def test_a_percentile_needs_its_samples(percentile: int, needed: int) -> None:
    assert needed_samples(percentile) == needed
    assert summarize([1.0] * (needed - 1)).percentiles[percentile] is None
    assert summarize([1.0] * needed).percentiles[percentile] == pytest.approx(1.0)


def test_percentiles_are_numpys_linear_method() -> None:
    assert summarize([1.0, 2.0, 3.0, 4.0]).percentiles[50] == pytest.approx(2.5)
    assert summarize(list(range(1, 101))).percentiles[99] == pytest.approx(99.01)


def test_median_interval_holds_the_median_and_is_the_same_every_time() -> None:
    samples = list(np.random.default_rng(1).lognormal(size=200))
    one, two = (summarize(samples, interval=True).p50_interval for _ in range(2))
    assert one is not None
    assert one == two
    assert one.low < float(np.median(samples)) < one.high
    assert summarize(samples[:9], interval=True).p50_interval is None


def test_lost_rows_and_a_busy_client_are_told() -> None:
    assert latency_report(rows(record(), sent=3)).lost == 2
    assert "2 requests were sent but left no row" in warnings(latency_report(rows(record(), sent=3)))
    assert any("load generator" in warning for warning in warnings(latency_report(rows(record(), cpu_s=9.0))))


def test_killed_test_is_reported_up_to_its_last_row_and_says_so() -> None:
    report = latency_report(LoadRows(START, (record(0), record(1)), None))
    assert report.lost is None
    assert report.window_s == pytest.approx(1.3)
    assert any("killed" in warning for warning in warnings(report))


def test_lag_is_reported_where_the_server_stamps() -> None:
    report = latency_report(rows(replace(record(), lag_s=[0.001, 0.002, 0.001])))
    assert report.lag is not None
    assert report.lag.first_p50_s == pytest.approx(0.001)
    assert report.lag.itl_mean_abs_s == pytest.approx(0.001)
    assert latency_report(rows(record())).lag is None


def test_nothing_sent_is_a_report_without_figures() -> None:
    report = latency_report(rows())
    assert (report.sent, report.ttft.n, report.ttft.percentiles[50]) == (0, 0, None)
    assert "ttft_s_p50" not in metrics(report)


def test_metrics_carry_units_and_leave_out_what_cannot_be_said() -> None:
    found = metrics(latency_report(rows(record(), record(1))))
    assert found["ttft_s_p50"] == pytest.approx(0.1)
    assert found["ttft_n"] == 2
    assert "ttft_s_p99" not in found


def test_simulated_figures_say_so_everywhere() -> None:
    report = replace(latency_report(rows(record())), start=replace(START, simulated=True))
    assert as_json(report)["simulated"] is True
    assert "SIMULATED" in markdown(report).splitlines()[0]
    assert "SIMULATED" not in markdown(latency_report(rows(record())))
