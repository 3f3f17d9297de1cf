"""How far two raters of the same samples agree, with intervals that know that cases of one family are related."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.strict import Strict

RESAMPLES = 5000
FEWEST_FAMILIES = 5
"""With fewer, resampling families says nothing (ours)."""

Values = NDArray[np.float64]


class Agreement(Strict):
    """A judge and the scorers on the same samples; bounds are of 95 % intervals."""

    n: int
    """Samples that both have rated."""
    families: int
    kappa: float | None
    """Cohen's; None where one of the two says the same of every sample."""
    kappa_low: float | None
    kappa_high: float | None
    spearman: float | None
    """Rank correlation of usefulness and headline; None where either is the same for every sample."""
    spearman_low: float | None
    spearman_high: float | None
    both_right: int
    only_judge_right: int
    """Samples whose note the judge calls correct and whose decision the scorers do not."""
    only_scorers_right: int
    both_wrong: int


def agreement(
    correct: Sequence[bool], useful: Sequence[float], headline: Sequence[float], families: Sequence[str], least: float
) -> Agreement:
    """Agreement of a judge's verdicts with headline scores of the same samples, one each.

    least: a headline from here on counts as right. Intervals: percentile bootstrap over whole families; that of the
    rank correlation keeps the ranks of all samples.
    """
    scored = np.asarray(headline, dtype=float)
    cells = 2 * np.asarray(correct, dtype=int) + (scored >= least)
    groups = np.unique(np.asarray(families), return_inverse=True)[1]
    counts = _summed(np.eye(4)[cells], groups)
    moments = _summed(_moments(stats.rankdata(useful), stats.rankdata(scored)), groups)
    neither, only_scorers, only_judge, both = (int(count) for count in counts.sum(axis=0))
    kappa_low, kappa_high = _interval(_kappa, counts)
    spearman_low, spearman_high = _interval(_correlation, moments)
    return Agreement(
        n=len(scored),
        families=len(counts),
        kappa=_known(_kappa(counts.sum(axis=0))),
        kappa_low=kappa_low,
        kappa_high=kappa_high,
        spearman=_known(_correlation(moments.sum(axis=0))),
        spearman_low=spearman_low,
        spearman_high=spearman_high,
        both_right=both,
        only_judge_right=only_judge,
        only_scorers_right=only_scorers,
        both_wrong=neither,
    )


def _summed(rows: Values, groups: NDArray[np.intp]) -> Values:
    """Rows summed by family: shape (families, columns)."""
    sums = np.zeros((groups.max() + 1, rows.shape[1]))
    np.add.at(sums, groups, rows)
    return sums


def _kappa(counts: Values) -> Values:
    """Cohen's kappa of counts (..., 4): neither, only scorers, only judge, both. NaN where one of the two says the
    same of every sample: by chance alone such raters agree as often as they do.

    As statsmodels' cohens_kappa, which takes one table at a time.
    """
    neither, scorers, judge, both = np.moveaxis(counts, -1, 0)
    n = neither + scorers + judge + both
    seen = (neither + both) / n
    judge_right, scorers_right = (judge + both) / n, (scorers + both) / n
    chance = judge_right * scorers_right + (1 - judge_right) * (1 - scorers_right)
    varies = (judge_right * (1 - judge_right) > 0) & (scorers_right * (1 - scorers_right) > 0)
    return np.where(varies, (seen - chance) / np.where(varies, 1 - chance, 1), np.nan)


def _moments(x: Values, y: Values) -> Values:
    x, y = x - x.mean(), y - y.mean()  # small sums stay exact
    return np.column_stack([np.ones_like(x), x, y, x * x, y * y, x * y])


def _correlation(moments: Values) -> Values:
    """Pearson's of sums (..., 6): n, x, y, xx, yy, xy; of ranks that is Spearman's. NaN where either does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    spread = (n * xx - x * x) * (n * yy - y * y)
    varies = spread > 1e-9
    return np.where(varies, (n * xy - x * y) / np.sqrt(np.where(varies, spread, 1)), np.nan)


def _interval(statistic: Callable[[Values], Values], per_family: Values) -> tuple[float | None, float | None]:
    families = len(per_family)
    if families < FEWEST_FAMILIES or np.isnan(statistic(per_family.sum(axis=0))):
        return None, None
    drawn = np.random.default_rng(0).multinomial(families, np.full(families, 1 / families), size=RESAMPLES)
    low, high = np.nanquantile(statistic(drawn @ per_family), [0.025, 0.975])
    return float(low), float(high)


def _known(value: Values) -> float | None:
    return None if np.isnan(value) else float(value)
