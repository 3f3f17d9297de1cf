"""Figures against cases computed by hand, and against the wrong ways that look right."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from load_tests.latency import (
    in_flight_when_sent,
    latency_report,
    needed_samples,
    summarize,
    tokens_between,
    tokens_until,
    tpot_s,
)
from load_tests.phases import NoSteady, Steady
from load_tests.rows import LoadRows
from load_tests.sse import RequestRecord, Status
from tests.load_tests.made_load import NS, made_record, made_rows


def record(
    sent_s: float = 0.0, *, ttft_s: float = 0.1, gaps_s: tuple[float, ...] = (0.1, 0.1), **changes: Any
) -> RequestRecord:
    """A request that got its first token `ttft_s` after `sent_s` and one more after each gap."""
    values = {
        "sent_ns": round(sent_s * NS),
        "ttft_s": ttft_s,
        "itl_s": list(gaps_s),
        "output_tokens": len(gaps_s) + 1,
        "content_chunks": len(gaps_s) + 1,
        **changes,
    }
    return made_record(int(values.pop("index", round(sent_s * 1000))), **values)


def failed(sent_s: float, status: Status = Status.HTTP_ERROR) -> RequestRecord:
    return record(sent_s, ttft_s=None, gaps_s=(), status=status, content_chunks=0)  # type: ignore[arg-type]


def rows(*records: RequestRecord, stop_s: float = 10.0, **start: Any) -> LoadRows:
    return made_rows(records, stop_s=stop_s, **start)


def steady_rows(**changes: Any) -> LoadRows:
    """200 requests in 40 s, all alike."""
    return rows(*[record(number / 5, index=number, **changes) for number in range(200)], stop_s=40)


def test_two_requests_computed_by_hand() -> None:
    report = latency_report(rows(record(0, ttft_s=0.1, gaps_s=(0.1, 0.3)), record(1, ttft_s=0.3, gaps_s=(0.2, 0.2))))
    assert report.ttft.percentiles[50] == pytest.approx(0.2)
    assert report.itl.percentiles[50] == pytest.approx(0.2)
    assert report.itl.n == 4
    assert report.e2e.percentiles[50] == pytest.approx(0.6)
    assert report.tpot.percentiles[50] == pytest.approx(0.2)
    assert report.requests_per_s == pytest.approx(0.2)
    assert report.output_tokens_per_s == pytest.approx(0.6)


def test_late_sending_is_in_the_figures_from_intended_start_and_not_in_those_from_send() -> None:
    """Known wrong: from send alone, a client that is half a second behind its schedule looks as fast as ever."""
    late = [record(number + 0.5, intended_ns=number * NS) for number in range(3)]
    report = latency_report(rows(*late))
    assert report.ttft.percentiles[50] == pytest.approx(0.1)
    assert report.ttft_from_intended.percentiles[50] == pytest.approx(0.6)
    assert report.e2e_from_intended.percentiles[50] == pytest.approx(0.8)
    assert report.scheduling_lag.percentiles[50] == pytest.approx(0.5)


def test_lag_is_of_every_request_and_latency_of_ok_ones() -> None:
    report = latency_report(rows(record(0), record(1), failed(2)))
    assert (report.scheduling_lag.n, report.ttft.n, report.ttft_from_intended.n) == (3, 2, 2)


def test_itl_is_every_gap_and_not_the_mean_of_each_request() -> None:
    """One stall of 1 s among 20 gaps: the mean per request (0.06 s) would hide it, the 99th percentile must not."""
    stalled = [record(number, gaps_s=(0.01,) * 19 + (1.0,)) for number in range(10)]
    itl = latency_report(rows(*stalled, stop_s=60)).itl
    assert itl.n == 200
    assert itl.percentiles[50] == pytest.approx(0.01)
    assert itl.percentiles[99] == pytest.approx(1.0)


def test_failures_are_counted_and_have_no_say_in_latencies() -> None:
    broken = record(2, status=Status.CUT_STREAM, ttft_s=0.001)
    report = latency_report(rows(record(0), record(1), failed(3), broken))
    assert (report.ok, report.ttft.n) == (2, 2)
    assert report.ttft.percentiles[50] == pytest.approx(0.1)
    assert report.failures == {Status.HTTP_ERROR: 1, Status.CUT_STREAM: 1}


def test_only_requests_of_the_steady_window_count() -> None:
    """Two seconds of slow requests at the start are warm-up."""
    slow = [record(number / 5, ttft_s=2.0, index=number) for number in range(10)]
    later = [record(number / 5, index=number) for number in range(10, 300)]
    report = latency_report(rows(*slow, *later, stop_s=60))
    assert isinstance(report.phases, Steady)
    assert 2 <= report.phases.start_s < 8
    assert report.sent == 300
    assert report.in_window == report.ttft.n < 300
    assert report.ttft.percentiles[99] == pytest.approx(0.1)


def test_without_a_steady_state_every_request_counts_and_the_reason_is_there() -> None:
    report = latency_report(rows(record(0), record(9.9), record(10.0)))
    assert isinstance(report.phases, NoSteady)
    assert (report.sent, report.in_window) == (3, 3)


def test_failures_outside_the_window_are_not_forgotten() -> None:
    records = [failed(number / 5) for number in range(15)]
    records += [record(number / 5) for number in range(15, 300)]
    report = latency_report(rows(*records, stop_s=60))
    assert isinstance(report.phases, Steady)
    assert report.failed_outside + sum(report.failures.values()) == 15


def test_tokens_count_where_they_arrive() -> None:
    """Sent at 9.85 with tokens at 9.95, 10.05, 10.15: one of three lies before 10 s, two after."""
    late = record(9.85)
    assert tokens_until(late, 10.0) == pytest.approx(1)
    assert tokens_between([late], 10.0, 20.0) == pytest.approx(2)
    assert tokens_between([late], 0.0, 10.1) == pytest.approx(2)


def test_tokens_of_neighbouring_windows_add_up_to_all() -> None:
    rng = np.random.default_rng(1)
    records = [record(float(at), gaps_s=tuple(rng.uniform(0.01, 2, 6))) for at in rng.uniform(0, 20, 30)]
    edges = [0.0, 3.3, 10.0, 17.9, 50.0]
    parts = [tokens_between(records, low, high) for low, high in pairwise(edges)]
    assert sum(parts) == pytest.approx(30 * 7)


def test_throughput_of_an_even_load_is_the_load_whatever_the_window_cuts() -> None:
    """Five requests a second with three tokens each. Known wrong: counting only requests sent in the window, whole."""
    report = latency_report(steady_rows(gaps_s=(1.0, 1.0)))
    assert isinstance(report.phases, Steady)
    assert report.output_tokens_per_s == pytest.approx(15, rel=0.05)
    assert report.requests_per_s == pytest.approx(5, rel=0.05)


def test_a_chunk_of_several_tokens_counts_for_all_of_them() -> None:
    bundled = replace(record(), output_tokens=6)
    assert tokens_until(bundled, 10.0) == pytest.approx(6)
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
    assert summarize([1.0, 2.0]).mean == pytest.approx(1.5)


def test_intervals_hold_their_percentile_and_are_the_same_every_time() -> None:
    samples = np.random.default_rng(1).lognormal(size=400)
    one, two = (summarize(samples).intervals for _ in range(2))
    assert one == two
    for percentile, interval in one.items():
        assert interval.low is not None
        assert interval.low < np.percentile(samples, percentile)
        assert interval.high is None or interval.high > np.percentile(samples, percentile)


@pytest.mark.slow
def test_intervals_hold_the_true_percentile_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    held = {50: 0, 95: 0}
    for _ in range(400):
        intervals = summarize(rng.exponential(size=500)).intervals
        for percentile in held:
            low, high, true = intervals[percentile].low, intervals[percentile].high, -np.log(1 - percentile / 100)
            held[percentile] += low is not None and high is not None and low <= true <= high
    assert all(count >= 0.88 * 400 for count in held.values()), held


def test_schema_validity_is_of_checked_answers_alone() -> None:
    checked = [record(number, schema_valid=number > 0) for number in range(4)]
    report = latency_report(rows(*checked, record(5, schema_valid=None), failed(6)))
    assert report.schema_valid is not None
    assert (report.schema_valid.n, report.schema_valid.value) == (4, 0.75)
    assert latency_report(rows(record())).schema_valid is None


def test_headline_is_a_mean_and_repeats_of_a_case_are_no_evidence() -> None:
    few = [record(n / 10, headline=float(n % 2), pipeline_id=f"case-{n % 4}") for n in range(100)]
    many = [record(n / 10, headline=float(n % 2), pipeline_id=f"case-{n}") for n in range(100)]
    wide, narrow = (latency_report(rows(*records, stop_s=20)).headline for records in (few, many))
    assert wide is not None
    assert narrow is not None
    assert wide.value == pytest.approx(0.5, abs=0.02)
    assert wide.low is not None
    assert wide.high is not None
    assert narrow.low is not None
    assert narrow.high is not None
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_unscored_is_not_zero() -> None:
    report = latency_report(rows(record(0, headline=1.0), record(1, headline=None)))
    assert report.headline is not None
    assert (report.headline.n, report.headline.value) == (1, 1.0)


def test_answers_that_are_worse_when_the_server_is_full_show() -> None:
    """Waves: ten requests at once, of which the later find the earlier under way; full means wrong."""
    records = [
        record(wave + place / 1000, index=wave * 10 + place, headline=float(place < 5), pipeline_id=f"{wave}-{place}")
        for wave in range(30)
        for place in range(10)
    ]
    found = latency_report(rows(*records, stop_s=30)).by_load
    assert [(one.from_in_flight, one.to_in_flight) for one in found] == [(0, 3), (4, 6), (7, 9)]
    assert found[0].headline.value == 1.0
    assert found[1].headline.value == pytest.approx(1 / 3)
    assert found[2].headline.value == 0.0


def test_quality_by_load_needs_scores_and_different_loads() -> None:
    assert latency_report(steady_rows()).by_load == ()
    assert latency_report(steady_rows(headline=1.0)).by_load == ()


def test_in_flight_when_sent_leaves_the_request_itself_out() -> None:
    one, two, three = record(0, gaps_s=(1.0,)), record(0.5), record(5)
    assert in_flight_when_sent([three, one, two], [one, two, three]).tolist() == [0, 1, 0]


def test_stages_are_told_apart() -> None:
    slow = [record(number, ttft_s=0.5, stage="quality") for number in range(4)]
    quick = [record(number + 0.5, stage="ingestion") for number in range(4)]
    report = latency_report(rows(*slow, *quick))
    assert [(one.stage, one.n) for one in report.stages] == [("ingestion", 4), ("quality", 4)]
    assert [one.ttft.percentiles[50] for one in report.stages] == pytest.approx([0.1, 0.5])


def test_requests_hung_up_on_are_counted_and_in_no_figure() -> None:
    cut = record(3, status=Status.CANCELLED, cancel_after_chunks=1, ttft_s=9.0)
    failed = record(4, status=Status.TIMEOUT, cancel_after_chunks=1)
    whole = record(5, cancel_after_chunks=99)
    report = latency_report(rows(record(0), record(1), record(2), cut, failed, whole))
    assert (report.sent, report.cancelled, report.in_window, report.ok) == (6, 3, 3, 3)
    assert (report.failures, report.failed_outside) == ({}, 0)
    assert report.ttft.n == 3


def test_killed_test_is_reported_up_to_its_last_row() -> None:
    found = rows(record(0), record(1))
    report = latency_report(replace(found, ends=(None,)))
    assert report.lost is None
    assert report.in_window == 2
    assert report.client_cpu_share is None


def test_each_workers_processor_time_is_its_own() -> None:
    found = rows(record(0), record(1, worker=1), workers=2)
    start, end = found.start, found.ends[0]
    assert end is not None
    end = replace(
        end, stop_ns=10_000_000_000, end_ns=90_000_000_000
    )  # eighty seconds of drain, in which it had nothing to do
    both = LoadRows(
        (start, replace(start, worker=1)), found.records, (replace(end, cpu_s=1.0), replace(end, cpu_s=9.0))
    )
    report = latency_report(both)
    assert report.cpu_by_worker == {0: pytest.approx(0.1), 1: pytest.approx(0.9)}
    assert report.client_cpu_share == pytest.approx(0.9)


def test_time_stolen_from_the_worst_machine_is_told_and_unknown_is_not_zero() -> None:
    found = rows(record(0), record(1, worker=1), workers=2)
    start, end = found.start, found.ends[0]
    assert end is not None
    ends = (replace(end, stolen_share=0.01), replace(end, stolen_share=0.2))
    both = LoadRows((start, replace(start, worker=1)), found.records, ends)
    assert latency_report(both).stolen_share == 0.2
    assert latency_report(rows(record(0))).stolen_share is None


def test_lag_behind_the_server_is_reported_where_it_stamps() -> None:
    report = latency_report(rows(replace(record(), lag_s=[0.001, 0.002, 0.001])))
    assert report.lag is not None
    assert report.lag.first_p50_s == pytest.approx(0.001)
    assert report.lag.itl_mean_abs_s == pytest.approx(0.001)
    assert latency_report(rows(record())).lag is None


def test_prompts_of_another_length_than_asked_for_are_counted() -> None:
    workload = {"kind": "synthetic", "prompt_tokens": 100, "shared_prefix": 0.0, "output_tokens": 3}
    right, wrong, unknown = (record(n, prompt_tokens=count) for n, count in enumerate((100, 99, None)))
    lengths = latency_report(rows(right, wrong, unknown, profile={"name": "t", "workload": workload})).prompt_lengths
    assert lengths is not None
    assert (lengths.asked, lengths.counted, lengths.other) == (100, 2, 1)
    assert latency_report(rows(right)).prompt_lengths is None


def test_nothing_sent_is_a_report_without_figures() -> None:
    report = latency_report(rows())
    assert (report.sent, report.ttft.n, report.ttft.percentiles[50], report.requests_per_s) == (0, 0, None, 0.0)
    assert report.stages == ()
