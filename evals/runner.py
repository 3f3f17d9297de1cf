"""Run a plan: ask, keep each answer on disk as it comes, score, and account for every row."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from agents.agent import AGENTS
from agents.client import ChatClient, make_client
from agents.guardrails import GuardrailMode
from agents.prompt import PromptVariant
from agents.reply import AgentError, Reply
from agents.schema import Stage, Strict
from console import CannotJudge
from evals.case import Case
from evals.scorers import SCORERS, Answered, Score, score_all
from evals.statistics import Estimate, estimate
from evals.suite import Plan
from serving.endpoint import Endpoint


class Sample(Strict):
    """One case under one variant: the answer with its scores, or the error that came instead."""

    case_id: str
    row: int
    stage: Stage
    variant: str
    model: str
    simulated: bool
    """True when the answer is the simulator's: it says nothing about a model."""
    messages: list[dict[str, str]]
    answer: str | None
    error: str | None
    """Why there is no answer; such a sample is unscored, which is not the same as wrong."""
    scores: dict[str, Score]
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None


async def run(plan: Plan, endpoint: Endpoint, sink: TextIO, on_sample: Callable[[Sample], None]) -> list[Sample]:
    """Every variant on every case, at most `suite.concurrency` requests at once; samples in plan order.

    Each sample is one line of `sink`, flushed when it ends. The order of asking is shuffled by a fixed seed, so
    that no variant has the quiet start of the run for itself.
    """
    gate = asyncio.Semaphore(plan.suite.concurrency)
    work = [(variant, case) for variant in plan.variants for case in plan.cases]
    order = list(range(len(work)))
    random.Random(0).shuffle(order)  # noqa: S311 - reproducible, not secret
    samples: dict[int, Sample] = {}

    async def one(index: int, client: ChatClient) -> None:
        async with gate:
            sample = await _sample(plan, endpoint, client, *work[index])
        samples[index] = sample
        sink.write(sample.model_dump_json() + "\n")
        sink.flush()
        on_sample(sample)

    async with make_client(endpoint, timeout_s=plan.suite.timeout_s, concurrency=plan.suite.concurrency) as client:
        await asyncio.gather(*(one(index, client) for index in order))
    if len(samples) != len(work):
        raise CannotJudge(f"{len(work)} samples were asked, {len(samples)} came back")
    return [samples[index] for index in range(len(work))]


async def _sample(plan: Plan, endpoint: Endpoint, client: ChatClient, variant: PromptVariant, case: Case) -> Sample:
    # What is scored is the model's own answer: nothing is held back or replaced.
    agent = AGENTS[case.stage](client, endpoint.model, variant, plan.policy, GuardrailMode.OFF)
    request = plan.request(variant, case, endpoint.model)
    reply: Reply | None
    error: str | None = None
    try:
        reply = (await agent.recommend(case.spec)).reply
    except AgentError as failure:
        # An answer that does not fit the schema is an answer, and is scored; no answer is an error.
        reply, error = failure.reply, None if failure.reply else str(failure)
    return Sample(
        case_id=case.id,
        row=case.row,
        stage=case.stage,
        variant=variant.name,
        model=endpoint.model,
        simulated=endpoint.simulated,
        messages=request.body["messages"],
        answer=reply.text if reply else None,
        error=error,
        scores=score_all(Answered(case, request.label, reply.text, variant.form)) if reply else {},
        prompt_tokens=reply.prompt_tokens if reply else None,
        output_tokens=reply.output_tokens if reply else None,
        latency_s=reply.latency_s if reply else None,
    )


def estimates(samples: Sequence[Sample]) -> dict[str, Estimate | None]:
    """Per scorer, the mean over one variant's scored samples; None when none was scored."""
    scored = [sample for sample in samples if sample.scores]
    rows = [sample.row for sample in scored]
    return {
        name: estimate([sample.scores[name].value for sample in scored], rows) if scored else None for name in SCORERS
    }


def open_samples(folder: Path) -> TextIO:
    """The file that samples are written to as they come; raises FileExistsError rather than replace an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "samples.jsonl").open("x", encoding="utf8")
