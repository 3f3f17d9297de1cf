"""An endpoint with so many slots and a queue before them, as arithmetic: what a capacity search is held against."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from load_tests.capacity import Ask, Probe, Verdict
from load_tests.intervals import batches, percentile_bounds


@dataclass(frozen=True)
class Queue:
    """Each request holds a slot for `service_s`; its first token comes `ttft_s` after it got the slot."""

    slots: int
    service_s: float
    ttft_s: float

    @property
    def knee_per_s(self) -> float:
        """More than this cannot come out: slots over service time."""
        return self.slots / self.service_s

    def waits_s(self, at_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """How long each request waits for a slot, first come, first served."""
        free_s = [0.0] * self.slots
        waits = np.empty(len(at_s))
        for number, arrival_s in enumerate(at_s):
            start_s = max(arrival_s, heapq.heappop(free_s))
            waits[number] = start_s - arrival_s
            heapq.heappush(free_s, start_s + self.service_s)
        return waits


@dataclass(frozen=True)
class Promise:
    """A percentile of TTFT, at most so many seconds."""

    percentile: float
    at_most_s: float


def poisson(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Arrivals of a Poisson process, given that it sends as many as its rate says."""
    return np.sort(rng.uniform(0, duration_s, round(rate_per_s * duration_s)))


def evenly(rate_per_s: float, duration_s: float) -> NDArray[np.float64]:
    """Arrivals at equal distances."""
    at_s: NDArray[np.float64] = np.arange(0, duration_s, 1 / rate_per_s, dtype=np.float64)
    return at_s


def capacity_of(queue: Queue, promise: Promise) -> float:
    """The highest Poisson rate that keeps the promise in the long run, to 0.4 %, by runs of 200,000 requests."""
    low, high = 0.3 * queue.knee_per_s, queue.knee_per_s
    while high > low * 1.004:
        rate = math.sqrt(low * high)
        at_s = poisson(rate, 200_000 / rate, np.random.default_rng(1))
        ttft_s = queue.waits_s(at_s)[20_000:] + queue.ttft_s
        kept = np.percentile(ttft_s, promise.percentile) <= promise.at_most_s
        low, high = (rate, high) if kept else (low, rate)
    return low


def measuring(queue: Queue, promise: Promise, seed: int, *, even: bool = False) -> Callable[[Ask], Probe]:
    """What a search calls; every probe is another draw."""
    rng = np.random.default_rng(seed)

    def measure(ask: Ask) -> Probe:
        rate, duration_s = ask.rate_per_s, ask.duration_s
        at_s = evenly(rate, duration_s) if even else poisson(rate, duration_s, rng)
        waits_s = queue.waits_s(at_s)
        return _probe(ask, queue, promise, at_s, waits_s)

    return measure


def _probe(ask: Ask, queue: Queue, promise: Promise, at_s: NDArray[np.float64], waits_s: NDArray[np.float64]) -> Probe:
    warm_s = min(2 * queue.service_s, ask.duration_s / 4)
    ttft_s = waits_s[at_s >= warm_s] + queue.ttft_s
    ended_s = at_s + waits_s + queue.service_s
    came_out = np.count_nonzero((ended_s >= warm_s) & (ended_s < ask.duration_s))
    bounds = percentile_bounds(ttft_s, promise.percentile, batches(len(ttft_s)))
    verdict: Verdict = "undecided"
    if bounds.high is not None and bounds.high <= promise.at_most_s:
        verdict = "met"
    elif bounds.low is not None and bounds.low > promise.at_most_s:
        verdict = "missed"
    value_s = float(np.percentile(ttft_s, promise.percentile))
    return Probe(
        ask.rate_per_s,
        ask.duration_s,
        verdict,
        "as the queue says",
        "met" if value_s <= promise.at_most_s else "missed",
        len(ttft_s),
        float(came_out / (ask.duration_s - warm_s)),
    )
