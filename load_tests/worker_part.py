"""A Locust worker's part in a load test: one sender, driven by the conductor's messages, its words made events.

    from the conductor      prepare {test, worker, workers, folder, facts}, start {test, start_at_s, for_s}, stop {test}
    to the conductor        ready {test, worker, profile}, ended {test, worker, end, status, histograms}

Without `--processes`, `--master` or `--worker`, Locust hands messages to its own process, so there is one way for all.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped] # it ships no types
from gevent.event import Event  # type: ignore[import-untyped]
from locust import __version__
from locust.env import Environment
from locust.runners import WorkerRunner

from load_tests.facts import LoadFacts
from load_tests.sender_process import END_S, ROOT, SenderProcess

PREPARE, START, STOP = "plumbline_prepare", "plumbline_start", "plumbline_stop"
READY, ENDED = "plumbline_ready", "plumbline_ended"
SPARE_S = 10.0
"""For the end of a sender that is told to end, and the count of its latencies."""


class RequestError(Exception):
    """How Locust is told that a request failed: its class and what was said."""


class Part:
    """One sender's test, from the order to prepare to its end."""

    def __init__(self, environment: Environment, asked: dict[str, Any]) -> None:
        self._environment = environment
        self._asked = asked
        self._facts = LoadFacts(**asked["facts"])
        self._rows = _folder(asked["folder"]) / f"rows-{asked['worker']}.jsonl"
        self._users = 0
        self._started = self._stopped = False
        self._end: dict[str, Any] | None = None
        self.over = Event()
        """Set once the sender is gone and the conductor knows."""
        self._profile = Path(os.environ.get("PLUMBLINE_LOAD_PROFILE") or self._facts.profile)
        self._sender = SenderProcess(self._sender_environment())
        gevent.spawn(self._follow)
        place = {"worker": asked["worker"], "workers": asked["workers"]}
        self._sender.order(prepare=True, rows=str(self._rows), client=f"locust {__version__}", **place)

    @property
    def number(self) -> int:
        """Which test of the conductor's it is."""
        return int(self._asked["test"])

    def start(self, start_at_s: float, for_s: float | None) -> None:
        """Begin at a moment of the wall clock, seconds since 1970, which is the same for all workers.

        And stop `for_s` seconds later: here and not by a message then, which a busy master would send late.
        """
        self._started = True
        self._sender.order(start_at_s=start_at_s)
        left_s = max(0.0, start_at_s - time.time())
        if for_s is not None:
            gevent.spawn_later(left_s + for_s, self.stop)
        if self._facts.loop == "open":
            # It ends by itself; and when it does not?
            gevent.spawn_later(left_s + self._facts.duration_s + self._drain_s, self.cut)

    def change_users(self, by: int) -> None:
        """Locust started or stopped a user of this worker; an open loop has none."""
        self._users += by
        if self._facts.loop == "closed" and not self._stopped:
            self._sender.order(users=self._users)

    def stop(self) -> None:
        """Send no more; what is in flight may end."""
        if self._stopped:
            return
        self._stopped = True
        if self._started:
            self._sender.order(stop=True)
            gevent.spawn_later(self._drain_s, self.cut)
        else:
            self._sender.hang_up()

    def drain(self) -> None:
        """Stop and wait for the end."""
        self.stop()
        self.over.wait(self._drain_s + SPARE_S)

    def cut(self) -> None:
        """End at once: what is in flight becomes rows `incomplete`, unless the sender hangs and must be killed."""
        self._stopped = True
        if not self.over.is_set():
            self._sender.end()
            self.over.wait(SPARE_S)

    @property
    def _drain_s(self) -> float:
        return self._facts.drain_s + END_S

    def _sender_environment(self) -> dict[str, str]:
        # The key is not in any message: each host has its own OPENAI_API_KEY.
        return os.environ | {
            "OPENAI_BASE_URL": self._facts.base_url,
            "PLUMBLINE_LOAD_MODEL": self._facts.model,
            "PLUMBLINE_LOAD_PROFILE": str(self._profile.resolve()),
        }

    def _follow(self) -> None:
        """Make the sender's lines events and messages until it ends."""
        try:
            for line in self._sender.lines():
                self._take(line)
        finally:
            status = self._sender.end()
            counted = _tally(self._rows) if self._end and self._asked["histograms"] else None
            self._report()
            self._tell(ENDED, end=self._end, status=status, histograms=counted)
            self.over.set()

    def _take(self, line: dict[str, Any]) -> None:
        if line["kind"] == "request":
            self._fire(line)
        elif line["kind"] == "ready":
            self._tell(READY, profile=hashlib.sha256(self._profile.read_bytes()).hexdigest())
        elif line["kind"] == "end":
            self._end = line

    def _fire(self, line: dict[str, Any]) -> None:
        """One event per request. TTFT and ITL are no events: Locust would count them as requests and round them."""
        self._environment.events.request.fire(
            request_type="POST",
            name=line["name"],
            response_time=line["response_ms"],
            response_length=line["bytes"],
            exception=RequestError(line["error"]) if line["error"] else None,
            context={},
        )

    def _report(self) -> None:
        """Send Locust's statistics now: its master leaves half a second after the end, and does not wait for them."""
        runner = self._environment.runner
        if isinstance(runner, WorkerRunner):
            data: dict[str, Any] = {}
            self._environment.events.report_to_master.fire(client_id=runner.client_id, data=data)
            runner.send_message("stats", data)

    def _tell(self, kind: str, **fields: Any) -> None:
        runner = self._environment.runner
        if runner:
            runner.send_message(kind, {"test": self.number, "worker": self._asked["worker"], **fields})


class Worker:
    """What a worker, or Locust's only process, does when it is told to."""

    def __init__(self, environment: Environment) -> None:
        self.part: Part | None = None
        self._environment = environment
        runner = environment.runner
        if runner:
            for kind, listener in ((PREPARE, self._prepare), (START, self._start), (STOP, self._stop)):
                runner.register_message(kind, listener)

    def drain(self, **_: Any) -> None:
        """This process is to end, or its part is: listener of `quitting` and `test_stopping`."""
        if self.part and not self.part.over.is_set():
            self.part.drain()

    def _prepare(self, msg: Any, **_: Any) -> None:
        if self.part and not self.part.over.is_set():
            self.part.cut()
        self.part = Part(self._environment, msg.data)

    def _start(self, msg: Any, **_: Any) -> None:
        if self.part and self.part.number == msg.data["test"]:
            self.part.start(msg.data["start_at_s"], msg.data["for_s"])

    def _stop(self, msg: Any, **_: Any) -> None:
        if self.part and self.part.number == msg.data["test"]:
            self.part.stop()


def _folder(asked: str) -> Path:
    """Where rows go: the master's folder, and on a host that does not have it one of the same name here."""
    there = Path(asked)
    folder = there if there.is_dir() else ROOT / "runs" / "load" / there.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tally(rows: Path) -> str | None:
    """This worker's histograms as JSON: as text, since their sums are more than 64 bits after a long test."""
    argv = [sys.executable, "-m", "load_tests.tally", str(rows)]
    counted = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return counted.stdout if counted.returncode == 0 else None
