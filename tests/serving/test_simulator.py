"""The simulator speaks OpenAI's protocol, keeps its deadlines, and fails the way it is told to."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import jsonschema
import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from common.console import BadInput
from serving.endpoint import SIMULATOR_OWNER, connect
from serving.simulator import Fault, SimulatorSettings, make_app, serve

ROOT = Path(__file__).parents[2]
Start = Callable[..., str]
T = TypeVar("T")

SCHEMA = {
    "type": "object",
    "properties": {
        "summary": {"type": "string", "minLength": 1, "maxLength": 160},
        "actions": {"type": "array", "items": {"type": "string", "maxLength": 160}, "minItems": 2, "maxItems": 2},
        "mode": {"enum": ["batch", "streaming"]},
    },
    "required": ["summary", "actions", "mode"],
    "additionalProperties": False,
}
FAST = {"ttft_ms": 0, "itl_ms": 0}


def body(**more: Any) -> dict[str, Any]:
    """A request for words, with `more` over it."""
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what to do?"}]
    return {"model": "plumbline-simulator", "messages": messages, **more}


def schema_body(schema: object = SCHEMA, **more: Any) -> dict[str, Any]:
    """A request for JSON by a schema."""
    return body(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}, **more)


def in_session(work: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
    """Run `work` with an HTTP client of its own."""

    async def run() -> T:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            return await work(session)

    return asyncio.run(run())


def post(base_url: str, data: bytes | dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one chat completion."""

    async def work(session: aiohttp.ClientSession) -> tuple[int, dict[str, Any]]:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        async with session.post(f"{base_url}/chat/completions", data=raw) as answer:
            return answer.status, await answer.json()

    return in_session(work)


def content(base_url: str, **request: Any) -> str:
    """The text of one whole answer."""
    status, answer = post(base_url, schema_body(**request))
    assert status == 200
    return str(answer["choices"][0]["message"]["content"])


def stream(base_url: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of one streamed answer; checks that it ends in [DONE]."""

    async def work(session: aiohttp.ClientSession) -> list[str]:
        async with session.post(f"{base_url}/chat/completions", json={**request, "stream": True}) as answer:
            assert answer.status == 200
            assert answer.content_type == "text/event-stream"
            return (await answer.text()).split("\n\n")

    *events, done, rest = in_session(work)
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def texts(chunks: list[dict[str, Any]]) -> list[str]:
    """The pieces of text in a stream, in order."""
    deltas = (choice["delta"] for chunk in chunks for choice in chunk["choices"])
    return [delta["content"] for delta in deltas if delta.get("content")]


# --- timing ----------------------------------------------------------------------------------------------


def test_tokens_are_due_on_a_grid_that_does_not_drift_and_none_leaves_early(start_simulator: Start) -> None:
    before_ns = time.perf_counter_ns()
    chunks = stream(start_simulator(ttft_ms=50, itl_ms=10, output_tokens=64), schema_body())
    stamps = [chunk["plumbline"] for chunk in chunks if texts([chunk])]
    arrived_ns = stamps[0]["arrived_ns"]
    assert [stamp["due_ns"] for stamp in stamps] == [arrived_ns + 50_000_000 + k * 10_000_000 for k in range(64)]
    assert all(stamp["sent_ns"] >= stamp["due_ns"] for stamp in stamps)
    assert before_ns < arrived_ns < stamps[-1]["sent_ns"] < time.perf_counter_ns()


def test_a_whole_answer_comes_at_its_last_tokens_deadline(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=30, itl_ms=2.5, output_tokens=5)
    started_ns = time.perf_counter_ns()
    _, answer = post(base_url, schema_body())
    stamp = answer["plumbline"]
    assert stamp["due_ns"] == stamp["arrived_ns"] + 40_000_000
    assert stamp["sent_ns"] >= stamp["due_ns"]
    assert time.perf_counter_ns() - started_ns >= 40_000_000


def test_requests_side_by_side_do_not_wait_for_each_other(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=100, itl_ms=0, output_tokens=1)

    async def work(session: aiohttp.ClientSession) -> list[dict[str, Any]]:
        async def one() -> dict[str, Any]:
            async with session.post(f"{base_url}/chat/completions", json=body()) as answer:
                return dict((await answer.json())["plumbline"])

        return list(await asyncio.gather(*(one() for _ in range(20))))

    stamps = in_session(work)
    assert max(stamp["arrived_ns"] for stamp in stamps) < min(stamp["sent_ns"] for stamp in stamps)


def test_small_events_are_not_held_back_by_nagles_algorithm() -> None:
    seen = []

    async def look(request: web.Request, _response: web.StreamResponse) -> None:
        connection = request.get_extra_info("socket")
        seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async def run() -> None:
        app = make_app(SimulatorSettings(ttft_ms=0, itl_ms=0))
        app.on_response_prepare.append(look)
        async with (
            TestServer(app) as server,
            aiohttp.ClientSession() as session,
            session.post(server.make_url("/v1/chat/completions"), json=body(stream=True)) as answer,
        ):
            await answer.read()

    asyncio.run(run())
    assert len(seen) == 1
    assert seen[0] != 0


# --- the protocol ----------------------------------------------------------------------------------------


def test_chunks_come_in_vllms_order_and_say_they_are_simulated(start_simulator: Start) -> None:
    request = body(stream_options={"include_usage": True})
    chunks = stream(start_simulator(**FAST, output_tokens=3), request)
    role, *tokens, end, usage = chunks
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [list(token["choices"][0]["delta"]) for token in tokens] == [["content"]] * 3
    assert [chunk["choices"][0]["finish_reason"] for chunk in (role, *tokens, end)] == [None] * 4 + ["stop"]
    assert end["choices"][0]["delta"] == {}
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert all(chunk["system_fingerprint"] == SIMULATOR_OWNER for chunk in chunks)
    assert all(chunk["plumbline"]["simulated"] is True for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_without_include_usage_no_chunk_carries_usage(start_simulator: Start) -> None:
    assert not any("usage" in chunk for chunk in stream(start_simulator(**FAST, output_tokens=2), body()))


def test_the_openai_sdk_reads_a_stream(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, output_tokens=16)

    async def work() -> tuple[str, list[Any]]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="EMPTY", max_retries=0) as client:
            chunks = await client.chat.completions.create(
                **schema_body(), stream=True, stream_options={"include_usage": True}
            )
            seen = [chunk async for chunk in chunks]
            return "".join(c.choices[0].delta.content or "" for c in seen if c.choices), seen

    text, seen = asyncio.run(work())
    jsonschema.validate(json.loads(text), SCHEMA)
    assert seen[-1].usage.completion_tokens == 16
    assert seen[-2].choices[0].finish_reason == "stop"


def test_the_openai_sdk_reads_a_whole_answer_and_an_error(start_simulator: Start) -> None:
    with openai.OpenAI(base_url=start_simulator(**FAST), api_key="EMPTY", max_retries=0) as client:
        answer = client.chat.completions.create(**schema_body())
        jsonschema.validate(json.loads(answer.choices[0].message.content or ""), SCHEMA)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 64
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(**{**body(), "model": "gpt-9"})
    assert unknown.value.code == "model_not_found"


def test_an_endpoint_that_connects_here_knows_it_is_simulated(start_simulator: Start) -> None:
    endpoint = connect(start_simulator(model="stand-in"))
    assert (endpoint.model, endpoint.simulated) == ("stand-in", True)


def test_health_is_an_empty_200(start_simulator: Start) -> None:
    base_url = start_simulator()

    async def work(session: aiohttp.ClientSession) -> tuple[int, bytes]:
        async with session.get(base_url.replace("/v1", "/health")) as answer:
            return answer.status, await answer.read()

    assert in_session(work) == (200, b"")


# --- the answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_tokens", [1, 7, 64, 150])
def test_a_schemas_answer_is_valid_and_comes_in_as_many_pieces_as_set(
    start_simulator: Start, output_tokens: int
) -> None:
    pieces = texts(stream(start_simulator(**FAST, output_tokens=output_tokens), schema_body()))
    assert len(pieces) == output_tokens
    jsonschema.validate(json.loads("".join(pieces)), SCHEMA)


def test_an_answer_shorter_than_its_tokens_has_a_piece_for_each_character(start_simulator: Start) -> None:
    assert texts(stream(start_simulator(**FAST), schema_body({"const": "ab"}))) == ['"', "a", "b", '"']


def test_properties_come_in_the_schemas_order(start_simulator: Start) -> None:
    assert list(json.loads(content(start_simulator(**FAST)))) == ["summary", "actions", "mode"]


def test_a_json_object_and_words_are_answered_too(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, output_tokens=8)
    _, answer = post(base_url, body(response_format={"type": "json_object"}))
    assert list(json.loads(answer["choices"][0]["message"]["content"])) == ["answer"]
    assert len(texts(stream(base_url, body(response_format={"type": "text"})))) == 8


def test_the_same_request_gets_the_same_answer_streamed_or_whole(start_simulator: Start) -> None:
    first, second = start_simulator(**FAST), start_simulator(**FAST)
    assert content(first) == content(second) == "".join(texts(stream(first, schema_body())))


def test_the_answer_hangs_on_prompt_request_seed_and_simulator_seed(start_simulator: Start) -> None:
    base_url, other = start_simulator(**FAST), start_simulator(**FAST, seed=1)
    prompt = [{"role": "user", "content": "something else"}]
    answers = [content(base_url), content(base_url, seed=5), content(base_url, messages=prompt), content(other)]
    assert len(set(answers)) == 4


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_cuts_the_answer_and_says_so(start_simulator: Start, name: str) -> None:
    base_url = start_simulator(**FAST, output_tokens=10)
    whole, cut = stream(base_url, schema_body()), stream(base_url, schema_body(**{name: 4}))
    assert texts(cut) == texts(whole)[:4]
    assert cut[-1]["choices"][0]["finish_reason"] == "length"
    _, enough = post(base_url, schema_body(**{name: 10}))
    assert enough["choices"][0]["finish_reason"] == "stop"
    assert enough["usage"]["completion_tokens"] == 10


def test_text_parts_count_as_prompt(start_simulator: Start) -> None:
    parts = [{"type": "text", "text": "one two"}, {"type": "image_url", "image_url": {"url": "x"}}]
    _, answer = post(start_simulator(**FAST), body(messages=[{"role": "user", "content": parts}]))
    assert answer["usage"]["prompt_tokens"] == 2


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_body", "status", "named"),
    [
        (b"{not json", 400, "Invalid JSON"),
        (b'["a list"]', 400, "body"),
        ({"model": "plumbline-simulator"}, 400, "messages"),
        (body(messages=[]), 400, "messages"),
        (body(messages="hello"), 400, "messages"),
        ({"messages": body()["messages"]}, 400, "model"),
        (body(max_tokens=0), 400, "max_tokens"),
        (body(max_completion_tokens="many"), 400, "max_completion_tokens"),
        (body(n=2), 400, "n"),
        (body(response_format={"type": "grammar"}), 400, "response_format"),
        (body(response_format={"type": "json_schema"}), 400, "json_schema"),
        (schema_body({"type": "string", "pattern": "a+"}), 400, "'pattern'"),
        (schema_body({"properties": {"a": {"format": "email"}}}), 400, "#/properties/a: 'format'"),
        (schema_body({"type": 3}), 400, "'type'"),
        (body(model="gpt-9"), 404, "'gpt-9'"),
    ],
)
def test_a_bad_request_is_refused_in_openais_form(
    start_simulator: Start, request_body: bytes | dict[str, Any], status: int, named: str
) -> None:
    found, answer = post(start_simulator(**FAST), request_body)
    assert found == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    assert named in answer["error"]["message"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"ttft_ms": -1}, "--ttft-ms: found -1"),
        ({"itl_ms": float("nan")}, "--itl-ms: found nan"),
        ({"ttft_ms": float("inf")}, "--ttft-ms: found inf"),
        ({"output_tokens": 0}, "--output-tokens: found 0; allowed is 1"),
        ({"model": " "}, "--model"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_option(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput) as refused:
        SimulatorSettings(**wrong)
    assert named in str(refused.value)


# --- faults ----------------------------------------------------------------------------------------------


def test_fault_http_500_answers_with_an_error(start_simulator: Start) -> None:
    status, answer = post(start_simulator(**FAST, fault=Fault.HTTP_500), body())
    assert (status, answer["error"]["type"]) == (500, "server_error")


def test_fault_half_body_is_sound_http_around_half_a_document(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, fault=Fault.HALF_BODY)

    async def work(session: aiohttp.ClientSession) -> tuple[str | None, bytes]:
        async with session.post(f"{base_url}/chat/completions", json=schema_body()) as answer:
            return answer.headers.get("Content-Length"), await answer.read()

    length, document = in_session(work)
    assert length == str(len(document))
    assert document.startswith(b'{"id"')
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(document)


@pytest.mark.parametrize("output_tokens", [1, 8])
def test_fault_half_body_breaks_a_stream_off_inside_an_event(start_simulator: Start, output_tokens: int) -> None:
    base_url = start_simulator(**FAST, fault=Fault.HALF_BODY, output_tokens=output_tokens)

    seen = bytearray()

    async def work(session: aiohttp.ClientSession) -> None:
        async with session.post(f"{base_url}/chat/completions", json=body(stream=True)) as answer:
            async for data in answer.content.iter_any():
                seen.extend(data)

    with pytest.raises(aiohttp.ClientPayloadError):
        in_session(work)
    *_, last = seen.split(b"\n\n")
    assert last.startswith(b"data: {")
    assert not last.endswith(b"}")


@pytest.mark.parametrize("output_tokens", [1, 20])
def test_fault_half_answer_is_the_first_half_of_the_text(start_simulator: Start, output_tokens: int) -> None:
    whole = content(start_simulator(**FAST, output_tokens=output_tokens))
    broken = start_simulator(**FAST, output_tokens=output_tokens, fault=Fault.HALF_ANSWER)
    _, answer = post(broken, schema_body())
    assert answer["choices"][0]["message"]["content"] == whole[: len(whole) // 2]
    assert answer["choices"][0]["finish_reason"] == "stop"
    chunks = stream(broken, schema_body())
    assert "".join(texts(chunks)) == whole[: len(whole) // 2]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_is_forgotten_without_a_word(
    start_simulator: Start, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], streamed: bool
) -> None:
    base_url = start_simulator(ttft_ms=20, itl_ms=20, output_tokens=50)

    async def leave(session: aiohttp.ClientSession) -> None:
        impatient = aiohttp.ClientTimeout(total=0.1)
        with pytest.raises(TimeoutError):
            async with session.post(
                f"{base_url}/chat/completions", json=body(stream=streamed), timeout=impatient
            ) as answer:
                await answer.read()

    with caplog.at_level(logging.WARNING):
        in_session(leave)
        assert post(base_url, body(max_tokens=10))[0] == 200
    assert caplog.records == []
    assert capfd.readouterr().err == ""


# --- from the command line -------------------------------------------------------------------------------


def test_a_taken_port_is_one_line_that_says_what_to_do() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(BadInput, match=rf"^--port {port}: is taken; choose another with --port, or stop "):
            serve(SimulatorSettings(), "127.0.0.1", port, print)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("192.0.2.1", 0)])
def test_an_address_that_cannot_be_is_refused(host: str, port: int) -> None:
    with pytest.raises(BadInput, match="--port"):
        serve(SimulatorSettings(), host, port, print)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serving_ends_quietly_on_a_signal_even_with_a_request_under_way(number: signal.Signals) -> None:
    program = (
        "from serving.simulator import SimulatorSettings, serve\n"
        "serve(SimulatorSettings(ttft_ms=60_000), '127.0.0.1', 0, lambda url: print(url, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        base_url = server.stdout.readline().strip()

        async def wait_in_vain(session: aiohttp.ClientSession) -> None:
            waiting = asyncio.ensure_future(session.post(f"{base_url}/chat/completions", json=body()))
            await asyncio.sleep(0.1)
            os.kill(server.pid, number)
            with pytest.raises(aiohttp.ClientError):
                await waiting

        in_session(wait_in_vain)
        _, errors = server.communicate(timeout=10)
    assert (server.returncode, errors) == (0, "")
