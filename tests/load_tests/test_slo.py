"""SLO files and verdicts, against cases counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.console import BadInput, ExitCode
from load_tests.intervals import binomial_quantile
from load_tests.measured import Measured
from load_tests.rows import LoadRows, RunEnd
from load_tests.slo import SloVerdict, judge, judge_run, load_slo, unusable
from load_tests.slo_file import Slo
from load_tests.sse import Status
from tests.load_tests.made_load import NS, made_record, made_rows
from tests.load_tests.made_windows import made_window

ROOT = Path(__file__).parents[2]
P95 = {"metric": "ttft", "percentile": 95, "at_most_ms": 300}
ERRORS = {"metric": "error_rate", "at_most": 0.05}


def slo(*objectives: dict[str, object], **fields: object) -> Slo:
    return Slo.model_validate({"name": "t", "objectives": list(objectives), **fields})


def verdict(of: Slo, window: Measured, *, open_loop: bool = True) -> SloVerdict:
    return judge(of, window, open_loop=open_loop, simulated=False)


# --- the file --------------------------------------------------------------------------------------------


def test_the_example_is_read() -> None:
    assert {objective.metric for objective in load_slo(ROOT / "examples" / "slo.yaml").objectives} >= {"ttft", "itl"}


@pytest.mark.parametrize(
    ("objectives", "told"),
    [
        ("[{metric: ttft, percentile: 95}]", "at_most_ms"),
        ("[{metric: speed, at_most: 1}]", "metric"),
        ("[{metric: ttft, percentile: 100, at_most_ms: 5}]", "percentile"),
        ("[{metric: ttft, percentile: 95, at_most_ms: 0}]", "at_most_ms"),
        ("[{metric: error_rate, at_most: 1.5}]", "at_most"),
        ("[{metric: goodput}]", "at_least_per_s"),
        ("[{metric: goodput, at_least: 0.5, at_least_per_s: 2}]", "give one of"),
        ("[{metric: itl, percentile: 95, at_most_ms: 5}]", "add error_rate"),
        ("[{metric: ttft, percentile: 9, at_most_ms: 5}, {metric: ttft, percentile: 9, at_most_ms: 6}]", "twice"),
        ("[]", "objectives"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, objectives: str, told: str) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(f"name: t\nobjectives: {objectives}\n")
    with pytest.raises(BadInput, match=told) as refused:
        load_slo(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


# --- percentiles -----------------------------------------------------------------------------------------


def test_percentile_met_with_its_order_statistic_bounds() -> None:
    """100 values 1 to 100 ms in an order without trend: ranks 91 and 99 bound p95 (binomial of 100 and 0.95)."""
    shuffled = np.random.default_rng(3).permutation(100) + 1
    found = verdict(slo(P95), made_window(shuffled / 1e3))
    outcome = found.objectives[0]
    assert (found.status, found.exit_code) == ("met", ExitCode.DONE)
    assert outcome.value == pytest.approx(0.09505)
    assert [outcome.low, outcome.high] == pytest.approx([0.091, 0.099])
    assert outcome.n == 100


def test_percentile_missed() -> None:
    found = verdict(slo(P95), made_window([0.2] * 80 + [0.4] * 20))
    assert (found.status, found.exit_code) == ("missed", ExitCode.VERDICT_AGAINST)
    assert "20 of 100 above" in found.because


@pytest.mark.parametrize(("n", "status"), [(58, "invalid"), (59, "met")])
def test_too_few_samples_are_not_passed_by_luck(n: int, status: str) -> None:
    found = verdict(slo(P95), made_window([0.2] * n))
    assert found.status == status
    assert status == "met" or "needs at least 59" in found.because


def test_plainly_too_slow_is_missed_however_few() -> None:
    assert verdict(slo({**P95, "percentile": 99}), made_window([9.0] * 20)).status == "missed"


def test_a_limit_between_the_bounds_is_undecided() -> None:
    found = verdict(slo({**P95, "percentile": 50}), made_window([0.2, 0.4] * 50))
    assert (found.status, found.exit_code) == ("invalid", ExitCode.NOT_JUDGED)
    assert "measure longer" in found.because


def test_correlated_requests_give_wider_bounds() -> None:
    slow = np.repeat(np.random.default_rng(1).permutation(20), 50) / 20
    together = verdict(slo(P95), made_window(slow)).objectives[0]
    mixed = verdict(slo(P95), made_window(np.random.default_rng(2).permutation(slow))).objectives[0]
    assert together.low is not None
    assert mixed.low is not None
    assert together.low < mixed.low


def test_a_failed_request_is_slower_than_any_limit() -> None:
    """Known-wrong: with the failures left out, 90 quick answers would meet the p95."""
    ok = np.array([True] * 90 + [False] * 10)
    ok = ok[np.random.default_rng(1).permutation(100)]
    found = verdict(slo(P95), made_window(np.where(ok, 0.1, np.nan), ok=ok))
    assert found.status == "missed"
    assert found.objectives[0].value is None
    assert verdict(slo(P95), made_window([0.1] * 90)).status == "met"


@pytest.mark.parametrize(("waited_s", "status"), [(0.2, "invalid"), (0.4, "missed")])
def test_a_cut_request_misses_only_when_it_had_waited_long_enough(waited_s: float, status: str) -> None:
    cut = np.arange(100) % 5 == 0
    window = made_window(np.where(cut, np.nan, 0.1), ok=~cut, cut=cut, waited_s=np.where(cut, waited_s, 0.1))
    found = verdict(slo(P95), window)
    assert found.status == status
    assert status == "missed" or "raise drain_s" in found.because


def test_itl_is_judged_over_gaps() -> None:
    gaps = np.full((100, 4), 0.01)
    gaps[::2, 3] = 1.0
    found = verdict(
        slo({"metric": "itl", "percentile": 95, "at_most_ms": 50}, ERRORS), made_window([0.1] * 100, itl_s=gaps.ravel())
    )
    assert (found.objectives[0].n, found.objectives[0].status) == (400, "missed")


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=60), st.floats(1, 99.9))
def test_bounds_hold_the_value_and_a_stricter_limit_is_never_easier(values: list[float], percentile: float) -> None:
    window = made_window(values)
    outcomes = [
        verdict(slo({"metric": "ttft", "percentile": percentile, "at_most_ms": limit}), window).objectives[0]
        for limit in (1, 100, 1000, 20_000)
    ]
    order = {"missed": 0, "undecided": 1, "met": 2}
    assert sorted(order[outcome.status] for outcome in outcomes) == [order[outcome.status] for outcome in outcomes]
    outcome = outcomes[0]
    assert outcome.value is not None
    assert outcome.low is None or outcome.low <= outcome.value + 1e-12
    assert outcome.high is None or outcome.high >= outcome.value - 1e-12


# --- rates and goodput -----------------------------------------------------------------------------------


def test_error_rate_is_wilsons() -> None:
    """3 of 200 failed: one-sided 95 % Wilson bounds are 0.60 % and 3.7 %."""
    ok = np.ones(200, dtype=bool)
    ok[[20, 90, 160]] = False
    outcome = verdict(slo(ERRORS), made_window([0.1] * 200, ok=ok)).objectives[0]
    assert outcome.value == pytest.approx(0.015)
    assert [outcome.low, outcome.high] == pytest.approx([0.0060, 0.0369], abs=1e-4)
    assert outcome.status == "met"


def test_no_error_in_a_few_requests_does_not_show_a_small_rate() -> None:
    found = verdict(slo({"metric": "error_rate", "at_most": 0.01}), made_window([0.1] * 267))
    assert found.status == "invalid"
    assert "at least 268" in found.because
    assert verdict(slo({"metric": "error_rate", "at_most": 0.01}), made_window([0.1] * 268)).status == "met"


def test_unchecked_answers_are_no_valid_ones() -> None:
    valid = np.array([1.0, np.nan] * 100)
    asked = slo({"metric": "schema_valid_rate", "at_least": 0.9}, ERRORS)
    assert verdict(asked, made_window([0.1] * 200, schema_valid=valid)).objectives[0].n == 100
    assert verdict(asked, made_window([0.1] * 200)).status == "invalid"


def test_goodput_counts_what_is_good_in_every_respect() -> None:
    """Of 200 requests in 60 s: 20 too slow, 10 invalid, 10 failed, none twice: 160 are good, 2.67 a second."""
    ttft, ok, valid = np.full(200, 0.1), np.ones(200, dtype=bool), np.ones(200)
    ttft[::10], ok[1::20], valid[2::20] = 0.5, False, 0.0
    window = made_window(ttft, ok=ok, schema_valid=valid)
    outcome = verdict(slo(P95, {"metric": "goodput", "at_least_per_s": 2}), window).objectives[1]
    assert outcome.value == pytest.approx(160 / 60)
    assert outcome.share == pytest.approx(0.8)
    assert outcome.status == "met"
    closed = verdict(slo(P95, {"metric": "goodput", "at_least_per_s": 2}), window, open_loop=False).objectives[1]
    assert closed.value == pytest.approx(160 / 60)


def test_goodput_holds_each_request_to_the_highest_percentile_of_a_metric() -> None:
    """Half of all requests are above a p50 that is met: they are good all the same."""
    p50 = {"metric": "ttft", "percentile": 50, "at_most_ms": 200}
    window = made_window([0.19] * 150 + [0.25] * 50)
    found = verdict(slo(p50, P95, {"metric": "goodput", "at_least": 0.9}), window)
    assert found.objectives[2].share == 1


# --- whole runs ------------------------------------------------------------------------------------------


def run(n: int = 100, **changes: object) -> LoadRows:
    return made_rows([made_record(index, sent_ns=index * NS // 2, **changes) for index in range(n)])


def test_a_run_is_judged_over_its_steady_window() -> None:
    slow_start = [
        made_record(index, sent_ns=index * NS // 2, ttft_s=9.0 if index < 20 else 0.1) for index in range(100)
    ]
    rows = made_rows(slow_start)
    assert judge_run(slo(P95), rows, (10.0, 50.0)).status == "met"
    assert judge_run(slo(P95), rows, (0.0, 50.0)).status == "missed"
    assert "SIMULATED" in judge_run(slo(P95), rows, (10.0, 50.0)).because


@given(st.integers(1, 20_000), st.floats(0.001, 0.999), st.sampled_from([0.05, 0.95]))
def test_binomial_quantile_is_scipys(n: int, share: float, q: float) -> None:
    from scipy.stats import binom

    assert binomial_quantile(q, n, share) == binom.ppf(q, n, share)


ERRORS = {"metric": "error_rate", "at_most": 0.1}


def test_requests_drawn_to_be_hung_up_on_are_neither_good_nor_errors() -> None:
    """Known wrong: counted as failures they are slower than any limit, and a fifth of all misses every p95."""
    cut = {"status": Status.CANCELLED, "cancel_after_chunks": 2, "ttft_s": 9.0}
    made = [made_record(i, sent_ns=i * NS // 2, **(cut if i % 5 == 0 else {"ttft_s": 0.1})) for i in range(500)]
    found = judge_run(slo(P95, ERRORS), made_rows(made), (0.0, 250.0))
    assert (found.status, found.requests) == ("met", 400)
    failed = [replace(one, cancel_after_chunks=None) for one in made]
    assert judge_run(slo(P95, ERRORS), made_rows(failed), (0.0, 250.0)).status == "missed"


def test_requests_are_left_out_by_what_was_drawn_and_not_by_how_they_ended() -> None:
    """One in twenty fails. Known wrong: of the four fifths drawn, those that failed stay: a fifth of the rest."""
    made = []
    for i in range(1000):
        fails, drawn = i % 20 == 7, i % 5 < 4
        status = Status.SERVER_ERROR if fails else Status.CANCELLED if drawn else Status.OK
        made.append(
            made_record(i, sent_ns=i * NS // 4, status=status, cancel_after_chunks=2 if drawn else None, ttft_s=0.1)
        )
    found = judge_run(slo(ERRORS), made_rows(made), (0.0, 250.0))
    assert (found.status, found.requests, found.objectives[0].value) == ("met", 200, 0.0)  # the sevenths were drawn
    by_ending = [replace(one, cancel_after_chunks=2 if one.status is Status.CANCELLED else None) for one in made]
    assert judge_run(slo(ERRORS), made_rows(by_ending), (0.0, 250.0)).status == "missed"


def test_test_that_hangs_up_on_every_request_is_told_so() -> None:
    made = [made_record(i, status=Status.CANCELLED, cancel_after_chunks=1) for i in range(50)]
    assert "give a cancel_share below 1" in judge_run(slo(P95), made_rows(made), (0.0, 60.0)).because


def test_without_steady_state_nothing_is_judged() -> None:
    found = judge_run(slo(P95), run(), None, "requests in flight grew from 3 to 80")
    assert (found.status, found.exit_code) == ("invalid", ExitCode.NOT_JUDGED)
    assert "grew from 3 to 80" in found.because


def test_a_client_that_is_late_or_busy_invalidates_the_run() -> None:
    late = [
        made_record(index, sent_ns=index * NS // 2, intended_ns=index * NS // 2 - (3_000_000 if index % 50 == 0 else 0))
        for index in range(100)
    ]
    found = judge_run(slo(P95), made_rows(late), (0.0, 60.0))
    assert found.status == "invalid"
    assert "late" in found.because
    assert unusable(made_rows(late), (0.0, 60.0))
    busy = replace(run(), ends=(RunEnd(60 * NS, 60 * NS, 100, 49.0, 60.0),))
    assert "82% of a core" in judge_run(slo(P95), busy, (0.0, 60.0)).because


def test_lost_unsent_and_unfinished_rows_invalidate_the_run() -> None:
    lost = replace(run(), ends=(RunEnd(60 * NS, 61 * NS, 103, 1.0, 60.0),))
    assert "3 requests were sent but left no row" in judge_run(slo(P95), lost, (0.0, 60.0)).because
    killed = replace(run(), ends=(None,))
    assert "killed" in judge_run(slo(P95), killed, (0.0, 60.0)).because
    unsent = replace(run(), starts=(replace(run().start, scheduled=105),))
    assert "5 requests of the schedule" in judge_run(slo(P95), unsent, (0.0, 60.0)).because
    # A comparison with a baseline rests on the same.
    assert unusable(run(), (0.0, 60.0)) == ()
    for bad in (lost, killed, unsent):
        assert unusable(bad, (0.0, 60.0))


def test_latency_from_intended_start_holds_what_the_client_queued() -> None:
    waited = [made_record(i, sent_ns=i * NS // 2 + NS, intended_ns=i * NS // 2) for i in range(100)]
    rows = made_rows(waited)
    assert judge_run(slo(P95), rows, (0.0, 60.0)).objectives[0].value == pytest.approx(1.05)
    assert judge_run(slo(P95, measured_from="sent"), rows, (0.0, 60.0)).objectives[0].value == pytest.approx(0.05)


def test_a_run_of_failures_is_missed_and_not_met() -> None:
    failed = run(status=Status.HTTP_ERROR, ttft_s=None, itl_s=[], ended_ns=NS)
    assert judge_run(slo(P95, ERRORS), failed, (0.0, 60.0)).status == "missed"
