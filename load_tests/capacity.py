"""The highest rate of requests that still meets an SLO, found in few probes: pure but for the `measure` it is given.

A probe is a short open-loop run at one rate. Its verdict brackets the capacity: at or above a rate that met the SLO,
below one that missed it. From the first guess the rate grows while it meets; then the bracket is cut on a log scale
until its ends are within the tolerance. Three things keep it to few probes and right in noise:

- A probe that misses because the endpoint is full still tells how many requests a second come out of it. No rate above
  that can hold for long, and most SLOs hold until near it, so the next probe goes a little below this ceiling instead
  of half-way. The ceiling only chooses rates; the bracket's ends are verdicts alone.
- Near the capacity the figures lie around the limit, and a short probe is undecided. Far from a decision its measured
  value is enough: the capacity must be near. Once the bracket is narrow, an undecided end is probed again twice as
  long, never as long again, since a verdict that wavers would be settled by the luckiest of several tries.
- Beyond the capacity queues grow without end, so there is no steady state: who measures calls that missed.

What comes out is the lower end: the highest rate seen to meet the SLO, and beside it the lowest seen to miss it.
With a queue of known capacity (64 slots, Poisson, p95 of TTFT) it was within 5 % in 95 % of 200 searches and more, as
tests/load_tests/test_capacity.py checks. It is the capacity under this SLO: with random arrivals a tight limit is
broken by the queue's swings well before the endpoint is full (8 slots, a limit of half a service time: at 68 %).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["met", "missed", "undecided", "void"]
"""void: the probe says nothing about the endpoint, since the load generator was late or busy or rows were lost."""

FULL = 0.95
"""Below this share of the rate sent, what came out is what the endpoint can do and not what it was asked."""
_BELOW_CEILING = 0.92
"""Where to look first below a ceiling: queues of random arrivals grow long before the endpoint is full."""
_TOWARDS_CEILING = 0.75
"""How far the next probe goes from the lower end to the ceiling, on a log scale: best of 0.5 to 0.8 on simulated
queues with sharp and soft knees."""
_UP = 4.0
"""Too far up costs little: the ceiling that it finds is what the search needs most."""
_DOWN, _DOWN_NEAR = 1.4, 1.1
_NEAR = 1.3
"""A bracket this narrow, upper end over lower, is worth longer probes."""
_LONGER = 2.0


@dataclass(frozen=True)
class Probe:
    """One rate, tried."""

    rate_per_s: float
    duration_s: float
    verdict: Verdict
    because: str
    """One sentence."""
    leans: Literal["met", "missed"]
    """What the measured values say where the verdict is undecided; else the verdict."""
    requests: int
    """Sent in the steady window, or in the whole probe where there is none."""
    throughput_per_s: float | None
    """Requests answered per second while requests were sent; None when it is not known."""
    goodput_per_s: float | None = None
    """Of them, those within every objective."""
    latencies_s: dict[str, dict[float, float | None]] = field(default_factory=dict)
    """For the curve: by kind (ttft, itl, e2e), by percentile."""

    @property
    def counts_as(self) -> Literal["met", "missed", "void"]:
        """The side of the bracket it is on, if any."""
        return self.leans if self.verdict == "undecided" else self.verdict


@dataclass(frozen=True)
class SearchLimits:
    """Where to look and how long."""

    from_per_s: float
    """First guess."""
    least_per_s: float
    """Below this the search gives up."""
    most_per_s: float
    """The highest rate that is tried."""
    duration_s: float
    longest_s: float
    """No probe is longer."""
    least_requests: int = 0
    """Probes at low rates are made longer so that so many are sent; what the SLO's percentiles need."""
    probes: int = 8
    tolerance: float = 0.05
    """The bracket is narrow enough when its upper end is at most so much above its lower one, as a share."""


@dataclass(frozen=True)
class Ask:
    """What to measure next."""

    rate_per_s: float
    duration_s: float


@dataclass(frozen=True)
class Stop:
    """Why the search ends; `found` says whether the bracket is within the tolerance."""

    why: str
    found: bool


@dataclass(frozen=True)
class Capacity:
    """The result."""

    rate_per_s: float | None
    """The highest rate that met the SLO; None when none did."""
    missed_per_s: float | None
    """The lowest rate that missed it; None when none did."""
    found: bool
    """False when the bracket is open or wider than asked: `rate_per_s` is then only a rate that met the SLO."""
    why: str
    """Why the search ended."""
    probes: tuple[Probe, ...]

    @property
    def undecided(self) -> tuple[Probe, ...]:
        """The bracket's ends that no verdict holds but only the measured value."""
        ends = {self.rate_per_s, self.missed_per_s}
        return tuple(p for p in latest(self.probes) if p.rate_per_s in ends and p.verdict == "undecided")


Measure = Callable[[Ask], Probe]


def search(measure: Measure, limits: SearchLimits, told: Callable[[Probe], None] = lambda _probe: None) -> Capacity:
    """Probe until the bracket is narrow enough or the probes are spent; `told` gets each probe as it ends."""
    probes: list[Probe] = []
    while isinstance(step := next_step(probes, limits), Ask):
        probes.append(measure(step))
        told(probes[-1])
    return result(probes, step)


def result(probes: Sequence[Probe], stop: Stop) -> Capacity:
    """What the probes found when the search ended."""
    low, high = bracket(probes)
    return Capacity(low, high, stop.found, stop.why, tuple(probes))


def next_step(probes: Sequence[Probe], limits: SearchLimits) -> Ask | Stop:
    """The next rate and duration, or why there is none. Depends on nothing but the probes so far and the limits."""
    low, high = bracket(probes)
    left = limits.probes - len(probes)
    if probes and probes[-1].verdict == "void":
        return _again(probes, left)
    if low is not None and high is not None and high <= low * (1 + limits.tolerance) * (1 + 1e-9):
        # Two probes: if the lower end falls, there must be one left to find another.
        if left > 1 and (longer := _longer(probes, (low, high), limits)):
            return longer
        return Stop(f"{low:.4g}/s met the SLO and {high:.4g}/s did not: within {limits.tolerance:.0%}", found=True)
    if low is not None and low >= limits.most_per_s:
        return Stop(f"the highest rate that was to be tried, {low:.4g}/s, met the SLO", found=False)
    if high is not None and high <= limits.least_per_s:
        return Stop(f"the lowest rate that was to be tried, {high:.4g}/s, missed the SLO", found=False)
    if left <= 0:
        return Stop(f"{len(probes)} probes are spent", found=False)
    rate = min(max(_next_rate(probes, low, high, limits), limits.least_per_s), limits.most_per_s)
    return Ask(rate, _duration(rate, low, high, limits))


def bracket(probes: Sequence[Probe]) -> tuple[float | None, float | None]:
    """The highest rate that met the SLO and the lowest that missed it; None for an end that is not known yet.

    Where noise has a rate met above one that missed, the lower is believed.
    """
    seen = latest(probes)
    high = min((probe.rate_per_s for probe in seen if probe.counts_as == "missed"), default=None)
    met = [probe.rate_per_s for probe in seen if probe.counts_as == "met"]
    return max((rate for rate in met if high is None or rate < high), default=None), high


def latest(probes: Sequence[Probe]) -> tuple[Probe, ...]:
    """One probe per rate, the longest, which is the last."""
    return tuple({probe.rate_per_s: probe for probe in probes if probe.verdict != "void"}.values())


def ceiling(probes: Sequence[Probe]) -> float | None:
    """Requests per second that come out of the full endpoint; None while no probe filled it."""
    full = [
        probe.throughput_per_s
        for probe in probes
        if probe.counts_as == "missed"
        and probe.throughput_per_s is not None
        and 0 < probe.throughput_per_s < FULL * probe.rate_per_s
    ]
    return max(full, default=None)


def _again(probes: Sequence[Probe], left: int) -> Ask | Stop:
    """A neighbour on the machine may have disturbed one probe; the second void one in a row is the client's limit."""
    last = probes[-1]
    twice = len(probes) > 1 and probes[-2].verdict == "void"
    if twice or left <= 0:
        return Stop(f"at {last.rate_per_s:.4g}/s nothing can be said about the endpoint: {last.because}", found=False)
    return Ask(last.rate_per_s, last.duration_s)


def _longer(probes: Sequence[Probe], ends: tuple[float, float], limits: SearchLimits) -> Ask | None:
    """The end of the bracket that is undecided, the shorter probe first, for longer."""
    weak = [
        probe
        for probe in latest(probes)
        if probe.rate_per_s in ends and probe.verdict == "undecided" and probe.duration_s < limits.longest_s
    ]
    if not weak:
        return None
    probe = min(weak, key=lambda probe: probe.duration_s)
    return Ask(probe.rate_per_s, min(probe.duration_s * _LONGER, limits.longest_s))


def _duration(rate: float, low: float | None, high: float | None, limits: SearchLimits) -> float:
    """The nearer to the capacity, the longer it takes to tell."""
    near = low is not None and high is not None and high <= low * _NEAR
    wanted_s = max(limits.duration_s * (_LONGER if near else 1), limits.least_requests / rate)
    return min(wanted_s, limits.longest_s)


def _next_rate(probes: Sequence[Probe], low: float | None, high: float | None, limits: SearchLimits) -> float:
    if low is None:
        return limits.from_per_s if high is None else _lower(high, probes)
    return low * _UP if high is None else _between(low, high, probes, limits.tolerance)


def _lower(high: float, probes: Sequence[Probe]) -> float:
    """Nothing met yet: below the ceiling first, and from there downwards; not far where the lowest is undecided."""
    lowest = min(latest(probes), key=lambda probe: probe.rate_per_s)
    if lowest.verdict == "undecided":
        return high / _DOWN_NEAR
    full = ceiling(probes)
    below = high if full is None else full * _BELOW_CEILING
    return below if below < high / (1 + 1e-9) else high / _DOWN


def _between(low: float, high: float, probes: Sequence[Probe], tolerance: float) -> float:
    half = math.sqrt(low * high)
    # Nearly the tolerance from an end: if that falls on its other side, the search is over.
    step = 1 + 0.9 * tolerance
    if any(probe.rate_per_s == high and probe.verdict == "undecided" for probe in probes):
        return max(high / step, half)
    full = ceiling(probes)
    if full is None or full >= high:
        return half
    return min(max(low * math.pow(max(full / low, 1.0), _TOWARDS_CEILING), low * step), half)
