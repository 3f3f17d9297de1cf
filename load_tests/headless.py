"""Locust without its web UI, as a process of its own: gevent patches the standard library of whoever imports it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from rich.progress import Progress, TaskID

from console import CannotJudge, progress, say, shorten
from load_tests.workload import LoadPlan

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_SPARE_S = 30.0
"""Start and end of the process, on top of duration and drain."""
_POLL_S = 0.2


def run_locust(plan: LoadPlan, profile_path: Path, rows_path: Path) -> bool:
    """Run the test and wait for its end; rows go to `rows_path`, Locust's words beside it into .log.

    Returns False when the user stopped it. Raises CannotJudge when Locust failed.
    """
    log_path = rows_path.with_suffix(".log")
    rows_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            _argv(plan),
            env=_environment(plan, profile_path, rows_path),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end it in order
        )
    try:
        _watch(child, plan, rows_path)
    except KeyboardInterrupt:
        _stop(child, plan.profile.drain_s)
        return False
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode != 0:
        raise CannotJudge(f"locust ended with status {child.returncode}: {_last_line(log_path)}; see {log_path}")
    return True


def _argv(plan: LoadPlan) -> list[str]:
    profile = plan.profile
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    argv += ["-u", str(profile.users), "-r", str(profile.spawn_rate), "-t", f"{profile.duration_s}s"]
    # Failed requests are in the rows; Locust's exit status tells whether Locust itself worked.
    return [*argv, "--stop-timeout", str(profile.drain_s), "--exit-code-on-error", "0", "--loglevel", "WARNING"]


def _environment(plan: LoadPlan, profile_path: Path, rows_path: Path) -> dict[str, str]:
    """The child's environment: the key goes this way alone, since arguments are public on a machine."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
    return inherited | {
        "OPENAI_BASE_URL": plan.endpoint.base_url,
        "OPENAI_API_KEY": plan.endpoint.api_key.get_secret_value(),
        "PLUMBLINE_LOAD_MODEL": plan.endpoint.model,
        "PLUMBLINE_LOAD_PROFILE": str(profile_path.resolve()),
        "PLUMBLINE_LOAD_ROWS": str(rows_path.resolve()),
        "PLUMBLINE_LOAD_CHILD": "1",
    }


def _watch(child: subprocess.Popen[bytes], plan: LoadPlan, rows_path: Path) -> None:
    """Show time and requests until the process ends; one that hangs beyond reason is an error."""
    profile = plan.profile
    deadline = time.monotonic() + profile.duration_s + profile.drain_s + _SPARE_S
    count = _RowCount(rows_path)
    with progress("s") as bar:
        task = bar.add_task(f"{profile.users} users", total=profile.duration_s)
        while child.poll() is None:
            if time.monotonic() > deadline:
                raise CannotJudge(f"locust did not end {_SPARE_S:g} s after its time; rows so far: {rows_path}")
            time.sleep(_POLL_S)
            count.update()
            _show(bar, task, count, profile.users, profile.duration_s)


def _show(bar: Progress, task: TaskID, count: _RowCount, users: int, duration_s: int) -> None:
    elapsed_s = int(count.elapsed_s)
    told = f"{users} users: {count.rows} requests, {count.failed} failed"
    waiting = ", waiting for the last answers" if elapsed_s > duration_s else ""
    bar.update(task, completed=min(elapsed_s, duration_s), description=told + waiting)


class _RowCount:
    """Counts rows as they are appended, reading each byte once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._started_s: float | None = None
        self.rows = 0
        self.failed = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first line appeared."""
        return 0.0 if self._started_s is None else time.monotonic() - self._started_s

    def update(self) -> None:
        """Take in what was written since."""
        if self._file is None:
            if not self._path.exists():
                return
            self._file, self._started_s = self._path.open("rb"), time.monotonic()
        for line in self._file:
            if line.startswith(b'{"kind":"request"'):
                self.rows += 1
                self.failed += b'"status":"ok"' not in line


def _stop(child: subprocess.Popen[bytes], drain_s: int) -> None:
    """End the test early: requests in flight may end, a second Ctrl-C does not wait for them."""
    say(f"stopping: up to {drain_s} s for requests in flight; Ctrl-C again to cut them")
    # Not SIGINT: a process started in the background ignores it.
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(drain_s + _SPARE_S)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        child.kill()
        child.wait()


def _last_line(log_path: Path) -> str:
    lines = log_path.read_text("utf8", "replace").split("\n")
    return shorten(next((line for line in reversed(lines) if line.strip()), "it said nothing"))
