"""python -m load_tests.sender: sends one worker's share of a load test and writes its rows.

A process of its own, without Locust and gevent, so that nothing but the wire keeps its event loop busy: each packet
is stamped as soon as the system has it. Orders come on stdin and words go to stdout (sender_lines.py); what people
should read goes to stderr. Where to send comes from the environment: OPENAI_BASE_URL, OPENAI_API_KEY,
PLUMBLINE_LOAD_MODEL, PLUMBLINE_LOAD_PROFILE.

The requests and the schedule are ready before the start is named. An open loop ends by itself at the end of its
duration, a closed one when it is told to stop; both then wait `drain_s` for what is in flight.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import time
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import psutil
import uvloop

from common import console
from load_tests.arrivals import Closed, schedule, share
from load_tests.dispatch import Dispatch
from load_tests.loops import ClosedLoop, Loop, OpenLoop
from load_tests.profiles import EXAMPLE_PROFILE, AgentsWorkload, load_profile
from load_tests.rows import RowFile, RunEnd, start_of
from load_tests.score_answers import Scoring
from load_tests.sender_lines import Lines, Orders
from load_tests.sse import NS_PER_S, RequestRecord, Status
from load_tests.stolen_time import stolen_share
from load_tests.wire import Wire
from load_tests.workload import LoadPlan, plan_load
from serving.endpoint import connect

_LATE_S = 0.005
"""uvloop's timers count whole milliseconds and may come early; the end must not come before the last request."""


@dataclass(frozen=True)
class Place:
    """Which worker this is, and what it was told before the start."""

    worker: int
    workers: int
    rows: Path
    client: str


class Test:
    """One worker's part of a load test, from prepared to its end line."""

    def __init__(self, plan: LoadPlan, place: Place, lines: Lines, scoring: Scoring | None) -> None:
        self._plan, self._place, self._lines, self._scoring = plan, place, lines, scoring
        self._rows = RowFile(place.rows)
        profile = plan.profile
        self._wire = Wire(plan.endpoint, request_timeout_s=profile.request_timeout_s)
        self._dispatch = Dispatch(
            self._wire,
            self._rows,
            worker=place.worker,
            key=plan.endpoint.api_key.get_secret_value(),
            tell=self._tell,
            scoring=scoring,
        )
        self._loop, self._scheduled = _loop(plan, place, self._dispatch)
        self._stopped = asyncio.Event()
        self._stop_ns = 0
        self._cpu_s = 0.0

    async def run(self, start_at_s: float) -> None:
        """From the start to the last row and the end line. Raises CannotJudge when a row cannot be written."""
        start_ns = perf_counter_ns() + round((start_at_s - time.time()) * NS_PER_S)
        self._rows.write("start", self._start(start_at_s, start_ns))
        with _undisturbed():
            self._cpu_s, machine = -time.process_time(), psutil.cpu_times()
            making = asyncio.get_running_loop().create_task(self._dispatch.make_rows())
            self._loop.start(start_ns)
            await _unless([making], self._send(start_ns))
            self._dispatch.end_of_requests()
            await making
        self._end(stolen_share(machine, psutil.cpu_times()))

    def set_users(self, count: int) -> None:
        """So many users of this worker from now on."""
        self._loop.set_users(count)

    def stop(self) -> None:
        """Send no more; what is in flight may end."""
        if not self._stopped.is_set():
            self._stop_ns = perf_counter_ns()
            self._cpu_s += time.process_time()
            self._loop.stop()
            self._stopped.set()

    def cut(self) -> None:
        """End now: what is in flight becomes rows `incomplete`."""
        self.stop()
        if self._scoring:
            self._scoring.give_up()
        self._wire.stop()

    async def _send(self, start_ns: int) -> None:
        profile = self._plan.profile
        until_ns = start_ns + round(profile.duration_s * NS_PER_S)
        left_s = None if self._scheduled is None else _LATE_S + max(0, until_ns - perf_counter_ns()) / NS_PER_S
        try:
            async with asyncio.timeout(left_s):
                await self._stopped.wait()
        except TimeoutError:
            if isinstance(self._loop, OpenLoop):
                self._loop.send_due()  # after a stall the last ones may be due and not sent
            self.stop()
            self._stop_ns = until_ns  # and not some milliseconds later, when the timer came
        await self._dispatch.quiet(profile.drain_s)

    def _start(self, start_at_s: float, start_ns: int) -> Any:
        arrivals = self._plan.profile.arrivals
        return start_of(
            self._plan,
            worker=self._place.worker,
            workers=self._place.workers,
            users=arrivals.users if isinstance(arrivals, Closed) else None,
            scheduled=self._scheduled,
            start_at_s=start_at_s,
            start_ns=start_ns,
            client=self._place.client,
        )

    def _end(self, stolen: float | None) -> None:
        sent, memory_mb = self._dispatch.sent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._rows.write("end", RunEnd(self._stop_ns, perf_counter_ns(), sent, self._cpu_s, memory_mb, stolen))
        self._rows.close()
        self._wire.close()
        self._lines.say("end", sent=sent, rows=self._dispatch.rows, cpu_s=self._cpu_s)

    def _tell(self, record: RequestRecord) -> None:
        hung_up = record.status is Status.CANCELLED  # as the profile has it: no failure, and no success in the rows
        failed = record.status is not Status.OK and not hung_up
        over_ns = record.ended_ns if failed else record.last_content_ns
        self._lines.say(
            "request",
            name=record.stage,
            response_ms=((over_ns or record.sent_ns) - record.sent_ns) / NS_PER_S * 1e3,
            bytes=record.received_bytes,
            error=f"{record.status}: {record.error}" if failed else None,
        )


def main() -> None:
    """Do what stdin says."""
    uvloop.run(_main())


async def _main() -> None:
    orders, lines = Orders(), await Lines.begin()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, orders.hang_up)
    if prepare := await orders.next():
        place = Place(prepare["worker"], prepare["workers"], Path(prepare["rows"]), prepare["client"])
        await _serve(orders, lines, place)
    await lines.close()


async def _serve(orders: Orders, lines: Lines, place: Place) -> None:
    """One test. Raises BadInput and CannotJudge when it cannot be prepared."""
    _raise_file_limit()
    profile = load_profile(Path(os.environ.get("PLUMBLINE_LOAD_PROFILE") or EXAMPLE_PROFILE))
    plan = plan_load(profile, connect(model=os.environ.get("PLUMBLINE_LOAD_MODEL")))
    test = Test(plan, place, lines, await _scoring(plan))
    lines.say("ready")
    users = 0
    while (order := await orders.next()) and not order.get("stop"):
        users = order.get("users", users)
        if "start_at_s" in order:
            test.set_users(users)
            following = asyncio.get_running_loop().create_task(_follow(orders, test))
            await _unless([following], test.run(order["start_at_s"]))
            return


async def _follow(orders: Orders, test: Test) -> None:
    """Pass orders on until there are no more, which cuts the test."""
    while order := await orders.next():
        if "users" in order:
            test.set_users(order["users"])
        if order.get("stop"):
            test.stop()
    test.cut()
    await asyncio.Event().wait()  # the test ends by itself now


async def _unless(watched: Iterable[asyncio.Future[None]], work: Coroutine[Any, Any, None]) -> None:
    """Do the work; when one of `watched` ends before it, which it does by failing, raise what that raised."""
    task = asyncio.get_running_loop().create_task(work)
    done, _ = await asyncio.wait({task, *watched}, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    for future in done:
        future.result()


async def _scoring(plan: LoadPlan) -> Scoring | None:
    workload = plan.profile.workload
    if not (isinstance(workload, AgentsWorkload) and workload.score):
        return None
    return await Scoring.begin(workload.policy, workload.prompt)


def _loop(plan: LoadPlan, place: Place, dispatch: Dispatch) -> tuple[Loop, int | None]:
    """What sends, and how many requests are this worker's share of the schedule; None in a closed loop."""
    profile = plan.profile
    if isinstance(profile.arrivals, Closed):
        think_time_s = profile.arrivals.think_time_s
        return ClosedLoop(dispatch, plan.request_for, place.worker, place.workers, think_time_s), None
    due_ns = schedule(profile.arrivals, profile.duration_s, profile.seed)
    mine = share(len(due_ns), place.worker, place.workers)
    return OpenLoop(dispatch, plan.request_at, due_ns, mine), len(mine)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the garbage collector: a full collection stops every stream, and its stamps, for milliseconds."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _raise_file_limit() -> None:
    """As many connections as the system allows; a shell's own limit is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    console.run(main)
