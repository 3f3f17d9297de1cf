"""Starting a sender and talking to it in lines of JSON; the same under gevent, which patches `subprocess`, and without.

The pipe to its stdin is the sender's life line: when the process that holds the other end goes, however it goes, the
sender reads the end of its orders and cancels what is in flight.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parent.parent
SENDER: Sequence[str] = (sys.executable, "-m", "load_tests.sender")
PREPARE_LIMIT_S = 120.0
"""Longest a sender may take to build its requests."""
END_S = 5.0
"""How long a sender whose orders have ended may take to write the rows of what it cancels."""


class SenderProcess:
    """One running sender. Its words for people go to our stderr."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            SENDER,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for us: the sender is told to drain
        )
        self._writing = threading.Lock()

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        status: int | None = self._process.poll()
        return status

    def order(self, **fields: Any) -> None:
        """Give one order. One that is gone cannot be told, and shows by the end of its lines."""
        pipe = self._process.stdin
        with self._writing, contextlib.suppress(BrokenPipeError, ValueError):
            if pipe:
                pipe.write(orjson.dumps(fields) + b"\n")
                pipe.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends."""
        for line in self._process.stdout or ():
            yield orjson.loads(line)

    def hang_up(self) -> None:
        """End its orders: it cancels what is in flight, writes the rows and ends."""
        with self._writing, contextlib.suppress(BrokenPipeError):
            if self._process.stdin:
                self._process.stdin.close()

    def end(self) -> int:
        """Make sure that it is gone; returns its exit status, negative when it had to be killed."""
        self.hang_up()
        try:
            status: int = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return status
