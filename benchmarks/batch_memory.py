"""A long run's memory and pace: `agents run` over many pipelines on the simulator, its memory read as the rows come.

    python -m benchmarks.batch_memory [--pipelines 100000 --prompt read]

The simulator answers at once, so the pace is the client's: reading, rules, prompts, requests, answers, rows. Memory
is the resident set of the `agents run` process and is read at 1 % and then each 10 % of the rows. Constant memory means
that the last reading is about the first one. Traces are off: a store takes some 40 ms for each.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import psutil
import typer

from agents.asking.variant import DEFAULT_PROMPT
from benchmarks.simulator_process import simulator
from common import console
from common.console import CannotJudge, say

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_ROOT = Path(__file__).resolve().parents[1]
_SHARES = (0.01, *(tenth / 10 for tenth in range(1, 11)))
"""Of the rows, when memory is read."""


@app.command()
def main(
    pipelines: Annotated[int, typer.Option(min=100, help="How many.")] = 100_000,
    prompt: Annotated[str, typer.Option(help="As in `agents run`.")] = DEFAULT_PROMPT,
    concurrency: Annotated[int, typer.Option(min=1, help="Pipelines at a time.")] = 16,
) -> None:
    """Run, read the memory as the rows come, and print both."""
    with tempfile.TemporaryDirectory() as temporary, simulator() as base_url:
        source, out = Path(temporary) / "in.jsonl", Path(temporary) / "out.jsonl"
        write_pipelines(source, pipelines)
        command = [sys.executable, "-m", "agents", "run", str(source), "--out", str(out), "--base-url", base_url]
        options = ["--prompt", prompt, "--concurrency", str(concurrency), "--trace", "none"]
        began = time.monotonic()
        with subprocess.Popen([*command, *options], cwd=_ROOT) as running:
            readings = list(memory(running, out, pipelines))
        wall_s = time.monotonic() - began
        if running.returncode:
            raise CannotJudge(f"agents run ended with {running.returncode}")
        rows = sum(1 for _ in out.open("rb"))
    title = f"{pipelines} pipelines, prompt {prompt}, {concurrency} at a time, SIMULATOR"
    console.table(title, ["rows", "resident MB"], readings, right=["rows", "resident MB"])
    say(f"{rows} rows for {pipelines} pipelines in {wall_s:.0f} s: {60 * rows / wall_s:.0f} pipelines/min")


def write_pipelines(path: Path, count: int) -> None:
    """Seeded pipelines with all three parts, their labels spread over all levels."""
    rng = random.Random(0)  # noqa: S311 - reproducible, not secret
    with path.open("w", encoding="utf8") as file:
        for number in range(count):
            pipeline = {
                "id": f"pipeline-{number:07d}",
                "source": {
                    "type": rng.choice(["REST API", "Kafka", "PostgreSQL", "object storage"]),
                    "volume": f"{rng.randint(1, 90)}GB/day",
                    "frequency": rng.choice(["daily", "hourly", "every 15 minutes"]),
                },
                "quality_metrics": {"completeness": rng.randint(50, 100), "consistency": rng.randint(70, 100)},
                "infrastructure_metrics": {"cpu": rng.randint(10, 99), "memory": rng.randint(10, 99)},
            }
            file.write(json.dumps(pipeline) + "\n")


def memory(running: subprocess.Popen[bytes], out: Path, pipelines: int) -> Iterator[tuple[int, str]]:
    """Rows and resident megabytes, at each share of the rows."""
    process, rows, offset = psutil.Process(running.pid), 0, 0
    for share in _SHARES:
        while rows < pipelines * share and running.poll() is None:
            time.sleep(0.1)
            if out.exists():
                with out.open("rb") as file:
                    file.seek(offset)
                    new = file.read()
                offset, rows = offset + len(new), rows + new.count(b"\n")
        try:
            yield rows, f"{process.memory_info().rss / 1e6:.0f}"
        except psutil.NoSuchProcess:
            return  # the last rows and the end came between two looks


if __name__ == "__main__":
    console.run(app)
