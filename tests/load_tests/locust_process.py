"""Locust with the scripted sender, started as users start it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from load_tests.facts import LoadFacts, to_json

ROOT = Path(__file__).parents[2]
LOCUSTFILE = Path(__file__).with_name("scripted_locustfile.py")
Row = dict[str, Any]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def scripted(folder: Path, *, loop: str = "open", duration_s: float = 1.0, **script: Any) -> dict[str, str]:
    """The environment of a test whose senders follow `script`; its profile is a file in `folder`."""
    profile = folder / "load.yaml"
    profile.write_text("name: scripted\n")
    facts = LoadFacts(str(profile), "http://127.0.0.1:9/v1", "m", loop, duration_s, drain_s=3)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PLUMBLINE_", "LOCUST_"))}
    return inherited | {
        "PYTHONPATH": str(ROOT),
        "PLUMBLINE_LOAD_OUT": str(folder),
        "SCRIPTED_FACTS": to_json(facts),
        "SCRIPT": json.dumps({"loop": loop, "duration_s": duration_s, **script}),
    }


def locust(folder: Path, *arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """One Locust process; its words go to a file of its own in `folder`."""
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--loglevel", "WARNING", *arguments]
    number = len(list(folder.glob("locust-*.log")))
    with (folder / f"locust-{number}.log").open("w") as log:
        return subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True)


def headless(folder: Path, *arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """Without the web UI, its statistics as JSON on stdout."""
    return locust(folder, "--headless", "--json", "--exit-code-on-error", "0", *arguments, env=env)


def processes(count: int) -> list[str]:
    """Arguments for that many workers forked by Locust, on a port of their own."""
    port = str(free_port())
    return ["--processes", str(count), "--master-bind-port", port, "--master-port", port, "--master-host", "127.0.0.1"]


def words(folder: Path) -> str:
    """What all Locust processes and senders said."""
    return "".join(path.read_text() for path in sorted(folder.glob("locust-*.log")))


def rows(folder: Path) -> list[Row]:
    """All lines of all workers; a last line that is not whole is not read."""
    lines = [line for path in sorted(folder.glob("rows-*.jsonl")) for line in path.read_text().split("\n")[:-1]]
    return [json.loads(line) for line in lines]


def of_kind(kind: str, found: list[Row]) -> list[Row]:
    return [row for row in found if row["kind"] == kind]


def until(happened: Callable[[], Any], limit_s: float = 60.0) -> None:
    """Wait; a test that waits in vain fails."""
    deadline = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def sending(folder: Path, at_least: int = 10) -> Callable[[], bool]:
    """True once so many requests have ended."""
    return lambda: len(of_kind("request", rows(folder))) >= at_least
