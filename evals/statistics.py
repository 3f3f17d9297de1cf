"""Means with their uncertainty. No mean is shown without its interval and its n."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

CONFIDENCE = 0.95
# Below this a variance is the rounding of equal numbers.
NO_VARIANCE = 1e-20
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A mean over n cases with a 95 % interval; bounds are None when n is too small to have one."""

    mean: float
    low: float | None
    high: float | None
    n: int
    """Cases; the repeats of a case are one value, their mean."""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.2f} (n={self.n})"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(values: Sequence[float] | NDArray[np.float64], groups: Sequence[Hashable]) -> Estimate:
    """Mean of scores in 0..1 with its 95 % interval, for cases of which some are related.

    groups: one per value, the case's family; families are taken to be independent, cases of one family are not.

    Every case its own family and every score 0 or 1: Wilson's interval. Else Wilson's formula with the effective
    number of cases m(1-m)/V instead of n, and Student's t instead of z: V is the cluster-robust variance of the mean
    (CR2) and t has its Satterthwaite degrees of freedom (Bell and McCaffrey 2002; Wilson's interval for clustered
    samples: Dean and Pagano 2015). Bounds so stay in 0..1 and lean towards 0.5, where a plain t interval or a
    percentile bootstrap by family sits too high or too low. All right or all wrong: Wilson with families for cases.
    No spread between families at another mean, or one family only: no bounds, since nothing is known of the spread.

    Simulated coverage, 6,000 runs a shape (tests/evals/test_statistics_hold.py repeats it with fewer): 93 to 97 % with
    34 families of 1 to 6 cases and with 34 or 66 unrelated cases, for scores of 0/1 and between, correlation within
    families 0 to 0.8, means 0.5 to 0.9. It does not hold near the edge with few families: mean 0.9 and correlation
    0.8 give 92 to 99 % for 11 families and 90 to 96 % for 20; mean 0.95 gives 85 to 98 %. (Plain t: down to 83 % at
    mean 0.9.)

    Raises ValueError when there is no value (no data is not zero) and when a score is not in 0..1.
    """
    scores = np.asarray(values, dtype=float)
    if len(scores) == 0 or len(scores) != len(groups):
        raise ValueError("an estimate needs at least one value, and one group per value")
    scores = checked_scores(scores)
    families = family_codes(groups)
    mean, n, count = float(scores.mean()), len(scores), int(families.max()) + 1
    if count < 2:
        return Estimate(mean, None, None, n)
    if mean in {0.0, 1.0} or (count == n and zero_or_one(scores)):
        return Estimate(mean, *_wilson(mean, count, float(special.ndtri((1 + CONFIDENCE) / 2))), n)
    spread = clustered_mean(scores, families)
    if spread.variance < NO_VARIANCE:
        return Estimate(mean, None, None, n)
    return Estimate(mean, *_wilson(mean, mean * (1 - mean) / spread.variance, spread.t_quantile(CONFIDENCE)), n)


def checked_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same scores, rounding beyond 0..1 cut off. Raises ValueError when one is no number or not in 0..1."""
    wrong = scores[~((scores >= -_ROUNDING) & (scores <= 1 + _ROUNDING))]
    if len(wrong):
        raise ValueError(f"scores lie in 0..1; found {wrong[0]}")
    return scores.clip(0.0, 1.0)


def zero_or_one(scores: NDArray[np.float64]) -> bool:
    """Whether each score is exactly 0 or 1."""
    return bool(np.all((scores == 0) | (scores == 1)))


def family_codes(groups: Sequence[Hashable]) -> NDArray[np.intp]:
    """Families numbered from 0 in order of first appearance, one number per case."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.intp)


class ClusteredMean(NamedTuple):
    """A mean of related values: variance is that of the mean, df the degrees of freedom it is known with."""

    mean: float
    variance: float
    df: float

    def t_quantile(self, confidence: float) -> float:
        """Student's t for a two-sided interval of this confidence."""
        return float(special.stdtrit(self.df, (1 + confidence) / 2))


def clustered_mean(values: NDArray[np.float64], families: NDArray[np.intp]) -> ClusteredMean:
    """Mean with its cluster-robust variance (CR2). Needs two families.

    Of an intercept-only regression CR2 is sum over families of e^2 / (1 - share) / n^2, e the family's summed
    residuals and share its part of the cases (Pustejovsky and Tipton 2018, equation 6 with one column of ones).
    """
    sizes = np.bincount(families).astype(float)
    n, mean = len(values), float(values.mean())
    residuals = np.bincount(families, weights=values - mean)
    variance = float((residuals**2 / (1 - sizes / n)).sum()) / n**2
    return ClusteredMean(mean, variance, _degrees_of_freedom(sizes))


def _degrees_of_freedom(sizes: NDArray[np.float64]) -> float:
    """Satterthwaite's for CR2 when cases of a family are alike: trace(O)^2 / trace(O^2), O the covariance of the
    families' terms; G - 1 for G families of one size, fewer when some are much larger than others.

    O[g, h] = a[g] a[h] (1{g=h} - w[g] - w[h] + sum w^2), w the shares, a = size / sqrt(1 - w); written out below so
    that no G x G matrix is needed.
    """
    shares = sizes / sizes.sum()
    weights = sizes**2 / (1 - shares)
    square = float((shares**2).sum())
    s0, s1, s2 = (float((weights * shares**power).sum()) for power in range(3))
    everywhere = square**2 * s0**2 - 4 * square * s0 * s1 + 2 * s0 * s2 + 2 * s1**2
    diagonal = float((weights**2 * (1 + 2 * (square - 2 * shares))).sum())
    trace = float((weights * (1 - 2 * shares + square)).sum())
    return trace**2 / (everywhere + diagonal)


def _wilson(mean: float, effective_n: float, quantile: float) -> tuple[float, float]:
    # Imported where it is used: it brings scipy.stats and pandas, 1.4 s that a load test need not spend.
    from statsmodels.stats.proportion import proportion_confint

    alpha = 2 * float(special.ndtr(-quantile))
    low, high = proportion_confint(mean * effective_n, effective_n, alpha=alpha, method="wilson")
    # Where a bound is 0 or 1 the formula misses it by a rounding, and may step over the mean.
    return _rounded_to_edge(min(float(low), mean)), _rounded_to_edge(max(float(high), mean))


def _rounded_to_edge(bound: float) -> float:
    return float(round(bound)) if abs(bound - round(bound)) < _ROUNDING else bound
