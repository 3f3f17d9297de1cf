"""Who says when a request is sent: the schedule of an open loop, or the users of a closed one.

Both run on the event loop of the sender and hand each request to `Dispatch`, which sends it at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from load_tests.dispatch import Dispatch
from load_tests.sse import Ending, RawStream
from load_tests.workload import PreparedRequest
from serving.alarm import new_alarm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MADE_AHEAD = 1000
"""Requests that are ready before they are due: all of an hour's synthetic prompts would not fit into memory."""
PAUSE_AFTER_FAILURE_S = 0.1
"""A server that fails at once would else get thousands of requests a second from one user."""


class Loop(Protocol):
    """What the sender drives."""

    def start(self, start_ns: int) -> None:
        """Send from that moment of perf_counter on."""

    def set_users(self, count: int) -> None:
        """So many users of this worker from now on."""

    def stop(self) -> None:
        """Send no more."""


class OpenLoop:
    """Sends each request when it is due, whatever became of the others; one that comes late is sent at once."""

    def __init__(
        self,
        dispatch: Dispatch,
        request_at: Callable[[int], PreparedRequest],
        due_ns: NDArray[np.int64],
        indexes: range,
    ) -> None:
        """due_ns: the whole schedule, nanoseconds after the start; indexes: this worker's places in it."""
        self._dispatch, self._request_at = dispatch, request_at
        self._due_ns, self._indexes = due_ns, indexes
        self._next = 0
        self._start_ns = 0
        self._ready: deque[PreparedRequest] = deque()
        self._alarm = new_alarm(self.send_due)
        for _ in range(_MADE_AHEAD):
            self._make_one()

    def start(self, start_ns: int) -> None:
        """Send from that moment of perf_counter on."""
        self._start_ns = start_ns
        self._wait()

    def set_users(self, count: int) -> None:
        """An open loop has none."""

    def stop(self) -> None:
        """Send no more."""
        self._next = len(self._indexes)
        self._alarm.close()

    def send_due(self) -> None:
        """Send everything that is due by now and has not been sent."""
        now_ns = perf_counter_ns()
        while self._next < len(self._indexes) and (intended_ns := self._intended_ns()) <= now_ns:
            if not self._ready:
                self._make_one()
            index, request = self._indexes[self._next], self._ready.popleft()
            self._next += 1
            self._dispatch.send(request, index=index, user=None, intended_ns=intended_ns)
            asyncio.get_running_loop().call_soon(self._make_one)
        self._wait()

    def _wait(self) -> None:
        if self._next < len(self._indexes):
            self._dispatch.next_due_ns = self._intended_ns()
            self._alarm.set(self._dispatch.next_due_ns)

    def _intended_ns(self) -> int:
        return self._start_ns + int(self._due_ns[self._indexes[self._next]])

    def _make_one(self) -> None:
        """Have one more request ready."""
        place = self._next + len(self._ready)
        if place < len(self._indexes):
            self._ready.append(self._request_at(self._indexes[place]))


@dataclass(slots=True)
class _User:
    number: int
    turn: int = 0
    gone: bool = False


class ClosedLoop:
    """Users who each wait for their answer, think, and ask again."""

    def __init__(
        self,
        dispatch: Dispatch,
        request_for: Callable[[int, int], PreparedRequest],
        worker: int,
        workers: int,
        think_time_s: float,
    ) -> None:
        self._dispatch, self._request_for = dispatch, request_for
        self._worker, self._workers = worker, workers
        self._think_ns = round(think_time_s * 1e9)
        self._users: list[_User] = []
        self._came = self._asked = 0
        self._wanted = 0
        self._running = self._stopped = False

    def start(self, start_ns: int) -> None:
        """Users who are there by then begin at that moment of perf_counter, later ones when they come."""
        delay_s = max(0, start_ns - perf_counter_ns()) / 1e9
        asyncio.get_running_loop().call_later(delay_s, self._begin)

    def set_users(self, count: int) -> None:
        """So many from now on. New ones begin at once; those who go, the latest first, still get their answer."""
        self._wanted = count = max(0, count)
        while self._running and len(self._users) > count:
            self._users.pop().gone = True
        while self._running and len(self._users) < count:
            # Numbers are of all workers together and never given twice: they decide what is asked.
            user = _User(self._came * self._workers + self._worker)
            self._came += 1
            self._users.append(user)
            self._ask(user, perf_counter_ns())

    def stop(self) -> None:
        """Send no more."""
        self.set_users(0)
        self._running, self._stopped = False, True

    def _begin(self) -> None:
        self._running = not self._stopped
        self.set_users(self._wanted)

    def _ask(self, user: _User, ready_ns: int) -> None:
        if user.gone:
            return
        request = self._request_for(user.number, user.turn)
        user.turn += 1
        index = self._asked * self._workers + self._worker
        self._asked += 1
        self._dispatch.send(
            request,
            index=index,
            user=user.number,
            intended_ns=ready_ns,
            then=lambda raw: self._answered(user, raw),
        )

    def _answered(self, user: _User, raw: RawStream) -> None:
        pause_ns = self._think_ns
        if raw.ending not in (Ending.WHOLE, Ending.CANCELLED):
            pause_ns = max(pause_ns, round(PAUSE_AFTER_FAILURE_S * 1e9))
        ready_ns = raw.ended_ns + pause_ns
        left_s = (ready_ns - perf_counter_ns()) / 1e9
        if left_s <= 0:
            self._ask(user, ready_ns)
        else:
            asyncio.get_running_loop().call_later(left_s, self._ask, user, ready_ns)
