"""What a request costs our client and the openai SDK: CPU of this process, and requests per second.

    python -m benchmarks.client_cost [--requests 1500] [--rounds 5] [--concurrency 32]

The endpoint is the simulator without delays, in a process of its own, so its work is not counted. Requests are the
agents' own, on the pipelines of examples/pipelines.yaml. The SDK is called directly (`chat.completions.create`), with
as many at once and no retries; ours bounds, times and checks each request as well. Rounds alternate over the clients,
so that a machine that drifts drifts for both. Ours runs on asyncio's own loop and on uvloop, as `agents run` does. Not
covered: TLS, a network, streaming, and what a real engine's delays do to many requests that wait.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from openai import AsyncOpenAI

from agents.asking.endpoint.client import make_client
from agents.asking.requests import requests_for
from agents.asking.variant import DEFAULT_PROMPT, load_prompt
from agents.facts.pipeline_files import ReadPipeline, read_pipelines
from agents.labels.policy import DEFAULT_POLICY, load_policy
from benchmarks.simulator_process import simulator
from common import console
from common.console import say
from serving.endpoint import Endpoint, connect

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_ROOT = Path(__file__).resolve().parents[1]
_WARM_UP = 50
Bodies = list[dict[str, Any]]


@dataclass(frozen=True)
class Figures:
    """One round of one client."""

    cpu_ms: float
    """Of this process, for each request."""
    requests_per_s: float


Complete = Callable[[dict[str, Any]], Coroutine[Any, Any, object]]


@asynccontextmanager
async def ours(endpoint: Endpoint, concurrency: int) -> AsyncIterator[Complete]:
    """The client of the agents."""
    async with make_client(endpoint, max_retries=0, concurrency=concurrency) as client:
        yield client.complete


@asynccontextmanager
async def openai_sdk(endpoint: Endpoint, concurrency: int) -> AsyncIterator[Complete]:
    """The openai SDK, as its users call it."""
    key, slots = endpoint.api_key.get_secret_value(), asyncio.Semaphore(concurrency)
    async with AsyncOpenAI(base_url=endpoint.base_url, api_key=key, max_retries=0) as client:

        async def complete(body: dict[str, Any]) -> object:
            async with slots:
                return await client.chat.completions.create(**body)

        yield complete


@dataclass(frozen=True)
class Subject:
    """A client on an event loop."""

    client: Callable[[Endpoint, int], AbstractAsyncContextManager[Complete]]
    run: Callable[..., Figures]


SUBJECTS = {
    "openai SDK": Subject(openai_sdk, asyncio.run),
    "ours": Subject(ours, asyncio.run),
    "ours on uvloop": Subject(ours, uvloop.run),
}
"""The first is what the ratios are to."""


@app.command()
def main(
    requests: Annotated[int, typer.Option(min=1, help="Requests in each round.")] = 1500,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each client.")] = 5,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight at once.")] = 32,
) -> None:
    """Measure the clients in turn and print medians, ranges and ratios."""
    seen: dict[str, list[Figures]] = {name: [] for name in SUBJECTS}
    with simulator() as base_url:
        endpoint = connect(base_url)
        bodies = list(islice(cycle(agent_bodies(endpoint.model)), requests))
        for number in range(rounds):
            for name, subject in SUBJECTS.items():
                figures = subject.run(measure(subject, endpoint, bodies, concurrency))
                seen[name].append(figures)
                say(f"round {number + 1}, {name}: {figures.cpu_ms:.3f} ms, {figures.requests_per_s:.0f} requests/s")
    report(seen, requests, concurrency)


def agent_bodies(model: str) -> Bodies:
    """What the three agents send for the example pipelines."""
    entries = read_pipelines([_ROOT / "examples" / "pipelines.yaml"])
    specs = [entry.spec for entry in entries if isinstance(entry, ReadPipeline)]
    return [one.body for one in requests_for(specs, load_prompt(DEFAULT_PROMPT), load_policy(DEFAULT_POLICY), model)]


async def measure(subject: Subject, endpoint: Endpoint, bodies: Bodies, concurrency: int) -> Figures:
    """Send every body with at most `concurrency` in flight, after some that warm up and are not counted."""
    async with subject.client(endpoint, concurrency) as complete:
        await asyncio.gather(*map(complete, bodies[:_WARM_UP]))
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        await asyncio.gather(*map(complete, bodies))
        return Figures(
            cpu_ms=(time.process_time() - cpu_s) / len(bodies) * 1e3,
            requests_per_s=len(bodies) / (time.perf_counter() - wall_s),
        )


def report(seen: dict[str, list[Figures]], requests: int, concurrency: int) -> None:
    """Medians with their range over rounds, and each client's CPU as a share of the first one's."""
    first = statistics.median(figures.cpu_ms for figures in next(iter(seen.values())))
    columns = ["client", "rounds", "CPU ms/request", "requests/s", "CPU ratio"]
    rows = []
    for name, rounds in seen.items():
        cpu_ms = [figures.cpu_ms for figures in rounds]
        rate = [figures.requests_per_s for figures in rounds]
        ratio = f"{statistics.median(cpu_ms) / first:.2f}"
        rows.append([name, len(rounds), _spread(cpu_ms, 3), _spread(rate, 0), ratio])
    title = f"SIMULATED endpoint, {requests} requests a round, {concurrency} at once: median (lowest to highest)"
    console.table(title, columns, rows, right=columns[1:])


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    console.run(app)
