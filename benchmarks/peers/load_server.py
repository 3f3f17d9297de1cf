"""The simulator as load tools are measured on it: known delays, and a note of when each request came.

The notes go through the process's standard output, eight bytes a request, so that watching costs the server nothing
that a tool could feel; a /metrics page is read before and after a run only.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.load_figures import ServerSaw
from common.console import CannotJudge
from load_tests.scrape import MetricsPage
from serving.simulator import SimulatorSettings, serve
from serving.simulator_request import ChatRequest

TTFT_MS, ITL_MS, OUTPUT_TOKENS = 50.0, 10.0, 64
_ANSWER = ("answer " * OUTPUT_TOKENS)[: 4 * OUTPUT_TOKENS - 1]
"""The simulator cuts a given answer into a token for every four characters begun."""
_ROOT = Path(__file__).resolve().parents[2]
_STAMP = struct.Struct("<q")
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class LoadServer:
    """A simulator in a process of its own."""

    base_url: str
    """Ends with /v1."""
    notes: int
    """A file descriptor that arrivals can be read from without waiting."""

    def totals(self) -> tuple[float, float]:
        """First tokens sent so far, and the seconds to them together."""
        ttft = MetricsPage(self.base_url).read(buckets=False).histograms.get("ttft")
        return (ttft.count, ttft.sum_s) if ttft else (0.0, 0.0)

    def saw(self, before: tuple[float, float]) -> ServerSaw:
        """What came since `before` (totals) and since this was last asked. To be asked when no request is under way."""
        arrivals = arrivals_of(_all_of(self.notes))
        count, sum_s = (now - then for now, then in zip(self.totals(), before, strict=True))
        return ServerSaw(tuple(arrivals), sum_s * 1e3 / count if count else float("nan"))


def arrivals_of(notes: bytes) -> list[float]:
    """The seconds (this machine's monotonic clock) noted in these bytes."""
    return [stamp / 1e9 for (stamp,) in _STAMP.iter_unpack(notes)]


@contextmanager
def load_server() -> Iterator[LoadServer]:
    """A server of 50 ms to the first token, 10 ms between tokens, 64 tokens. Raises CannotJudge when it does not start.

    Every answer has 64 tokens unless a request's own limit is lower, so tools that send no limit do the same work.
    """
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            if not process.stdout or not (base_url := process.stdout.readline().decode().strip()):
                raise CannotJudge("the simulator did not start")
            os.set_blocking(process.stdout.fileno(), False)
            yield LoadServer(base_url, process.stdout.fileno())
        finally:
            process.terminate()


def _all_of(descriptor: int) -> bytes:
    """What can be read now. A pipe holds 64 KiB: 8,192 requests."""
    found = b""
    try:
        while piece := os.read(descriptor, 1 << 16):
            found += piece
    except BlockingIOError:
        pass
    return found


def _answer(_asked: ChatRequest) -> str:
    """The same text to everybody; notes the moment."""
    os.write(sys.stdout.fileno(), _STAMP.pack(time.monotonic_ns()))
    return _ANSWER


def _main() -> None:
    settings = SimulatorSettings(ttft_ms=TTFT_MS, itl_ms=ITL_MS, output_tokens=OUTPUT_TOKENS)
    serve(settings, "127.0.0.1", 0, lambda url: print(url, flush=True), _answer)


if __name__ == "__main__":
    _main()
