"""Agents and orchestrator on a real HTTP endpoint: answers become reports, failures become rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from agents.answers import AnswerForm
from agents.asking.client import make_client
from agents.asking.reply import EndpointFailed, Reply, UnusableReply, parse
from agents.asking.variant import PromptVariant, load_prompt
from agents.deciding.agent import (
    HISTORY_LIMIT,
    DataIngestionAgent,
    DataQualityAgent,
    InfrastructureOptimizationAgent,
)
from agents.facts.pipeline_files import Entry, InvalidPipeline, ReadPipeline
from agents.facts.spec import PipelineSpec
from agents.guardrails import GuardrailMode
from agents.reports.orchestrator import AgenticDataOrchestrator, summary
from agents.schema import PipelineReport, Stage
from serving.endpoint import Endpoint
from serving.simulator import Fault, SimulatorSettings, listen

Start = Callable[..., str]
T = TypeVar("T")

FAST = {"ttft_ms": 0, "itl_ms": 0}
KEY = "sk-secret-123"
SPEC = PipelineSpec.model_validate(
    {
        "id": "ecommerce_pipeline_001",
        "source": {"type": "REST API", "volume": "10GB/day", "frequency": "real-time"},
        "quality_metrics": {"completeness": 87, "consistency": 92, "issues": 15},
        "infrastructure_metrics": {"cpu_usage": 78, "memory_usage": 82},
    }
)
MODEL = "plumbline-simulator"


def entries(count: int) -> list[Entry]:
    return [ReadPipeline(SPEC.model_copy(update={"id": f"p{n}"}), f"f.yaml:{n}") for n in range(count)]


def with_orchestrator(
    base_url: str,
    work: Callable[[AgenticDataOrchestrator], Awaitable[T]],
    *,
    timeout_s: float = 20,
    prompt: PromptVariant | None = None,
    guardrails: GuardrailMode = GuardrailMode.OFF,
    deadline_s: float | None = None,
) -> T:
    """Run `work` with an orchestrator on the endpoint, without retries.

    The simulator's words mean nothing, so guardrails are off where a test is not about them.
    """

    async def run() -> T:
        endpoint = Endpoint(base_url, MODEL, SecretStr(KEY))
        async with make_client(endpoint, timeout_s=timeout_s, max_retries=0) as client:
            it = AgenticDataOrchestrator(client, MODEL, prompt, guardrails=guardrails, deadline_s=deadline_s)
            return await work(it)

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
                orchestrator = AgenticDataOrchestrator(client, MODEL, guardrails=GuardrailMode.OFF)
                reports = []
                for body in answers:  # noqa: B007 - the endpoint reads it
                    reports.append(await orchestrator.process_data_pipeline(SPEC))
                return reports

    return asyncio.run(run())


def completion(**changes: Any) -> bytes:
    """A sound chat completion of a right quality recommendation, with `changes`."""
    message = {"role": "assistant", "content": '{"summary": "a", "actions": ["b", "c"]}'}
    whole = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    return json.dumps({**whole, **changes}).encode()


# --- what goes well --------------------------------------------------------------------------------------


def test_a_pipeline_gets_its_labels_and_three_recommendations_with_their_cost(start_simulator: Start) -> None:
    report = report_of(start_simulator(**FAST, output_tokens=40))
    assert (report.pipeline_id, report.status, report.error) == ("ecommerce_pipeline_001", "completed", None)
    assert report.severity is not None
    assert report.priority is not None
    assert (report.severity.value, report.priority.value) == ("LOW", "HIGH")
    assert [stage.stage for stage in report.stages] == list(Stage)
    assert report.stages_completed == 3
    assert [bool(stage.recommendation and stage.recommendation.mode) for stage in report.stages] == [True, False, False]
    assert report.start_time < report.end_time
    for stage in report.stages:
        assert stage.recommendation is not None
        assert len(stage.recommendation.actions) == 2
        assert stage.output_tokens == 40
        assert stage.prompt_tokens is not None
        assert stage.prompt_tokens > 20
        assert stage.latency_s is not None
        assert stage.latency_s > 0


def test_a_report_is_read_back_from_its_json_as_it_was(start_simulator: Start) -> None:
    for guardrails in GuardrailMode:
        report = report_of(start_simulator(**FAST), guardrails=guardrails)
        assert PipelineReport.model_validate_json(report.model_dump_json()) == report
    failed = report_of(start_simulator(**FAST, fault=Fault.HALF_ANSWER))
    assert failed.stages[0].answer
    assert PipelineReport.model_validate_json(failed.model_dump_json()) == failed


def test_the_missions_names_each_ask_for_their_own_stage(start_simulator: Start) -> None:
    async def work(it: AgenticDataOrchestrator) -> list[Stage]:
        await it.ingestion.analyze_data_source(SPEC)
        await it.quality.assess_quality(SPEC)
        await it.infrastructure.optimize_infrastructure(SPEC)
        return [agent.history[0].request.stage for agent in (it.ingestion, it.quality, it.infrastructure)]

    assert with_orchestrator(start_simulator(**FAST), work) == list(Stage)
    assert [agent.stage for agent in (DataIngestionAgent, DataQualityAgent, InfrastructureOptimizationAgent)] == list(
        Stage
    )


def test_the_three_agents_wait_for_the_endpoint_at_the_same_time(start_simulator: Start) -> None:
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


def test_a_summary_has_a_row_for_every_pipeline_refused_ones_too(start_simulator: Start) -> None:
    refused = InvalidPipeline("bad", "f.yaml:9", "f.yaml:9: source: is missing")

    async def work(it: AgenticDataOrchestrator) -> Any:
        await it.process_all([*entries(1), refused, InvalidPipeline("", "f.yaml:12", "f.yaml:12: id: is missing")])
        return it.generate_summary_report()

    frame = with_orchestrator(start_simulator(**FAST), work).sort_values("Pipeline ID")
    assert list(frame.columns[:6]) == [
        "Pipeline ID",
        "Start Time",
        "Status",
        "Stages Completed",
        "Severity",
        "Priority",
    ]
    rows = [tuple(row) for row in frame.drop(columns="Start Time").itertuples(index=False)]
    assert rows == [
        ("(no id)", "invalid", 0, "UNKNOWN", "UNKNOWN", 0, "no", "f.yaml:12: id: is missing"),
        ("bad", "invalid", 0, "UNKNOWN", "UNKNOWN", 0, "no", "f.yaml:9: source: is missing"),
        ("p0", "completed", 3, "LOW", "HIGH", 0, "no", ""),
    ]


def test_a_summary_of_nothing_still_has_its_columns() -> None:
    assert "Pipeline ID" in summary([]).columns


# --- history ---------------------------------------------------------------------------------------------


def test_history_keeps_question_answer_and_cost(start_simulator: Start) -> None:
    async def work(it: AgenticDataOrchestrator) -> Any:
        await it.process_data_pipeline(SPEC)
        return it.quality.history

    [exchange] = with_orchestrator(start_simulator(**FAST), work)
    assert exchange.request.pipeline_id == SPEC.id
    assert "completeness_percent" in exchange.request.body["messages"][1]["content"]
    assert exchange.error is None
    assert exchange.reply.text.startswith("{")


def test_history_keeps_errors_and_never_the_key(start_simulator: Start) -> None:
    async def work(it: AgenticDataOrchestrator) -> Any:
        with pytest.raises(EndpointFailed):
            await it.quality.assess_quality(SPEC)
        return it.quality.history

    [exchange] = with_orchestrator(start_simulator(**FAST, fault=Fault.HTTP_500), work)
    assert exchange.reply is None
    assert exchange.error.startswith("the endpoint answered HTTP 500: ")
    assert KEY not in repr(exchange)


def test_history_is_bounded_and_keeps_the_latest(start_simulator: Start) -> None:
    async def work(it: AgenticDataOrchestrator) -> Any:
        for number in range(HISTORY_LIMIT + 5):
            await it.quality.assess_quality(SPEC.model_copy(update={"id": f"p{number}"}))
        return it.quality.history

    history = with_orchestrator(start_simulator(**FAST, output_tokens=1), work)
    assert len(history) == HISTORY_LIMIT
    assert [history[0].request.pipeline_id, history[-1].request.pipeline_id] == ["p5", f"p{HISTORY_LIMIT + 4}"]


# --- what goes wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.HTTP_500, "the endpoint answered HTTP 500: "),
        (Fault.HALF_BODY, "the endpoint's answer is broken: "),
        (Fault.HALF_ANSWER, "the answer does not fit the schema: Invalid JSON: EOF while parsing"),
    ],
)
def test_a_fault_of_the_endpoint_is_a_failed_stage_with_one_line(
    start_simulator: Start, fault: Fault, error: str
) -> None:
    report = report_of(start_simulator(**FAST, fault=fault))
    assert (report.status, report.stages_completed, len(report.stages)) == ("failed", 0, 3)
    assert report.severity is not None  # the rules need no endpoint
    assert report.severity.value == "LOW"
    for stage in report.stages:
        assert stage.error is not None
        assert stage.error.startswith(error)
        assert "\n" not in stage.error


def test_an_answer_that_could_not_be_used_is_kept_with_its_cost(start_simulator: Start) -> None:
    report = report_of(start_simulator(**FAST, fault=Fault.HALF_ANSWER))
    for stage in report.stages:
        assert stage.recommendation is None
        assert stage.answer is not None
        assert stage.answer.startswith('{"summary"')
        assert stage.output_tokens is not None
        assert stage.latency_s is not None


def test_an_answer_cut_off_by_the_token_limit_says_so(start_simulator: Start) -> None:
    plain = load_prompt("plain")
    short = plain.model_copy(update={"sampling": plain.sampling.model_copy(update={"max_tokens": 5})})
    report = report_of(start_simulator(**FAST), prompt=short)
    assert report.status == "failed"
    assert report.stages[0].error is not None
    assert report.stages[0].error.endswith("; it was cut off at 5 tokens")


def test_a_slow_endpoint_is_a_failed_stage_that_tells_the_timeout(start_simulator: Start) -> None:
    report = report_of(start_simulator(ttft_ms=5000), timeout_s=0.2)
    assert [stage.error for stage in report.stages] == ["no answer within 0.2 s"] * 3
    assert [stage.latency_s for stage in report.stages] == [None] * 3


def test_no_endpoint_at_all_is_a_failed_stage() -> None:
    report = report_of("http://127.0.0.1:9/v1")
    assert report.status == "failed"
    assert report.error is not None
    assert report.error.startswith("ingestion: the endpoint cannot be reached: Cannot connect to host 127.0.0.1:9")


QUICK = {Fault.NONE, Fault.HTTP_500, Fault.HALF_BODY, Fault.HALF_ANSWER}


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[] if fault in QUICK else [pytest.mark.slow]) for fault in Fault]
)
def test_every_entry_has_its_report_in_order_whatever_the_endpoint_does(start_simulator: Start, fault: Fault) -> None:
    work = [*entries(3), InvalidPipeline("bad", "f.yaml:9", "refused"), *entries(1)]
    reports = with_orchestrator(start_simulator(**FAST, fault=fault), lambda it: it.process_all(work), timeout_s=1)
    assert [report.pipeline_id for report in reports] == ["p0", "p1", "p2", "bad", "p0"]


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
            orchestrator = AgenticDataOrchestrator(client, MODEL, guardrails=GuardrailMode.OFF)
            reports: list[PipelineReport] = []

            async def ended(_number: int, _entry: Entry, report: PipelineReport) -> None:
                reports.append(report)
                first_done.set()

            await orchestrator.process_each(entries(4), ended, concurrency=1)
        await stopping
        return reports

    reports = asyncio.run(run())
    assert [report.status for report in reports] == ["completed", "failed", "failed", "failed"]
    assert all("the endpoint cannot be reached: " in (report.error or "") for report in reports[1:])


SOUND_CHOICE = {"message": {"content": '{"summary": "a", "actions": ["b", "c"]}'}}


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
    completion(choices=[{"message": {}}]),
    completion(choices=[{"message": {"content": 5}}]),
    completion(choices=[{"message": {"content": ["a"]}}]),
    completion(choices=[{**SOUND_CHOICE, "finish_reason": 5}]),
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


def test_an_endpoint_may_leave_out_usage_and_finish_reason() -> None:
    changes: list[dict[str, Any]] = [{}, {"usage": None}, {"usage": {}}, {"choices": [SOUND_CHOICE]}]
    for report in reports_on([completion(**change) for change in changes]):
        # The one answer has no mode, which the ingestion stage asks for.
        assert report.status == "partial"
        assert [stage.status for stage in report.stages] == ["failed", "completed", "completed"]
        assert report.error is not None
        assert report.error.startswith("ingestion: the answer does not fit the schema: mode: Field required")


@pytest.mark.parametrize("status", [401, 404, 422, 500])
def test_an_endpoint_that_quotes_the_key_does_not_bring_it_into_the_report(status: int) -> None:
    body = json.dumps({"error": {"message": f"bad key {KEY}\nsecond line"}}).encode()
    [report] = reports_on([body], status)
    assert f"the endpoint answered HTTP {status}: " in (report.error or "")
    assert "bad key ***" in (report.error or "")
    assert KEY not in report.model_dump_json()


# --- reading a reply -------------------------------------------------------------------------------------


def reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text=text, finish_reason=finish_reason, prompt_tokens=1, output_tokens=7, latency_s=0.1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Invalid JSON: EOF while parsing"),
        ("Sure! Here it is:", "Invalid JSON: expected value"),
        ('{"summary": "a", "actions": ["b"]}', "actions: List should have at least 2 items"),
        ('{"summary": "a", "actions": ["b", "c", "d"]}', "actions: List should have at most 2 items"),
        ('{"summary": "a", "actions": ["b", ""]}', "actions.1: String should have at least 1 character"),
        ('{"summary": "a", "actions": ["b", "c"], "severity": "LOW"}', "severity: Extra inputs are not permitted"),
        ('{"actions": ["b", "c"]}', "summary: Field required"),
    ],
)
def test_a_reply_that_is_not_the_recommendation_says_why(text: str, problem: str) -> None:
    with pytest.raises(UnusableReply) as unusable:
        parse(Stage.QUALITY, AnswerForm.STANDARD, reply(text))
    assert str(unusable.value).startswith(f"the answer does not fit the schema: {problem}")
    assert "cut off" not in str(unusable.value)
    assert unusable.value.reply == reply(text)


def test_a_whole_answer_that_ended_at_the_limit_is_still_used() -> None:
    text = '{"summary": "a", "actions": ["b", "c"]}'
    assert parse(Stage.QUALITY, AnswerForm.STANDARD, reply(text, "length")).summary == "a"
