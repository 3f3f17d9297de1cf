"""Two variants on the same cases: is one better, by how much, what could have been found, and is one no worse?

The unit is the pair: one case's score under a and under b. Families are independent, cases of one family are not,
so tests flip signs by family and intervals are cluster-robust. The question answered is about cases like these (as if
families were drawn anew), which is the cautious reading: about exactly these cases less would have to be doubted.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import TTestPower

from evals.statistics import (
    CONFIDENCE,
    NO_VARIANCE,
    ClusteredMean,
    checked_scores,
    clustered_mean,
    family_codes,
    zero_or_one,
)

Scores = NDArray[np.float64]

ALPHA = 0.05
POWER = 0.8
FEWEST_FAMILIES = 6
"""With 5 families even a sign flip that all of them support has p = 2 / 2^5 = 0.06."""
TOO_FEW = "too few pairs"
_FLIPS = 9_999
_LEAST_P = 1e-300
_EXACT_FAMILIES = 14
_EXACT_DISCORDANT = 25
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Paired:
    """b against a on the same cases."""

    n: int
    """Pairs: cases with a score on both sides."""
    clusters: int
    """Families among them."""
    mean_a: float
    mean_b: float
    difference: float
    """b minus a."""
    low: float | None
    high: float | None
    """95 % interval of the difference; None with one family only."""
    test: str
    p: float | None
    """Two-sided, of no difference; None under FEWEST_FAMILIES."""
    p_holm: float | None
    """p after Holm over the table; None before with_holm."""
    effect: float | None
    """d_z: mean difference over the standard deviation of the differences; None when they are all alike."""
    mde: float | None
    """The smallest true difference found with power 0.8 at two-sided 0.05; None when it cannot be told. After with_holm
    at 0.05 / m, which the first of m comparisons has to reach."""


def compare_paired(a: Scores, b: Scores, groups: Sequence[Hashable]) -> Paired:
    """Compare two variants' scores in 0..1, one per case in the same order; NaN on either side leaves the pair out.

    Test: scores of 0/1 on unrelated cases McNemar's, exact under 25 pairs that differ, else chi-square with continuity
    correction. Else a sign-flip permutation test, by family where families repeat (McNemar and Wilcoxon take pairs for
    independent): all 2^G signs where at most 14 families differ, else 9,999 seeded flips, p = (hits + 1) / 10,000, or
    Hoeffding's bound on it (1963) where that is smaller: over 500 comparisons Holm asks for less than 1 / 10,000.

    Raises ValueError when no case has both scores, lengths differ or a score is not in 0..1.
    """
    pairs = _pairs(a, b, groups)
    spread = clustered_mean(pairs.differences, pairs.families) if pairs.clusters > 1 else None
    low, high = _interval(pairs, spread, cases_added=1.0, confidence=CONFIDENCE)
    test, p = _test(pairs)
    return Paired(
        n=len(pairs.differences),
        clusters=pairs.clusters,
        mean_a=float(pairs.a.mean()),
        mean_b=float(pairs.b.mean()),
        difference=pairs.difference,
        low=low,
        high=high,
        test=test,
        p=p,
        p_holm=None,
        effect=_effect(pairs.differences),
        mde=_mde(pairs, spread),
    )


def with_holm(pairs: Sequence[Paired]) -> list[Paired]:
    """The same comparisons with p_holm over all of them that have a p (Holm 1979), and the mde that goes with it."""
    adjusted = holm_adjusted([pair.p for pair in pairs])
    tested = sum(p_holm is not None for p_holm in adjusted)
    return [
        replace(pair, p_holm=p_holm, mde=None if pair.mde is None else pair.mde * _dearer(pair.clusters, tested))
        for pair, p_holm in zip(pairs, adjusted, strict=True)
    ]


Verdict = Literal["no worse", "worse", "not enough evidence"]


@dataclass(frozen=True)
class NonInferiority:
    """Whether b is no worse than a by more than the margin."""

    verdict: Verdict
    reason: str
    """Why, in a few words."""
    difference: float
    """b minus a."""
    low: float | None
    high: float | None
    """Each a one-sided 95 % bound, together a 90 % interval, as is usual for two one-sided tests."""
    margin: float
    n: int
    clusters: int
    needed_n: int | None
    """Where evidence is missing: about how many cases would show "no worse" with power 0.8 if nothing differs in
    truth. None with a verdict, and where more cases are not what is missing: the margin is 0, or n is enough and the
    drop that was seen stands in the way."""
    p: float | None
    """Two-sided, of no difference; after Holm when judged with others."""


class Question(NamedTuple):
    """One metric a gate asks about; margin is the drop that is still allowed, >= 0."""

    name: str
    a: Scores
    b: Scores
    groups: Sequence[Hashable]
    margin: float


def non_inferiority(a: Scores, b: Scores, groups: Sequence[Hashable], margin: float) -> NonInferiority:
    """Judge one metric; see gate_verdicts."""
    return gate_verdicts([Question("this metric", a, b, groups, margin)])[0]


def gate_verdicts(
    questions: Sequence[Question | tuple[str, Scores, Scores, Sequence[Hashable], float]],
) -> list[NonInferiority]:
    """Three verdicts, each of which needs evidence, in the order of the questions.

    "no worse": the one-sided 95 % lower bound of b - a is above -margin (non-inferiority: Schuirmann 1987, Wellek
        2010), or no case differs at all. A gate passes when all its metrics are no worse; since all must be, no
        correction is due (intersection-union: Berger 1982).
    "worse": not that, the drop seen is at least the margin, and that there is a drop is no chance: two-sided
        p <= 0.05 after Holm over all metrics asked about. So all metrics together fail by chance in at most 2.5 % of
        runs in which nothing changed (only half of the errors of a two-sided test are drops).
    "not enough evidence": anything else, also fewer than 6 families. Neither pass nor fail.

    That no case differs is known of these cases and not estimated: with temperature 0 equal answers stay equal. The
    bounds still say what it means for others: with 34 families up to 7 points either way.

    Raises ValueError as compare_paired does, naming the metric, and for a margin that is not in 0..1.
    """
    asked = [Question(*question) for question in questions]
    prepared = [_question_pairs(question) for question in asked]
    p_values = holm_adjusted([_test(pairs)[1] for pairs in prepared])
    return [_judge(pairs, question.margin, p) for question, pairs, p in zip(asked, prepared, p_values, strict=True)]


class _Pairs(NamedTuple):
    a: Scores
    b: Scores
    differences: Scores
    families: NDArray[np.intp]
    clusters: int

    @property
    def difference(self) -> float:
        return float(self.differences.mean())

    @property
    def family_sums(self) -> Scores:
        sums: Scores = np.bincount(self.families, weights=self.differences).astype(np.float64)
        return sums

    @property
    def alike(self) -> bool:
        return not self.differences.any()


def _pairs(a: Scores, b: Scores, groups: Sequence[Hashable]) -> _Pairs:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not len(a) == len(b) == len(groups):
        raise ValueError(f"one score of each variant and one group per case; found {len(a)}, {len(b)}, {len(groups)}")
    both = ~(np.isnan(a) | np.isnan(b))
    if not both.any():
        raise ValueError("no case has a score on both sides")
    a, b = checked_scores(a[both]), checked_scores(b[both])
    families = family_codes([group for group, kept in zip(groups, both, strict=True) if kept])
    # Means over repeats differ in the last bit without differing: that would be a case that changed.
    differences = np.where(np.isclose(a, b, rtol=0, atol=1e-12), 0.0, b - a)
    return _Pairs(a, b, differences, families, int(families.max()) + 1)


def _question_pairs(question: Question) -> _Pairs:
    if not 0 <= question.margin <= 1:
        raise ValueError(f"{question.name}: a margin lies in 0..1; found {question.margin}")
    try:
        return _pairs(question.a, question.b, question.groups)
    except ValueError as error:
        raise ValueError(f"{question.name}: {error}") from error


def _interval(
    pairs: _Pairs, spread: ClusteredMean | None, *, cases_added: float, confidence: float
) -> tuple[float | None, float | None]:
    """Cluster-robust t interval of the mean difference, as estimate has it, with a little data added.

    Added are two differences of cases_added cases each, one up and one down, of the size of those seen (1 when none
    was): without them the interval of a few rare differences is too narrow and that of none has no width (Bonett and
    Price 2012, for 0/1 pairs that are unrelated). One case each way gives 93 to 98 % coverage; one family each way
    keeps a gate from passing on luck (tests/evals/test_statistics_hold.py).
    """
    if spread is None:
        return None, None
    n = len(pairs.differences)
    total = n + 2 * cases_added
    error = np.sqrt(spread.variance * n**2 + 2 * (cases_added * _typical_size(pairs)) ** 2) / total
    centre, reach = spread.mean * n / total, spread.t_quantile(confidence) * error
    return float(max(centre - reach, -1.0)), float(min(centre + reach, 1.0))


def _typical_size(pairs: _Pairs) -> float:
    """Root mean square of the differences that are not 0; 1, the largest there can be, when all are."""
    seen = pairs.differences[pairs.differences != 0]
    return float(np.sqrt((seen**2).mean())) if len(seen) else 1.0


def _test(pairs: _Pairs) -> tuple[str, float | None]:
    if pairs.clusters < FEWEST_FAMILIES:
        return TOO_FEW, None
    related = pairs.clusters < len(pairs.differences)
    if not related and zero_or_one(pairs.a) and zero_or_one(pairs.b):
        return _mcnemar(pairs.differences)
    return "sign-flip by family" if related else "sign-flip", _sign_flip(pairs.family_sums)


def _mcnemar(differences: Scores) -> tuple[str, float]:
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    exact = better + worse < _EXACT_DISCORDANT
    result = mcnemar([[0, better], [worse, 0]], exact=exact, correction=True)
    return "McNemar exact" if exact else "McNemar chi-square", min(float(result.pvalue), 1.0)


def _sign_flip(sums: Scores) -> float:
    """Two-sided p of the sum of these when each sign is a toss of a coin; p is never 0."""
    sums = sums[sums != 0]
    # Sums that tie with the one seen count as hits; they differ from it by rounding only.
    reached = abs(sums.sum()) * (1 - 1e-9) - 1e-12
    if len(sums) <= _EXACT_FAMILIES:
        return _hits(_all_signs(len(sums)), sums, reached) / (1 << len(sums))
    hits = sum(_hits(signs, sums, reached) for signs in _drawn_signs(len(sums)))
    bound = 2 * float(np.exp(-(sums.sum() ** 2) / (2 * (sums**2).sum())))
    return min((hits + 1) / (_FLIPS + 1), max(bound, _LEAST_P))


def _hits(signs: NDArray[np.int8], sums: Scores, reached: float) -> int:
    # As floats first: numpy multiplies mixed types without BLAS, six times slower.
    return int((np.abs(signs.astype(float) @ sums) >= reached).sum())


@lru_cache(maxsize=16)
def _all_signs(count: int) -> NDArray[np.int8]:
    """Each of the 2^count rows of signs."""
    numbers = np.arange(1 << count)[:, None]
    return np.where(numbers >> np.arange(count) & 1, np.int8(1), np.int8(-1))


def _drawn_signs(count: int) -> Iterator[NDArray[np.int8]]:
    """_FLIPS rows of seeded signs, in blocks so that thousands of families need little memory."""
    rows = max(1, _BLOCK // count)
    for block, start in enumerate(range(0, _FLIPS, rows)):
        yield _block_of_signs(block, min(rows, _FLIPS - start), count)


@lru_cache(maxsize=16)
def _block_of_signs(seed: int, rows: int, count: int) -> NDArray[np.int8]:
    drawn = np.random.default_rng(seed).integers(0, 2, size=(rows, count), dtype=np.int8)
    signs: NDArray[np.int8] = 2 * drawn - 1
    return signs


def _effect(differences: Scores) -> float | None:
    if len(differences) < 2 or float(differences.var()) < NO_VARIANCE:
        return None
    return float(differences.mean() / differences.std(ddof=1))


def _mde(pairs: _Pairs, spread: ClusteredMean | None) -> float | None:
    """From the variance seen between families. Where fewer than 6 of them differ that variance is a matter of luck
    and no test could have found anything, so no figure is given."""
    if spread is None or spread.variance < NO_VARIANCE or np.count_nonzero(pairs.family_sums) < FEWEST_FAMILIES:
        return None
    return float(np.sqrt(spread.variance * pairs.clusters)) * _detectable(pairs.clusters)


@lru_cache(maxsize=1024)
def _detectable(clusters: int) -> float:
    """The smallest mean over standard deviation that a paired t test of so many families finds."""
    return float(TTestPower().solve_power(nobs=clusters, alpha=ALPHA, power=POWER, alternative="two-sided"))


def _dearer(clusters: int, tested: int) -> float:
    """How much larger a difference has to be to be found as the first of so many comparisons.

    By the quantiles of t, since statsmodels' solver goes astray at such levels."""
    needed = special.stdtrit(clusters - 1, [1 - ALPHA / 2, 1 - ALPHA / 2 / max(tested, 1)])
    one, first = needed + special.stdtrit(clusters - 1, POWER)
    return float(first / one)


def holm_adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm (1979) over the known ones: the k-th smallest of m times m - k + 1, never below the one before it.

    As statsmodels' multipletests, which collects the whole process' garbage on every call: 50 ms and more.
    """
    known = np.array([p for p in p_values if p is not None], dtype=float)
    order = np.argsort(known, kind="stable")
    stepped = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)).clip(max=1.0)
    adjusted = iter(stepped[np.argsort(order, kind="stable")].tolist())
    return [None if p is None else next(adjusted) for p in p_values]


def _judge(pairs: _Pairs, margin: float, p: float | None) -> NonInferiority:
    spread = clustered_mean(pairs.differences, pairs.families) if pairs.clusters > 1 else None
    family_size = len(pairs.differences) / pairs.clusters
    low, high = _interval(pairs, spread, cases_added=family_size, confidence=1 - 2 * ALPHA)
    verdict, reason = _verdict(pairs, margin, low, p)
    return NonInferiority(
        verdict=verdict,
        reason=reason,
        difference=pairs.difference,
        low=low,
        high=high,
        margin=margin,
        n=len(pairs.differences),
        clusters=pairs.clusters,
        needed_n=_needed_n(pairs, spread, margin) if verdict == "not enough evidence" else None,
        p=p,
    )


def _verdict(pairs: _Pairs, margin: float, low: float | None, p: float | None) -> tuple[Verdict, str]:
    if pairs.clusters < FEWEST_FAMILIES or low is None or p is None:
        return "not enough evidence", f"it takes {FEWEST_FAMILIES} families; here are {pairs.clusters}"
    if pairs.alike:
        return "no worse", "no case differs"
    if low > -margin:
        return "no worse", "a drop as large as the margin is ruled out"
    if pairs.difference < 0 and pairs.difference <= -margin and p <= ALPHA:
        return "worse", "the drop is not chance and reaches the margin"
    if pairs.difference < 0 and p <= ALPHA:
        return "not enough evidence", "the drop is not chance, but whether it reaches the margin is open"
    return "not enough evidence", "a drop as large as the margin is neither shown nor ruled out"


def _needed_n(pairs: _Pairs, spread: ClusteredMean | None, margin: float) -> int | None:
    """Families G so that the lower bound clears the margin with power 0.8 at no true difference, times their size.

    The bound's standard error with G families is sqrt(v G + 2 s^2) / (G + 2), v the variance of a family's mean and s
    the size of the differences added (see _interval); it must not exceed margin / (t_0.95 + t_0.8).
    """
    n = len(pairs.differences)
    fewest = int(np.ceil(FEWEST_FAMILIES * n / pairs.clusters))
    if pairs.clusters < FEWEST_FAMILIES and pairs.alike:
        return fewest
    if spread is None or margin == 0:
        return None
    allowed = (margin / float(special.stdtrit(spread.df, [1 - ALPHA, POWER]).sum())) ** 2
    variance = spread.variance * pairs.clusters
    # allowed (G + 2)^2 >= variance G + 2 s^2, solved for G + 2
    root = variance**2 + 8 * allowed * (_typical_size(pairs) ** 2 - variance)
    families = (variance + np.sqrt(max(root, 0.0))) / (2 * allowed) - 2
    needed = max(int(np.ceil(families * n / pairs.clusters)), fewest)
    return needed if needed > n else None
