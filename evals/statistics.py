"""Means with their uncertainty. No mean is shown without its interval and its n."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
_RESAMPLES = 5000


@dataclass(frozen=True)
class Estimate:
    """A mean over n cases with a 95 % interval; bounds are None when n is too small to have one."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.2f} (n={self.n})"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(values: Sequence[float], groups: Sequence[int]) -> Estimate:
    """Mean of scores in 0..1 with its 95 % interval. Raises ValueError when there are none: no data is not zero.

    groups: one per value, here the oracle row; cases of one row are related. When rows repeat, whole rows are
    resampled (cluster bootstrap, percentile); when every row stands once, 0/1 scores get Wilson's interval and
    others a BCa bootstrap.
    """
    if not values or len(values) != len(groups):
        raise ValueError("an estimate needs at least one value, and one group per value")
    scores = np.asarray(values, dtype=float)
    clusters = [scores[np.asarray(groups) == group] for group in dict.fromkeys(groups)]
    mean, n = float(scores.mean()), len(scores)
    if len(clusters) < 2:
        return Estimate(mean, None, None, n)
    if set(values) <= {0.0, 1.0} and (len(clusters) == n or mean in {0.0, 1.0}):
        # All right or all wrong: a bootstrap would claim certainty. Wilson's interval counts rows, not cases.
        low, high = proportion_confint(mean * len(clusters), len(clusters), alpha=1 - CONFIDENCE, method="wilson")
        return Estimate(mean, float(low), float(high), n)
    if float(scores.std()) == 0.0:
        return Estimate(mean, None, None, n)
    if len(clusters) == n:
        interval = stats.bootstrap(
            (scores,),
            np.mean,
            confidence_level=CONFIDENCE,
            n_resamples=_RESAMPLES,
            rng=np.random.default_rng(0),
        ).confidence_interval
        return Estimate(mean, float(interval.low), float(interval.high), n)
    return Estimate(mean, *_cluster_bootstrap(clusters), n)


def _cluster_bootstrap(clusters: Sequence[np.ndarray]) -> tuple[float | None, float | None]:
    rng = np.random.default_rng(0)
    sums = np.array([cluster.sum() for cluster in clusters])
    sizes = np.array([len(cluster) for cluster in clusters])
    drawn = rng.integers(0, len(clusters), size=(_RESAMPLES, len(clusters)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    # Rows that all have one mean say nothing about how rows differ; an interval of no width would be a false claim.
    return (float(low), float(high)) if low < high else (None, None)
