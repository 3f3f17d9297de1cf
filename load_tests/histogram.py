"""Histograms of latencies that can be added up: of workers, of hosts, in any order.

Buckets are log-linear: each doubling is cut into 128 equal parts, so a bucket's middle is at most 1/256 = 0.39 % away
from any value in it. Bounds are whole nanoseconds, hence the same on every machine. Values are taken in whole
nanoseconds, the unit of the clock, so that count, sum, minimum and maximum are exact and adding up is associative:
any split of the same values, merged in any order, gives the same histogram.

Range: 10 us to 600 s. What lies outside is counted (`under`, `over`) and still in sum, minimum and maximum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RELATIVE_ERROR = 1 / 256
"""Largest of a percentile inside the range, against numpy's on the same values."""

_NANO = 1_000_000_000
_LOW_NS = 10_000
_HIGH_NS = 600 * _NANO
_PARTS = 128
_FIRST_DOUBLING = _LOW_NS.bit_length()
_DOUBLINGS = _HIGH_NS.bit_length() - _FIRST_DOUBLING + 1
_MOST_S = 2**52 / _NANO
"""About 52 days: up to here nanoseconds are exact in a float."""
_LAYOUT = {"low_ns": _LOW_NS, "high_ns": _HIGH_NS, "parts": _PARTS}


class Histogram:
    """Counts of latencies by size."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_DOUBLINGS * _PARTS, np.int64)
        self.under = 0
        """Values below 10 us; a percentile among them is given with an error of up to 5 us."""
        self.over = 0
        """Values above 600 s; a percentile among them is None."""
        self._sum_ns = 0
        self._min_ns: int | None = None
        self._max_ns: int | None = None

    @property
    def count(self) -> int:
        """How many values were added."""
        return int(self._counts.sum()) + self.under + self.over

    @property
    def mean_s(self) -> float | None:
        """Exact; None without values."""
        return self._sum_ns / self.count / _NANO if self.count else None

    def add(self, values_s: ArrayLike) -> None:
        """Take in one latency or many, seconds. Raises ValueError for what is no latency: below 0, NaN, endless."""
        values = np.asarray(values_s, np.float64).ravel()
        if not values.size:
            return
        if not ((values >= 0) & (values <= _MOST_S)).all():
            wrong = values[~((values >= 0) & (values <= _MOST_S))][0]
            raise ValueError(f"{wrong} s is no latency; allowed: 0 to {_MOST_S:.0f}")
        values_ns = np.rint(values * _NANO)
        under, over = values_ns < _LOW_NS, values_ns > _HIGH_NS
        self.under += int(under.sum())
        self.over += int(over.sum())
        self._counts += np.bincount(_bucket_of(values_ns[~(under | over)]), minlength=len(self._counts))
        self._note(_exact_sum(values_ns.astype(np.int64)), int(values_ns.min()), int(values_ns.max()))

    def merge(self, other: Histogram) -> None:
        """Take in everything another histogram holds."""
        self._counts += other._counts
        self.under += other.under
        self.over += other.over
        if other._min_ns is not None and other._max_ns is not None:
            self._note(other._sum_ns, other._min_ns, other._max_ns)

    def percentile(self, p: float) -> float | None:
        """As `numpy.percentile(values, p, method="linear")`, within RELATIVE_ERROR; seconds.

        Both neighbours in rank are known within that error, so what lies between them is too. The smallest and the
        largest value are exact. None without values, and where a neighbour is above the range.
        """
        if not 0 <= p <= 100:
            raise ValueError(f"percentile {p}; allowed: 0 to 100")
        if not self.count:
            return None
        rank = (self.count - 1) * p / 100
        lower, upper = self._ranked_ns(int(rank)), self._ranked_ns(int(-(-rank // 1)))
        if lower is None or upper is None:
            return None
        return (lower + (upper - lower) * (rank % 1)) / _NANO

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; only buckets that hold something. Equal histograms give equal dicts."""
        filled = np.flatnonzero(self._counts)
        return {
            **_LAYOUT,
            "buckets": [[int(place), int(self._counts[place])] for place in filled],
            "under": self.under,
            "over": self.over,
            "sum_ns": self._sum_ns,
            "min_ns": self._min_ns,
            "max_ns": self._max_ns,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Histogram:
        """The inverse of to_dict. Raises ValueError when the buckets are cut otherwise than ours, or do not add up."""
        layout = {key: data.get(key) for key in _LAYOUT}
        if layout != _LAYOUT:
            raise ValueError(f"a histogram with {layout}; this version reads {_LAYOUT}: run one version everywhere")
        histogram = cls()
        for place, count in data["buckets"]:
            if not 0 <= place < len(histogram._counts) or count < 1:
                raise ValueError(f"a histogram with {count} values in bucket {place} of {len(histogram._counts)}")
            histogram._counts[place] = count
        histogram.under, histogram.over = data["under"], data["over"]
        histogram._sum_ns = data["sum_ns"]
        histogram._min_ns, histogram._max_ns = data["min_ns"], data["max_ns"]
        if min(histogram.under, histogram.over) < 0 or (histogram.count > 0) != (histogram._min_ns is not None):
            raise ValueError(f"a histogram of {histogram.count} values whose smallest is {histogram._min_ns}")
        return histogram

    def _note(self, sum_ns: int, min_ns: int, max_ns: int) -> None:
        self._sum_ns += sum_ns
        self._min_ns = min_ns if self._min_ns is None else min(self._min_ns, min_ns)
        self._max_ns = max_ns if self._max_ns is None else max(self._max_ns, max_ns)

    def _ranked_ns(self, rank: int) -> float | None:
        """The value of one rank, 0 the smallest, as well as it is known; None above the range."""
        if self._min_ns is None or self._max_ns is None or rank >= self.count - 1:
            return self._max_ns
        if rank == 0:
            return self._min_ns
        if rank < self.under:
            middle = _LOW_NS / 2
        elif rank >= self.count - self.over:
            return None
        else:
            middle = _middle_ns(int(np.searchsorted(np.cumsum(self._counts), rank - self.under, side="right")))
        return min(max(middle, self._min_ns), self._max_ns)


def _bucket_of(values_ns: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of each value: its doubling, then its part of it; exact, since frexp only reads the float's bits."""
    mantissa, exponent = np.frexp(values_ns)
    part = ((mantissa - 0.5) * 2 * _PARTS).astype(np.int64)
    return (exponent.astype(np.int64) - _FIRST_DOUBLING) * _PARTS + part


def _middle_ns(place: int) -> float:
    doubling, part = divmod(place, _PARTS)
    return float((part + 0.5 + _PARTS) / _PARTS * 2.0 ** (doubling + _FIRST_DOUBLING - 1))


def _exact_sum(values_ns: NDArray[np.int64]) -> int:
    """Their sum in halves: a whole day of long latencies does not fit 64 bits."""
    return (int((values_ns >> 20).sum()) << 20) + int((values_ns & 0xFFFFF).sum())
