"""Where a load test is steady: against series whose truth is known, and how often flat ones are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from load_tests.phases import (
    LEAST_REQUESTS,
    NoSteady,
    Steady,
    in_flight,
    mser,
    steady_state,
    steady_window,
    theil_sen,
    trend_p,
    window_of,
)
from load_tests.phases import _ranks as ranked
from tests.load_tests.made_load import made_record, made_rows

Floats = NDArray[np.float64]
SECONDS = 60.0


def flat(rng: np.random.Generator, n: int = 600, seconds: float = SECONDS) -> tuple[Floats, Floats]:
    """When requests are sent, at random moments, and TTFTs that do not change."""
    return np.sort(rng.uniform(0, seconds, n)), rng.lognormal(np.log(0.1), 0.3, n)


def judged(sent_s: Floats, ttft_s: Floats, seconds: float = SECONDS, e2e_s: float = 0.4) -> Steady | NoSteady:
    return steady_window(sent_s, sent_s + ttft_s + e2e_s, ttft_s, np.ones(len(sent_s), dtype=np.bool_), seconds)


def steady(found: Steady | NoSteady) -> Steady:
    assert isinstance(found, Steady), found.why
    return found


def queue(rng: np.random.Generator, *, load: float, rate: float, seconds: float) -> tuple[Floats, Floats, Floats]:
    """Sent, ended and TTFT in a queue with eight servers at a share of their capacity."""
    sent_s = np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))
    takes_s = load * 8 / rate * rng.lognormal(-0.043, 0.294, len(sent_s))
    free_s = np.zeros(8)
    begun_s = np.empty(len(sent_s))
    for place, at_s in enumerate(sent_s):
        first = int(free_s.argmin())
        begun_s[place] = max(at_s, free_s[first])
        free_s[first] = begun_s[place] + takes_s[place]
    return sent_s, begun_s + takes_s, begun_s - sent_s + 0.05


def test_flat_test_is_steady_almost_from_its_start_to_its_end() -> None:
    found = steady(judged(*flat(np.random.default_rng(1))))
    assert found.start_s < 0.1 * SECONDS
    assert found.end_s == SECONDS
    assert found.n > 500


def test_warm_up_is_left_out_and_no_more_than_that() -> None:
    sent_s, ttft_s = flat(np.random.default_rng(2))
    ttft_s = ttft_s + np.maximum(0, 2 - sent_s / 5)  # slow for the first ten seconds
    assert 8 < steady(judged(sent_s, ttft_s)).start_s < 16


def test_ramp_of_users_is_left_out() -> None:
    """Twenty users come one a second, each asking once a second."""
    sent_s = np.sort(np.concatenate([np.arange(user, SECONDS, 1.0) + user / 100 for user in range(20)]))
    found = steady(judged(sent_s, np.full(len(sent_s), 0.2), e2e_s=0.7))
    assert 15 < found.start_s < 25


def test_stall_of_the_server_is_no_warm_up() -> None:
    """Known wrong: plain MSER starts after a stall in the first half, and the stall would be in no percentile."""
    sent_s, ttft_s = flat(np.random.default_rng(3))
    stalled = (sent_s > 20) & (sent_s < 22)
    ttft_s[stalled] += 22 - sent_s[stalled]
    means = ttft_s.reshape(-1, 5).mean(axis=1)
    assert sent_s[::5][mser(means)] > 20
    assert steady(judged(sent_s, ttft_s)).start_s < 5


def test_queue_that_grows_without_end_is_not_steady_and_is_told() -> None:
    found = steady_window(*_with_ok(queue(np.random.default_rng(4), load=1.5, rate=20, seconds=60)), 60.0)
    assert isinstance(found, NoSteady)
    assert found.why.startswith("requests in flight grew from ")


def test_ttft_that_keeps_rising_is_not_steady_though_the_load_is_the_same() -> None:
    """A closed loop keeps the number in flight; only latency can tell."""
    sent_s, ttft_s = flat(np.random.default_rng(5))
    found = steady_window(
        sent_s, sent_s + 0.5, ttft_s + sent_s / SECONDS * 0.2, np.ones(len(sent_s), dtype=np.bool_), SECONDS
    )
    assert isinstance(found, NoSteady)
    assert found.why.startswith("TTFT grew from ")


def test_sawtooth_around_one_level_is_steady() -> None:
    sent_s, ttft_s = flat(np.random.default_rng(6))
    steady(judged(sent_s, ttft_s + sent_s % 5 / 20))


@pytest.mark.parametrize("n", [0, 1, LEAST_REQUESTS - 1])
def test_too_few_requests_are_told(n: int) -> None:
    found = judged(*flat(np.random.default_rng(7), n=n))
    assert isinstance(found, NoSteady)
    assert f"{n} requests were sent; a steady state takes at least {LEAST_REQUESTS}" in found.why


def test_requests_sent_all_at_one_moment_have_no_steady_state() -> None:
    found = judged(np.full(50, 1.0), np.full(50, 0.1))
    assert isinstance(found, NoSteady)
    assert "at one moment" in found.why


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 100), st.booleans()), max_size=60))
@settings(max_examples=60, deadline=None)
def test_whatever_is_sent_there_is_a_window_inside_the_test_or_a_reason(asked: list[tuple[float, float, bool]]) -> None:
    sent_s, took_s = (np.array([one[place] for one in asked], dtype=np.float64) for place in (0, 1))
    ok = np.array([one[2] for one in asked], dtype=np.bool_)
    found = steady_window(sent_s, sent_s + took_s, np.where(ok, took_s / 2, np.nan), ok, SECONDS)
    assert found.why
    if isinstance(found, Steady):
        assert 0 <= found.start_s < found.end_s <= np.nextafter(SECONDS, np.inf)
        assert found.n == ((sent_s >= found.start_s) & (sent_s < found.end_s)).sum() >= LEAST_REQUESTS


def test_requests_that_all_fail_at_once_are_a_steady_state_of_failures() -> None:
    sent_s, _ = flat(np.random.default_rng(8))
    none = np.full(len(sent_s), np.nan)
    steady(steady_window(sent_s, sent_s + 0.001, none, np.zeros(len(sent_s), dtype=np.bool_), SECONDS))


def test_a_trace_that_ends_early_ends_the_window() -> None:
    sent_s, ttft_s = flat(np.random.default_rng(9), seconds=40.0)
    found = steady(judged(sent_s, ttft_s))
    assert 39 < found.end_s < 41
    assert "nothing was sent in the last" in found.why


def test_the_last_request_counts_though_it_was_due_at_the_end() -> None:
    sent_s, ttft_s = flat(np.random.default_rng(10))
    sent_s[-1] = SECONDS
    found = steady(judged(sent_s, ttft_s))
    assert found.n == (sent_s >= found.start_s).sum()


def test_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(11)
    sent_s, ended_s, ttft_s, ok = _with_ok(queue(rng, load=0.7, rate=10, seconds=60))
    mixed = rng.permutation(len(sent_s))
    assert steady_window(sent_s[mixed], ended_s[mixed], ttft_s[mixed], ok, 60.0) == steady_window(
        sent_s, ended_s, ttft_s, ok, 60.0
    )


def test_rows_have_a_window_as_verdicts_take_it() -> None:
    rows = made_rows([made_record(index) for index in range(60)])
    found = steady(steady_state(rows))
    assert window_of(rows) == ((found.start_s, found.end_s), found.why)
    window, why = window_of(made_rows([made_record(0)]))
    assert window is None
    assert "measure longer" in why
    assert window_of(made_rows([]))[0] is None


def test_in_flight_is_computed_by_hand() -> None:
    """One request from 0.5 to 2.5 and one from 1 to 2, over three bins of a second."""
    found = in_flight(np.array([0.5, 1.0]), np.array([2.5, 2.0]), np.linspace(0, 3, 4))
    assert found == pytest.approx([0.5, 2.0, 0.5])


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 20)), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_time_in_flight_adds_up_to_the_time_that_requests_took(asked: list[tuple[float, float]]) -> None:
    sent_s = np.array([at for at, _ in asked])
    ended_s = sent_s + np.array([took for _, took in asked])
    edges_s = np.linspace(0, 100, 34)
    total = float((in_flight(sent_s, ended_s, edges_s) * np.diff(edges_s)).sum())
    assert total == pytest.approx(sum(took for _, took in asked), abs=1e-6)


def test_mser_leaves_out_the_batches_by_hand() -> None:
    """Of 10, 1, 2, 1, 2, 1: leaving out one gives 1.2 / 25 = 0.048, none 62.8 / 36, two 1 / 16, three 0.67 / 9."""
    assert mser(np.array([10.0, 1, 2, 1, 2, 1])) == 1
    assert mser(np.array([1.0, 2, 1, 2, 1, 2])) == 0


def test_trend_test_of_a_known_series() -> None:
    """Kendall's score of 1..10 is 45, its variance 10 * 9 * 25 / 18 = 125: z = 44 / sqrt(125) = 3.94."""
    assert trend_p(np.linspace(1, 10, 10)) == pytest.approx(8.3e-5, rel=0.01)
    assert trend_p(np.ones(10)) == 1.0
    assert trend_p(np.array([1.0, 2] * 10)) > 0.5


@given(st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=30))
def test_slope_is_scipys(values: list[float]) -> None:
    from scipy.stats import theilslopes

    assert theil_sen(np.array(values)) == pytest.approx(theilslopes(values)[0], abs=1e-12)


@given(st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30))
def test_ranks_are_scipys(values: list[float]) -> None:
    from scipy.stats import rankdata

    assert ranked(np.array(values)).tolist() == rankdata(values).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda rng: queue(rng, load=0.3, rate=20, seconds=60), 0.03),
        (lambda rng: queue(rng, load=0.7, rate=20, seconds=60), 0.03),
        (lambda rng: queue(rng, load=0.8, rate=20, seconds=60), 0.05),
        (lambda rng: queue(rng, load=0.9, rate=20, seconds=60), 0.12),
        (lambda rng: queue(rng, load=0.3, rate=1, seconds=60), 0.05),
    ],
    ids=["30 %", "70 %", "80 %", "90 %", "few requests"],
)
def test_flat_tests_are_seldom_refused(
    make: Callable[[np.random.Generator], tuple[Floats, Floats, Floats]], most: float
) -> None:
    seeds = range(200)
    refused = sum(
        isinstance(steady_window(*_with_ok(make(np.random.default_rng(seed))), 60.0), NoSteady) for seed in seeds
    )
    assert refused <= most * len(seeds)


@pytest.mark.slow
@pytest.mark.parametrize(("load", "rate", "seconds"), [(1.3, 20, 60.0), (1.5, 20, 30.0), (2.0, 2, 60.0)])
def test_overload_is_found(load: float, rate: float, seconds: float) -> None:
    seeds = range(100)
    found = sum(
        isinstance(
            steady_window(*_with_ok(queue(np.random.default_rng(s), load=load, rate=rate, seconds=seconds)), seconds),
            NoSteady,
        )
        for s in seeds
    )
    assert found >= 0.95 * len(seeds)


def _with_ok(
    columns: tuple[Floats, Floats, Floats],
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    return (*columns, np.ones(len(columns[0]), dtype=np.bool_))
