"""Histograms against numpy on the same values, and against every way of splitting and merging them."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.histogram import RELATIVE_ERROR, Histogram

NS = 1e-9
LOW_S, HIGH_S = 10e-6, 600.0
inside = st.integers(10_000, 600_000_000_000).map(lambda ns: ns * NS)
anywhere = st.one_of(inside, st.just(0.0), st.floats(0, 1e-5), st.floats(599, 1e6))


def of(*values_s: float) -> Histogram:
    histogram = Histogram()
    histogram.add(values_s)
    return histogram


@given(st.lists(inside, min_size=1, max_size=300), st.floats(0, 100))
def test_percentiles_are_numpys_within_the_error(values_s: list[float], p: float) -> None:
    true = np.percentile(values_s, p, method="linear")
    assert of(*values_s).percentile(p) == pytest.approx(true, rel=RELATIVE_ERROR, abs=NS)
    assert RELATIVE_ERROR <= 0.005


@given(st.lists(anywhere, max_size=60), st.lists(st.integers(0, 3), min_size=60, max_size=60), st.randoms())
def test_any_split_merged_in_any_order_is_the_same_histogram(
    values_s: list[float], places: list[int], shuffled: random.Random
) -> None:
    parts = [of(*(value for value, place in zip(values_s, places, strict=False) if place == part)) for part in range(4)]
    shuffled.shuffle(parts)
    merged = Histogram()
    for part in parts:
        merged.merge(part)
    assert merged.to_dict() == of(*values_s).to_dict()


@given(st.lists(anywhere, max_size=60))
def test_dict_and_back_through_json(values_s: list[float]) -> None:
    one = of(*values_s)
    other = Histogram.from_dict(json.loads(json.dumps(one.to_dict())))
    assert other.to_dict() == one.to_dict()
    assert [other.percentile(p) for p in (0, 50, 99)] == [one.percentile(p) for p in (0, 50, 99)]


@given(st.lists(anywhere, min_size=1, max_size=60))
def test_count_sum_and_ends_are_exact(values_s: list[float]) -> None:
    histogram = of(*values_s)
    in_ns = [round(value * 1e9) for value in values_s]
    assert histogram.count == len(values_s)
    assert histogram.mean_s == sum(in_ns) / len(in_ns) / 1e9
    assert (histogram.to_dict()["min_ns"], histogram.to_dict()["max_ns"]) == (min(in_ns), max(in_ns))


def test_three_values_computed_by_hand() -> None:
    """10, 20 and 40 ms: p50 is the middle one, p75 halfway between the last two."""
    histogram = of(0.010, 0.020, 0.040)
    assert histogram.percentile(0) == 0.010
    assert histogram.percentile(50) == pytest.approx(0.020, rel=RELATIVE_ERROR)
    assert histogram.percentile(75) == pytest.approx(0.030, rel=RELATIVE_ERROR)
    assert histogram.percentile(100) == 0.040
    assert histogram.mean_s == pytest.approx(0.07 / 3)


def test_close_values_are_told_apart_where_rounding_to_milliseconds_would_not() -> None:
    """9.89 ms stored as 10 ms is 1.1 % off, as Locust's own statistics are."""
    assert of(0.00989, 0.00989, 0.00989).percentile(50) == 0.00989  # the ends are exact, and clamp the bucket
    found = of(0.001, 0.00989, 1.0).percentile(50)
    assert found == pytest.approx(0.00989, rel=RELATIVE_ERROR)
    assert found != pytest.approx(0.010, rel=RELATIVE_ERROR)


def test_every_bound_of_the_range_is_inside_it() -> None:
    histogram = of(LOW_S, HIGH_S)
    assert (histogram.under, histogram.over) == (0, 0)
    histogram.add([LOW_S - NS, HIGH_S + NS])
    assert (histogram.under, histogram.over, histogram.count) == (1, 1, 4)


def test_error_at_the_edges_of_every_bucket() -> None:
    """The worst values there are: the first and the last nanosecond of the buckets, in each doubling of the range."""
    edges_ns = {
        edge + step
        for doubling in range(13, 40)
        for part in (0, 1, 63, 126, 127)
        for edge in [(2**doubling * (128 + part)) // 128]
        for step in (-1, 0, 1)
        if 10_000 <= edge + step <= 600_000_000_000
    }
    for ns in edges_ns:
        found = of(0.0, ns * NS, 700.0).percentile(50)
        assert found == pytest.approx(ns * NS, rel=RELATIVE_ERROR)


def test_gaps_of_zero_are_counted_and_keep_their_rank() -> None:
    """Chunks that come in one packet: most gaps are 0, and the median of the others must not take their place."""
    histogram = of(*[0.0] * 6, *[0.010] * 4)
    assert histogram.under == 6
    assert histogram.percentile(50) == pytest.approx(0, abs=LOW_S / 2)
    assert histogram.percentile(90) == pytest.approx(0.010, rel=RELATIVE_ERROR)
    assert of(0.0, 0.0).percentile(50) == 0


def test_a_percentile_above_the_range_is_none_and_not_the_ranges_end() -> None:
    histogram = of(1.0, 1.0, 700.0, 800.0, 900.0)
    assert histogram.percentile(25) == pytest.approx(1.0, rel=RELATIVE_ERROR)
    assert histogram.percentile(60) is None
    assert histogram.percentile(100) == 900.0
    assert histogram.over == 3


def test_nothing_added_gives_nothing() -> None:
    histogram = of()
    assert histogram.count == 0
    assert (histogram.percentile(0), histogram.percentile(50), histogram.mean_s) == (None, None, None)


@pytest.mark.parametrize("wrong", [-0.001, float("nan"), float("inf"), 1e7])
def test_what_is_no_latency_is_refused_and_leaves_no_trace(wrong: float) -> None:
    histogram = of(1.0)
    before = histogram.to_dict()
    with pytest.raises(ValueError, match="is no latency"):
        histogram.add([0.5, wrong])
    assert histogram.to_dict() == before


@pytest.mark.parametrize("p", [-1, 101, float("nan")])
def test_a_percentile_that_does_not_exist_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="allowed: 0 to 100"):
        of(1.0).percentile(p)


def test_one_value_may_be_added_without_a_list() -> None:
    histogram = Histogram()
    histogram.add(0.25)
    assert histogram.percentile(50) == 0.25


def damaged(**changes: Any) -> dict[str, Any]:
    return {**of(0.1, 0.2).to_dict(), **changes}


@pytest.mark.parametrize(
    "data",
    [
        damaged(parts=64),
        {},
        damaged(buckets=[[-1, 2]]),
        damaged(buckets=[[10**6, 2]]),
        damaged(buckets=[[100, -2]]),
        damaged(under=-1),
        damaged(min_ns=None),
    ],
)
def test_a_dict_of_another_kind_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="histogram"):
        Histogram.from_dict(data)


def test_merging_keeps_sums_that_do_not_fit_64_bits() -> None:
    day = of(*[4e6] * 3000)
    for _ in range(3):
        day.merge(Histogram.from_dict(day.to_dict()))
    assert day.count == 24_000
    assert day.mean_s == 4e6
