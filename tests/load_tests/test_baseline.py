"""A run against its baseline: alarms where something changed, and only there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.console import CannotJudge, ExitCode
from load_tests.baseline import Comparison, Margins, compare_runs, compare_windows, refuse_incomparable
from load_tests.measured import Floats
from tests.load_tests.made_load import NS, made_record, made_rows
from tests.load_tests.made_windows import alike, made_window, queue_ttft_s

REPEATS = 100
Series = Callable[[int, float], Floats]
"""TTFTs of a run from its seed and how many times slower it is."""


def independent(seed: int, slower: float) -> Floats:
    return slower * 0.05 * np.random.default_rng(seed).lognormal(0, 0.2, 1000)


def correlated(seed: int, slower: float, count: int = 1500) -> Floats:
    return slower * 0.05 * np.exp(0.1 * alike(np.random.default_rng(seed), count, 0.8))


def correlated_longer(seed: int, slower: float) -> Floats:
    """Where neighbours are alike at 0.8, nine requests count for one: 1,500 find 5 % in 91 of 100 runs."""
    return correlated(seed, slower, 3000)


def queued(seed: int, slower: float) -> Floats:
    """Runs 2 k and 2 k + 1 share a schedule."""
    arrivals_s = np.cumsum(np.random.default_rng(seed // 2 + 10_000).exponential(0.05, 1500))
    return queue_ttft_s(np.random.default_rng(seed), arrivals_s, load=0.5, slower=slower)


def verdicts(series: Series, slower: float, *, paired: bool) -> Counter[str]:
    return Counter(
        compare_windows(
            made_window(series(2 * seed, 1.0)),
            made_window(series(2 * seed + 1, slower)),
            paired=paired,
            closed_loop=False,
        ).verdict
        for seed in range(REPEATS)
    )


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("series", [independent, correlated, queued])
def test_unchanged_runs_raise_an_alarm_in_less_than_5_percent(series: Series, paired: bool) -> None:
    assert verdicts(series, 1.0, paired=paired)["worse"] < 0.05 * REPEATS


@pytest.mark.slow
@pytest.mark.parametrize(("series", "paired"), [(independent, True), (independent, False), (correlated_longer, False)])
def test_a_regression_of_5_percent_is_found_in_95_percent(series: Series, paired: bool) -> None:
    assert verdicts(series, 1.05, paired=paired)["worse"] >= 0.95 * REPEATS


@pytest.mark.slow
def test_requests_taken_as_independent_would_raise_alarms_for_nothing() -> None:
    """Known-wrong: Welch's test on single requests of correlated runs."""
    from scipy.stats import ttest_ind

    wrong = sum(
        ttest_ind(
            np.log(correlated(2 * s + 1, 1.0)), np.log(correlated(2 * s, 1.0)), equal_var=False, alternative="greater"
        ).pvalue
        <= 0.05
        for s in range(REPEATS)
    )
    assert wrong > 0.1 * REPEATS


def compared(was: Floats, is_: Floats, **options: object) -> Comparison:
    asked = {"paired": True, "closed_loop": False, **options}
    return compare_windows(made_window(was), made_window(is_), **asked)  # type: ignore[arg-type]


def test_a_slower_run_is_worse_by_as_much_as_it_is_slower() -> None:
    found = compared(independent(1, 1.0), independent(2, 1.2))
    ttft = next(change for change in found.changes if change.metric == "ttft_typical")
    assert (found.verdict, found.exit_code) == ("worse", ExitCode.VERDICT_AGAINST)
    assert ttft.low is not None
    assert ttft.high is not None
    assert ttft.low < 20 < ttft.high
    assert "ttft_typical" in found.because


def test_the_same_run_twice_is_no_worse() -> None:
    found = compared(independent(1, 1.0), independent(1, 1.0))
    assert (found.verdict, found.exit_code) == ("no worse", ExitCode.DONE)
    assert all(change.change == 0 for change in found.changes)


def test_a_faster_run_is_no_worse() -> None:
    assert compared(independent(1, 1.0), independent(2, 0.8)).verdict == "no worse"


@pytest.mark.slow
def test_a_difference_below_half_the_margin_is_no_alarm_however_sure() -> None:
    was = np.full(750, 0.05) * np.random.default_rng(1).lognormal(0, 0.001, 750)
    assert compared(was, was * 1.02).verdict == "no worse"
    assert compared(was, was * 1.04).verdict == "worse"


def test_too_few_requests_are_undecided() -> None:
    found = compared(independent(1, 1.0)[:40], independent(2, 1.5)[:40])
    assert (found.verdict, found.exit_code) == ("undecided", ExitCode.NOT_JUDGED)
    assert "it takes 50" in found.because


@pytest.mark.slow
def test_run_to_run_spread_widens_the_interval() -> None:
    assert compared(independent(1, 1.0), independent(2, 1.1)).verdict == "worse"
    spread = Margins(run_spread_percent=5.0)
    assert compared(independent(1, 1.0), independent(2, 1.1), margins=spread).verdict == "undecided"


def test_failures_are_a_regression_of_their_own() -> None:
    """Known-wrong: by latency alone the run is the same."""
    ok = np.arange(1000) % 20 != 0
    was = made_window(independent(1, 1.0))
    found = compare_windows(was, replace(was, ok=ok), paired=True, closed_loop=False)
    errors = next(change for change in found.changes if change.metric == "error_rate")
    assert (found.verdict, errors.verdict) == ("worse", "worse")
    assert errors.change == pytest.approx(5.0)


def test_lost_throughput_shows_in_a_closed_loop() -> None:
    was, is_ = made_window(np.full(1000, 0.05)), made_window(np.full(900, 0.05))
    found = compare_windows(was, is_, paired=False, closed_loop=True)
    lost = next(change for change in found.changes if change.metric == "requests_per_s")
    assert lost.verdict == "worse"
    assert lost.change == pytest.approx(10)


def test_pairs_are_made_by_request_and_not_by_place() -> None:
    """The second run's window begins 100 requests later: the same requests are compared, at the same latencies."""
    values = np.geomspace(0.05, 0.5, 750)
    was = made_window(values)
    later = made_window(values[100:], index=np.arange(100, 750))
    found = compare_windows(was, later, paired=True, closed_loop=False)
    assert next(change for change in found.changes if change.metric == "ttft_typical").change == 0


def test_runs_that_were_not_asked_the_same_are_not_compared() -> None:
    rows = made_rows(made_record(index, sent_ns=index * NS // 20) for index in range(600))
    window_s = (0.0, 30.0)
    found = compare_runs(rows, window_s, rows, window_s)
    assert (found.verdict, found.paired) == ("no worse", True)
    assert "SIMULATED" in found.because
    profile = {**rows.start.profile, "arrivals": {"kind": "poisson", "rate_per_s": 8.0}}
    faster = replace(rows, starts=(replace(rows.start, profile=profile),))
    with pytest.raises(CannotJudge, match="arrivals"):
        compare_runs(rows, window_s, faster, window_s)


@pytest.mark.parametrize(
    ("kind", "changes", "refused"),
    [
        ("poisson", {"duration_s": 120}, None),
        ("ramp", {"duration_s": 120}, "duration_s: baseline 60, now 120"),
        ("spike", {"duration_s": 120}, "duration_s"),
        ("trace", {"duration_s": 120}, "duration_s"),
        ("poisson", {"cancel_share": 1.0}, None),  # what a run of an earlier version did without saying so
        ("poisson", {"cancel_share": 0.5}, "cancel_share"),
        ("poisson", {"cancel_after_chunks": 3}, "cancel_after_chunks"),
        ("poisson", {"request_timeout_s": 1.0}, "request_timeout_s"),
        ("poisson", {"seed": 1}, None),
    ],
)
def test_what_changes_the_load_is_refused_and_a_longer_test_is_not(
    kind: str, changes: dict[str, Any], refused: str | None
) -> None:
    start = made_rows([made_record(0)]).start
    start = replace(start, profile={**start.profile, "arrivals": {"kind": kind}})
    with pytest.raises(CannotJudge, match=refused) if refused else nullcontext():
        refuse_incomparable(start, {**start.profile, **changes}, simulated=True)
