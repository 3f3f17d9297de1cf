"""Locust without its web UI, as a process of its own: gevent patches the standard library of whoever imports it.

The pipe to its stdin is its life line: when this process is gone, even killed, Locust's conductor ends the test.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress, TaskID

from common.console import CannotJudge, progress, say, shorten
from load_tests.facts import FACTS_VARIABLE, facts_of, to_json
from load_tests.live import LiveCount
from load_tests.sender_process import END_S, PREPARE_LIMIT_S
from load_tests.workload import LoadPlan

if TYPE_CHECKING:
    from load_tests.run_folder import RunFolder

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_SPARE_S = 60.0
"""Start and end of the processes, on top of preparing, duration and drain."""
_POLL_S = 0.2
_LAST_BYTES = 1000
"""The line of the end is shorter."""


@dataclass(frozen=True)
class Ended:
    """How a test ended. Its rows are there up to then, whatever it was, unless it ended before the start."""

    stopped: bool = False
    """By the user."""
    problem: str = ""
    """Why it is not the test that was asked for: Locust, a worker or a sender failed."""

    @property
    def whole(self) -> bool:
        """It ran to its end."""
        return not self.stopped and not self.problem

    def refuse_unless_whole(self) -> None:
        """Raises KeyboardInterrupt when the user stopped it, CannotJudge when something failed."""
        if self.stopped:
            raise KeyboardInterrupt
        if self.problem:
            raise CannotJudge(self.problem)


def run_locust(plan: LoadPlan, profile_path: Path, folder: RunFolder) -> Ended:
    """Run the test and wait for its end; rows go to `folder`, Locust's words to its log.

    The caller has connected and warmed up.
    """
    with folder.log.open("wb") as log:
        child = subprocess.Popen(
            _argv(plan),
            env=_environment(plan, profile_path, folder),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end it in order
        )
    try:
        in_time = _watch(child, plan, folder)
    except KeyboardInterrupt:
        _stop(child, plan.profile.drain_s)
        _kill(child)
        _settle(plan, folder)
        return Ended(stopped=True)
    finally:
        _kill(child)
    if not in_time:
        _settle(plan, folder)
        return Ended(problem=f"locust did not end in its time and was killed; rows so far: {folder.path}")
    if child.returncode != 0:
        _settle(plan, folder)
        said = f"locust ended with status {child.returncode}: {_why(folder.log)}; see {folder.log}"
        return Ended(problem=said)
    return Ended()


def _argv(plan: LoadPlan) -> list[str]:
    arrivals, processes = plan.profile.arrivals, plan.profile.processes
    users, per_s = (arrivals.users, arrivals.spawn_rate) if arrivals.kind == "closed" else (processes, processes)
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    argv += ["-u", str(users), "-r", str(per_s)]
    if processes > 1:
        # Its default port may be taken by another test, and nobody outside has business with the master.
        address, port = "127.0.0.1", str(_free_port())
        argv += ["--processes", str(processes), "--master-bind-host", address, "--master-bind-port", port]
        argv += ["--master-host", address, "--master-port", port]
    # Failed requests are in the rows; Locust's exit status tells whether Locust itself worked.
    return [*argv, "--exit-code-on-error", "0", "--loglevel", "WARNING"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _environment(plan: LoadPlan, profile_path: Path, folder: RunFolder) -> dict[str, str]:
    """The child's environment: the key goes this way alone, since arguments are public on a machine."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
    return inherited | {
        "OPENAI_BASE_URL": plan.endpoint.base_url,
        "OPENAI_API_KEY": plan.endpoint.api_key.get_secret_value(),
        "PLUMBLINE_LOAD_MODEL": plan.endpoint.model,
        "PLUMBLINE_LOAD_PROFILE": str(profile_path.resolve()),
        "PLUMBLINE_LOAD_OUT": str(folder.path.resolve()),
        FACTS_VARIABLE: to_json(facts_of(plan, profile_path)),
    }


def _watch(child: subprocess.Popen[bytes], plan: LoadPlan, folder: RunFolder) -> bool:
    """Show time and requests until the process ends; False for one that hangs beyond reason."""
    profile = plan.profile
    deadline = time.monotonic() + PREPARE_LIMIT_S + profile.duration_s + profile.drain_s + _SPARE_S
    count = LiveCount(profile, [folder.rows(worker) for worker in range(profile.processes)])
    with progress("s") as bar:
        task = bar.add_task(profile.name, total=profile.duration_s)
        while child.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
            count.update()
            _show(bar, task, count, profile.duration_s)
    return True


def _show(bar: Progress, task: TaskID, count: LiveCount, duration_s: float) -> None:
    waiting = ", waiting for the last answers" if count.elapsed_s > duration_s else ""
    bar.update(task, completed=min(int(count.elapsed_s), duration_s), told=count.told() + waiting)


def _stop(child: subprocess.Popen[bytes], drain_s: float) -> None:
    """End the test early: requests in flight may end, a second Ctrl-C does not wait for them."""
    say(f"stopping: up to {drain_s:g} s for requests in flight; Ctrl-C again to cut them")
    try:
        # Not SIGINT: a process started in the background ignores it.
        child.send_signal(signal.SIGTERM)
        child.wait(drain_s + _SPARE_S)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Also the workers Locust forked; each sender, in a session of its own, ends with its worker."""
    with contextlib.suppress(ProcessLookupError):  # all have ended by themselves
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin:
        child.stdin.close()


def _settle(plan: LoadPlan, folder: RunFolder) -> None:
    """Wait until senders that were just cut off have written their last rows; one that was killed never does."""
    paths = [path for worker in range(plan.profile.processes) if (path := folder.rows(worker)).exists()]
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline and not all(map(_has_end, paths)):
        time.sleep(_POLL_S)


def _has_end(rows_path: Path) -> bool:
    with rows_path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
        return b'\n{"kind":"end",' in file.read()


def _why(log_path: Path) -> str:
    """The first error in the log, of which later ones are consequences; else its last line."""
    lines = [line for line in log_path.read_text("utf8", "replace").split("\n") if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
    return shorten(errors[0] if errors else (lines or ["it said nothing"])[-1])
