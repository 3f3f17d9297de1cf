"""Who decides: the model where the rules permit it, else the rules, and why; the rules' own decision always beside."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from pydantic import SecretStr

from agents.asking.endpoint.client import make_client
from agents.asking.endpoint.reply import AgentError, EndpointFailed, ErrorClass
from agents.asking.variant import PromptVariant, load_prompt
from agents.deciding.agent import (
    HISTORY_LIMIT,
    DataIngestionAgent,
    DataQualityAgent,
    Decider,
    InfrastructureOptimizationAgent,
    LightweightLLMAgent,
)
from agents.deciding.rules_agent import RulesAgent
from agents.facts.spec import PipelineSpec
from agents.labels.policy import Policy
from agents.reports.orchestrator import AgenticDataOrchestrator
from agents.reports.report import PipelineReport, StageReport
from agents.specialists.registry import labels_for, specialist_of, stages
from agents.specialists.rules import permitted, rules_decision
from common.console import BadInput
from serving.endpoint import Endpoint
from serving.simulator import Fault
from tests.agents.made_specs import POLICY, SPECS, STANDARD
from tests.agents.scripted import (
    CALM,
    CHARACTER_PROBABILITY,
    GRAVE,
    Body,
    Scripted,
    by_stage,
    report_from,
    saying,
    stage_of,
    written,
)

Start = Callable[..., str]
FAST = {"ttft_ms": 0, "itl_ms": 0}
MODEL = "plumbline-simulator"


def simulated(
    base_url: str,
    spec: PipelineSpec = CALM,
    *,
    prompt: PromptVariant | None = None,
    timeout_s: float = 20,
    **options: Any,
) -> PipelineReport:
    """A report made over HTTP, without retries."""

    async def run() -> PipelineReport:
        endpoint = Endpoint(base_url, MODEL, SecretStr("EMPTY"))
        async with make_client(endpoint, timeout_s=timeout_s, max_retries=0) as client:
            return await AgenticDataOrchestrator(client, MODEL, prompt, **options).process_data_pipeline(spec)

    return asyncio.run(run())


def rules_of(stage: str, spec: PipelineSpec = CALM) -> Any:
    return rules_decision(specialist_of(stage), spec, labels_for(spec, STANDARD)[stage])


def refused_action(stage: str, spec: PipelineSpec = CALM) -> str:
    """An action of the catalogue that is not permitted."""
    specialist = specialist_of(stage)
    may = permitted(specialist, spec, labels_for(spec, STANDARD)[stage])
    return next(one for one in specialist.actions_by_id if one not in may.actions)


def given_by_the_rules(stage: StageReport, because: str, spec: PipelineSpec = CALM) -> bool:
    return (stage.status, stage.because, stage.decision, stage.rules) == (
        "completed",
        because,
        rules_of(stage.stage, spec),
        rules_of(stage.stage, spec),
    )


# --- the model decides -----------------------------------------------------------------------------------


def test_a_permitted_decision_is_given_as_the_model_made_it_with_its_probabilities() -> None:
    for stage in report_from(saying()).stages:
        decision = stage.decision
        assert decision is not None
        assert (decision.by, stage.because, stage.problem, stage.model, stage.answer) == ("model", *[None] * 4)
        for picked in (decision.choice, *decision.actions):
            # A value is its characters and the quote that ends it.
            assert picked.probability == pytest.approx(CHARACTER_PROBABILITY ** (len(picked.id) + 1)), picked.id
        assert decision.reading is not None
        assert (decision.reading.source, decision.reading.calibrated) == ("after the mask", False)
        assert (stage.prompt_tokens, stage.cached_tokens, stage.output_tokens) == (10, 4, 5)


@pytest.mark.parametrize("prompt", ["write", "write_note", "read", "reason"])
def test_each_way_to_ask_gives_decisions_of_the_model_on_an_endpoint(start_simulator: Start, prompt: str) -> None:
    report = simulated(start_simulator(**FAST), prompt=load_prompt(prompt))
    assert report.status == "completed"
    for stage in report.stages:
        assert stage.decision is not None
        assert stage.decision.by == "model", (stage.problem, stage.answer)
        assert stage.decision.reading is not None
        assert stage.decision.reading.way == prompt.removesuffix("_note")
        assert stage.decision.least_probability is not None
        assert stage.latency_s is not None
        assert stage.prompt_tokens is not None


def test_the_rules_decision_stands_beside_and_where_they_differ_is_told() -> None:
    async def as_the_rules(body: Body) -> str:
        rules = rules_of(stage_of(body))
        return written(body, choice=rules.choice.id, actions=list(reversed(rules.ids)))

    async def otherwise(body: Body) -> str:
        rules, schema = rules_of(stage_of(body)), body["response_format"]["json_schema"]["schema"]["properties"]
        others = [one for one in schema["actions"]["items"]["enum"] if one not in rules.ids]
        assert others
        return written(body, actions=others[:1])

    for stage in report_from(as_the_rules).stages:
        assert (stage.rules, stage.differs) == (rules_of(stage.stage), False)
    for stage in report_from(otherwise).stages:
        assert (stage.rules, stage.differs) == (rules_of(stage.stage), True)


def test_what_people_read_is_the_choice_and_a_sentence_for_each_action() -> None:
    for stage in report_from(saying(), GRAVE).stages:
        assert stage.decision is not None
        specialist = specialist_of(stage.stage)
        assert len(stage.told) == 1 + len(stage.decision.actions)
        assert stage.told[0].startswith(f"{specialist.choice.name} {stage.decision.choice.id}: ")
        for told, action in zip(stage.told[1:], stage.decision.ids, strict=True):
            assert told.startswith(specialist.actions_by_id[action].do)


# --- the rules decide in its place -----------------------------------------------------------------------


def test_what_the_rules_do_not_permit_is_replaced_and_the_models_own_decision_is_kept() -> None:
    async def tempted(body: Body) -> str:
        return written(body, actions=[refused_action(stage_of(body))])

    # With write_all it is offered; under write only a server that ignores the schema lets it through.
    for prompt in ("write_all", "write"):
        for stage in report_from(tempted, prompt=prompt).stages:
            wrong = refused_action(stage.stage)
            assert given_by_the_rules(stage, "not_permitted")
            assert stage.problem == f"{wrong} is not permitted here"
            assert stage.model is not None
            assert (stage.model.by, stage.model.ids) == ("model", (wrong,))
            assert stage.differs is False
            assert stage.output_tokens == 5  # it was paid for


def test_a_choice_that_is_ruled_out_is_replaced_too() -> None:
    async def publishes(body: Body) -> str:
        return written(body, choice="publish") if stage_of(body) == "quality" else written(body)

    stage = by_stage(report_from(publishes, GRAVE, prompt="write_all").stages)["quality"]
    assert given_by_the_rules(stage, "not_permitted", GRAVE)
    assert stage.problem == "publish is not permitted here"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure! Here it is:",
        "[]",
        "null",
        '{"actions": ["backfill"]}',
        "{}",
        '{"mode": "batch", "handling": "publish", "urgency": "watch"}',
        "\ud7ff" * 50,
        "[" * 10_000,
    ],
)
def test_an_answer_that_is_no_decision_is_kept_and_the_rules_decide(text: str) -> None:
    async def answers(_body: Body) -> str:
        return text

    for stage in report_from(answers).stages:
        assert given_by_the_rules(stage, "unusable")
        assert stage.problem
        assert stage.problem.isprintable()
        assert len(stage.problem) < 300
        assert stage.answer == (text[:16_000] or None)
        assert stage.model is None


@pytest.mark.parametrize(
    "said",
    [
        {"actions": []},
        {"actions": ["rm -rf /"]},
        {"actions": "backfill"},
        {"actions": [1]},
        {"choice": "yolo"},
        {"choice": None},
        {"facts": ["severity"]},
    ],
)
def test_an_option_that_nobody_offered_is_no_decision(said: dict[str, Any]) -> None:
    for stage in report_from(saying(**said)).stages:
        assert given_by_the_rules(stage, "unusable"), said


def test_an_answer_with_more_actions_than_three_is_no_decision() -> None:
    async def eager(body: Body) -> str:
        return written(body, actions=list(specialist_of(stage_of(body)).actions_by_id)[:4])

    assert all(given_by_the_rules(stage, "unusable") for stage in report_from(eager, prompt="write_all").stages)


def test_an_answer_cut_off_by_the_token_limit_says_so(start_simulator: Start) -> None:
    write = load_prompt("write")
    short = write.model_copy(update={"sampling": write.sampling.model_copy(update={"max_tokens": 1})})
    for stage in simulated(start_simulator(**FAST), prompt=short).stages:
        assert given_by_the_rules(stage, "unusable")
        assert "cut off at 1 tokens" in (stage.problem or "")


def test_nothing_is_asked_twice() -> None:
    client = Scripted(saying(actions=["no such thing"]))
    report_from(saying(), client=client)
    assert sorted(map(stage_of, client.asked)) == sorted(stages())


# --- deadlines and faults --------------------------------------------------------------------------------


def test_what_the_model_has_not_answered_by_the_deadline_the_rules_decide() -> None:
    async def slow_on_quality(body: Body) -> str:
        if stage_of(body) == "quality":
            await asyncio.sleep(30)
        return written(body)

    began_s = time.monotonic()
    stages = by_stage(report_from(slow_on_quality, deadline_s=0.2).stages)
    assert time.monotonic() - began_s < 10
    assert given_by_the_rules(stages["quality"], "deadline")
    assert stages["quality"].latency_s is None
    assert [stages[one].because for one in ("ingestion", "infrastructure")] == [None, None]


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        (Fault.HTTP_500, ErrorClass.SERVER_ERROR),
        (Fault.HALF_BODY, ErrorClass.BROKEN_ANSWER),
        (Fault.REFUSAL, ErrorClass.NO_CONTENT),
        (Fault.REASONING_ONLY, ErrorClass.NO_CONTENT),
    ],
)
def test_an_endpoint_that_fails_is_a_failed_stage_or_under_a_deadline_the_rules(
    start_simulator: Start, fault: Fault, error_class: ErrorClass
) -> None:
    base_url = start_simulator(**FAST, fault=fault)
    without, under = simulated(base_url), simulated(base_url, deadline_s=20)
    assert (without.status, without.stages_completed) == ("failed", 0)
    for stage in without.stages:
        assert (stage.status, stage.decision, stage.error_class) == ("failed", None, error_class)
        assert "\n" not in (stage.error or "\n")
    assert under.status == "completed"
    for stage in under.stages:
        assert given_by_the_rules(stage, "endpoint")
        assert (stage.error_class, bool(stage.error)) == (error_class, True)


@pytest.mark.parametrize("deadline_s", [None, 20])
def test_the_words_of_a_refusal_are_kept(start_simulator: Start, deadline_s: float | None) -> None:
    for stage in simulated(start_simulator(**FAST, fault=Fault.REFUSAL), deadline_s=deadline_s).stages:
        assert "can't help with that" in (stage.answer or ""), stage


def test_a_half_answer_of_a_sound_endpoint_is_no_decision(start_simulator: Start) -> None:
    report = simulated(start_simulator(**FAST, fault=Fault.HALF_ANSWER))
    assert all(given_by_the_rules(stage, "unusable") for stage in report.stages)


@pytest.mark.slow
def test_a_very_long_answer_is_kept_in_part_only() -> None:
    async def endless(_body: Body) -> str:
        return "x" * 300_000

    assert len(report_from(endless).model_dump_json()) < 100_000


# --- the rules alone -------------------------------------------------------------------------------------


def test_the_rules_alone_need_no_endpoint_and_open_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    report = asyncio.run(AgenticDataOrchestrator(None, None).process_data_pipeline(GRAVE))
    assert report.status == "completed"
    for stage in report.stages:
        assert (stage.decision, stage.rules, stage.because) == (rules_of(stage.stage, GRAVE), stage.decision, None)
        assert (stage.differs, stage.prompt_tokens, stage.latency_s) == (False, None, None)


@given(spec=SPECS, policy=POLICY)
def test_by_rules_any_pipeline_is_decided_completely_and_read_back_as_it_was(
    spec: PipelineSpec, policy: Policy
) -> None:
    report = asyncio.run(AgenticDataOrchestrator(None, None, policy=policy).process_data_pipeline(spec))
    assert (report.status, report.stages_completed) == ("completed", len(stages()))
    assert PipelineReport.model_validate_json(report.model_dump_json()) == report


def test_a_pipelines_unusable_policy_is_bad_input_to_either_decider() -> None:
    wrong = CALM.model_copy(update={"policy": {"priority.cpu.hihg": 30}})
    deciders: list[Decider] = [
        RulesAgent(STANDARD, "quality"),
        DataQualityAgent(Scripted(saying()), "m", policy=STANDARD),
    ]
    for decider in deciders:
        with pytest.raises(AgentError, match="hihg") as refused:
            asyncio.run(decider.decide(wrong))
        assert refused.value.error_class is ErrorClass.BAD_INPUT


# --- the mission's names ---------------------------------------------------------------------------------


def test_the_missions_methods_each_ask_for_their_own_stage() -> None:
    client = Scripted(saying())

    async def run() -> list[Any]:
        return [
            await DataIngestionAgent(client, "m").analyze_data_source(CALM),
            await DataQualityAgent(client, "m").assess_quality(CALM),
            await InfrastructureOptimizationAgent(client, "m").optimize_infrastructure(CALM),
        ]

    answers = asyncio.run(run())
    assert [stage_of(body) for body in client.asked] == ["ingestion", "quality", "infrastructure"]
    assert [answer.decision.by for answer in answers] == ["model"] * 3


def test_generate_response_gives_the_models_free_text_to_a_prompt_of_ones_own() -> None:
    client = Scripted(lambda body: _said(body["messages"][-1]["content"].upper()))
    reply = asyncio.run(DataQualityAgent(client, "m").generate_response("how are you?", max_tokens=7))
    assert reply.text == "HOW ARE YOU?"
    assert client.asked[0]["max_tokens"] == 7
    assert "response_format" not in client.asked[0]
    assert "data quality analyst" in client.asked[0]["messages"][0]["content"]


async def _said(text: str) -> str:
    return text


def test_an_agent_for_a_stage_that_nobody_registered_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^stage 'cost' is not known; known: ingestion, quality, infrastructure"):
        LightweightLLMAgent(Scripted(saying()), "m", stage="cost")


def test_an_agent_remembers_its_latest_answers_only_and_raises_what_the_endpoint_failed_with() -> None:
    agent = DataQualityAgent(Scripted(saying()), "m")

    async def fill() -> None:
        for _ in range(HISTORY_LIMIT + 5):
            await agent.decide(CALM)

    asyncio.run(fill())
    assert len(agent.history) == HISTORY_LIMIT

    async def fails(_body: Body) -> str:
        raise EndpointFailed("gone", ErrorClass.UNREACHABLE)

    with pytest.raises(EndpointFailed, match=r"^gone$"):
        asyncio.run(DataQualityAgent(Scripted(fails), "m").decide(CALM))


# --- a model's own sentence ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("note", "dropped"),
    [
        ("Completeness is 97 percent.", None),
        ("Completeness is 12 percent.", "a figure that no fact holds"),
        ("x" * 161, "too long"),
        ("red \x1b[31m", "control characters"),
        ("two\nlines", "control characters"),
        (" ", "empty"),
        (5, "empty"),
    ],
)
def test_a_bad_note_is_dropped_and_told_and_the_decision_stays(note: object, dropped: str | None) -> None:
    plain = by_stage(report_from(saying(), prompt="write_note").stages)["quality"]
    stage = by_stage(report_from(saying(note=note), prompt="write_note").stages)["quality"]
    assert stage.decision is not None
    assert plain.decision is not None
    assert stage.note_dropped == dropped
    assert stage.decision.note == (None if dropped else note)
    assert stage.decision.model_copy(update={"note": None}) == plain.decision.model_copy(update={"note": None})


def test_a_report_of_any_kind_is_read_back_from_its_json_as_it_was() -> None:
    for answers in (saying(), saying(actions=["nothing"]), saying(note="It is so.")):
        for prompt in ("write_note", "write_all"):
            report = report_from(answers, GRAVE, prompt=prompt)
            assert PipelineReport.model_validate_json(report.model_dump_json()) == report
