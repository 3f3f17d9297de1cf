"""Means with intervals: against statsmodels, against a case worked out by hand, and against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from evals.statistics import Estimate, estimate


def test_zero_one_scores_get_wilsons_interval() -> None:
    found = estimate([1.0] * 8 + [0.0] * 2, list(range(10)))
    low, high = proportion_confint(8, 10, alpha=0.05, method="wilson")
    assert (found.mean, found.n) == (0.8, 10)
    assert (found.low, found.high) == pytest.approx((low, high))
    # By hand, z = 1.959964: (0.8 + z^2/20 -+ z*sqrt(0.016 + z^2/400)) / (1 + z^2/10)
    assert (found.low, found.high) == pytest.approx((0.490162, 0.943318), abs=1e-6)


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.722467, 1.0), (0.0, 0.0, 0.277533)])
def test_all_right_or_all_wrong_is_not_certain(value: float, low: float, high: float) -> None:
    """Wilson at 10 of 10: 1 / (1 + z^2/10) = 0.722467."""
    found = estimate([value] * 10, list(range(10)))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def test_all_right_counts_rows_and_not_their_repeats() -> None:
    once = estimate([1.0] * 5, [1, 2, 3, 4, 5])
    often = estimate([1.0] * 50, [1, 2, 3, 4, 5] * 10)
    assert (often.low, often.high) == (once.low, once.high)
    assert often.n == 50


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        ([0.5], [1]),
        ([0.5, 0.5, 0.5], [1, 2, 3]),
        ([0.5] * 6, [1, 1, 2, 2, 3, 3]),
        ([0.0, 1.0, 0.0, 1.0], [1, 1, 2, 2]),
        ([1.0, 0.0, 1.0], [7, 7, 7]),
    ],
    ids=["one value", "all alike", "all alike, repeated", "rows alike", "one row"],
)
def test_what_shows_no_spread_between_rows_has_a_mean_and_no_bounds(values: list[float], groups: list[int]) -> None:
    found = estimate(values, groups)
    assert found == Estimate(sum(values) / len(values), None, None, len(values))


@pytest.mark.parametrize(("values", "groups"), [([], []), ([1.0], []), ([1.0], [1, 2])])
def test_no_data_is_an_error_and_not_zero(values: list[float], groups: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        estimate(values, groups)


def test_two_rows_resampled_give_the_bounds_worked_out_by_hand() -> None:
    """Two rows of means 0 and 1: four equally likely draws of means 0, 1/2, 1/2, 1; 2.5 % and 97.5 % are 0 and 1."""
    found = estimate([0.0, 0.0, 1.0, 1.0], [1, 1, 2, 2])
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_related_cases_widen_the_interval() -> None:
    """Ten copies of each of six rows say no more about rows than one copy does."""
    rows = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    repeated = estimate([value for value in rows for _ in range(10)], [row for row in range(6) for _ in range(10)])
    pretending = estimate([value for value in rows for _ in range(10)], list(range(60)))
    assert repeated.high is not None
    assert repeated.low is not None
    assert pretending.high is not None
    assert pretending.low is not None
    assert repeated.high - repeated.low > 2 * (pretending.high - pretending.low)


def test_intervals_of_repeated_rows_cover_the_truth_about_as_often_as_they_say() -> None:
    """20 rows with chances drawn around 0.6, three cases each: percentile bootstrap lands a little under 95 %."""
    rng = np.random.default_rng(1)
    groups = [row for row in range(20) for _ in range(3)]
    covered = 0
    for _ in range(200):
        chances = rng.beta(3, 2, size=20)
        values = (rng.random(60) < chances[np.array(groups)]).astype(float)
        found = estimate(values.tolist(), groups)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.6 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(1, 5)), min_size=1, max_size=10))
def test_bounds_are_numbers_around_the_mean_or_absent(pairs: list[tuple[float, int]]) -> None:
    values, groups = [value for value, _ in pairs], [group for _, group in pairs]
    found = estimate(values, groups)
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert (found.low is None) == (found.high is None)
    if found.low is not None and found.high is not None:
        assert math.isfinite(found.low)
        assert 0 <= found.low <= found.mean + 1e-9
        assert found.mean - 1e-9 <= found.high <= 1
        assert found.low < found.high
    assert found == estimate(values, groups)


def test_an_estimate_prints_its_interval_or_its_n() -> None:
    assert str(Estimate(0.8, 0.49, 0.943, 10)) == "0.80 [0.49, 0.94]"
    assert str(Estimate(0.5, None, None, 3)) == "0.50 (n=3)"
