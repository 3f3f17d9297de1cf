"""Locust's part: users in a closed loop, each streaming one of the agents' requests after the other.

    locust -f load_tests/locustfile.py                      with Locust's web UI
    python -m load_tests run examples/load.yaml             headless, with a report

Locust is the control plane, the UI and the counter: one event per request, its response time the time to the last
content token. TTFT and ITL are not fired as further requests, which would inflate the request rate, and Locust's
statistics round to whole milliseconds: they are kept in the rows file, from which the report is made.

The environment says what to do: PLUMBLINE_LOAD_PROFILE (examples/load.yaml), PLUMBLINE_LOAD_ROWS (runs/load/...),
PLUMBLINE_LOAD_MODEL (the first one served), PLUMBLINE_LOAD_CHILD=1 (warm-up and report are the caller's); the
endpoint is at --host, else where every Plumbline command finds it.

The only module that imports locust: importing it patches the standard library for gevent.
"""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

from locust import User, __version__, events, task
from locust.env import Environment
from locust.exception import StopTest, StopUser

# Locust puts this folder first on the path; our packages lie beside it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from console import PlumblineError, say
from load_tests.profiles import EXAMPLE_PROFILE, load_profile
from load_tests.rows import new_rows_path, read_rows
from load_tests.session import LoadSession, warm_up
from load_tests.sse import NS_PER_S, RequestRecord, Status
from load_tests.workload import LoadPlan, plan_load
from serving.endpoint import connect


class _Load:
    """What the users of this process share; Locust makes users by class, so it stands at module level."""

    host: str | None = None
    plan: LoadPlan | None = None
    session: LoadSession | None = None


LOAD = _Load()


class RequestError(Exception):
    """How Locust is told that a request failed: its class and what was said."""


class PipelineUser(User):  # type: ignore[misc] # mypy does not follow into locust
    """One user of the agents: asks, reads the answer as it streams, thinks, asks again."""

    def on_start(self) -> None:
        """Take a number, which decides where in the list of requests this user begins."""
        self._session = LOAD.session
        self._number = self._session.new_user() if self._session else 0
        self._turn = 0

    def wait_time(self) -> float:
        """Think time, seconds."""
        return self._session.plan.profile.think_time_s if self._session else 1.0

    @task  # type: ignore[untyped-decorator]
    def ask(self) -> None:
        """One request, one row, one event."""
        if self._session is None or self._session.stopping:
            # Locust ends a waiting user a moment after the stop: it must not wake up and send once more.
            raise StopUser
        self._turn += 1
        self._session.ask(self._number, self._turn - 1, self._tell)

    def _tell(self, record: RequestRecord, received_bytes: int) -> None:
        failed = record.status is not Status.OK
        over_ns = record.ended_ns if failed else record.last_content_ns
        self.environment.events.request.fire(
            request_type="POST",
            name=record.stage,
            response_time=((over_ns or record.sent_ns) - record.sent_ns) / NS_PER_S * 1e3,
            response_length=received_bytes,
            exception=RequestError(f"{record.status}: {record.error}") if failed else None,
            context={},
        )


def prepare(environment: Environment, **_: Any) -> None:
    """Find the endpoint, build the requests and warm up, all before a clock runs."""
    try:
        _prepare(environment.host)
    except PlumblineError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    if LOAD.plan and not environment.stop_timeout:
        # Locust's default cuts every request in flight at the end, the slow ones first.
        environment.stop_timeout = LOAD.plan.profile.drain_s


def _has_caller() -> bool:
    """True when `python -m load_tests` started us: it has warmed up, and it reports."""
    return bool(os.environ.get("PLUMBLINE_LOAD_CHILD"))


def _prepare(host: str | None) -> None:
    profile = load_profile(Path(os.environ.get("PLUMBLINE_LOAD_PROFILE") or EXAMPLE_PROFILE))
    LOAD.host, LOAD.plan = host, None
    plan = plan_load(profile, connect(host, os.environ.get("PLUMBLINE_LOAD_MODEL")))
    if not _has_caller():
        say(f"warming up {plan.endpoint.base_url} with {profile.warmup_requests} requests")
        warm_up(plan)
    LOAD.plan = plan


def begin(environment: Environment, **_: Any) -> None:
    """Open the rows file; the web UI may have named another host and may start several tests."""
    try:
        if LOAD.plan is None or environment.host != LOAD.host:
            _prepare(environment.host)
        if LOAD.plan:
            # Locust's stop() looks at the stack; the first look reads sources and stops every stream for 100 ms.
            inspect.stack()
            rows_path = Path(os.environ.get("PLUMBLINE_LOAD_ROWS") or new_rows_path())
            users = environment.runner.target_user_count if environment.runner else 0
            LOAD.session = LoadSession(LOAD.plan, rows_path, users=users, client=f"locust {__version__}")
    except PlumblineError as error:
        # Locust logs it and starts no user; without it the test would run on with nothing to send.
        raise StopTest(str(error)) from None


def stop_sending(environment: Environment, **_: Any) -> None:
    """The measuring window ends here; `--stop-timeout` lets what is in flight come to its end."""
    if LOAD.session:
        LOAD.session.stop_sending()


def finish(environment: Environment, **_: Any) -> None:
    """Close the rows file and, unless `python -m load_tests` will, report."""
    session, LOAD.session = LOAD.session, None
    if session is None:
        return
    session.finish()
    if not _has_caller():
        _print_report(session.rows_path)


def _print_report(rows_path: Path) -> None:
    # numpy and what it brings: not before the measurement is over.
    from load_tests.latency import latency_report
    from load_tests.report import print_report

    print_report(latency_report(read_rows(rows_path)))
    say(f"rows: {rows_path}")


events.init.add_listener(prepare)
events.test_start.add_listener(begin)
events.test_stopping.add_listener(stop_sending)
events.test_stop.add_listener(finish)
