"""When requests are sent: in a closed loop, or in an open loop on a schedule that is fixed before the test starts.

Closed loop: so many users, each waiting for its answer before it asks again. A slow server is asked less, so queueing
hides. Open loop: requests come when the schedule says, whatever the server does, as independent people do.

    constant   the k-th request at k / rate, k = 0, 1, 2, ...
    poisson    exponential gaps of mean 1 / rate: many independent people
    gamma      gaps of mean 1 / rate and gamma shape `burstiness`, as in `vllm bench serve`: 1 is Poisson, below 1
               burstier, above 1 more even; the gaps' coefficient of variation is 1 / sqrt(burstiness)
    ramp       a rate that goes in a straight line from `from_per_s` to `to_per_s` over the test
    spike      `rate_per_s`, and `spike_per_s` for the `for_s` seconds from `at_s` on
    trace      the moments in a file (trace_file.py)

One rule for all but trace: points of a process of rate 1 (at 0, 1, 2, ..., or with random gaps of mean 1 from 0 on)
are carried through the inverse of the cumulative rate, the number of requests expected by a time. With exponential
gaps that is exactly the Poisson process of the varying rate (Çinlar 1975, chapter 4, section 7); `poisson: false` in
ramp and spike takes the evenly spaced points. What lies in [0, duration) is sent, so a random schedule's count varies
from seed to seed. Unlike `vllm bench serve`, gaps are not stretched to end at a fixed time: that is no Poisson process.

The schedule depends on the seed alone, not on the number of workers, and gaps are whole billionths before they are
added, so that machines whose last bits differ agree. numpy's generators may change with numpy, which the lock pins.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from common.console import BadInput
from common.strict import Name, NonNegative, Strict
from load_tests.trace_file import read_trace

if TYPE_CHECKING:  # numpy is imported where a schedule is made: Locust's own processes never make one
    import numpy as np
    from numpy.typing import NDArray

MOST_USERS = 10_000
MOST_ARRIVALS = 10_000_000
"""80 MB of schedule; a test that asks for more is a slip of the pen."""

_ROOT = Path(__file__).resolve().parent.parent
_NANO = 1_000_000_000
# The same seed also draws cases and prompts: without a number of its own, gaps and prompts would go together.
_STREAM = 0x0A221
_LEAST_DRAWN = 1024

Rate = Annotated[float, Field(gt=0, le=10_000)]
"""Requests per second."""


class Closed(Strict):
    """A fixed number of users, each waiting for its answer before it asks again."""

    kind: Literal["closed"] = "closed"
    users: Annotated[int, Field(ge=1, le=MOST_USERS)]
    """Requests in flight at most, over all workers."""
    think_time_s: NonNegative = 0.0
    """Pause between an answer and the same user's next request."""
    spawn_rate: Annotated[float, Field(gt=0, le=1000)] = 10.0
    """Users started per second."""


class Constant(Strict):
    """Evenly spaced requests, the first at 0."""

    kind: Literal["constant"] = "constant"
    rate_per_s: Rate


class Poisson(Strict):
    """Exponential gaps."""

    kind: Literal["poisson"] = "poisson"
    rate_per_s: Rate


class Gamma(Strict):
    """Gamma gaps: burstier than Poisson where `burstiness` is below 1."""

    kind: Literal["gamma"] = "gamma"
    rate_per_s: Rate
    burstiness: Annotated[float, Field(ge=0.01, le=1000)]
    """Shape of the gaps."""


class Ramp(Strict):
    """A rate that rises or falls in a straight line over the test."""

    kind: Literal["ramp"] = "ramp"
    from_per_s: Annotated[float, Field(ge=0, le=10_000)]
    to_per_s: Annotated[float, Field(ge=0, le=10_000)]
    poisson: bool = True

    @model_validator(mode="after")
    def _has_a_rate(self) -> Ramp:
        if self.from_per_s == self.to_per_s == 0:
            raise ValueError("from_per_s and to_per_s are both 0: nothing would be sent; give one of them a rate")
        return self


class Spike(Strict):
    """One rate, and another one for a while; what of the spike lies after the test's end is left out."""

    kind: Literal["spike"] = "spike"
    rate_per_s: Rate
    spike_per_s: Rate
    at_s: NonNegative
    for_s: Annotated[float, Field(gt=0)]
    poisson: bool = True


class Trace(Strict):
    """The moments a file tells."""

    kind: Literal["trace"] = "trace"
    file: Name
    """CSV or JSONL (trace_file.py): an absolute path, or one relative to the repository's root."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        return _ROOT / self.file


ByRate = Constant | Poisson | Gamma | Ramp | Spike
OpenLoop = ByRate | Trace
Arrivals = Annotated[Closed | OpenLoop, Field(discriminator="kind")]


def schedule(arrivals: OpenLoop, duration_s: float, seed: int) -> NDArray[np.int64]:
    """Nanoseconds after the start at which requests are due: sorted, each in [0, duration).

    Raises BadInput when the trace cannot be read, when there would be more than MOST_ARRIVALS requests, and when the
    part of the test that the arrivals describe lies after its end.
    """
    duration_ns = round(duration_s * _NANO)
    if isinstance(arrivals, Trace):
        at_ns = read_trace(arrivals.path).at_ns
        if at_ns[0] >= duration_ns:
            raise BadInput(
                f"{arrivals.path}: the first request is due at {at_ns[0] / _NANO:g} s; duration_s is {duration_s:g}"
            )
    else:
        expected = _cumulative(arrivals, duration_s)[1][-1]
        if expected > MOST_ARRIVALS:
            raise BadInput(f"arrivals: {expected:.3g} requests in {duration_s:g} s; allowed: {MOST_ARRIVALS:.0e}")
        at_ns = _carried(arrivals, _unit_points(arrivals, expected, seed), duration_s)
    inside: NDArray[np.int64] = at_ns[at_ns < duration_ns]
    return inside


def share(n: int, worker: int, workers: int) -> range:
    """The places in a schedule of `n` requests that one worker sends: every `workers`-th, from its own number on."""
    if not 0 <= worker < workers:
        raise ValueError(f"worker {worker} of {workers}: workers are numbered from 0")
    return range(worker, n, workers)


def _unit_points(arrivals: ByRate, until: float, seed: int) -> NDArray[np.int64]:
    """Sorted points of a process of rate 1 up to `until` and, where random, a few beyond; in billionths."""
    import numpy as np

    shape = _gap_shape(arrivals)
    if shape is None:
        return np.arange(int(until) + 1, dtype=np.int64) * _NANO
    generator = np.random.Generator(np.random.PCG64([seed, _STREAM]))
    blocks: list[NDArray[np.int64]] = []
    last = 0
    while last < until * _NANO:
        # How many are drawn at once changes nothing: the generator gives one gap after the other.
        count = _LEAST_DRAWN + int(until - last / _NANO)
        gaps = generator.standard_exponential(count) if shape == 1 else generator.gamma(shape, 1 / shape, count)
        blocks.append(last + np.cumsum(np.rint(gaps * _NANO).astype(np.int64)))
        last = int(blocks[-1][-1])
    return np.concatenate(blocks)


def _gap_shape(arrivals: ByRate) -> float | None:
    """Shape of the gaps' gamma distribution, 1 for exponential ones; None for even spacing."""
    if isinstance(arrivals, Gamma):
        return arrivals.burstiness
    if isinstance(arrivals, Poisson) or (isinstance(arrivals, Ramp | Spike) and arrivals.poisson):
        return 1.0
    return None


def _cumulative(arrivals: ByRate, duration_s: float) -> tuple[list[float], list[float]]:
    """Times, seconds, and the requests expected by each: the corners of the cumulative rate (a ramp's is a curve)."""
    match arrivals:
        case Constant() | Poisson() | Gamma():
            return [0.0, duration_s], [0.0, arrivals.rate_per_s * duration_s]
        case Ramp():
            return [0.0, duration_s], [0.0, (arrivals.from_per_s + arrivals.to_per_s) / 2 * duration_s]
        case Spike():
            return _spike_corners(arrivals, duration_s)


def _spike_corners(spike: Spike, duration_s: float) -> tuple[list[float], list[float]]:
    if spike.at_s >= duration_s:
        raise BadInput(f"arrivals.at_s: the spike begins at {spike.at_s:g} s; duration_s is {duration_s:g}")
    end_s = min(spike.at_s + spike.for_s, duration_s)
    before = spike.rate_per_s * spike.at_s
    during = spike.spike_per_s * (end_s - spike.at_s)
    after = spike.rate_per_s * (duration_s - end_s)
    return [0.0, spike.at_s, end_s, duration_s], [0.0, before, before + during, before + during + after]


def _carried(arrivals: ByRate, points: NDArray[np.int64], duration_s: float) -> NDArray[np.int64]:
    """Points of the rate-1 process as nanoseconds of the test; those beyond the test's end come out at its end."""
    import numpy as np

    times_s, expected = _cumulative(arrivals, duration_s)
    units = points / _NANO
    at_s: NDArray[np.float64]
    if isinstance(arrivals, Ramp):
        at_s = _ramp_inverse(arrivals, np.minimum(units, expected[-1]), duration_s)
    elif isinstance(arrivals, Spike):
        at_s = np.interp(units, expected, times_s)
    else:
        at_s = units / arrivals.rate_per_s
    at_ns: NDArray[np.int64] = np.rint(at_s * _NANO).astype(np.int64)
    return at_ns


def _ramp_inverse(ramp: Ramp, units: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
    """When `units` requests are expected: the root of from * t + (to - from) / (2 * duration) * t^2 = units.

    Written with the sum in the denominator, which loses no digits when the ramp is nearly flat.
    """
    import numpy as np

    slope = (ramp.to_per_s - ramp.from_per_s) / duration_s
    rate_then = np.sqrt(np.maximum(ramp.from_per_s**2 + 2 * slope * units, 0.0))
    total: NDArray[np.float64] = ramp.from_per_s + rate_then
    # Only the point at 0 of a ramp that starts from nothing has no rate at all; it is due at 0.
    return np.divide(2 * units, total, out=np.zeros_like(units), where=total > 0)
