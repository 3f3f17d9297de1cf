"""Which CPU settings serve fastest here: each variant's vLLM in turn, the same requests, ratios to the first variant.

    python -m benchmarks.cpu_profile [--rounds 2] [--only profile,bfloat16]

Rounds alternate over the variants, so that a machine that drifts drifts for all. Figures: output tokens per second at
1, 8 and 32 requests at once (64 tokens each, prompts of about 250 tokens that share a prefix), seconds to healthy.
Covered: dtype, preloaded libraries, thread binding, block size, attention splitting. Not covered: other models.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import aiohttp
import typer

from common import console
from common.console import BadInput, say
from serving import weights
from serving.catalogue import default_model, model_named
from serving.profiles import Profile, make, model_size
from serving.vllm_server import ServerSpec, start, stop

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

LEVELS = (1, 8, 32)
_TOKENS = 64
_SHARED = "You advise on data pipelines. Use only the facts that are given, and answer in one sentence. " * 10


def with_argument(profile: Profile, *words: str) -> Profile:
    """The profile with further arguments; vLLM takes the last of two."""
    return replace(profile, arguments=(*profile.arguments, *words))


def with_environment(profile: Profile, **values: str) -> Profile:
    """The profile with other environment values; an empty one is taken away."""
    merged = {**profile.environment, **values}
    return replace(profile, environment={key: value for key, value in merged.items() if value})


VARIANTS: dict[str, Callable[[Profile], Profile]] = {
    "profile": lambda profile: profile,
    "float32": lambda profile: with_argument(profile, "--dtype", "float32"),
    "bfloat16": lambda profile: with_argument(profile, "--dtype", "bfloat16"),
    "nothing preloaded": lambda profile: with_environment(profile, LD_PRELOAD=""),
    "vLLM's own binding": lambda profile: with_environment(profile, VLLM_CPU_OMP_THREADS_BIND="auto"),
    "blocks of 32": lambda profile: with_argument(profile, "--block-size", "32"),
    "batches of 512 tokens": lambda profile: with_argument(profile, "--max-num-batched-tokens", "512"),
    "no KV splitting": lambda profile: with_environment(profile, VLLM_CPU_ATTN_SPLIT_KV="0"),
}


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each variant is started and measured.")] = 2,
    only: Annotated[str, typer.Option(help="Comma-separated variants; all without it.")] = ",".join(VARIANTS),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8199,
) -> None:
    """Measure the variants and print a table of medians, ranges and ratios."""
    names = only.split(",")
    if unknown := [name for name in names if name not in VARIANTS]:
        raise BadInput(f"--only: {unknown[0]!r} is not known; known: {', '.join(VARIANTS)}")
    model = model_named(default_model("cpu"))
    folder = weights.bring(model, say)
    profile = make("cpu", model_size(folder, model.context))
    seen: dict[str, list[list[float]]] = {name: [] for name in names}
    # The record of a server that a user runs stays as it is.
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="plumbline-benchmark-")
    for number in range(rounds):
        for name in names:
            spec = ServerSpec(model.name, folder, VARIANTS[name](profile), port=port)
            figures = measure(spec)
            seen[name].append(figures)
            say(f"round {number + 1}, {name}: {', '.join(f'{figure:.0f}' for figure in figures)}")
    report(seen)


def measure(spec: ServerSpec) -> list[float]:
    """Seconds to healthy, then output tokens per second at each level."""
    began = time.monotonic()
    record = start(spec, lambda _text: None)
    healthy_s = time.monotonic() - began
    try:
        return [healthy_s, *asyncio.run(throughput(spec))]
    finally:
        stop(record)


async def throughput(spec: ServerSpec) -> list[float]:
    """Output tokens per second at each level, after one request that is not counted."""
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        await ask(session, spec, "warm-up")
        found = []
        for level in LEVELS:
            began = time.perf_counter()
            await asyncio.gather(*(ask(session, spec, f"{level}/{index}") for index in range(level)))
            found.append(level * _TOKENS / (time.perf_counter() - began))
        return found


async def ask(session: aiohttp.ClientSession, spec: ServerSpec, name: str) -> None:
    """One request of exactly 64 output tokens."""
    question = f"Pipeline {name} reads a REST API every five minutes. How should the data be brought in?"
    body = {
        "model": spec.model,
        "messages": [{"role": "system", "content": _SHARED}, {"role": "user", "content": question}],
        "max_tokens": _TOKENS,
        "ignore_eos": True,
        "temperature": 0,
    }
    async with session.post(f"{spec.base_url}/chat/completions", json=body) as answer:
        answer.raise_for_status()
        await answer.read()


def report(seen: dict[str, list[list[float]]]) -> None:
    """Medians with their range, and the ratio of the 32-at-once median to the first variant's."""
    columns = ["healthy s", *(f"{level} at once" for level in LEVELS)]
    first = statistics.median(figures[-1] for figures in next(iter(seen.values())))
    rows = []
    for name, runs in seen.items():
        cells = [_spread([figures[index] for figures in runs]) for index in range(len(columns))]
        ratio = statistics.median(figures[-1] for figures in runs) / first
        rows.append([name, len(runs), *cells, f"{ratio:.2f}"])
    title = "output tokens/s: median (lowest to highest)"
    console.table(title, ["variant", "n", *columns, "ratio at 32"], rows, right=["n", *columns, "ratio at 32"])


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    console.run(app)
