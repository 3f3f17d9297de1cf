"""An OpenAI-compatible endpoint without a model, whose every token leaves at a known time.

It is for tests (an endpoint in milliseconds, no weights), for calibration (a client's reading of TTFT and
ITL is held against times that are known) and for failure drills (`Fault`). It stands in for no engine: each
answer says that it is simulated, and numbers taken here describe the client and nothing else.

Time: token k is due at arrival + ttft + k * itl, arrival being when the request's head had been read. Waiting
is for these absolute deadlines, so lateness never adds up. No token leaves early, and each carries when it
was due and when it left (`plumbline.due_ns` and `sent_ns`, in `time.perf_counter_ns`, which on Linux all
processes of a machine share). The event loop counts in milliseconds: up to about one late is usual.

Covered: chat completions, streamed in vLLM's order of chunks or whole; JSON answers for a JSON schema; token
limits; usage; errors in OpenAI's form; counts of requests, so that a test sees what a client left behind (GET
/plumbline/requests). Not covered: queueing and batching (any number of requests run side by
side at the same speed), tokenization (an output token is a piece of the answer, a prompt token a word between
spaces), sampling parameters, tools and several choices.
"""

from __future__ import annotations

import asyncio
import errno
import json
import math
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import uvloop
from aiohttp import web

from console import BadInput
from serving.endpoint import SIMULATOR_OWNER
from serving.faults import STATUS_OF, faulty_text, is_hit
from serving.faults import Fault as Fault  # part of the settings, and so given on from here
from serving.schema_answers import WORDS, UnsupportedSchema, answer_for, compact_json
from serving.simulator_request import ChatRequest, Refusal, read_request

_LARGEST_REQUEST = 16 * 2**20
_BACKLOG = 2048
"""Connections that may wait to be accepted: a load test opens its users' all at once."""

_CHARACTERS_A_TOKEN = 4
"""Of an answerer's text: about what English takes."""

_FAREWELL_S = 0.2
"""Seconds that answers under way get to end in, when the simulator stops."""


@dataclass(frozen=True)
class SimulatorSettings:
    """How fast, how long and how well the simulator answers. Raises BadInput for what cannot be."""

    ttft_ms: float = 50.0
    """Arrival of the request to the first token's deadline."""
    itl_ms: float = 10.0
    """One token's deadline to the next one's."""
    output_tokens: int = 64
    seed: int = 0
    model: str = "plumbline-simulator"
    fault: Fault = Fault.NONE
    fault_rate: float = 1.0
    """The share of chat completions that the fault hits, 0 to 1, chosen by seed and number of arrival."""
    fault_first: int | None = None
    """Only so many chat completions can be hit, the first to arrive: a storm that ends. None: it never does."""
    retry_after_s: int = 0
    """What Retry-After says with http-429."""

    def __post_init__(self) -> None:
        for option, value_ms in (("--ttft-ms", self.ttft_ms), ("--itl-ms", self.itl_ms)):
            if not (math.isfinite(value_ms) and value_ms >= 0):
                raise BadInput(f"{option}: found {value_ms:g}; allowed is 0 or more milliseconds")
        if self.output_tokens < 1:
            raise BadInput(f"--output-tokens: found {self.output_tokens}; allowed is 1 or more")
        if not self.model.strip():
            raise BadInput(f"--model: found {self.model!r}; allowed is any name that is not blank")
        self._check_faults()

    def _check_faults(self) -> None:
        if not 0 <= self.fault_rate <= 1:
            raise BadInput(f"--fault-rate: found {self.fault_rate:g}; allowed is 0 to 1")
        if self.fault_first is not None and self.fault_first < 0:
            raise BadInput(f"--fault-first: found {self.fault_first}; allowed is 0 or more")
        if self.retry_after_s < 0:
            raise BadInput(f"--retry-after-s: found {self.retry_after_s}; allowed is 0 or more")
        if self.fault is Fault.NONE and (self.fault_rate != 1 or self.fault_first is not None):
            raise BadInput("--fault-rate, --fault-first: say which requests fail; say how with --fault")

    def fault_of(self, number: int) -> Fault:
        """What goes wrong with the chat completion that arrived as number so and so, counted from 0."""
        return self.fault if is_hit(number, self.seed, self.fault_rate, self.fault_first) else Fault.NONE


@dataclass
class RequestCounts:
    """Chat completions so far: received == in_flight + answered + cancelled + faulted at every moment."""

    received: int = 0
    in_flight: int = 0
    """Under way now."""
    answered: int = 0
    """Answered as they should be: refused for a good reason counts too."""
    cancelled: int = 0
    """The client left before the answer."""
    faulted: int = 0
    """Hit by the fault, however they ended."""
    most_in_flight: int = 0
    """The most under way at one moment."""

    def arrive(self) -> int:
        """Count a request in; its number, from 0."""
        self.received += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return self.received - 1

    @contextmanager
    def until_done(self, fault: Fault) -> Iterator[None]:
        """Count a request out when the block ends; one that ends by an exception was left by its client."""
        answered = False
        try:
            yield
            answered = True
        finally:
            self.in_flight -= 1
            if fault is not Fault.NONE:
                self.faulted += 1
            elif answered:
                self.answered += 1
            else:
                self.cancelled += 1


Answerer = Callable[[ChatRequest], str]
"""Stands in for a model's behaviour: what to answer to a request, instead of words made up by its schema."""

SETTINGS = web.AppKey("settings", SimulatorSettings)
COUNTS = web.AppKey("counts", RequestCounts)
ANSWERER: web.AppKey[Answerer | None] = web.AppKey("answerer")


def make_app(settings: SimulatorSettings, answerer: Answerer | None = None) -> web.Application:
    """The simulator as an aiohttp application."""
    app = web.Application(client_max_size=_LARGEST_REQUEST)
    app[SETTINGS] = settings
    app[COUNTS] = RequestCounts()
    app[ANSWERER] = answerer
    app.router.add_post("/v1/chat/completions", _chat_completions)
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/health", _health)
    app.router.add_get("/plumbline/requests", _requests)
    return app


async def listen(
    settings: SimulatorSettings, host: str, port: int, answerer: Answerer | None = None
) -> tuple[web.AppRunner, str]:
    """Start answering on the running event loop; returns what to clean up at the end, and the base URL.

    port: 0 lets the system choose. Raises BadInput for a port that is taken and for a bad address.
    """
    if not 0 <= port <= 65535:
        raise BadInput(f"--port: found {port}; allowed is 0 to 65535")
    app = make_app(settings, answerer)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_FAREWELL_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
    except OSError as error:
        await runner.cleanup()
        if error.errno == errno.EADDRINUSE:
            raise BadInput(f"--port {port}: is taken; choose another with --port, or stop what uses it") from None
        raise BadInput(f"--host, --port: cannot listen on {host}:{port}: {error.strerror or error}") from None
    name = f"[{host}]" if ":" in host else host
    return runner, f"http://{name}:{runner.addresses[0][1]}/v1"


def serve(
    settings: SimulatorSettings,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    answerer: Answerer | None = None,
) -> None:
    """Answer until SIGINT, SIGTERM or SIGHUP; `on_ready` gets the base URL once requests are taken.

    Needs the main thread, which is where signals arrive. Raises as `listen` does.
    """
    uvloop.run(_serve_until_stopped(settings, host, port, on_ready, answerer))


async def _serve_until_stopped(
    settings: SimulatorSettings, host: str, port: int, on_ready: Callable[[str], None], answerer: Answerer | None
) -> None:
    runner, base_url = await listen(settings, host, port, answerer)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        on_ready(base_url)
        await stop.wait()
    finally:
        await runner.cleanup()


# --- what is answered ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reply:
    """A whole answer, before any of it is sent."""

    id: str
    created_s: int
    model: str
    pieces: list[str]
    """The answer's text, an output token apiece."""
    finish_reason: str
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        sent = len(self.pieces)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": sent,
            "total_tokens": self.prompt_tokens + sent,
        }

    def head(self, kind: str) -> dict[str, Any]:
        """What every object of this answer begins with."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": SIMULATOR_OWNER,
        }


def _reply(asked: ChatRequest, settings: SimulatorSettings, fault: Fault, answerer: Answerer | None) -> _Reply:
    try:
        right = answerer(asked) if answerer else _made_up(asked, settings)
        text = faulty_text(fault, right, asked.answer_schema)
    except UnsupportedSchema as error:
        raise Refusal(400, f"response_format.json_schema.schema: {error}", "response_format") from None
    pieces = _split(text, len(text) // _CHARACTERS_A_TOKEN + 1 if answerer else settings.output_tokens)
    kept = pieces[: asked.limit]
    return _Reply(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created_s=int(time.time()),
        model=settings.model,
        pieces=kept,
        finish_reason="stop" if len(kept) == len(pieces) else "length",
        prompt_tokens=asked.prompt_tokens,
    )


def _made_up(asked: ChatRequest, settings: SimulatorSettings) -> str:
    # The key keeps the order of a schema's properties: a constrained model writes them in that order.
    key = json.dumps([asked.messages, asked.answer_schema, asked.seed])
    return _answer_text(key, settings.seed, settings.output_tokens)


@lru_cache(maxsize=1024)
def _answer_text(key: str, seed: int, output_tokens: int) -> str:
    """The one answer to what was asked, given the seed; kept, since load tests repeat themselves."""
    asked = json.loads(key)
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    rng = random.Random(f"{seed} {canonical}")  # noqa: S311 - not for secrets
    schema = asked[1]
    if schema is None:
        return " ".join(rng.choices(WORDS, k=output_tokens))
    return compact_json(answer_for(schema, rng, min_characters=2 * output_tokens))


def _split(text: str, pieces: int) -> list[str]:
    """Cut into so many parts of nearly equal length, none empty; fewer where the text is too short."""
    pieces = min(pieces, len(text))
    cuts = [index * len(text) // pieces for index in range(pieces + 1)]
    return [text[start:end] for start, end in pairwise(cuts)]


# --- when it is sent -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clock:
    """The deadlines of one request, in `time.perf_counter_ns`."""

    arrived_ns: int
    ttft_ns: int
    itl_ns: int

    def due_ns(self, token: int) -> int:
        return self.arrived_ns + self.ttft_ns + token * self.itl_ns

    async def stamp_at(self, token: int) -> str:
        """Wait for a token's deadline; the stamp of what is written now, as JSON."""
        due_ns = self.due_ns(token)
        # A timer may fire up to a millisecond early: look again.
        while (now_ns := time.perf_counter_ns()) < due_ns:  # noqa: ASYNC110 - a moment is awaited, not an event
            await asyncio.sleep((due_ns - now_ns) / 1e9)
        return self.stamp(token, now_ns)

    def stamp(self, token: int, sent_ns: int) -> str:
        stamp = {
            "simulated": True,
            "sent_ns": sent_ns,
            "due_ns": self.due_ns(token),
            "arrived_ns": self.arrived_ns,
        }
        return json.dumps(stamp)


async def _chat_completions(request: web.Request) -> web.StreamResponse:
    arrived_ns = time.perf_counter_ns()
    counts = request.app[COUNTS]
    fault = request.app[SETTINGS].fault_of(counts.arrive())
    with counts.until_done(fault):
        return await _answer(request, fault, arrived_ns)


async def _answer(request: web.Request, fault: Fault, arrived_ns: int) -> web.StreamResponse:
    settings = request.app[SETTINGS]
    body = await request.read()
    if fault in STATUS_OF:
        return _told_to_fail(fault, settings)
    if fault is Fault.DISCONNECT:
        _hang_up(request)
        return web.Response()
    if fault is Fault.NO_ANSWER:
        await asyncio.Event().wait()  # the client's leaving cancels this
    try:
        asked = read_request(body, settings.model)
        reply = _reply(asked, settings, fault, request.app[ANSWERER])
    except Refusal as refusal:
        return _error(refusal)
    clock = _Clock(arrived_ns, round(settings.ttft_ms * 1e6), round(settings.itl_ms * 1e6))
    half = fault is Fault.HALF_BODY
    return await (_stream(request, asked, reply, clock, half) if asked.stream else _whole(reply, clock, half))


async def _whole(reply: _Reply, clock: _Clock, half: bool) -> web.Response:
    """The answer in one piece, at its last token's deadline."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(reply.pieces)},
        "logprobs": None,
        "finish_reason": reply.finish_reason,
    }
    answer = json.dumps({**reply.head("chat.completion"), "choices": [choice], "usage": reply.usage})
    body = _stamped(answer, await clock.stamp_at(len(reply.pieces) - 1))
    return web.Response(body=body[: len(body) // 2] if half else body, content_type="application/json")


async def _stream(
    request: web.Request, asked: ChatRequest, reply: _Reply, clock: _Clock, half: bool
) -> web.StreamResponse:
    """The answer as server-sent events, each token's at its deadline."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for token in range(len(reply.pieces)):
        # Written out before the deadline, so that only the stamp is left to do after it.
        chunks = [json.dumps(chunk) for chunk in _chunks(reply, token, asked.with_usage)]
        stamp = await clock.stamp_at(token)
        events = [b"data: " + _stamped(chunk, stamp) + b"\n\n" for chunk in chunks]
        if half and token == len(reply.pieces) // 2:
            await _break_off(request, response, events)
            return response
        await response.write(b"".join(events))
    await response.write(b"data: [DONE]\n\n")
    return response


def _chunks(reply: _Reply, token: int, with_usage: bool) -> list[dict[str, Any]]:
    """What leaves with one token: as in vLLM, the role before the first and the ending after the last."""
    head = reply.head("chat.completion.chunk")
    chunks = [_chunk(head, {"content": reply.pieces[token]})]
    if token == 0:
        chunks.insert(0, _chunk(head, {"role": "assistant", "content": ""}))
    if token == len(reply.pieces) - 1:
        chunks.append(_chunk(head, {}, reply.finish_reason))
        if with_usage:
            chunks.append({**head, "choices": [], "usage": reply.usage})
    return chunks


def _chunk(head: dict[str, Any], delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**head, "choices": [choice]}


def _stamped(json_object: str, stamp: str) -> bytes:
    return f'{json_object[:-1]}, "plumbline": {stamp}}}'.encode()


async def _break_off(request: web.Request, response: web.StreamResponse, events: list[bytes]) -> None:
    """Send up to the middle of the last event, then hang up."""
    await response.write(b"".join(events[:-1]) + events[-1][: len(events[-1]) // 2])
    _hang_up(request)


def _hang_up(request: web.Request) -> None:
    """Close the connection: what is written from now on goes nowhere, and aiohttp says nothing about it."""
    if request.transport is not None:
        request.transport.close()


def _told_to_fail(fault: Fault, settings: SimulatorSettings) -> web.Response:
    response = _error(Refusal(STATUS_OF[fault], f"the simulator was told to fail (--fault {fault})"))
    if fault is Fault.HTTP_429:
        response.headers["Retry-After"] = str(settings.retry_after_s)
    return response


def _error(refusal: Refusal) -> web.Response:
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    return web.json_response({"error": error}, status=refusal.status)


async def _models(request: web.Request) -> web.Response:
    entry = {
        "id": request.app[SETTINGS].model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": SIMULATOR_OWNER,
    }
    return web.json_response({"object": "list", "data": [entry]})


async def _health(_request: web.Request) -> web.Response:
    return web.Response()


async def _requests(request: web.Request) -> web.Response:
    return web.json_response({"simulated": True, **asdict(request.app[COUNTS])})
