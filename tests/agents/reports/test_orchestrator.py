"""The orchestrator on a real HTTP endpoint: answers become reports, failures become rows, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from agents.asking.endpoint.client import make_client
from agents.asking.endpoint.reply import ErrorClass
from agents.asking.variant import PromptVariant, load_prompt
from agents.facts.pipeline_files import Entry, InvalidPipeline, ReadPipeline
from agents.facts.spec import PipelineSpec
from agents.reports.orchestrator import AgenticDataOrchestrator, summary
from agents.reports.report import PipelineReport
from agents.specialists.registry import stages
from serving.endpoint import Endpoint
from serving.simulator import Fault, SimulatorSettings, listen

Start = Callable[..., str]
T = TypeVar("T")

FAST = {"ttft_ms": 0, "itl_ms": 0}
KEY = "sk-secret-123"
MODEL = "plumbline-simulator"
SPEC = PipelineSpec.model_validate(
    {
        "id": "ecommerce_pipeline_001",
        "source": {"type": "REST API", "volume": "10GB/day", "frequency": "real-time"},
        "quality_metrics": {"completeness": 87, "consistency": 92, "issues": 15},
        "infrastructure_metrics": {"cpu_usage": 78, "memory_usage": 82},
    }
)


def entries(count: int) -> list[Entry]:
    return [ReadPipeline(SPEC.model_copy(update={"id": f"p{n}"}), f"f.yaml:{n}") for n in range(count)]


def with_orchestrator(
    base_url: str,
    work: Callable[[AgenticDataOrchestrator], Awaitable[T]],
    *,
    timeout_s: float = 20,
    max_retries: int = 0,
    prompt: PromptVariant | None = None,
) -> T:
    """Run `work` with an orchestrator on the endpoint."""

    async def run() -> T:
        endpoint = Endpoint(base_url, MODEL, SecretStr(KEY))
        async with make_client(endpoint, timeout_s=timeout_s, max_retries=max_retries, backoff_s=0.001) as client:
            done = await work(AgenticDataOrchestrator(client, MODEL, prompt))
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        return done

    return asyncio.run(run())


def report_of(base_url: str, **settings: Any) -> PipelineReport:
    return with_orchestrator(base_url, lambda it: it.process_data_pipeline(SPEC), **settings)


def reports_on(answers: Sequence[bytes], status: int = 200) -> list[PipelineReport]:
    """A report for each of these bodies, which the endpoint then gives to every request."""
    body = b""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json", status=status)

    async def run() -> list[PipelineReport]:
        nonlocal body
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        async with TestServer(app) as server:
            endpoint = Endpoint(str(server.make_url("/v1")), MODEL, SecretStr(KEY))
            async with make_client(endpoint, timeout_s=20, max_retries=0) as client:
                orchestrator = AgenticDataOrchestrator(client, MODEL)
                reports = []
                for body in answers:  # noqa: B007 - the endpoint reads it
                    reports.append(await orchestrator.process_data_pipeline(SPEC))
                return reports

    return asyncio.run(run())


# --- what goes well --------------------------------------------------------------------------------------


def test_a_pipeline_gets_its_labels_and_a_decision_of_each_stage_with_its_cost(start_simulator: Start) -> None:
    report = report_of(start_simulator(**FAST, output_tokens=40))
    assert (report.pipeline_id, report.status, report.error) == ("ecommerce_pipeline_001", "completed", None)
    assert {kind: label.value for kind, label in report.labels.items()} == {"severity": "LOW", "priority": "HIGH"}
    assert [stage.stage for stage in report.stages] == ["ingestion", "quality", "infrastructure"]
    assert report.stages_completed == 3
    assert report.start_time < report.end_time
    for stage in report.stages:
        assert stage.decision is not None
        assert stage.decision.by == "model"
        assert 1 <= len(stage.decision.actions) <= 3
        assert stage.output_tokens is not None
        assert stage.output_tokens > 0
        assert stage.prompt_tokens is not None
        assert stage.prompt_tokens > 20
        assert stage.latency_s is not None
        assert stage.latency_s > 0


def test_the_agents_wait_for_the_endpoint_at_the_same_time(start_simulator: Start) -> None:
    report = report_of(start_simulator(ttft_ms=300, itl_ms=0))
    latencies_s = [stage.latency_s for stage in report.stages if stage.latency_s is not None]
    assert len(latencies_s) == 3
    assert min(latencies_s) >= 0.3
    # One after the other would take at least their sum.
    assert (report.end_time - report.start_time).total_seconds() < 0.8 * sum(latencies_s)


def test_pipelines_run_side_by_side_up_to_the_limit(start_simulator: Start) -> None:
    def running_at_once(reports: list[PipelineReport]) -> int:
        return max(sum(one.start_time <= other.start_time < one.end_time for one in reports) for other in reports)

    base_url = start_simulator(ttft_ms=60, itl_ms=0)
    together = with_orchestrator(base_url, lambda it: it.process_all(entries(4), concurrency=2))
    assert running_at_once(together) == 2
    apart = with_orchestrator(base_url, lambda it: it.process_all(entries(3), concurrency=1))
    assert running_at_once(apart) == 1


def test_a_summary_has_a_row_for_every_pipeline_refused_ones_too() -> None:
    refused = InvalidPipeline("bad", "f.yaml:9", "f.yaml:9: source: is missing")
    orchestrator = AgenticDataOrchestrator(None, None)
    asyncio.run(
        orchestrator.process_all([*entries(1), refused, InvalidPipeline("", "f.yaml:12", "f.yaml:12: id: is missing")])
    )
    frame = orchestrator.generate_summary_report().sort_values("Pipeline ID")
    assert list(frame.columns[1:]) == [
        *("Start Time", "Status", "Stages Completed", "Severity", "Priority"),
        *("From Rules", "Unlike Rules", "Needs Approval", "Error"),
    ]
    assert [tuple(row) for row in frame.drop(columns="Start Time").itertuples(index=False)] == [
        ("(no id)", "invalid", 0, "UNKNOWN", "UNKNOWN", 0, 0, "no", "f.yaml:12: id: is missing"),
        ("bad", "invalid", 0, "UNKNOWN", "UNKNOWN", 0, 0, "no", "f.yaml:9: source: is missing"),
        ("p0", "completed", 3, "LOW", "HIGH", 3, 0, "no", ""),
    ]


def test_a_summary_of_nothing_still_has_its_columns() -> None:
    assert "Pipeline ID" in summary([]).columns


def test_an_orchestrator_remembers_its_newest_reports_only() -> None:
    orchestrator = AgenticDataOrchestrator(None, None, reports_kept=2)
    asyncio.run(orchestrator.process_all(entries(5), concurrency=1))
    assert list(orchestrator.generate_summary_report()["Pipeline ID"]) == ["p3", "p4"]


def test_a_pipelines_wrong_policy_is_a_refused_row() -> None:
    wrong = SPEC.model_copy(update={"policy": {"priority.cpu.hihg": 30}})
    report = asyncio.run(AgenticDataOrchestrator(None, None).process_data_pipeline(wrong, "f.yaml:3"))
    assert (report.status, report.stages, report.labels) == ("invalid", (), {})
    assert (report.error or "").startswith("f.yaml:3: policy.priority.cpu.hihg: unknown")


# --- what goes wrong -------------------------------------------------------------------------------------


def test_a_slow_endpoint_is_a_failed_stage_that_tells_the_timeout(start_simulator: Start) -> None:
    report = report_of(start_simulator(ttft_ms=5000), timeout_s=0.2)
    assert [stage.error for stage in report.stages] == ["no answer within 0.2 s"] * 3
    assert [stage.latency_s for stage in report.stages] == [None] * 3


def test_no_endpoint_at_all_is_a_failed_pipeline_with_its_labels() -> None:
    report = report_of("http://127.0.0.1:9/v1")
    assert (report.status, report.labels["severity"].value) == ("failed", "LOW")  # the rules need no endpoint
    assert (report.error or "").startswith("ingestion: the endpoint cannot be reached: Cannot connect to host 127.0.0")


def test_an_endpoint_that_goes_away_mid_run_keeps_what_was_done_and_fails_the_rest() -> None:
    async def run() -> list[PipelineReport]:
        runner, base_url = await listen(SimulatorSettings(ttft_ms=400, itl_ms=0), "127.0.0.1", 0)
        first_done = asyncio.Event()

        async def stop_after_the_first() -> None:
            await first_done.wait()
            await runner.cleanup()

        stopping = asyncio.create_task(stop_after_the_first())
        endpoint = Endpoint(base_url, MODEL, SecretStr(KEY))
        async with make_client(endpoint, timeout_s=20, max_retries=0) as client:
            reports: list[PipelineReport] = []

            async def ended(_number: int, _entry: Entry, report: PipelineReport) -> None:
                reports.append(report)
                first_done.set()

            await AgenticDataOrchestrator(client, MODEL).process_each(entries(4), ended, concurrency=1)
        await stopping
        return reports

    reports = asyncio.run(run())
    assert [report.status for report in reports] == ["completed", "failed", "failed", "failed"]
    assert all("the endpoint cannot be reached: " in (report.error or "") for report in reports[1:])


def completion(**changes: Any) -> bytes:
    """A sound chat completion, with `changes`."""
    message = {"role": "assistant", "content": '{"handling": "publish", "actions": ["monitor"], "facts": []}'}
    whole = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    return json.dumps({**whole, **changes}).encode()


ODD_ANSWERS = [
    b"",
    b"null",
    b"[]",
    b'"words"',
    b"{}",
    b"\xff\xfe{",
    b"<html>not JSON</html>",
    completion(choices=[]),
    completion(choices=[{}]),
    completion(choices=[None]),
    completion(choices="words"),
    completion(choices={"a": 1}),
    completion(choices=[{"message": None}]),
    completion(choices=[{"message": {"content": 5}}]),
    completion(choices=[{"message": {"content": ["a"]}}]),
    completion(choices=[{"message": {"content": "x"}, "finish_reason": 5}]),
    completion(usage=5),
    completion(usage={"prompt_tokens": 1.5, "completion_tokens": "x"}),
]


def test_whatever_the_endpoint_answers_is_a_failed_stage_with_one_short_line() -> None:
    for body, report in zip(ODD_ANSWERS, reports_on(ODD_ANSWERS), strict=True):
        assert report.status == "failed", body
        for stage in report.stages:
            assert stage.error, body
            assert stage.error.isprintable(), body
            assert len(stage.error) < 300, body


@pytest.mark.parametrize("status", [401, 404, 422, 500])
def test_an_endpoint_that_quotes_the_key_does_not_bring_it_into_the_report(status: int) -> None:
    body = json.dumps({"error": {"message": f"bad key {KEY}\nsecond line"}}).encode()
    [report] = reports_on([body], status)
    assert f"the endpoint answered HTTP {status}: " in (report.error or "")
    assert "bad key ***" in (report.error or "")
    assert KEY not in report.model_dump_json()


# --- whatever the endpoint does --------------------------------------------------------------------------

ERROR_CLASSES = {
    Fault.HTTP_429: ErrorClass.RATE_LIMITED,
    Fault.HTTP_500: ErrorClass.SERVER_ERROR,
    Fault.HTTP_400: ErrorClass.REFUSED,
    Fault.DISCONNECT: ErrorClass.UNREACHABLE,
    Fault.HALF_BODY: ErrorClass.BROKEN_ANSWER,
    Fault.HUGE_ANSWER: ErrorClass.BROKEN_ANSWER,
    Fault.NO_ANSWER: ErrorClass.TIMEOUT,
    Fault.ERROR_EVENT: ErrorClass.BROKEN_ANSWER,
    Fault.ERROR_DATA: ErrorClass.BROKEN_ANSWER,
    Fault.EMPTY_BODY: ErrorClass.BROKEN_ANSWER,
    Fault.HALF_JSON: ErrorClass.BROKEN_ANSWER,
    Fault.REFUSAL: ErrorClass.NO_CONTENT,
    Fault.REASONING_ONLY: ErrorClass.NO_CONTENT,
    Fault.TOOL_CALL: ErrorClass.NO_CONTENT,
}
NO_DECISION = {Fault.HALF_ANSWER, Fault.WRONG_SCHEMA}
"""Sound answers that are no decision: the rules decide."""
SOUND = set(Fault) - ERROR_CLASSES.keys() - NO_DECISION
"""Odd on the wire, and a whole answer all the same: a reader that fails on it would be at fault."""
SPEAKING = load_prompt("write_note")
"""Of what it asks for, the note is free text: some faults need one."""
QUICK = {Fault.NONE, Fault.HTTP_500, Fault.HALF_ANSWER}


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[] if fault in QUICK else [pytest.mark.slow]) for fault in Fault]
)
def test_rows_in_are_rows_out_each_failure_has_its_class_and_nothing_is_left_running(
    start_simulator: Start, fault: Fault
) -> None:
    base_url = start_simulator(**FAST, fault=fault)
    given: list[Entry] = [*entries(3), InvalidPipeline("bad", "f:9", "refused"), *entries(1)]
    timeout_s = 0.3 if fault is Fault.NO_ANSWER else 60
    reports = with_orchestrator(
        base_url, lambda it: it.process_all(given, concurrency=3), timeout_s=timeout_s, prompt=SPEAKING
    )
    assert [report.pipeline_id for report in reports] == ["p0", "p1", "p2", "bad", "p0"]
    asked = [stage for report in reports for stage in report.stages]
    assert len(asked) == 4 * len(stages())
    assert {stage.error_class for stage in asked} == {ERROR_CLASSES.get(fault)}
    assert {stage.status for stage in asked} == {"failed" if fault in ERROR_CLASSES else "completed"}
    assert {stage.because for stage in asked} == {"unusable" if fault in NO_DECISION else None}
    assert in_flight(base_url) == 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_with_retries_and_half_the_requests_failing_rows_in_are_rows_out(start_simulator: Start, fault: Fault) -> None:
    base_url = start_simulator(**FAST, fault=fault, fault_rate=0.5, seed=1)
    reports = with_orchestrator(
        base_url,
        lambda it: it.process_all(entries(6), concurrency=3),
        timeout_s=0.3 if fault is Fault.NO_ANSWER else 60,
        max_retries=1,
        prompt=SPEAKING,
    )
    assert [report.pipeline_id for report in reports] == [f"p{number}" for number in range(6)]
    for stage in (stage for report in reports for stage in report.stages):
        assert (stage.decision is None) == (stage.status == "failed")
        assert stage.status == "completed" or stage.error_class is ERROR_CLASSES.get(fault)
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
