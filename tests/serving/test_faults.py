"""The simulator's faults hit the requests they should, look on the wire as they should, and are counted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import aiohttp
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import serving.__main__ as command
from common.console import BadInput
from serving.faults import (
    HUGE_CHARACTERS,
    REFUSAL_TEXT,
    STATUS_OF,
    TEXT_KEY,
    Fault,
    accented,
    faulty_text,
    is_hit,
    misfit,
)
from serving.schema_answers import UnsupportedSchema
from serving.simulator import DecisionsRoute, RequestCounts, SimulatorSettings

Start = Callable[..., str]
T = TypeVar("T")

FAST = {"ttft_ms": 0, "itl_ms": 0}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
ASKED = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
BODY = {"model": "plumbline-simulator", "messages": [{"role": "user", "content": "what to do?"}]}


def in_session(base_url: str, work: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
    """Run `work` with a session on the simulator's host."""

    async def run() -> T:
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(base_url.removesuffix("/v1"), timeout=timeout) as session:
            return await work(session)

    return asyncio.run(run())


async def ask(session: aiohttp.ClientSession, **more: Any) -> tuple[int, bytes]:
    """Status and body of one chat completion."""
    async with session.post("/v1/chat/completions", json={**BODY, **more}) as answer:
        return answer.status, await answer.read()


async def status_of(session: aiohttp.ClientSession) -> int:
    """0 for a connection that was closed."""
    try:
        return (await ask(session))[0]
    except aiohttp.ServerDisconnectedError:
        return 0


async def counts(session: aiohttp.ClientSession) -> dict[str, int]:
    """What was counted, once nothing is under way."""
    for _ in range(500):
        async with session.get("/plumbline/requests") as answer:
            seen: dict[str, int] = await answer.json()
        if not seen["in_flight"]:
            return seen
        await asyncio.sleep(0.01)
    raise AssertionError(f"still in flight: {seen}")


# --- which requests are hit ------------------------------------------------------------------------------


@given(number=st.integers(0, 10_000), seed=st.integers(), rate=st.floats(0, 1), first=st.none() | st.integers(0, 10))
def test_who_is_hit_hangs_on_seed_and_number_alone(number: int, seed: int, rate: float, first: int | None) -> None:
    hit = is_hit(number, seed, rate, first)
    assert hit == is_hit(number, seed, rate, first)
    assert not is_hit(number, seed, 0, first)
    assert is_hit(number, seed, 1, first) == (first is None or number < first)
    assert hit <= is_hit(number, seed, 1, first)  # never one that a higher rate would spare


def test_the_share_that_is_hit_is_the_rate() -> None:
    assert sum(is_hit(number, 0, 0.3, None) for number in range(10_000)) == pytest.approx(3000, abs=150)


def test_a_storm_repeats_with_its_seed_and_ends_where_it_is_told_to(start_simulator: Start) -> None:
    async def work(session: aiohttp.ClientSession) -> list[int]:
        return [await status_of(session) for _ in range(16)]

    def storm(**settings: Any) -> list[int]:
        return in_session(start_simulator(**FAST, output_tokens=1, fault=Fault.HTTP_500, **settings), work)

    assert storm(fault_first=3) == [500] * 3 + [200] * 13
    assert storm(fault_rate=0.5, seed=1) == storm(fault_rate=0.5, seed=1)
    assert storm(fault_rate=0.5, seed=1) != storm(fault_rate=0.5, seed=2)
    assert storm(fault_rate=0.5, seed=1, fault_first=6)[6:] == [200] * 10


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"fault_rate": 1.5}, "--fault-rate: found 1.5; allowed is 0 to 1"),
        ({"fault_rate": float("nan")}, "--fault-rate: found nan"),
        ({"fault_first": -1}, "--fault-first: found -1"),
        ({"retry_after_s": -1}, "--retry-after-s: found -1"),
        ({"refused_parameters": ("seed", " ")}, "--refuse-parameter: found a blank name"),
        ({"fault": Fault.NONE, "fault_rate": 0.5}, "say how with --fault"),
        ({"fault": Fault.NONE, "fault_first": 5}, "say how with --fault"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_option(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput) as refused:
        SimulatorSettings(**{"fault": Fault.HTTP_500, **wrong})
    assert named in str(refused.value)


def test_the_commands_help_lists_every_fault() -> None:
    told = CliRunner().invoke(command.app, ["sim", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for fault in Fault:
        assert fault.value in told


def test_the_command_gives_every_option_to_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    given_: list[SimulatorSettings] = []
    monkeypatch.setattr(command, "serve", lambda settings, *_: given_.append(settings))
    options = (
        "--ttft-ms 3 --itl-ms 2 --output-tokens 7 --seed 3 --ttft-cv 0.5 --itl-cv 0.25 --tokens-per-chunk 4 "
        "--max-running 5 --max-queue 6 --freeze-at-s 8 --freeze-for-s 9 "
        "--fault http-429 --fault-rate 0.25 --fault-first 20 --retry-after-s 2 "
        "--no-label-ids --decisions refuse-501 --refuse-parameter seed --refuse-parameter max_tokens"
    )
    assert CliRunner().invoke(command.app, ["sim", *options.split()]).exit_code == 0
    wanted = SimulatorSettings(
        ttft_ms=3,
        itl_ms=2,
        output_tokens=7,
        seed=3,
        ttft_cv=0.5,
        itl_cv=0.25,
        tokens_per_chunk=4,
        max_running=5,
        max_queue=6,
        freeze_at_s=8,
        freeze_for_s=9,
        fault=Fault.HTTP_429,
        fault_rate=0.25,
        fault_first=20,
        retry_after_s=2,
        label_ids=False,
        decisions=DecisionsRoute.REFUSE_501,
        refused_parameters=("seed", "max_tokens"),
    )
    assert given_ == [wanted]


# --- what is on the wire ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "status"), STATUS_OF.items())
def test_an_http_error_comes_in_openais_form(start_simulator: Start, fault: Fault, status: int, stream: bool) -> None:
    base_url = start_simulator(**FAST, fault=fault, retry_after_s=7)

    async def work(session: aiohttp.ClientSession) -> tuple[int, str | None, Any]:
        async with session.post("/v1/chat/completions", json={**BODY, "stream": stream}) as answer:
            return answer.status, answer.headers.get("Retry-After"), await answer.json()

    found, retry_after, answer = in_session(base_url, work)
    assert (found, retry_after) == (status, "7" if status == 429 else None)
    assert answer["error"]["message"] == f"the simulator was told to fail (--fault {fault})"
    assert answer["error"]["type"] == ("server_error" if status == 500 else "invalid_request_error")


@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_comes_before_any_byte_and_without_a_word_in_the_log(
    start_simulator: Start, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await ask(session, stream=stream)

    in_session(start_simulator(**FAST, fault=Fault.DISCONNECT), work)
    assert caplog.records == []


def test_a_stream_that_breaks_off_says_nothing_in_the_log(
    start_simulator: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ClientPayloadError):
            await ask(session, stream=True)

    in_session(start_simulator(**FAST, fault=Fault.HALF_BODY), work)
    assert caplog.records == []


@pytest.mark.parametrize("stream", [False, True])
def test_no_answer_lasts_until_the_client_leaves(start_simulator: Start, stream: bool) -> None:
    async def work(session: aiohttp.ClientSession) -> dict[str, int]:
        asking = asyncio.create_task(ask(session, stream=stream))
        await asyncio.wait([asking], timeout=0.1)
        assert not asking.done()
        asking.cancel()
        return await counts(session)

    assert in_session(start_simulator(**FAST, fault=Fault.NO_ANSWER), work)["faulted"] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_huge_answer_is_a_sound_completion_of_mebibytes(start_simulator: Start, stream: bool) -> None:
    base_url = start_simulator(**FAST, fault=Fault.HUGE_ANSWER, output_tokens=4)
    _, body = in_session(base_url, lambda session: ask(session, stream=stream, response_format=ASKED))
    assert len(body) > HUGE_CHARACTERS
    if not stream:
        assert len(json.loads(body)["choices"][0]["message"]["content"]) >= HUGE_CHARACTERS


def test_a_wrong_schema_is_sound_json_that_does_not_fit(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, fault=Fault.WRONG_SCHEMA)
    status, body = in_session(base_url, lambda session: ask(session, response_format=ASKED))
    answer = json.loads(json.loads(body)["choices"][0]["message"]["content"])
    assert status == 200
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer, SCHEMA)


def test_a_schema_that_everything_fits_is_refused_rather_than_answered_rightly(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, fault=Fault.WRONG_SCHEMA)
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
    status, body = in_session(base_url, lambda session: ask(session, response_format=asked))
    assert status == 400
    assert "every answer fits" in json.loads(body)["error"]["message"]


@given(
    schema=st.fixed_dictionaries(
        {"type": st.sampled_from(["object", "array", "string", "number", "null", "boolean"])},
        optional={"enum": st.lists(st.integers(), min_size=1), "required": st.just(["a"]), "minItems": st.just(1)},
    )
)
def test_a_misfit_never_fits(schema: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(schema).is_valid(json.loads(misfit(schema)))


def test_a_misfit_without_a_schema_is_json_and_for_every_answer_there_is_none() -> None:
    assert isinstance(json.loads(misfit(None)), dict)
    with pytest.raises(UnsupportedSchema):
        misfit({"type": ["object", "array", "string", "number", "null"]})


@given(st.lists(st.sampled_from(["batch", "pipeline", "x"]), min_size=1))
def test_an_accented_answer_still_fits_its_schema_and_keeps_what_may_not_change(words: list[str]) -> None:
    schema = {
        "type": "object",
        "properties": {"mode": {"enum": ["batch"]}, "a": {"type": "array", "items": {"type": "string"}}},
        "required": ["mode", "a"],
    }
    text = json.dumps({"mode": "batch", "a": [*words, "order"]})
    answer = json.loads(accented(text, schema))
    jsonschema.validate(answer, schema)
    assert answer["mode"] == "batch"
    assert answer["a"][-1] == "órdér"
    assert len(answer["a"]) == len(words) + 1


def test_an_answer_that_has_no_free_text_cannot_be_accented() -> None:
    with pytest.raises(UnsupportedSchema, match="split-utf8"):
        accented('{"mode":"batch"}', {"properties": {"mode": {"enum": ["batch"]}}})


def test_a_text_that_is_the_whole_answer_is_accented_too() -> None:
    assert accented('"batch"', {"type": "string"}) == '"bátch"'
    assert accented("no schema", None) == "nó schémá"


@given(text=st.text(min_size=1))
def test_a_text_that_is_not_hit_stays_as_it_is(text: str) -> None:
    assert faulty_text(Fault.NONE, text, None) == text
    assert text.startswith(faulty_text(Fault.HALF_ANSWER, text, None))


# --- answers without usable content ----------------------------------------------------------------------


def message_of(body: bytes) -> tuple[dict[str, Any], str | None]:
    """The message of a whole answer, and why it ended."""
    (choice,) = json.loads(body)["choices"]
    return choice["message"], choice["finish_reason"]


def streamed_of(body: bytes) -> tuple[list[dict[str, Any]], str | None]:
    """The deltas of a stream, and why it ended."""
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    return [choice["delta"] for choice in choices], choices[-1]["finish_reason"]


@pytest.mark.parametrize("fault", TEXT_KEY)
def test_an_answer_without_content_has_null_and_its_text_elsewhere(start_simulator: Start, fault: Fault) -> None:
    base_url = start_simulator(**FAST, fault=fault, output_tokens=6)
    status, body = in_session(base_url, lambda session: ask(session, response_format=ASKED, logprobs=True))
    message, reason = message_of(body)
    assert (status, message["content"], message["role"]) == (200, None, "assistant")
    assert set(message) == {"role", "content", TEXT_KEY[fault]}
    assert json.loads(body)["choices"][0]["logprobs"] is None
    assert json.loads(body)["usage"]["completion_tokens"] == 6
    assert reason == ("tool_calls" if fault is Fault.TOOL_CALL else "stop")


@pytest.mark.parametrize("fault", TEXT_KEY)
def test_a_stream_without_content_brings_the_same_text_in_pieces(start_simulator: Start, fault: Fault) -> None:
    base_url = start_simulator(**FAST, fault=fault, output_tokens=6)
    _, body = in_session(base_url, lambda session: ask(session, response_format=ASKED))
    message, reason = message_of(body)
    _, body = in_session(base_url, lambda session: ask(session, response_format=ASKED, stream=True))
    (first, *deltas, last), streamed_reason = streamed_of(body)
    assert (first, last, streamed_reason) == ({"role": "assistant", "content": None}, {}, reason)
    assert [list(delta) for delta in deltas] == [[TEXT_KEY[fault]]] * 6
    said = [delta[TEXT_KEY[fault]] for delta in deltas]
    if fault is Fault.TOOL_CALL:
        assert {call["index"] for (call,) in said} == {0}
        arguments = "".join(call["function"]["arguments"] for (call,) in said)
        (call,) = message["tool_calls"]
        assert (call["type"], call["function"]["arguments"]) == ("function", arguments)
        jsonschema.validate(json.loads(arguments), SCHEMA)
    else:
        assert "".join(said) == message[TEXT_KEY[fault]]


def test_a_refusal_is_a_sentence_and_a_token_limit_cuts_a_call(start_simulator: Start) -> None:
    refused = start_simulator(**FAST, fault=Fault.REFUSAL)
    _, body = in_session(refused, lambda session: ask(session, response_format=ASKED))
    assert message_of(body)[0]["refusal"] == REFUSAL_TEXT
    calling = start_simulator(**FAST, fault=Fault.TOOL_CALL, output_tokens=6)
    _, body = in_session(calling, lambda session: ask(session, max_tokens=2))
    assert message_of(body)[1] == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_no_logprobs_is_a_sound_answer_with_null_where_they_were_asked_for(
    start_simulator: Start, stream: bool
) -> None:
    sound, silent = (start_simulator(**FAST, fault=fault, output_tokens=3) for fault in (Fault.NONE, Fault.NO_LOGPROBS))

    def told(base_url: str) -> list[Any]:
        _, body = in_session(base_url, lambda session: ask(session, logprobs=True, top_logprobs=2, stream=stream))
        lines = [line.removeprefix(b"data: ") for line in body.splitlines() if b"{" in line]
        return [choice["logprobs"] for line in lines for choice in json.loads(line)["choices"]]

    assert set(told(silent)) == {None}
    assert sum(entry is not None for entry in told(sound)) == (3 if stream else 1)


# --- parameters that a model does not support ------------------------------------------------------------


def test_a_refused_parameter_is_named_in_openais_form(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, refused_parameters=("seed", "max_tokens"))

    async def work(session: aiohttp.ClientSession) -> list[tuple[int, bytes]]:
        return [await ask(session, **more) for more in ({"seed": 1}, {"seed": None}, {"max_tokens": 4})]

    seed, null, limit = in_session(base_url, work)
    for status, body in (seed, null):
        error = json.loads(body)["error"]
        assert (status, error["param"], error["code"]) == (400, "seed", "unsupported_parameter")
        assert error["message"] == "Unsupported parameter: 'seed' is not supported with this model."
        assert error["type"] == "invalid_request_error"
    error = json.loads(limit[1])["error"]
    assert (limit[0], error["param"]) == (400, "max_tokens")
    assert "Use 'max_completion_tokens' instead." in error["message"]


def test_a_request_without_the_refused_parameter_is_answered(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, refused_parameters=("seed", "max_tokens"))
    status, body = in_session(base_url, lambda session: ask(session, max_completion_tokens=4))
    assert status == 200
    assert json.loads(body)["usage"]["completion_tokens"] == 4


def test_what_is_no_json_is_told_as_that_though_parameters_are_refused(start_simulator: Start) -> None:
    async def work(session: aiohttp.ClientSession) -> tuple[int, Any]:
        async with session.post("/v1/chat/completions", data=b'{"seed": 1') as answer:
            return answer.status, await answer.json()

    status, answer = in_session(start_simulator(**FAST, refused_parameters=("seed",)), work)
    assert status == 400
    assert "Invalid JSON" in answer["error"]["message"]


# --- what is counted -------------------------------------------------------------------------------------


def test_every_request_is_counted_under_one_end(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=40, itl_ms=0, fault=Fault.HTTP_500, fault_first=2)

    async def work(session: aiohttp.ClientSession) -> dict[str, int]:
        assert [await status_of(session) for _ in range(3)] == [500, 500, 200]
        assert (await ask(session, model="gpt-9"))[0] == 404
        leaving = [asyncio.create_task(ask(session, stream=stream)) for stream in (False, True)]
        await asyncio.sleep(0.02)
        for task in leaving:
            task.cancel()
        return await counts(session)

    seen = in_session(base_url, work)
    assert seen.pop("simulated") is True
    assert seen == {
        "received": 6,
        "in_flight": 0,
        "answered": 2,
        "cancelled": 2,
        "faulted": 2,
        "most_in_flight": 2,
        "cancelled_after_tokens": {"0": 2},
    }


def test_looking_at_the_counts_is_not_counted(start_simulator: Start) -> None:
    async def work(session: aiohttp.ClientSession) -> dict[str, int]:
        await counts(session)
        return await counts(session)

    assert in_session(start_simulator(), work)["received"] == 0


@given(steps=st.lists(st.tuples(st.sampled_from([Fault.NONE, Fault.HTTP_500]), st.booleans()), max_size=20))
def test_what_came_in_is_what_went_out_and_what_is_there(steps: list[tuple[Fault, bool]]) -> None:
    counted = RequestCounts()
    for fault, leaves in steps:
        assert counted.arrive() == counted.received - 1
        with suppress(asyncio.CancelledError), counted.until_done(fault):
            if leaves:
                raise asyncio.CancelledError
        assert counted.received == counted.in_flight + counted.answered + counted.cancelled + counted.faulted
    assert counted.in_flight == 0
    assert counted.faulted == sum(fault is not Fault.NONE for fault, _ in steps)
    assert sum(counted.cancelled_after_tokens.values()) == counted.cancelled


def test_timing_of_requests_that_are_not_hit_stays_exact(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=30, itl_ms=5, output_tokens=3, fault=Fault.NO_ANSWER, fault_first=1)

    async def work(session: aiohttp.ClientSession) -> Any:
        silent = asyncio.create_task(ask(session))
        await asyncio.sleep(0.01)
        _, body = await ask(session)
        silent.cancel()
        return json.loads(body)["plumbline"]

    stamp = in_session(base_url, work)
    assert stamp["due_ns"] == stamp["arrived_ns"] + 40_000_000
    assert stamp["due_ns"] <= stamp["sent_ns"] < time.perf_counter_ns()
