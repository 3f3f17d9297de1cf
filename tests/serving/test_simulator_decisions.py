"""The simulator's POST /v1/decisions: OpenAI's form, read by OpenAI's SDK; not there, or refused, when told so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Decision

from serving.simulator import DecisionsRoute, Fault
from serving.simulator_decisions import DecisionRequest, decision

Start = Callable[..., str]
T = TypeVar("T")

MODEL = "plumbline-simulator"
FAST = {"ttft_ms": 0, "itl_ms": 0}
MODE = {
    "type": "choice",
    "name": "mode",
    "instructions": "Which mode?",
    "choices": [{"value": "batch", "description": "once a night"}, {"value": "streaming"}, {"value": "cdc"}],
}
LATE = {"type": "predicate", "instructions": "Are events late?"}
URGENCY = {
    "type": "score",
    "name": "urgency",
    "instructions": "How urgent?",
    "levels": [{"label": "low"}, {"label": "high"}],
}
BODY = {"model": MODEL, "input": "events come late", "questions": [MODE, LATE, URGENCY]}


def with_sdk(base_url: str, work: Callable[[openai.AsyncOpenAI], Awaitable[T]]) -> T:
    async def run() -> T:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="EMPTY", max_retries=0) as client:
            return await work(client)

    return asyncio.run(run())


def ask(base_url: str, **more: Any) -> Decision:
    """A decision, by OpenAI's SDK."""
    return with_sdk(base_url, lambda client: client.decisions.create(**{**BODY, **more}))


def post(base_url: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body of one request as it is."""

    async def run() -> tuple[int, bytes]:
        async with aiohttp.ClientSession() as session, session.post(f"{base_url}/decisions", json=body) as answer:
            return answer.status, await answer.read()

    return asyncio.run(run())


def test_answers_come_in_the_questions_order_with_probabilities_that_add_up(start_simulator: Start) -> None:
    decided = ask(start_simulator(**FAST, decisions="on"))
    choice, predicate, score = decided.answers
    assert choice.type == "choice"
    assert choice.name == "mode"
    by_value = {option.value: option.probability for option in choice.probabilities}
    assert list(by_value) == ["batch", "streaming", "cdc"]
    assert sum(by_value.values()) == pytest.approx(1)
    assert choice.choice == max(by_value, key=by_value.__getitem__)
    assert 0.88 <= choice.confidence / max(by_value.values()) <= 0.92
    assert predicate.type == "predicate"
    assert predicate.name is None
    assert 0 <= predicate.probability <= 1
    assert score.type == "score"
    assert [(level.value, level.label) for level in score.probabilities] == [(0, "low"), (1, "high")]
    assert score.score == pytest.approx(score.probabilities[1].probability)


def test_it_says_that_it_is_simulated_and_what_it_read(start_simulator: Start) -> None:
    decided = ask(start_simulator(**FAST, decisions="on"))
    assert decided.model == MODEL
    extra = decided.model_extra or {}
    assert extra["plumbline"]["simulated"] is True
    assert extra["plumbline"]["sent_ns"] >= extra["plumbline"]["due_ns"]
    # 3 words of input for each of 3 questions; 2, 3 words of options and 3 of a description; 3; 2 and 2 labels
    assert decided.usage.input_tokens == decided.usage.total_tokens == 9 + 8 + 3 + 4
    assert decided.usage.output_tokens == 0


def test_the_same_question_gets_the_same_answer_whatever_is_asked_beside_it(start_simulator: Start) -> None:
    base_url, other = start_simulator(**FAST, decisions="on"), start_simulator(**FAST, decisions="on", seed=1)
    first = ask(base_url).answers[0]
    assert ask(base_url, questions=[LATE, MODE]).answers[1] == first
    assert ask(base_url, input="nothing is late").answers[0] != first
    assert ask(other).answers[0] != first


def test_messages_are_an_input_too(start_simulator: Start) -> None:
    messages = [
        {"role": "developer", "content": "be strict"},
        {"role": "user", "content": [{"type": "input_text", "text": "one two three"}]},
    ]
    assert ask(start_simulator(**FAST, decisions="on"), input=messages, questions=[LATE]).usage.input_tokens == 8


def test_a_truth_value_and_the_same_word_are_two_options(start_simulator: Start) -> None:
    choices = [{"value": value} for value in (True, "true", "True", False)]
    (answer,) = ask(start_simulator(**FAST, decisions="on"), questions=[{**MODE, "choices": choices}]).answers
    assert answer.type == "choice"
    assert [option.value for option in answer.probabilities] == [True, "true", "True", False]


@given(values=st.lists(st.text() | st.booleans(), min_size=2, max_size=255, unique=True), seed=st.integers(0, 100))
def test_every_choice_has_a_decision_that_the_sdks_type_takes(values: list[str | bool], seed: int) -> None:
    question = {**MODE, "choices": [{"value": value} for value in values]}
    asked = DecisionRequest.model_validate_json(json.dumps({**BODY, "questions": [question]}))
    (answer,) = Decision.model_validate(decision(asked, seed, Fault.NONE)).answers
    assert answer.type == "choice"
    assert [option.value for option in answer.probabilities] == values
    assert answer.choice in values


def test_a_decision_comes_at_the_first_tokens_deadline(start_simulator: Start) -> None:
    extra = ask(start_simulator(ttft_ms=30, itl_ms=500, decisions="on")).model_extra or {}
    assert extra["plumbline"]["due_ns"] - extra["plumbline"]["arrived_ns"] == 30_000_000


@pytest.mark.parametrize("settings", [{}, {"decisions": DecisionsRoute.OFF}])
def test_the_route_is_not_there_unless_told_so(start_simulator: Start, settings: dict[str, Any]) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(start_simulator(**FAST, **settings))


def test_a_model_outside_the_table_is_told_by_501(start_simulator: Start) -> None:
    with pytest.raises(openai.InternalServerError, match="does not support the structured decision API") as refused:
        ask(start_simulator(**FAST, decisions="refuse-501"))
    assert refused.value.status_code == 501


@pytest.mark.parametrize(
    ("more", "status", "named"),
    [
        ({"model": "gpt-9"}, 404, "'gpt-9'"),
        ({"temperature": 0}, 400, "temperature"),
        ({"questions": []}, 400, "questions"),
        ({"questions": [LATE] * 401}, 400, "questions"),
        ({"questions": [{**LATE, "type": "yes_no"}]}, 400, "questions.0"),
        ({"questions": [{**MODE, "choices": [{"value": "batch"}]}]}, 400, "choices"),
        ({"questions": [{**MODE, "choices": [{"value": "a"}, {"value": "a"}]}]}, 400, "only once"),
        ({"questions": [{**MODE, "choices": [{"value": 1}, {"value": 2}]}]}, 400, "value"),
        ({"questions": [{**MODE, "options": []}]}, 400, "options"),
    ],
)
def test_a_form_that_is_not_openais_is_refused_by_field(
    start_simulator: Start, more: dict[str, Any], status: int, named: str
) -> None:
    found, body = post(start_simulator(**FAST, decisions="on"), {**BODY, **more})
    assert found == status
    assert named in json.loads(body)["error"]["message"]


def test_faults_hit_decisions_and_count_like_those_of_completions(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, decisions="on", fault=Fault.HTTP_429, fault_first=1)
    assert [post(base_url, BODY)[0] for _ in range(2)] == [429, 200]

    async def counts() -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.get(base_url.replace("/v1", "/plumbline/requests")) as answer,
        ):
            return await answer.json()

    seen = asyncio.run(counts())
    assert (seen["received"], seen["answered"], seen["faulted"]) == (2, 1, 1)


@pytest.mark.parametrize("fault", [Fault.EMPTY_BODY, Fault.HALF_BODY, Fault.ERROR_DATA, Fault.NO_USAGE])
def test_a_decisions_body_can_be_faulty(start_simulator: Start, fault: Fault) -> None:
    status, body = post(start_simulator(**FAST, decisions="on", fault=fault), BODY)
    assert status == 200
    if fault is Fault.EMPTY_BODY:
        assert body == b""
    elif fault is Fault.HALF_BODY:
        with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
            json.loads(body)
    else:
        assert ("error" in json.loads(body)) == (fault is Fault.ERROR_DATA)
        assert "usage" not in json.loads(body)


def test_a_refusal_answers_each_question_by_its_name(start_simulator: Start) -> None:
    answers = ask(start_simulator(**FAST, decisions="on", fault=Fault.REFUSAL)).answers
    assert [(answer.type, answer.name) for answer in answers] == [
        ("refusal", "mode"),
        ("refusal", None),
        ("refusal", "urgency"),
    ]


def test_decisions_wait_for_a_place_like_completions(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=40, decisions="on", max_running=1)

    async def both(client: openai.AsyncOpenAI) -> list[Any]:
        request: Any = BODY
        return list(await asyncio.gather(*(client.decisions.create(**request) for _ in range(2))))

    stamps = sorted(decided.plumbline["due_ns"] for decided in with_sdk(base_url, both))
    assert stamps[1] - stamps[0] == 40_000_000
