"""Two variants on the same cases: against cases worked out by hand, known-wrong readings, and the libraries."""

from __future__ import annotations

import math
from dataclasses import astuple
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from evals.comparison import FEWEST_FAMILIES, Paired, compare_paired, gate_verdicts, non_inferiority, with_holm

Scores = NDArray[np.float64]


def graded(*differences: float) -> tuple[Scores, Scores]:
    """Scores under a and b that differ by these."""
    b = np.array(differences) / 2 + 0.5
    return b - np.array(differences), b


def zero_one(better: int, worse: int, alike: int) -> tuple[Scores, Scores]:
    """0/1 scores of unrelated cases: so many that b gets right and a wrong, the other way round, and alike."""
    a = [0.0] * better + [1.0] * worse + [1.0] * alike
    b = [1.0] * better + [0.0] * worse + [1.0] * alike
    return np.array(a), np.array(b)


def singly(a: Scores) -> list[int]:
    return list(range(len(a)))


def test_few_zero_one_pairs_get_mcnemars_exact_test() -> None:
    """9 pairs differ, 8 one way: 2 * (C(9, 0) + C(9, 1)) / 2^9 = 20 / 512."""
    a, b = zero_one(8, 1, 11)
    found = compare_paired(a, b, singly(a))
    assert (found.test, found.n, found.clusters) == ("McNemar exact", 20, 20)
    assert found.p == pytest.approx(20 / 512)
    assert (found.mean_a, found.mean_b, found.difference) == pytest.approx((12 / 20, 19 / 20, 7 / 20))


def test_many_zero_one_pairs_get_mcnemars_chi_square() -> None:
    """28 pairs differ, 20 one way: (|20 - 8| - 1)^2 / 28 = 4.3214 with one degree of freedom."""
    a, b = zero_one(20, 8, 40)
    found = compare_paired(a, b, singly(a))
    assert found.test == "McNemar chi-square"
    assert found.p == pytest.approx(stats.chi2.sf(121 / 28, 1))
    assert found.p == pytest.approx(0.0376, abs=1e-4)


def test_related_zero_one_pairs_are_not_taken_for_independent() -> None:
    """Six families of five pairs, all up: 2 / 2^6, where McNemar on 30 pairs would say one in eight million."""
    a, b = np.zeros(30), np.ones(30)
    found = compare_paired(a, b, [pair // 5 for pair in range(30)])
    assert (found.test, found.clusters, found.p) == ("sign-flip by family", 6, 2 / 64)
    pretending = compare_paired(a, b, singly(a)).p
    assert pretending is not None
    assert pretending < 1e-6


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 2 / 64),
        # 21 - 2 * (what is flipped) >= 19 when nothing or the 0.1 is flipped: 2 signs, and 2 on the other side.
        ((-0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 4 / 64),
        # The 0.1, the 0.2, both (= 0.3) or the 0.3: {} 1 2 3 12 give sums down to 15, 5 of 64 each side.
        ((0.1, 0.2, -0.3, 0.4, 0.5, 0.6), 10 / 64),
        ((0.5, -0.5, 0.25, -0.25, 0.1, -0.1), 1.0),
        # A pair that does not differ has no sign to flip.
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0, 0.0), 2 / 64),
        ((0.5,) * 5 + (-0.5,) + (0.0,) * 3, 14 / 64),
    ],
)
def test_graded_scores_get_the_sign_flip_p_worked_out_by_hand(differences: tuple[float, ...], p: float) -> None:
    a, b = graded(*differences)
    found = compare_paired(a, b, singly(a))
    assert found.test == "sign-flip"
    assert found.p == pytest.approx(p)


def test_drawn_flips_agree_with_all_of_them() -> None:
    """16 families: 65,536 signs counted here, 9,999 drawn there; 4 standard errors of the draw."""
    a, b = graded(*np.random.default_rng(4).normal(0.08, 0.2, size=16).clip(-0.9, 0.9))
    signs = np.array(list(product((-1, 1), repeat=16)))
    exact = float((np.abs(signs @ (b - a)) >= abs((b - a).sum()) - 1e-12).mean())
    found = compare_paired(a, b, singly(a)).p
    assert 0.01 < exact < 0.5
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9_999))


def test_no_p_is_ever_0() -> None:
    a, b = np.linspace(0, 0.4, 40), np.linspace(0.5, 1, 40)
    found = compare_paired(a, b, singly(a)).p
    assert found is not None
    assert 0 < found < 1 / 10_000
    many = np.zeros(1_500)
    sure = compare_paired(many + 0.25, many + 0.75, singly(many)).p
    assert sure is not None
    assert 0 < sure < 1e-200


def test_what_no_draw_can_show_is_bounded_by_hoeffding() -> None:
    """20 differences of 0.5: 2 exp(-10^2 / (2 * 20 * 0.25)) = 2 exp(-10), above the truth of 2 / 2^20."""
    a, b = graded(*[0.5] * 20)
    found = compare_paired(a, b, singly(a)).p
    assert found == pytest.approx(2 * math.exp(-10))
    assert 2 * math.exp(-10) > 2 / 2**20


def test_a_gate_of_600_metrics_can_still_fail() -> None:
    """Holm over 600 asks for p <= 0.000083, which 9,999 draws cannot show."""
    dropped = graded(*np.linspace(-0.6, -0.4, 40))
    steady = np.full(40, 0.5)
    others = [(f"m{n}", steady, steady, range(40), 0.05) for n in range(599)]
    assert gate_verdicts([("x", *dropped, range(40), 0.05), *others])[0].verdict == "worse"


def test_what_can_be_found_gets_larger_with_every_comparison_of_the_table() -> None:
    """Against statsmodels at the level that Holm asks of the first of 13; its solver is sound there."""
    a, b = graded(*np.random.default_rng(2).normal(0, 0.2, size=34).clip(-0.9, 0.9))
    alone = compare_paired(a, b, singly(a))
    found = with_holm([alone] * 13)[0].mde
    assert alone.mde is not None
    power = TTestPower().solve_power(nobs=34, alpha=0.05 / 13, power=0.8) / TTestPower().solve_power(
        nobs=34, alpha=0.05, power=0.8
    )
    assert found is not None
    assert found == pytest.approx(alone.mde * power, rel=0.02)
    assert with_holm([alone])[0].mde == pytest.approx(alone.mde)


def test_the_same_scores_twice_are_no_finding_and_no_certainty() -> None:
    a = np.array([0.0, 1.0, 0.5, 0.25] * 5)
    found = compare_paired(a, a, singly(a))
    assert (found.difference, found.p, found.effect, found.mde) == (0.0, 1.0, None, None)
    assert found.low is not None
    assert found.high is not None
    # One case up and one down in 22, by hand: t(19) = 2.0930 times sqrt(2) / 22.
    assert (found.low, found.high) == pytest.approx((-0.13454, 0.13454), abs=1e-5)


def test_means_over_repeats_that_differ_by_rounding_do_not_differ() -> None:
    a, b = np.full(8, 0.1 + 0.2), np.full(8, 0.3)
    assert (a != b).all()
    assert compare_paired(a, b, singly(a)).difference == 0.0
    assert non_inferiority(a, b, singly(a), 0.02).reason == "no case differs"


def test_interval_is_the_one_worked_out_by_hand() -> None:
    """d = 0.1 .. 0.6, mean 0.35, V = 0.035 / 6; root mean square 0.389444. With two such differences added:
    centre 2.1 / 8, error sqrt(36 * 0.035 / 6 + 2 * 0.151667) / 8 = 0.089559, t(5) = 2.570582."""
    a, b = graded(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    found = compare_paired(a, b, singly(a))
    assert (found.low, found.high) == pytest.approx((0.2625 - 0.230219, 0.2625 + 0.230219), abs=1e-5)
    assert found.effect == pytest.approx(0.35 / math.sqrt(0.035))


def test_smallest_findable_difference_has_the_power_it_claims_in_theory() -> None:
    a, b = graded(*np.random.default_rng(2).normal(0, 0.2, size=30).clip(-0.9, 0.9))
    found = compare_paired(a, b, singly(a))
    assert found.mde is not None
    shift, edge = found.mde / ((b - a).std(ddof=1) / math.sqrt(30)), stats.t.ppf(0.975, 29)
    assert stats.nct.sf(edge, 29, shift) + stats.nct.cdf(-edge, 29, shift) == pytest.approx(0.8, abs=1e-4)


def test_related_cases_find_less_than_as_many_unrelated_ones() -> None:
    differences = np.repeat(np.random.default_rng(2).normal(0, 0.2, size=10).clip(-0.9, 0.9), 5)
    a, b = graded(*differences)
    related = compare_paired(a, b, [case // 5 for case in range(50)])
    unrelated = compare_paired(a, b, singly(a))
    assert related.mde is not None
    assert unrelated.mde is not None
    assert related.mde > 2 * unrelated.mde


def test_too_few_families_that_differ_say_nothing_of_what_could_be_found() -> None:
    a, b = zero_one(3, 2, 60)
    assert compare_paired(a, b, singly(a)).mde is None


@pytest.mark.parametrize("families", [1, 2, FEWEST_FAMILIES - 1])
def test_under_six_families_there_is_no_p(families: int) -> None:
    a, b = np.zeros(20), np.ones(20)
    found = compare_paired(a, b, [case % families for case in range(20)])
    assert (found.test, found.p, found.mde, found.difference) == ("too few pairs", None, None, 1.0)
    assert (found.low is None) == (families == 1)


def test_a_case_without_both_scores_is_left_out_and_not_zero() -> None:
    a, b = graded(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.9, -0.9)
    a[6], b[7] = np.nan, np.nan
    assert compare_paired(a, b, singly(a)) == compare_paired(a[:6], b[:6], singly(a[:6]))


@pytest.mark.parametrize(
    ("a", "b", "groups", "said"),
    [
        ([], [], [], "no case has a score on both sides"),
        ([np.nan, 1.0], [1.0, np.nan], [1, 2], "no case has a score on both sides"),
        ([1.0], [1.0, 0.0], [1, 2], "found 1, 2, 2"),
        ([1.0, 0.0], [1.0, 0.0], [1], "found 2, 2, 1"),
        ([1.0, 0.0], [1.0, 7.0], [1, 2], r"0\.\.1; found 7\.0"),
    ],
)
def test_what_cannot_be_compared_is_an_error(a: list[float], b: list[float], groups: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compare_paired(np.array(a), np.array(b), groups)
    with pytest.raises(ValueError, match=f"headline: .*{said}"):
        gate_verdicts([("headline", np.array(a), np.array(b), groups, 0.05)])


def one(p: float | None) -> Paired:
    return Paired(9, 9, 0.5, 0.5, 0.0, None, None, "sign-flip", p, None, None, None)


def test_holm_is_as_by_hand_and_leaves_out_what_has_no_p() -> None:
    """Sorted 0.01, 0.03, 0.04 times 3, 2, 1: 0.03, 0.06, and 0.04 raised to the 0.06 before it."""

    found = [pair.p_holm for pair in with_holm([one(0.01), one(None), one(0.04), one(0.03)])]
    assert found == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert with_holm([]) == []
    assert [pair.p_holm for pair in with_holm([one(0.7), one(0.6)])] == [1.0, 1.0]
    assert with_holm([one(None)]) == [one(None)]


def test_holm_is_that_of_statsmodels() -> None:
    p_values = [*(np.random.default_rng(6).random(20) ** 4).tolist(), 0.004, 0.004, 0.0001, 1.0]
    assert [pair.p_holm for pair in with_holm([one(p) for p in p_values])] == pytest.approx(
        multipletests(p_values, method="holm")[1].tolist()
    )


score = st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(score, score, st.integers(0, 9)), min_size=1, max_size=12))
def test_swapping_the_two_variants_turns_every_sign(rows: list[tuple[float, float, int]]) -> None:
    a, b = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    groups = [row[2] for row in rows]
    if np.isnan(a + b).all():
        return
    found, turned = compare_paired(a, b, groups), compare_paired(b, a, groups)
    assert turned.difference == -found.difference
    assert (turned.n, turned.clusters, turned.test, turned.p) == (found.n, found.clusters, found.test, found.p)
    assert found.n == int((~np.isnan(a + b)).sum())
    if found.low is not None and found.high is not None:
        assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
        assert -1 <= found.low < found.high <= 1
        assert found.low - 1e-9 <= found.difference <= found.high + 1e-9
    else:
        assert found.clusters == 1
    assert found.p is None or 0 < found.p <= 1
    assert all(value is None or isinstance(value, str) or math.isfinite(value) for value in astuple(found))


def test_no_worse_needs_a_drop_of_the_margin_ruled_out() -> None:
    a, b = graded(*[0.02, -0.02] * 20)
    found = non_inferiority(a, b, singly(a), 0.05)
    assert (found.verdict, found.n, found.clusters, found.margin, found.needed_n) == ("no worse", 40, 40, 0.05, None)
    assert found.low is not None
    assert -0.05 < found.low < 0


def test_a_clear_drop_is_worse() -> None:
    found = non_inferiority(*graded(*[-0.4, -0.2, -0.3] * 5), list(range(15)), 0.05)
    assert found.verdict == "worse"
    assert found.difference == pytest.approx(-0.3)
    assert found.p is not None
    assert found.p < 0.01


def test_noise_is_neither() -> None:
    found = non_inferiority(*graded(*[-0.4, 0.4] * 10), list(range(20)), 0.05)
    assert found.verdict == "not enough evidence"
    assert found.difference == pytest.approx(0)
    assert found.needed_n is not None
    assert found.needed_n > 20


def test_a_shown_drop_within_the_margin_is_no_failure() -> None:
    """It is real, but nothing says that it is as large as what the gate forbids."""
    found = non_inferiority(*graded(*[-0.3, 0.06] * 10), list(range(20)), 0.15)
    assert found.verdict == "not enough evidence"
    assert found.difference == pytest.approx(-0.12)
    assert found.p is not None
    assert found.p < 0.02
    assert "whether it reaches the margin is open" in found.reason


def test_a_gain_passes_at_margin_0() -> None:
    assert non_inferiority(*graded(*[0.3, 0.1] * 10), list(range(20)), 0.0).verdict == "no worse"


def test_no_difference_at_all_passes_and_says_so() -> None:
    a = np.array([1.0, 0.0, 0.5] * 22)
    found = non_inferiority(a, a, [case // 2 for case in range(66)], 0.0)
    assert (found.verdict, found.reason, found.difference) == ("no worse", "no case differs", 0.0)
    assert found.low is not None
    assert found.low < -0.05


def test_three_cases_pass_nothing_however_equal() -> None:
    found = non_inferiority(np.ones(3), np.ones(3), [1, 2, 3], 0.05)
    assert (found.verdict, found.needed_n) == ("not enough evidence", FEWEST_FAMILIES)


def test_one_lost_case_of_34_families_does_not_pass_at_two_points() -> None:
    """A plain t interval would: its bound is -0.015 * 2.7 = -0.04 for margin 0.05, whatever the other families do."""
    a = np.ones(66)
    b = np.r_[0.0, np.ones(65)]
    assert non_inferiority(a, b, [case // 2 for case in range(66)], 0.05).verdict == "not enough evidence"


def test_a_gate_of_many_metrics_does_not_fail_by_one_lucky_p() -> None:
    """Alone p = 2 / 64; as one of three that is 0.09."""
    dropped = graded(-0.1, -0.2, -0.3, -0.4, -0.5, -0.6)
    steady = np.array([0.2, 0.4, 0.6, 0.8, 1.0, 0.0])
    groups = list(range(6))
    assert non_inferiority(*dropped, groups, 0.05).verdict == "worse"
    found = gate_verdicts([("x", *dropped, groups, 0.05), *[(name, steady, steady, groups, 0.05) for name in "yz"]])
    assert [verdict.verdict for verdict in found] == ["not enough evidence", "no worse", "no worse"]
    assert found[0].p == pytest.approx(6 / 64)
    assert gate_verdicts([]) == []


@pytest.mark.parametrize("margin", [-0.01, 1.01, math.nan])
def test_a_margin_is_a_share(margin: float) -> None:
    with pytest.raises(ValueError, match="margin lies in"):
        non_inferiority(np.ones(9), np.ones(9), list(range(9)), margin)


@pytest.mark.slow
def test_thousands_of_families_fit_in_memory_and_agree_with_the_normal_law() -> None:
    rng = np.random.default_rng(8)
    a, b = graded(*rng.normal(0.006, 0.2, size=2_000).clip(-0.9, 0.9))
    found = compare_paired(a, b, singly(a)).p
    z = (b - a).sum() / math.sqrt(((b - a) ** 2).sum())
    exact = 2 * stats.norm.sf(abs(z))
    assert found == pytest.approx(exact, abs=0.02)
