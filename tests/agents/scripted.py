"""A model whose answers a test writes: a client that needs no endpoint, and reports made with it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self

from agents.asking.endpoint.memory import Memory
from agents.asking.endpoint.reply import Reply, TokenLogprob
from agents.asking.endpoint.transport import Route
from agents.asking.variant import load_prompt
from agents.facts.spec import PipelineSpec
from agents.reports.orchestrator import AgenticDataOrchestrator
from agents.reports.report import PipelineReport, StageReport

Body = dict[str, Any]
Answers = Callable[[Body], Awaitable[str]]

CHARACTER_PROBABILITY = 0.95
"""Each character of a scripted answer is a token of this probability."""

CALM = PipelineSpec.model_validate(
    {
        "id": "orders",
        "source": {"type": "REST API", "volume": "10GB/day", "frequency": "every 15 minutes"},
        "quality_metrics": {"completeness": 97, "consistency": 98, "issues": 2},
        "infrastructure_metrics": {"cpu": 40, "memory": 45},
    }
)
"""Nothing about it is grave."""
GRAVE = PipelineSpec.model_validate(
    {
        "id": "orders",
        "source": {"type": "REST API", "frequency": "daily", "volume": "2GB/day", "description": "An order service."},
        "quality_metrics": {"completeness": 40, "consistency": 100},
        "infrastructure_metrics": {"cpu": 60, "memory": 93, "oom_kills": 3},
    }
)
"""Severity HIGH and priority CRITICAL."""


def schema_of(body: Body) -> dict[str, Any]:
    """The schema that an answer has to fit."""
    found: dict[str, Any] = body["response_format"]["json_schema"]["schema"]["properties"]
    return found


def stage_of(body: Body) -> str:
    return str(body["response_format"]["json_schema"]["name"]).removesuffix("_decision")


def written(body: Body, **said: Any) -> str:
    """A right answer to a `write` request: the first of everything that is offered, but for what is `said`.

    choice stands for the choice's own name.
    """
    choice = next(name for name in schema_of(body) if name not in {"reason", "actions", "facts", "note"})
    said = {choice if name == "choice" else name: value for name, value in said.items()}
    first = {name: _first_of(schema) for name, schema in schema_of(body).items()}
    return json.dumps({**first, **{name: value for name, value in said.items() if name in first}}, ensure_ascii=False)


def _first_of(schema: dict[str, Any]) -> Any:
    if schema["type"] == "array":
        return schema["items"]["enum"][:1]
    return schema["enum"][0] if "enum" in schema else "It is so."


class Scripted:
    """A ChatClient that answers by a function."""

    def __init__(self, answers: Answers, finish_reason: str = "stop") -> None:
        self.answers = answers
        self.finish_reason = finish_reason
        self.memory = Memory()
        self.asked: list[Body] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def complete(self, body: Body, route: Route = "chat/completions") -> Reply:
        self.asked.append(body)
        assert route == "chat/completions"
        text = await self.answers(body)
        logprob = math.log(CHARACTER_PROBABILITY)
        return Reply(
            text=text,
            finish_reason=self.finish_reason,
            prompt_tokens=10,
            output_tokens=5,
            cached_tokens=4,
            latency_s=0.01,
            logprobs=tuple(TokenLogprob(one, logprob, len(one.encode())) for one in text),
        )


def saying(**said: Any) -> Answers:
    """Answers each stage in the right form with these values."""

    async def answers(body: Body) -> str:
        return written(body, **said)

    return answers


def report_from(
    answers: Answers,
    spec: PipelineSpec = CALM,
    *,
    prompt: str = "write",
    client: Scripted | None = None,
    **options: Any,
) -> PipelineReport:
    """One pipeline's report with a model that answers like this."""
    orchestrator = AgenticDataOrchestrator(client or Scripted(answers), "m", load_prompt(prompt), **options)
    return asyncio.run(orchestrator.process_data_pipeline(spec))


def by_stage(stages: Iterable[StageReport]) -> dict[str, StageReport]:
    return {stage.stage: stage for stage in stages}
