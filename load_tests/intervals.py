"""How sure a percentile or a share of requests is, when requests that come one after the other are alike: pure.

Requests share a queue, so a slow one is followed by slow ones, and n of them tell less than n independent ones. The
design effect says how much less: the variance of a share, from 20 batches of requests in order of sending (batch
means: Law and Kelton, chapter 9), over the variance that independent ones would have. It is never taken below 1.

Percentile   the bounds are order statistics, so no shape of latencies is assumed: with independent samples the number
             of them below the true percentile is binomial (Conover 1999, section 3.2). Correlated ones: the ranks'
             distance from the middle is stretched by the root of the design effect (Woodruff 1952).
Share        Wilson's interval on n / design effect samples.

Each bound is one-sided 95 %: "met" and "missed" are then each wrong in at most 5 % of runs that lie at the limit. Where
all samples are alike (no error at all) nothing is known of their correlation, and they are taken to be independent.
What batches cannot show: swings slower than a batch, a twentieth of the window, and differences between runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
BATCHES = 20

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


class Bounds(NamedTuple):
    """One-sided 95 % bounds; None where the samples are too few to have one."""

    low: float | None
    high: float | None


def batches(n: int, count: int = BATCHES) -> Places:
    """The batch of each of `n` samples in order: `count` runs of equal length, give or take one sample."""
    return np.arange(n) * min(count, n) // max(n, 1)


def percentile_bounds(values: Floats, percentile: float, batch_of: Places) -> Bounds:
    """Bounds of a percentile of the latencies that `values` are a sample of.

    values: in any unit, inf allowed (slower than any limit). batch_of: the batch of each, of at least one.
    """
    n, share = len(values), percentile / 100
    if not n:
        return Bounds(None, None)
    ordered = np.sort(values)
    below = values <= ordered[min(n - 1, int(np.ceil(n * share)) - 1)]
    stretch = _stretch(below, batch_of)
    middle = n * share
    low = middle - (middle - binomial_quantile(1 - CONFIDENCE, n, share)) * stretch
    high = middle + (binomial_quantile(CONFIDENCE, n, share) + 1 - middle) * stretch
    # A rounding must not move an exact rank by one.
    low_rank, high_rank = int(np.floor(low + 1e-9)), int(np.ceil(high - 1e-9))
    return Bounds(
        float(ordered[low_rank - 1]) if low_rank >= 1 else None,
        float(ordered[high_rank - 1]) if high_rank <= n else None,
    )


def binomial_quantile(q: float, n: int, share: float) -> int:
    """The fewest hits among `n` whose probability, or fewer's, is at least `q`.

    scipy.stats has it too, but costs every test 0.9 s and 49 MB to import.
    """
    from scipy.special import bdtr, bdtrik

    hits = int(np.ceil(bdtrik(q, n, share)))
    return hits - 1 if hits > 0 and bdtr(hits - 1, n, share) >= q else hits


def share_bounds(hits: NDArray[np.bool_], batch_of: Places) -> Bounds:
    """Bounds of the share of samples that are hits."""
    from statsmodels.stats.proportion import proportion_confint

    n = len(hits)
    if not n:
        return Bounds(None, None)
    count = effective_n(hits, batch_of)
    share = float(hits.mean())
    low, high = proportion_confint(share * count, count, alpha=2 * (1 - CONFIDENCE), method="wilson")
    return Bounds(max(0.0, min(float(low), share)), min(1.0, max(float(high), share)))


def effective_n(hits: NDArray[np.bool_], batch_of: Places) -> float:
    """As how many independent samples these tell of their share of hits."""
    return len(hits) / _stretch(hits, batch_of) ** 2


def rate_bounds(at_s: Floats, window_s: float) -> Bounds:
    """Bounds of events per second from the counts of 20 slices of the window; None with fewer than two events.

    at_s: when each event was, seconds after the window's start.
    """
    from scipy.special import stdtrit

    if len(at_s) < 2:
        return Bounds(None, None)
    counts, _ = np.histogram(at_s, bins=BATCHES, range=(0.0, window_s))
    rates = counts / (window_s / BATCHES)
    half = float(stdtrit(BATCHES - 1, CONFIDENCE)) * float(rates.std(ddof=1)) / BATCHES**0.5
    return Bounds(max(0.0, float(rates.mean()) - half), float(rates.mean()) + half)


def needed_for_upper_bound(percentile: float) -> int:
    """Fewest independent samples whose largest is an upper bound: 5 for p50, 29 for p90, 59 for p95, 299 for p99.

    With n samples all lie below the true percentile with probability (p / 100) ** n, which must be 5 % at most.
    """
    return int(np.ceil(np.log(1 - CONFIDENCE) / np.log(percentile / 100)))


def needed_for_share(limit: float) -> int:
    """Fewest independent samples that can show a share to be at most `limit`, when none is a hit: 268 for 1 %."""
    from scipy.special import ndtri

    square = float(ndtri(CONFIDENCE)) ** 2
    return int(np.ceil(square * (1 - limit) / limit)) if limit > 0 else 0


def _stretch(hits: NDArray[np.bool_], batch_of: Places) -> float:
    """How much wider an interval is than that of independent samples: the root of the design effect, at least 1."""
    from evals.statistics import clustered_mean

    share, n = float(hits.mean()), len(hits)
    if share in {0.0, 1.0} or batch_of[-1] == batch_of[0]:
        return 1.0
    found = clustered_mean(hits.astype(np.float64), batch_of)
    effect = found.variance / (share * (1 - share) / n)
    if effect <= 1:
        return 1.0
    # The variance itself is only known from some batches, which Student's t makes up for.
    return float(effect**0.5) * found.t_quantile(2 * CONFIDENCE - 1) / _normal_quantile()


def _normal_quantile() -> float:
    from scipy.special import ndtri

    return float(ndtri(CONFIDENCE))
