"""Pipelines per minute: three model copies asked one call at a time, against one vLLM endpoint asked concurrently.

    python -m benchmarks.tutorial_way [--theirs 3 --ours 48 --rounds 3] [--prompts write,read] [--json]

The published tutorial behind this project loads the model once per agent through transformers (float32 on a CPU) and
lets each agent write 100 sampled tokens (temperature 0.7, top_p 0.95), agent after agent, pipeline after pipeline.
Here that way is done anew with the same weights, on the same machine, in one run: theirs first, then ours in rounds on
a started vLLM, then theirs again, so that a machine that drifts shows it. Ours: up to 100 plain tokens per agent like
theirs, all at once; and the product with each of the prompts, everything else as it is by default.

Each round has pipelines of its own, which the endpoint has not seen: what its prefix cache finds is what pipelines have
in common. Figures: pipelines per minute, tokens put out and computed of the prompts for a pipeline, the share of prompt
tokens that the prefix cache held (by the engine's own counters, so that every request is in them), and ratios to
theirs, the mean of their two rounds. Theirs has no cache: it computes every prompt token.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from pydantic import SecretStr

from agents.asking.endpoint.client import ChatClient, make_client
from agents.asking.variant import PromptVariant, load_prompt
from agents.asking.words import told_as_json
from agents.facts.pipeline_files import Entry, ReadPipeline
from agents.facts.spec import PipelineSpec
from agents.reports.orchestrator import AgenticDataOrchestrator
from agents.specialists.registry import specialist_of, stages
from common import console
from common.console import CannotJudge, say
from evals.generate import generate
from load_tests.scrape import MetricsPage
from serving import weights
from serving.catalogue import default_model, model_named
from serving.endpoint import Endpoint
from serving.profiles import make, model_size
from serving.vllm_server import ServerSpec, start, stop
from tracking.runs import git_sha

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

THEIRS = "tutorial's way"
_NEW_TOKENS = 100
_SAMPLING = {"temperature": 0.7, "top_p": 0.95}
_AT_ONCE = 63
"""Requests in flight, three a pipeline: as many as vLLM takes into one batch here (--max-num-seqs 64)."""
_SETTLE_S = 0.5
"""vLLM counts a request a moment after its answer went out."""
_WARM_UP = 2
"""Pipelines before the rounds, not counted."""

_ASKS = {
    "ingestion": (
        "the facts about the source",
        "Suggest an ingestion mode, one sentence that sums up your advice, and the two things to keep in mind.",
    ),
    "quality": ("the quality metrics", "Assess the quality in one sentence and give your top two recommendations."),
    "infrastructure": (
        "the infrastructure metrics",
        "Sum up the situation in one sentence and suggest two optimizations.",
    ),
}
"""The tutorial's questions: a role, the facts, a short request; neither label nor rules are told."""

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Round:
    """One timed round of one way; tokens are those of a pipeline."""

    pipelines: int
    pipelines_per_min: float
    output_tokens: float
    prompt_tokens: float
    computed_tokens: float
    """Of the prompt's, those that no cache held."""

    @property
    def cached(self) -> float:
        """Share of the prompt tokens that the cache held."""
        return 1 - self.computed_tokens / self.prompt_tokens


@app.command()
def main(
    theirs: Annotated[int, typer.Option(min=1, help="Pipelines in each of the two rounds of the tutorial's way.")] = 3,
    ours: Annotated[int, typer.Option(min=1, help="Pipelines in each round of ours.")] = 48,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each of ours.")] = 3,
    prompts: Annotated[str, typer.Option(help="Comma-separated prompts of the product.")] = "write,read",
    model: Annotated[str | None, typer.Option(help="Model of the catalogue; else the CPU's own.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8198,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure both ways and print a table with ratios."""
    ways: dict[str, Way] = {"100 plain tokens": plain_tokens}
    ways |= {name: partial(product, load_prompt(name)) for name in prompts.split(",")}
    used = model_named(model or default_model("cpu"))
    folder = weights.bring(used, say)
    pipelines = some_pipelines(max(theirs, _WARM_UP + rounds * ours))
    seen: dict[str, list[Round]] = {THEIRS: [one_after_the_other(folder, pipelines[:theirs])]}
    with endpoint(used.name, folder, used.context, port) as served:
        for work in ways.values():
            asyncio.run(work(served, pipelines[:_WARM_UP]))
        for number in range(rounds):
            fresh = pipelines[_WARM_UP + number * ours :][:ours]
            for name, work in ways.items():
                seen.setdefault(name, []).append(measured(work, served, fresh))
                say(f"round {number + 1}, {name}: {seen[name][-1].pipelines_per_min:.1f} pipelines/min")
    seen[THEIRS].append(one_after_the_other(folder, pipelines[:theirs]))
    condition = f"{used.name}, {os.cpu_count()} cores, {theirs} and {ours} pipelines a round"
    report(seen, condition)
    if as_json:
        print(json.dumps(document(seen, condition), indent=2))


def some_pipelines(count: int) -> list[PipelineSpec]:
    """Seeded pipelines, each of an ingestion case, a quality case and an infrastructure case."""
    by_stage: dict[str, list[PipelineSpec]] = {stage: [] for stage in _ASKS}
    for case in generate(count * 10, seed=0):
        by_stage[case.stage].append(case.spec)
    parts = [specs[:count] for specs in by_stage.values()]
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


# --- the tutorial's way ----------------------------------------------------------------------------------


def asked(pipelines: Sequence[PipelineSpec]) -> Iterator[tuple[str, Messages]]:
    """Stage and messages of every call of the tutorial's way."""
    for spec in pipelines:
        for stage, (part, request) in _ASKS.items():
            specialist = specialist_of(stage)
            facts = told_as_json(specialist.told(spec))
            yield (
                stage,
                [
                    {"role": "system", "content": f"You are a {specialist.role}. Answer in JSON."},
                    {"role": "user", "content": f"Here are {part} of a data pipeline:\n{facts}\n{request}"},
                ],
            )


def one_after_the_other(folder: Path, pipelines: list[PipelineSpec]) -> Round:
    """A model per agent, one call at a time."""
    agents = {stage: loaded(folder) for stage in _ASKS}
    calls = list(asked(pipelines))
    stage, messages = calls[0]
    agents[stage](messages)  # the first call of a process is slower; not counted
    began = time.perf_counter()
    tokens = [agents[stage](messages) for stage, messages in calls]
    prompt, output = (sum(one) / len(pipelines) for one in zip(*tokens, strict=True))
    return _round(len(pipelines), time.perf_counter() - began, output, prompt, prompt)


def loaded(folder: Path) -> Callable[[Messages], tuple[int, int]]:
    """A model of one's own; answers messages with up to 100 sampled tokens; tells how many the prompt and these are."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def answer(messages: Messages) -> tuple[int, int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        given = tokenizer(text, return_tensors="pt")
        prompt = int(given["input_ids"].shape[1])
        with torch.inference_mode():
            written = model.generate(
                **given, **_SAMPLING, max_new_tokens=_NEW_TOKENS, do_sample=True, pad_token_id=tokenizer.eos_token_id
            )
        return prompt, int(written.shape[1]) - prompt

    return answer


# --- ours ------------------------------------------------------------------------------------------------


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


Way = Callable[[Endpoint, list[PipelineSpec]], Coroutine[Any, Any, None]]


def measured(work: Way, served: Endpoint, pipelines: list[PipelineSpec]) -> Round:
    """One round, with what the engine counted meanwhile. Raises CannotJudge without its counters."""
    before, began = _counted(served), time.perf_counter()
    uvloop.run(work(served, pipelines))
    wall_s = time.perf_counter() - began
    time.sleep(_SETTLE_S)
    after = _counted(served)
    output, prompt, hits = ((after[name] - before[name]) / len(pipelines) for name in _COUNTERS)
    return _round(len(pipelines), wall_s, output, prompt, prompt - hits)


_COUNTERS = ("output_tokens", "prefix_queries", "prefix_hits")


def _counted(served: Endpoint) -> dict[str, float]:
    counters = MetricsPage(served.base_url).read(buckets=False).counters
    if missing := [name for name in _COUNTERS if name not in counters]:
        raise CannotJudge(f"{served.base_url}: its /metrics tells no {missing[0]}")
    return counters


async def plain_tokens(served: Endpoint, pipelines: list[PipelineSpec]) -> None:
    """Their 100 sampled tokens per agent, all at once through one endpoint."""
    sampling = {"max_tokens": _NEW_TOKENS, **_SAMPLING}
    bodies = [{"model": served.model, "messages": messages, **sampling} for _, messages in asked(pipelines)]
    async with _client(served) as client:
        await asyncio.gather(*map(client.complete, bodies))


async def product(prompt: PromptVariant, served: Endpoint, pipelines: list[PipelineSpec]) -> None:
    """The orchestrator with its defaults but for the prompt. Raises CannotJudge when a pipeline fails."""
    entries: list[Entry] = [ReadPipeline(spec, spec.id) for spec in pipelines]
    async with _client(served) as client:
        orchestrator = AgenticDataOrchestrator(client, served.model, prompt)
        reports = await orchestrator.process_all(entries, concurrency=_AT_ONCE // len(stages()))
    if failed := [report.error for report in reports if report.error]:
        raise CannotJudge(f"a pipeline failed, so nothing can be compared: {failed[0]}")


def _client(served: Endpoint) -> ChatClient:
    return make_client(served, timeout_s=600, concurrency=_AT_ONCE)


# --- telling ---------------------------------------------------------------------------------------------


def _round(pipelines: int, wall_s: float, output: float, prompt: float, computed: float) -> Round:
    return Round(pipelines, 60 * pipelines / wall_s, output, prompt, computed)


def ratios(seen: dict[str, list[Round]]) -> dict[str, list[float]]:
    """Pipelines per minute of each round, as a multiple of the mean of theirs."""
    first = statistics.mean(one.pipelines_per_min for one in seen[THEIRS])
    return {name: [one.pipelines_per_min / first for one in found] for name, found in seen.items()}


def report(seen: dict[str, list[Round]], condition: str) -> None:
    """Medians with their range over rounds."""
    numbers = ["rounds", "pipelines", "pipelines/min", "ratio", "tokens out", "prompt", "of it computed", "cached"]
    rows = [
        [
            *(name, len(found), found[0].pipelines),
            spread([one.pipelines_per_min for one in found], 1),
            spread(ratios(seen)[name], 1),
            *(f"{statistics.median(getattr(one, part) for one in found):.0f}" for part in _TOKENS),
            spread([one.cached for one in found], 2),
        ]
        for name, found in seen.items()
    ]
    title = f"{condition}; tokens are those of a pipeline: median (lowest to highest)"
    console.table(title, ["way", *numbers], rows, right=numbers)


_TOKENS = ("output_tokens", "prompt_tokens", "computed_tokens")


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def document(seen: dict[str, list[Round]], condition: str) -> dict[str, Any]:
    """Every round."""
    return {
        "condition": condition,
        "git_sha": git_sha(),
        "ratios": ratios(seen),
        "rounds": {name: [{**asdict(one), "cached": one.cached} for one in found] for name, found in seen.items()},
    }


if __name__ == "__main__":
    console.run(app)
