"""The simulator in a process of its own, so that its work is not counted as the client's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.console import CannotJudge

_ROOT = Path(__file__).resolve().parents[1]
_SIMULATOR = (
    "from serving.simulator import SimulatorSettings, serve\n"
    "settings = SimulatorSettings(ttft_ms=0, itl_ms=0, output_tokens=40)\n"
    "serve(settings, '127.0.0.1', 0, lambda url: print(url, flush=True), {answerer})"
)


@contextmanager
def simulator(*, stand_in: bool = False) -> Iterator[str]:
    """A simulator without delays in a process of its own; gives its base URL.

    stand_in: answers as a small model might (benchmarks/stand_in.py), instead of with made-up words.
    """
    code = _SIMULATOR.format(answerer="StandIn()" if stand_in else "None")
    if stand_in:
        code = f"from benchmarks.stand_in import StandIn\n{code}"
    with subprocess.Popen([sys.executable, "-c", code], cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            base_url = process.stdout.readline().strip() if process.stdout else ""
            if not base_url:
                raise CannotJudge("the simulator did not start")
            yield base_url
        finally:
            process.terminate()
