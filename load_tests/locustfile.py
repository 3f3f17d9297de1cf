"""Locust's part: it starts, stops, counts and shows; a sender beside each of its workers sends and measures.

    locust -f load_tests/locustfile.py                      with Locust's web UI; also --processes, --master, --worker
    python -m load_tests run examples/load.yaml             headless, with a report

The stream of tokens does not go through Locust: gevent would put milliseconds on it. Each request is one event, its
response time the time to the last content token; TTFT and ITL are in the rows, and as histograms with the master.

Closed loop: each Locust user is one user of the sender, also when the web UI changes their number. Open loop: the
schedule alone says when to send; the number of users means nothing.

The environment says what to do: PLUMBLINE_LOAD_PROFILE (examples/load.yaml), PLUMBLINE_LOAD_OUT (a new folder in
runs/load), PLUMBLINE_LOAD_MODEL (the first one served), OPENAI_API_KEY on each worker's host; the endpoint is at
--host, else where every Plumbline command finds it. Hosts of workers need clocks that agree: the start is a moment
of the wall clock. Web UI: a host or a number of users may be changed, and tests started one after the other.

The only module that imports all of locust: importing it patches the standard library for gevent.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

# Locust puts this folder first on the path, and takes the first away again: ours, whose parts lie beside it, is second.
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import gevent  # type: ignore[import-untyped] # it ships no types

from common.console import PlumblineError, say
from load_tests.conductor import Conductor
from load_tests.worker_part import Part, Worker


class _Here:
    """What the users of this process share; Locust makes users by class, so it stands at module level."""

    worker: Worker | None = None


HERE = _Here()


class PipelineUser(User):  # type: ignore[misc] # mypy does not follow into locust
    """One user of the agents. The sender asks in its name; this one shows Locust that it is there."""

    def on_start(self) -> None:
        """Count in."""
        self._part: Part | None = HERE.worker.part if HERE.worker else None
        if self._part:
            self._part.change_users(1)

    def on_stop(self) -> None:
        """Count out."""
        if self._part:
            self._part.change_users(-1)

    @task  # type: ignore[untyped-decorator]
    def be_there(self) -> None:
        """Until the test is over."""
        if self._part is None:
            gevent.sleep(1.0)  # this worker came late and has no share; Locust stops its users
            return
        self._part.over.wait()
        raise StopUser


def prepare(environment: Environment, **_: Any) -> None:
    """Give this process its roles: a master conducts, a worker sends, an only process does both."""
    runner, hooks = environment.runner, environment.events
    # Ctrl-C ends the program in order, and gevent need not print the stack of whatever greenlet it met.
    gevent.get_hub().NOT_ERROR = (*gevent.get_hub().NOT_ERROR, KeyboardInterrupt)
    if not isinstance(runner, MasterRunner):
        HERE.worker = worker = Worker(environment)
        # Before Locust's own listener, by which a worker says good-bye to its master.
        hooks.quitting.add_listener(worker.drain)
        if isinstance(runner, WorkerRunner):
            hooks.test_stopping.add_listener(worker.drain)
            return
    try:
        conductor = Conductor(environment)
    except PlumblineError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    hooks.test_start.add_listener(conductor.begin)
    hooks.test_stopping.add_listener(conductor.stop)
    hooks.test_stop.add_listener(conductor.finish)
    hooks.worker_connect.add_listener(conductor.on_worker_connect)


events.init.add_listener(prepare)
