"""Pipelines per minute: three model copies asked one call at a time, against one vLLM endpoint asked concurrently.

    python -m benchmarks.tutorial_way [--theirs 3 --ours 48 --rounds 3]

The published tutorial behind this project loads the model once per agent through transformers (float32 on a CPU) and
lets each agent write 100 sampled tokens (temperature 0.7, top_p 0.95), agent after agent, pipeline after pipeline.
Here that way is done anew with the same weights, on the same machine, in one run: theirs first, then ours in rounds on
a started vLLM, then theirs again, so that a machine that drifts shows it. Ours three times: up to 100 plain tokens per
agent like theirs; with the brief prompt; and as the product works by default (grounded prompt). The last two with
guardrails, whose second question costs as much as the first.

Figures: pipelines per minute, median and range over rounds, output tokens per pipeline, and ratios to theirs.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from agents.asking.client import ChatClient, make_client
from agents.asking.requests import requests_for
from agents.asking.variant import DEFAULT_PROMPT, load_prompt
from agents.facts.pipeline_files import Entry, ReadPipeline
from agents.facts.spec import PipelineSpec
from agents.labels.policy import load_policy
from agents.reports.orchestrator import AgenticDataOrchestrator
from agents.schema import PipelineReport, Stage
from common import console
from common.console import say
from evals.generate import generate
from serving import weights
from serving.catalogue import default_model, model_named
from serving.endpoint import Endpoint
from serving.profiles import make, model_size
from serving.vllm_server import ServerSpec, start, stop

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_NEW_TOKENS = 100
_AT_ONCE = 63
"""Requests in flight, three a pipeline: as many as vLLM takes into one batch here (--max-num-seqs 64)."""


@dataclass(frozen=True)
class Round:
    """One timed round of one way."""

    pipelines_per_min: float
    output_tokens_per_pipeline: float


@app.command()
def main(
    theirs: Annotated[int, typer.Option(min=1, help="Pipelines in each of the two rounds of the tutorial's way.")] = 3,
    ours: Annotated[int, typer.Option(min=1, help="Pipelines in each round of ours.")] = 48,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each of ours.")] = 3,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8198,
) -> None:
    """Measure both ways and print a table with ratios."""
    model = model_named(default_model("cpu"))
    folder = weights.bring(model, say)
    pipelines = some_pipelines(max(theirs, ours))
    seen: dict[str, list[Round]] = {"tutorial's way": [one_after_the_other(folder, pipelines[:theirs])]}
    with endpoint(model.name, folder, model.context, port) as served:
        for work in WAYS.values():
            asyncio.run(work(served, pipelines[:2]))  # compiles the schemas; not counted
        for number in range(rounds):
            for name, work in WAYS.items():
                seen.setdefault(name, []).append(asyncio.run(work(served, pipelines[:ours])))
                say(f"round {number + 1}, {name}: {seen[name][-1].pipelines_per_min:.1f} pipelines/min")
    seen["tutorial's way"].append(one_after_the_other(folder, pipelines[:theirs]))
    report(seen, f"{model.name}, {theirs} and {ours} pipelines a round")


def some_pipelines(count: int) -> list[PipelineSpec]:
    """Seeded pipelines, each of an ingestion case, a quality case and an infrastructure case."""
    by_stage: dict[Stage, list[PipelineSpec]] = {stage: [] for stage in Stage}
    for case in generate(count * 10, seed=0):
        by_stage[case.stage].append(case.spec)
    parts = [by_stage[stage][:count] for stage in Stage]
    return [
        one.model_copy(
            update={
                "id": f"pipeline-{number}",
                "quality_metrics": quality.quality_metrics,
                "infrastructure_metrics": machines.infrastructure_metrics,
            }
        )
        for number, (one, quality, machines) in enumerate(zip(*parts, strict=True))
    ]


def one_after_the_other(folder: Path, pipelines: list[PipelineSpec]) -> Round:
    """The tutorial's way: a model per agent, one call at a time, the text of the plain prompt."""
    agents = {stage: loaded(folder) for stage in Stage}
    requests = requests_for(pipelines, load_prompt("plain"), load_policy("standard"), "-")
    agents[Stage.QUALITY](requests[1].body["messages"])  # the first call of a process is slower; not counted
    began = time.perf_counter()
    tokens = sum(agents[request.stage](request.body["messages"]) for request in requests)
    return _round(len(pipelines), tokens, time.perf_counter() - began)


def loaded(folder: Path) -> Callable[[list[dict[str, str]]], int]:
    """A model of one's own; answers messages with up to 100 sampled tokens and returns how many they were."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def answer(messages: list[dict[str, str]]) -> int:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        given = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            written = model.generate(
                **given, max_new_tokens=_NEW_TOKENS, do_sample=True, temperature=0.7, top_p=0.95,
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        return int(written.shape[1] - given["input_ids"].shape[1])

    return answer


@contextmanager
def endpoint(name: str, folder: Path, context: int, port: int) -> Iterator[Endpoint]:
    """The real vLLM on that model, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as state:
        os.environ["XDG_STATE_HOME"] = state  # the record of a server that a user runs stays as it is
        spec = ServerSpec(name, folder, make("cpu", model_size(folder, context)), port=port)
        record = start(spec, say)
        try:
            yield Endpoint(spec.base_url, name, SecretStr("EMPTY"))
        finally:
            stop(record)


async def plain_tokens(served: Endpoint, pipelines: list[PipelineSpec]) -> Round:
    """Their 100 sampled tokens per agent, all at once through one endpoint."""
    requests = requests_for(pipelines, load_prompt("plain"), load_policy("standard"), served.model)
    sampling = {"max_tokens": _NEW_TOKENS, "temperature": 0.7, "top_p": 0.95}
    bodies = [{"model": served.model, "messages": request.body["messages"], **sampling} for request in requests]
    async with make_client(served, timeout_s=600, concurrency=_AT_ONCE) as client:
        began = time.perf_counter()
        tokens = sum(await asyncio.gather(*(_tokens(client, body) for body in bodies)))
        return _round(len(pipelines), tokens, time.perf_counter() - began)


async def _tokens(client: ChatClient, body: dict[str, Any]) -> int:
    return (await client.complete(body)).output_tokens or 0


async def brief(served: Endpoint, pipelines: list[PipelineSpec]) -> Round:
    """The orchestrator with its defaults but for the prompt."""
    return await _orchestrated(served, pipelines, "brief")


async def as_the_product_works(served: Endpoint, pipelines: list[PipelineSpec]) -> Round:
    """The orchestrator with its defaults."""
    return await _orchestrated(served, pipelines, DEFAULT_PROMPT)


async def _orchestrated(served: Endpoint, pipelines: list[PipelineSpec], prompt: str) -> Round:
    entries: list[Entry] = [ReadPipeline(spec, spec.id) for spec in pipelines]
    async with make_client(served, timeout_s=600, concurrency=_AT_ONCE) as client:
        orchestrator = AgenticDataOrchestrator(client, served.model, load_prompt(prompt))
        began = time.perf_counter()
        reports = await orchestrator.process_all(entries, concurrency=_AT_ONCE // len(Stage))
        return _round(len(reports), _output_tokens(reports), time.perf_counter() - began)


WAYS: dict[str, Callable[[Endpoint, list[PipelineSpec]], Coroutine[Any, Any, Round]]] = {
    "100 plain tokens": plain_tokens,
    "brief prompt": brief,
    "as the product works": as_the_product_works,
}


def _output_tokens(reports: list[PipelineReport]) -> int:
    if failed := [report.error for report in reports if report.error]:
        raise console.CannotJudge(f"a pipeline failed, so nothing can be compared: {failed[0]}")
    return sum(stage.output_tokens or 0 for report in reports for stage in report.stages)


def _round(pipelines: int, tokens: int, wall_s: float) -> Round:
    return Round(60 * pipelines / wall_s, tokens / pipelines)


def report(seen: dict[str, list[Round]], condition: str) -> None:
    """Medians with their range, and ratios to the first way."""
    first = statistics.median(one.pipelines_per_min for one in next(iter(seen.values())))
    rows = []
    for name, found in seen.items():
        rates = [one.pipelines_per_min for one in found]
        tokens = statistics.median(one.output_tokens_per_pipeline for one in found)
        spread = f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"
        rows.append([name, len(found), spread, f"{tokens:.0f}", f"{statistics.median(rates) / first:.1f}"])
    numbers = ["rounds", "pipelines/min", "tokens/pipeline", "ratio"]
    console.table(f"{condition}: median (lowest to highest)", ["way", *numbers], rows, right=numbers)


if __name__ == "__main__":
    console.run(app)
