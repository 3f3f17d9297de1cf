"""The main job from end to end on the real engine: `make demo`.

Each step is a command a user could type; the demo only runs them in turn, stops at the first that fails, and ends
the server if it started it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common import console
from common.console import CannotJudge, say
from serving.state import ServerRecord, running
from serving.vllm_server import healthy
from tracking.runs import LOCAL_STORE, ui_command

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Step:
    """One command of the demo."""

    what: str
    arguments: tuple[str, ...]
    remedy: str
    """What to do when it fails."""


STEPS = (
    Step(
        "decisions about the two example pipelines, beside those of the rules",
        ("agents", "run", "examples/pipelines.yaml"),
        "read the endpoint's log (`python -m serving status` names it), then try this command by itself",
    ),
    Step(
        "a small evaluation: two ways to ask, on 24 cases whose right decisions are known",
        ("evals", "run", "examples/suite.yaml"),
        "what was answered is in runs/evals; MLflow's store is under mlruns/",
    ),
    Step(
        "a 30 s load test with streaming",
        ("load_tests", "run", "examples/load.yaml"),
        "what was answered is in runs/load; fewer users in examples/load.yaml ask less of the machine",
    ),
)


def main() -> None:
    """Run the demo; raises CannotJudge naming the step that failed."""
    began = time.monotonic()
    found = running_server()
    port = found.port if found else free_port()
    base_url = found.base_url if found else f"http://127.0.0.1:{port}/v1"
    try:
        if not found:
            start_server(port)
        for number, step in enumerate(STEPS, 2):
            run_step(number, step, base_url)
    finally:
        if not found:
            command("serving", "stop", "--port", str(port))
    say(f"\nThe demo took {time.monotonic() - began:.0f} s. Where to look next:")
    say(f"  {ui_command():<42} the runs in MLflow, at http://127.0.0.1:5000 (store: {LOCAL_STORE})")
    say(f"  {'runs/evals, runs/load':<42} every answer and every request, one line each")
    say(f"  {'python -m serving start --background':<42} an endpoint of your own, then `make eval` and `make load`")
    say(f"  {'docs/recommend.md':<42} actions, labels, approvals, and runs of any length")
    say(f"  {'README.md':<42} how to add a specialist, an action, a scorer, a load profile")


def running_server() -> ServerRecord | None:
    """An endpoint that runs already, which is then used and left running; the one on the lowest port, of several."""
    record = next((one for one in running() if healthy(one.base_url.removesuffix("/v1"))), None)
    if record:
        say(f"== 1 of 4: an endpoint runs already: {record.model} at {record.base_url}; it is used and left running")
    return record


def start_server(port: int) -> None:
    """Start an endpoint of our own."""
    headline(1, "the real vLLM with a small model")
    check(1, "the server", command("serving", "start", "--background", "--port", str(port)), "see the line above")


def run_step(number: int, step: Step, base_url: str) -> None:
    """Run one step on that endpoint, say how long it took, stop the demo if it failed."""
    headline(number, step.what)
    began = time.monotonic()
    check(number, step.what, command(*step.arguments, base_url=base_url), step.remedy)
    say(f"   ({time.monotonic() - began:.0f} s)")


def check(number: int, what: str, code: int, remedy: str) -> None:
    """Raise when a step failed."""
    if code:
        raise CannotJudge(f"the demo stopped at step {number} of 4, {what} (exit code {code}): {remedy}")


def command(module: str, *arguments: str, base_url: str | None = None) -> int:
    """Run `python -m module arguments`, its output going where ours goes; its exit code.

    The demo shows its own server: an endpoint and a key that the user keeps in the environment are not its business.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}
    if base_url:
        environment["OPENAI_BASE_URL"] = base_url
    whole = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(whole, cwd=REPOSITORY, env=environment) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:
            # It cleans up after itself; killed, it would leave its own children running.
            child.terminate()
            child.wait()
            raise


def headline(number: int, what: str) -> None:
    """Say which step begins."""
    say(f"\n== {number} of 4: {what}")


def free_port() -> int:
    """8000 if nothing listens there, else one the system picks."""
    for port in (8000, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CannotJudge("no TCP port is free on 127.0.0.1")


if __name__ == "__main__":
    console.run(main)
