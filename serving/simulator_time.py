"""When the simulator's tokens leave: deadlines worked out beforehand, and the one clock that keeps them all.

Token k of a request is due at start + T + G1 + ... + Gk. Without a spread, T is ttft and each G is itl. With a
coefficient of variation c, each is drawn from the lognormal distribution of the same mean m: the exponential of a
normal of variance s2 = ln(1 + c^2) and mean ln(m) - s2 / 2. Draws hang on the seed and the request's number of
arrival alone.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, count
from time import perf_counter_ns

from serving.alarm import new_alarm
from serving.simulator_settings import SimulatorSettings

_NS_PER_MS = 1e6
_NS_PER_S = 1e9

_REST_NS = 250_000
"""From one waking to the next at least: waking costs several times what a token does, and thousands of them in a second
would be the lateness that they are to avoid. A token alone is not held up by it."""

Step = Callable[[int], int | None]
"""Called when its deadline has passed, with the time; gives its next deadline, or None when it has none."""


def offsets_ns(settings: SimulatorSettings, number: int, tokens: int) -> list[int]:
    """The deadline of each token of request `number`, counted from the request's start; never falling."""
    ttft_ns, itl_ns = settings.ttft_ms * _NS_PER_MS, settings.itl_ms * _NS_PER_MS
    if not (settings.ttft_cv or settings.itl_cv):
        first_ns, gap_ns = round(ttft_ns), round(itl_ns)
        return [first_ns + token * gap_ns for token in range(tokens)]
    rng = random.Random(f"{settings.seed} time {number}")  # noqa: S311 - not for secrets
    drawn_ns = _drawn(rng, ttft_ns, settings.ttft_cv)
    gaps_ns = (_drawn(rng, itl_ns, settings.itl_cv) for _ in range(tokens - 1))
    return list(accumulate(gaps_ns, initial=drawn_ns))


def _drawn(rng: random.Random, mean_ns: float, cv: float) -> int:
    if not (cv and mean_ns):
        return round(mean_ns)
    variance = math.log1p(cv**2)
    return round(rng.lognormvariate(math.log(mean_ns) - variance / 2, math.sqrt(variance)))


@dataclass
class Freeze:
    """A time in which the whole server sends nothing; it is set off by the first arrival."""

    at_s: float
    for_s: float
    _begin_ns: int | None = field(default=None, init=False)

    def arrive(self, arrived_ns: int) -> None:
        """A chat completion has come."""
        if self._begin_ns is None:
            self._begin_ns = arrived_ns + round(self.at_s * _NS_PER_S)

    def moved(self, due_ns: int) -> int:
        """A deadline inside the freeze becomes its end; the others stay."""
        if self._begin_ns is None or due_ns < self._begin_ns:
            return due_ns
        return max(due_ns, self._begin_ns + round(self.for_s * _NS_PER_S))


@dataclass(frozen=True)
class Clock:
    """The deadlines of one request, in `time.perf_counter_ns`."""

    arrived_ns: int
    started_ns: int
    """When it got its slot; its arrival where there was one free."""
    offsets_ns: list[int]
    """Of each token, from the start."""
    freeze: Freeze

    def due_ns(self, token: int) -> int:
        """When a token is to leave."""
        return self.freeze.moved(self.started_ns + self.offsets_ns[token])

    @property
    def end_ns(self) -> int:
        """When the last token is to leave."""
        return self.due_ns(len(self.offsets_ns) - 1)


class Pacer:
    """Calls every step of every request when it is due, never before; made on the running event loop.

    One alarm for all: the event loop's timers count in milliseconds, and a timer a token costs more than the token.
    """

    def __init__(self) -> None:
        self._alarm = new_alarm(self._ring)
        self._waiting: list[tuple[int, int, Step]] = []
        self._order = count()
        self._set_ns = 0
        """What the alarm is set to; 0: to nothing."""
        self._rested_ns = 0
        """When it may wake next."""

    def at(self, due_ns: int, step: Step) -> None:
        """Call `step` at a deadline, and again at each that it gives."""
        heapq.heappush(self._waiting, (due_ns, next(self._order), step))
        self._set()

    async def until(self, due_ns: int) -> int:
        """Wait for a deadline; the time then."""
        reached = asyncio.get_running_loop().create_future()

        def wake(_now_ns: int) -> None:
            if not reached.done():
                reached.set_result(None)

        self.at(due_ns, wake)
        await reached
        return perf_counter_ns()

    def close(self) -> None:
        """Call nothing any more."""
        self._alarm.close()

    def _set(self) -> None:
        first_ns = max(self._waiting[0][0], self._rested_ns)
        if not self._set_ns or first_ns < self._set_ns:
            self._set_ns = first_ns
            self._alarm.set(first_ns)

    def _ring(self) -> None:
        try:
            while self._waiting and self._waiting[0][0] <= (now_ns := perf_counter_ns()):
                _, _, step = heapq.heappop(self._waiting)
                next_ns = step(now_ns)
                if next_ns is not None:
                    heapq.heappush(self._waiting, (next_ns, next(self._order), step))
        finally:  # whatever became of one, the others are not forgotten
            self._set_ns, self._rested_ns = 0, perf_counter_ns() + _REST_NS
            if self._waiting:
                self._set()
