"""The conductor of a load test, in Locust's master or its only process: one start and one end for all workers.

The order of things: every worker prepares (builds its requests and its share of the schedule), the conductor waits
for all of them and then names the moment to start, so that a slow worker does not begin late. The test ends when all
senders have ended, by themselves after the last request of an open loop, else because they were told to. A worker
that dies, or joins a running closed loop, makes it another test than was asked for: it ends, with exit status 3.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped] # it ships no types
import gevent.socket  # type: ignore[import-untyped]
import orjson
from locust.env import Environment
from locust.runners import STATE_MISSING, MasterRunner

from common.console import ExitCode, PlumblineError, say, table
from load_tests.facts import FACTS_VARIABLE, LoadFacts, from_json
from load_tests.sender_process import PREPARE_LIMIT_S, ROOT
from load_tests.worker_part import ENDED, PREPARE, READY, SPARE_S, START, STOP

OUT_VARIABLE = "PLUMBLINE_LOAD_OUT"
_LEAD_S = 0.5
"""From naming the moment to start to that moment: a message to another host and some more."""
_POLL_S = 0.05
_SILENT_S = 6
"""Beyond the 4 s without a heartbeat after which Locust calls a worker missing: a busy host is not a dead one."""
_LOCAL = "local"
_PRINTED = (50, 90, 95, 99)


@dataclass
class _Test:
    number: int
    facts: LoadFacts
    folder: Path
    clients: list[str]
    """Locust's names of the workers, by worker."""
    ready: dict[int, str] = field(default_factory=dict)
    """Digest of each worker's profile."""
    ended: dict[int, dict[str, Any]] = field(default_factory=dict)
    stopping: bool = False
    leaving: bool = False
    problem: str = ""
    """Why it cannot be judged."""

    @property
    def missing(self) -> list[int]:
        """Workers that have not ended."""
        return [worker for worker in range(len(self.clients)) if worker not in self.ended]


class Conductor:
    """Listens to Locust's events and the workers' messages."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._test: _Test | None = None
        self._tests = 0
        given = os.environ.get(FACTS_VARIABLE)
        self._has_caller = given is not None
        self._host = environment.host
        self._facts = from_json(given) if given else preflight(environment.host)
        self._run_time_s = self._take_run_time()
        if self._has_caller:
            gevent.spawn(_end_with_caller)
        runner = environment.runner
        if runner:
            runner.register_message(READY, self._on_ready)
            runner.register_message(ENDED, self._on_ended)

    # --- Locust's events ---------------------------------------------------------------------------------

    def begin(self, **_: Any) -> None:
        """Start of a test: returns when it has begun, so that Locust's users ramp up from then on."""
        try:
            self._begin()
        except PlumblineError as error:
            self._give_up(str(error), error.exit_code)
        except Exception:
            # Locust prints it and would go on without a test until somebody stops it.
            self._environment.process_exit_code = int(ExitCode.NOT_JUDGED)
            gevent.spawn(self._leave)
            raise
        if self._test and self._test.problem:
            self._give_up(self._test.problem, ExitCode.NOT_JUDGED)

    def stop(self, **_: Any) -> None:
        """No more requests: returns when those in flight have ended or the drain is over."""
        test = self._test
        if test is None:
            return
        test.leaving = True
        self._send_stop(test)
        deadline = time.monotonic() + test.facts.drain_s + 2 * SPARE_S
        while test.missing and time.monotonic() < deadline:
            gevent.sleep(_POLL_S)
            self._note_dead(test)
        for worker in test.missing:
            self._problem(test, f"worker {worker} did not end {2 * SPARE_S:g} s after the drain")

    def finish(self, **_: Any) -> None:
        """The test is over: tell what is known of it without its rows."""
        test, self._test = self._test, None
        if test is None:
            return
        if not self._has_caller:
            _print_latencies(test)
        if test.problem:
            say(f"error: {test.problem}")

    def on_worker_connect(self, client_id: str, **_: Any) -> None:
        """A worker that comes late gets users from Locust, but has no share of this test."""
        test = self._test
        if test is None or test.stopping or client_id in test.clients:
            return
        if test.facts.loop == "open":
            say(f"a worker joined during the test ({client_id}); it sends nothing before the next one")
        else:
            self._problem(test, f"a worker joined during the test ({client_id}); start again with all of them")

    # --- the workers' messages ---------------------------------------------------------------------------

    def _on_ready(self, msg: Any, **_: Any) -> None:
        if self._test and msg.data["test"] == self._test.number:
            self._test.ready[msg.data["worker"]] = msg.data["profile"]

    def _on_ended(self, msg: Any, **_: Any) -> None:
        test = self._test
        if test is None or msg.data["test"] != test.number:
            return
        worker = msg.data["worker"]
        test.ended[worker] = msg.data
        if msg.data["end"] is None:
            said = f"the sender of worker {worker} ended with status {msg.data['status']} before its end"
            self._problem(test, f"{said}; its words are above, in Locust's log")

    # --- one test ----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._environment.host != self._host:
            # The web UI named another one.
            self._host, self._facts = self._environment.host, preflight(self._environment.host)
        self._tests += 1
        test = _Test(self._tests, self._facts, self._folder(), self._clients())
        self._test = test
        self._prepare(test)
        if not test.problem:
            self._start(test)

    def _folder(self) -> Path:
        named = os.environ.get(OUT_VARIABLE)
        if self._has_caller and named:
            return Path(named).resolve()
        return new_folder(Path(named) if named else None).resolve()

    def _clients(self) -> list[str]:
        runner = self._environment.runner
        if not isinstance(runner, MasterRunner):
            return [_LOCAL]
        # Locust's own index has gaps where workers left.
        here = [client.id for client in runner.clients.ready + runner.clients.spawning + runner.clients.running]
        return sorted(here, key=runner.get_worker_index)

    def _prepare(self, test: _Test) -> None:
        for worker, client in enumerate(test.clients):
            asked = {"test": test.number, "worker": worker, "workers": len(test.clients), "folder": str(test.folder)}
            asked |= {"facts": asdict(test.facts), "histograms": not self._has_caller}
            self._send(PREPARE, asked, client)
        deadline = time.monotonic() + PREPARE_LIMIT_S
        while len(test.ready) < len(test.clients) and not test.problem:
            gevent.sleep(_POLL_S)
            self._note_dead(test)
            if time.monotonic() > deadline:
                self._problem(test, f"not every sender was ready after {PREPARE_LIMIT_S:g} s")
        ours = sha256(Path(test.facts.profile).read_bytes()).hexdigest()
        others = [str(worker) for worker, digest in test.ready.items() if digest != ours]
        if others:
            self._problem(test, f"worker {', '.join(others)}: has another profile than {test.facts.profile}; copy it")

    def _start(self, test: _Test) -> None:
        start_at_s = time.time() + _LEAD_S
        for client in test.clients:
            order = {"test": test.number, "start_at_s": start_at_s, "for_s": self._run_time_s}
            self._send(START, order, client)
        if test.facts.loop == "open":
            say("open loop: requests are sent as scheduled, whatever Locust's number of users")
        gevent.sleep(max(0.0, start_at_s - time.time()))
        gevent.spawn(self._watch, test)

    def _watch(self, test: _Test) -> None:
        """End the test when all senders have ended; tell them to when it is no longer what was asked for."""
        while test.missing and not test.leaving:
            gevent.sleep(_POLL_S)
            self._note_dead(test)
            if test.problem:
                self._send_stop(test)
        if not test.leaving:
            self._leave()

    def _send_stop(self, test: _Test) -> None:
        if not test.stopping:
            test.stopping = True
            for worker in test.missing:
                self._send(STOP, {"test": test.number}, test.clients[worker])

    def _note_dead(self, test: _Test) -> None:
        runner = self._environment.runner
        if not isinstance(runner, MasterRunner):
            return
        for worker in test.missing:
            client = runner.clients.get(test.clients[worker])
            if client is None or (client.state == STATE_MISSING and client.heartbeat < -_SILENT_S):
                test.ended[worker] = {"end": None, "histograms": None}
                self._problem(test, f"worker {worker} of {len(test.clients)} is gone; its requests are missing")

    def _problem(self, test: _Test, said: str) -> None:
        """Note why the test cannot be judged; the first reason is the one."""
        if not test.problem:
            test.problem = said
            self._environment.process_exit_code = int(ExitCode.NOT_JUDGED)
            say(f"stopping: {said}")

    def _give_up(self, said: str, code: ExitCode) -> None:
        """There is no test: end this greenlet of Locust's, which would start users next."""
        say(f"error: {said}")
        test, self._test = self._test, None
        if test:
            self._send_stop(test)
        self._environment.process_exit_code = int(code)
        gevent.spawn(self._leave)
        raise gevent.GreenletExit

    def _leave(self) -> None:
        runner, options = self._environment.runner, self._environment.parsed_options
        if runner is None:
            return
        if options and options.headless:
            runner.quit()
        else:
            runner.stop()

    def _send(self, kind: str, data: dict[str, Any], client: str) -> None:
        if self._environment.runner:
            self._environment.runner.send_message(kind, data, client)

    def _take_run_time(self) -> float | None:
        """Headless, the time runs from the start of sending; Locust's own timer would run while senders prepare."""
        options = self._environment.parsed_options
        if options is None or not options.headless:
            return None
        given, options.run_time = options.run_time, None
        if given:
            return float(given)
        return self._facts.duration_s if self._facts.loop == "closed" else None


def _end_with_caller() -> None:
    """Our stdin is the life line to the caller (headless.py): when it goes, however it goes, nobody wants this test.

    Ends Locust and the workers it forked; each sender then reads the end of its orders, cuts what is in flight and
    writes the rows.
    """
    gevent.socket.wait_read(sys.stdin.fileno())
    os.killpg(os.getpgrp(), signal.SIGKILL)


def new_folder(named: Path | None) -> Path:
    """An empty folder for one test's rows: the one that is named, else a new one in runs/load."""
    from load_tests.run_folder import RunFolder

    folder: Path = RunFolder.create(named).path
    return folder


def preflight(host: str | None) -> LoadFacts:
    """Check everything, connect and warm up, in another process. Exits with its status when that says no."""
    argv = [sys.executable, "-m", "load_tests.preflight", *([host] if host else [])]
    environment = dict(os.environ)
    if profile := environment.get("PLUMBLINE_LOAD_PROFILE"):
        environment["PLUMBLINE_LOAD_PROFILE"] = str(Path(profile).resolve())
    done = subprocess.run(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise PreflightFailed(done.returncode)
    return from_json(done.stdout)


class PreflightFailed(PlumblineError):
    """The preflight said no, and why, on stderr."""

    def __init__(self, status: int) -> None:
        super().__init__("nothing was sent: see above")
        self.exit_code = ExitCode(status) if status in set(ExitCode) else ExitCode.NOT_JUDGED


def _print_latencies(test: _Test) -> None:
    # numpy and what it brings: not before the measurement is over.
    from load_tests.tally import merged

    parts = [orjson.loads(ended["histograms"]) for ended in test.ended.values() if ended["histograms"]]
    found = merged(parts)
    (test.folder / "histograms.json").write_bytes(orjson.dumps({name: h.to_dict() for name, h in found.items()}))
    rows = []
    for name, histogram in found.items():
        cells = [histogram.percentile(p) if histogram.count * (100 - p) >= 100 else None for p in _PRINTED]
        rows.append([_TITLES[name], histogram.count, *("-" if s is None else f"{s * 1e3:.4g}" for s in cells)])
    title = f"Whole test, ramp included, {len(parts)} of {len(test.clients)} workers, ms"
    columns = ["", "n", *(f"p{p}" for p in _PRINTED)]
    table(title, columns, rows, right=columns[1:])
    say(f"rows: {test.folder}")


_TITLES = {
    "ttft": "TTFT",
    "itl": "ITL",
    "e2e": "e2e",
    "ttft_from_intended": "TTFT from intended",
    "e2e_from_intended": "e2e from intended",
    "scheduling_lag": "scheduling lag",
}
