"""What stands between a model's words and the user: guardrails with one retry, deadlines, approvals, lost answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from agents.asking.client import make_client
from agents.facts.pipeline_files import Entry, InvalidPipeline, ReadPipeline
from agents.facts.spec import PipelineSpec
from agents.guardrails import GuardrailMode
from agents.reports.orchestrator import AgenticDataOrchestrator
from agents.schema import ErrorClass, PipelineReport, Stage
from serving.endpoint import Endpoint
from serving.simulator import Fault

Start = Callable[..., str]
Answers = Callable[[dict[str, Any]], Awaitable[str | None]]
MODEL = "plumbline-simulator"
OFF, WARN, ENFORCE = GuardrailMode

CALM = PipelineSpec.model_validate(
    {
        "id": "orders",
        "source": {"type": "REST API", "volume": "10GB/day", "frequency": "every 15 minutes"},
        "quality_metrics": {"completeness": 97, "consistency": 98},
        "infrastructure_metrics": {"cpu": 40, "memory": 45},
    }
)
GOOD = {
    "ingestion": {"summary": "Poll the API every few minutes.", "actions": ["Keep a cursor.", "Retry with backoff."]},
    "quality": {"summary": "The data can be used.", "actions": ["Monitor completeness.", "Trace the open issues."]},
    "infrastructure": {"summary": "Nothing is scarce.", "actions": ["Watch the trend.", "Look again next week."]},
}
BAD = "Add 777 servers."


def answer(body: dict[str, Any], *, bad: bool = False) -> str:
    """What a model might say for the stage that a request is for; with a figure from nowhere when `bad`."""
    stage = body["response_format"]["json_schema"]["name"].removesuffix("_recommendation")
    said: dict[str, Any] = dict(GOOD[stage])
    if stage == "ingestion":
        said["mode"] = "micro_batch"
    if bad:
        said["actions"] = [BAD, said["actions"][1]]
    return json.dumps(said)


def retried(body: dict[str, Any]) -> bool:
    return len(body["messages"]) > 2


def report_from(answers: Answers, spec: PipelineSpec = CALM, **options: Any) -> PipelineReport:
    """One pipeline's report from an endpoint that answers with these texts; None breaks the connection."""

    async def complete(request: web.Request) -> web.Response:
        text = await answers(await request.json())
        if text is None:
            raise web.HTTPInternalServerError
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})

    async def run() -> PipelineReport:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        async with TestServer(app) as server:
            endpoint = Endpoint(str(server.make_url("/v1")), MODEL, SecretStr("EMPTY"))
            async with make_client(endpoint, timeout_s=20, max_retries=0) as client:
                return await AgenticDataOrchestrator(client, MODEL, **options).process_data_pipeline(spec)

    return asyncio.run(run())


# --- one retry, then the rules ---------------------------------------------------------------------------


async def always_good(body: dict[str, Any]) -> str | None:
    return answer(body)


async def always_bad(body: dict[str, Any]) -> str | None:
    return answer(body, bad=True)


def test_advice_that_breaks_no_rule_is_given_as_it_came() -> None:
    for stage in report_from(always_good).stages:
        assert (stage.source, stage.fallback_because, stage.rejected, stage.violations) == ("model", None, (), ())
        assert (stage.prompt_tokens, stage.output_tokens) == (10, 5)


def test_a_rejected_answer_is_asked_again_once_and_told_why() -> None:
    told: list[list[dict[str, str]]] = []

    async def better_when_told(body: dict[str, Any]) -> str | None:
        if retried(body):
            told.append(body["messages"])
        return answer(body, bad=not retried(body))

    report = report_from(better_when_told)
    assert report.status == "completed"
    for stage in report.stages:
        assert (stage.source, stage.violations) == ("model", ())
        assert stage.recommendation is not None
        assert BAD not in stage.recommendation.text
        assert [BAD in rejected.answer for rejected in stage.rejected] == [True]
        assert [one.rule for one in stage.rejected[0].violations] == ["figure_not_in_input"]
        assert (stage.prompt_tokens, stage.output_tokens) == (20, 10)  # both answers were paid for
    assert len(told) == 3
    for messages in told:
        assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
        assert BAD in messages[2]["content"]
        assert "777" in messages[3]["content"]


def test_what_is_rejected_twice_comes_from_the_rules_and_keeps_both_answers() -> None:
    report = report_from(always_bad)
    assert report.status == "completed"
    for stage in report.stages:
        assert (stage.source, stage.fallback_because) == ("fallback", "guardrails")
        assert stage.recommendation is not None
        assert "777" not in stage.recommendation.text
        assert [BAD in rejected.answer for rejected in stage.rejected] == [True, True]


def test_an_endpoint_that_fails_the_retry_leaves_it_to_the_rules() -> None:
    async def once(body: dict[str, Any]) -> str | None:
        return None if retried(body) else answer(body, bad=True)

    for stage in report_from(once).stages:
        assert (stage.status, stage.fallback_because, len(stage.rejected)) == ("completed", "guardrails", 1)
        assert stage.error_class is ErrorClass.SERVER_ERROR  # what became of the second question is told as well
        assert stage.output_tokens == 5


def test_half_an_answer_is_rejected_like_any_other() -> None:
    async def half(body: dict[str, Any]) -> str | None:
        return answer(body)[:40]

    for stage in report_from(half).stages:
        assert stage.source == "fallback"
        assert [one.rule for one in stage.rejected[0].violations] == ["unusable_reply"]


def test_warn_gives_the_advice_with_its_violations_and_off_looks_at_nothing() -> None:
    for mode, broken in ((WARN, ["figure_not_in_input"]), (OFF, [])):
        for stage in report_from(always_bad, guardrails=mode).stages:
            assert stage.source == "model"
            assert stage.recommendation is not None
            assert BAD in stage.recommendation.text
            assert [one.rule for one in stage.violations] == broken
            assert stage.rejected == ()


# --- deadlines -------------------------------------------------------------------------------------------


def test_what_the_model_has_not_answered_by_the_deadline_comes_from_the_rules() -> None:
    async def slow_on_quality(body: dict[str, Any]) -> str | None:
        if "quality" in body["response_format"]["json_schema"]["name"]:
            await asyncio.sleep(30)
        return answer(body)

    began_s = time.monotonic()
    report = report_from(slow_on_quality, deadline_s=0.5)
    assert time.monotonic() - began_s < 15
    assert report.status == "completed"
    sources = {stage.stage: (stage.source, stage.fallback_because) for stage in report.stages}
    assert sources[Stage.QUALITY] == ("fallback", "deadline")
    assert sources[Stage.INGESTION] == sources[Stage.INFRASTRUCTURE] == ("model", None)


def test_a_retry_that_is_too_late_keeps_the_deadline() -> None:
    async def slow_retry(body: dict[str, Any]) -> str | None:
        if retried(body):
            await asyncio.sleep(30)
        return answer(body, bad=True)

    for stage in report_from(slow_retry, deadline_s=0.5).stages:
        assert (stage.source, stage.fallback_because) == ("fallback", "deadline")
        assert [BAD in rejected.answer for rejected in stage.rejected] == [True]
        assert (stage.prompt_tokens, stage.output_tokens) == (10, 5)


def test_under_a_deadline_an_endpoint_that_fails_leaves_it_to_the_rules_and_its_error_is_told() -> None:
    async def fails(_body: dict[str, Any]) -> str | None:
        return None

    report = report_from(fails, deadline_s=5)
    assert report.status == "completed"
    for stage in report.stages:
        assert (stage.source, stage.fallback_because) == ("fallback", "endpoint")
        assert stage.error_class is ErrorClass.SERVER_ERROR
        assert stage.error is not None
    assert [stage.status for stage in report_from(fails).stages] == ["failed"] * 3


def test_an_answer_of_megabytes_is_kept_in_part_only() -> None:
    async def endless(_body: dict[str, Any]) -> str | None:
        return "x" * 1_000_000

    for mode in (OFF, ENFORCE):
        assert len(report_from(endless, guardrails=mode).model_dump_json()) < 200_000


# --- a person decides ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "machines", "reasons"),
    [
        ((97, 98), (40, 45), ()),
        ((40, 100), (40, 45), ("severity HIGH",)),
        ((97, 98), (40, 95), ("priority CRITICAL",)),
        ((40, 100), (99, 99), ("severity HIGH", "priority CRITICAL")),
        ((97, 98), (None, 95), ("priority CRITICAL",)),
        ((None, 30), (40, 45), ("severity HIGH",)),
        ((None, None), (None, None), ()),
    ],
)
def test_what_is_critical_high_or_known_to_be_so_by_half_waits_for_a_person(
    quality: tuple[float | None, ...], machines: tuple[float | None, ...], reasons: tuple[str, ...]
) -> None:
    spec = CALM.model_copy(
        update={
            "quality_metrics": CALM.quality_metrics.model_copy(
                update=dict(zip(("completeness_percent", "consistency_percent"), quality, strict=True))
            ),
            "infrastructure_metrics": CALM.infrastructure_metrics.model_copy(
                update=dict(zip(("cpu_percent", "memory_percent"), machines, strict=True))
            ),
        }
    )
    report = report_from(always_bad, spec)
    assert report.approval_reasons == reasons
    assert report.requires_approval == bool(reasons)


def test_an_action_that_cannot_be_undone_waits_for_a_person_whatever_the_labels() -> None:
    async def drops(body: dict[str, Any]) -> str | None:
        said = json.loads(answer(body))
        return json.dumps({**said, "actions": ["Drop the old table.", said["actions"][1]]})

    report = report_from(drops, guardrails=OFF)
    assert report.requires_approval
    assert [reason.split(":")[0] for reason in report.approval_reasons] == list(Stage)


# --- a pipeline's own policy -----------------------------------------------------------------------------


def test_a_pipelines_own_policy_changes_its_label_and_a_wrong_one_is_a_refused_row() -> None:
    own = CALM.model_copy(update={"policy": {"priority.cpu.high": 30}})
    report = report_from(always_good, own)
    assert report.priority is not None
    assert report.priority.value == "HIGH"
    wrong = report_from(always_good, CALM.model_copy(update={"policy": {"priority.cpu.hihg": 30}}))
    assert (wrong.status, wrong.stages) == ("invalid", ())
    assert wrong.error is not None
    assert "hihg" in wrong.error


# --- whatever the endpoint does --------------------------------------------------------------------------


ERROR_CLASSES = {
    "http-429": ErrorClass.RATE_LIMITED,
    "http-500": ErrorClass.SERVER_ERROR,
    "http-400": ErrorClass.REFUSED,
    "disconnect": ErrorClass.UNREACHABLE,
    "half-body": ErrorClass.BROKEN_ANSWER,
    "half-answer": ErrorClass.UNUSABLE_REPLY,
    "wrong-schema": ErrorClass.UNUSABLE_REPLY,
    "huge-answer": ErrorClass.BROKEN_ANSWER,
    "no-answer": ErrorClass.TIMEOUT,
    "error-event": ErrorClass.BROKEN_ANSWER,
    "error-data": ErrorClass.BROKEN_ANSWER,
    "empty-body": ErrorClass.BROKEN_ANSWER,
    "half-json": ErrorClass.BROKEN_ANSWER,
}
SOUND = {"trickle", "crlf", "split-utf8", "huge-chunk", "odd-chunks", "no-done", "no-usage"}
"""Odd on the wire, and a whole answer all the same: a reader that fails on it would be at fault."""


@pytest.mark.slow
@pytest.mark.parametrize("client_kind", ["lean", "openai"])
@pytest.mark.parametrize("fault", [Fault(name) for name in ERROR_CLASSES])
def test_rows_in_are_rows_out_each_failure_has_its_class_and_nothing_is_left_running(
    start_simulator: Start, fault: Fault, client_kind: Any
) -> None:
    base_url = start_simulator(ttft_ms=0, itl_ms=0, fault=fault)
    entries: list[Entry] = [
        *(ReadPipeline(CALM.model_copy(update={"id": f"p{number}"}), f"f:{number}") for number in range(4)),
        InvalidPipeline("bad", "f:9", "refused"),
    ]

    async def run() -> list[PipelineReport]:
        endpoint = Endpoint(base_url, MODEL, SecretStr("EMPTY"))
        timeout_s = 0.3 if fault is Fault.NO_ANSWER else 20
        async with make_client(endpoint, client_kind, timeout_s=timeout_s, max_retries=0) as client:
            orchestrator = AgenticDataOrchestrator(client, MODEL, guardrails=OFF)
            reports = await orchestrator.process_all(entries, concurrency=3)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        return reports

    reports = asyncio.run(run())
    assert [report.status for report in reports] == ["failed"] * 4 + ["invalid"]
    classes = {stage.error_class for report in reports for stage in report.stages}
    assert classes == {ERROR_CLASSES[fault.value]}
    assert all(stage.error for report in reports for stage in report.stages)
    assert in_flight(base_url) == 0


def test_every_fault_has_its_class_or_is_none() -> None:
    assert ERROR_CLASSES.keys() | SOUND | {Fault.NONE.value} == {fault.value for fault in Fault}


@pytest.mark.slow
@pytest.mark.parametrize("client_kind", ["lean", "openai"])
@pytest.mark.parametrize("fault", sorted(SOUND))
def test_what_is_odd_on_the_wire_and_sound_is_read(start_simulator: Start, fault: str, client_kind: Any) -> None:
    base_url = start_simulator(ttft_ms=0, itl_ms=0, fault=Fault(fault))

    async def run() -> list[PipelineReport]:
        endpoint = Endpoint(base_url, MODEL, SecretStr("EMPTY"))
        async with make_client(endpoint, client_kind, timeout_s=60, max_retries=0) as client:
            return await AgenticDataOrchestrator(client, MODEL, guardrails=OFF).process_all(
                [ReadPipeline(CALM, "f:1")], concurrency=1
            )

    (report,) = asyncio.run(run())
    assert [stage.error for stage in report.stages if stage.error] == []
    assert report.status == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_under_guardrails_retries_and_half_the_requests_failing_rows_in_are_rows_out(
    start_simulator: Start, fault: Fault
) -> None:
    base_url = start_simulator(ttft_ms=0, itl_ms=0, fault=fault, fault_rate=0.5, seed=1)
    entries: list[Entry] = [
        ReadPipeline(CALM.model_copy(update={"id": f"p{number}"}), f"f:{number}") for number in range(6)
    ]

    async def run() -> list[PipelineReport]:
        endpoint = Endpoint(base_url, MODEL, SecretStr("EMPTY"))
        timeout_s = 0.3 if fault is Fault.NO_ANSWER else 20
        async with make_client(endpoint, timeout_s=timeout_s, max_retries=1, backoff_s=0.001) as client:
            return await AgenticDataOrchestrator(client, MODEL).process_all(entries, concurrency=3)

    reports = asyncio.run(run())
    assert [report.pipeline_id for report in reports] == [f"p{number}" for number in range(6)]
    for stage in (stage for report in reports for stage in report.stages):
        assert (stage.recommendation is None) == (stage.status == "failed")
        assert stage.status == "completed" or stage.error_class is ERROR_CLASSES.get(fault.value)
    assert in_flight(base_url) == 0


def in_flight(base_url: str) -> int:
    """Requests that the simulator still works on; a moment is allowed for it to notice who has gone."""

    async def counts() -> int:
        url = base_url.removesuffix("/v1") + "/plumbline/requests"
        async with aiohttp.ClientSession() as session:
            for _ in range(100):
                async with session.get(url) as response:
                    left = int((await response.json())["in_flight"])
                if not left:
                    break
                await asyncio.sleep(0.02)
            return left

    return asyncio.run(counts())
