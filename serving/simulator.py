"""An OpenAI-compatible endpoint without a model, whose every token leaves at a known time.

It is for tests (an endpoint in milliseconds, no weights), for calibration (a client's reading of TTFT and
ITL is held against times that are known) and for failure drills (`Fault`). It stands in for no engine: each
answer says that it is simulated, and numbers taken here describe the client and nothing else.

Time: token k is due at start + ttft + k * itl, or at times drawn by seed (simulator_time.py). A request starts when it
arrives, which is when its head had been read, or, with `max_running`, when it has a place. Waiting is for these
absolute deadlines, so lateness never adds up. No token leaves early, and each carries when it was due and when it left
(`plumbline.due_ns` and `sent_ns`, with `arrived_ns` and `started_ns`, in `time.perf_counter_ns`, which on Linux all
processes of a machine share). Lateness is some 0.1 ms on an idle machine.

A known knee: with N = `max_running`, what can be served is N / (ttft + (output_tokens - 1) * itl) requests per second.
Above that rate the queue grows for as long as it is asked for more; below it, waits come from chance alone.

Covered: chat completions, streamed in vLLM's order of chunks or whole; JSON answers for a JSON schema; token
limits; log-probabilities, and labels read by them (simulator_logprobs.py, simulator_tokens.py); decisions, if told so
(simulator_decisions.py); usage; errors in OpenAI's form; counts of requests, so that a test sees what a client left
behind (GET /plumbline/requests); vLLM's figures (GET /metrics). Not covered: batching (requests that run do so at the
same speed, however many), tokenization (an output token is a piece of the answer, a prompt token a word between
spaces), prefix caching, sampling parameters, tools and several choices.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass

import orjson
import uvloop
from aiohttp import HttpVersion11, web
from prometheus_client import CONTENT_TYPE_LATEST

from common.console import BadInput
from serving.endpoint import SIMULATOR_OWNER
from serving.faults import GIVEN_UP, STATUS_OF, broken_body
from serving.faults import Fault as Fault  # part of the settings, and so given on from here
from serving.simulator_answer import STAMP, Answerer, Reply, reply_to, stamped, whole_answer
from serving.simulator_decisions import DecisionRequest, decision
from serving.simulator_metrics import Progress, RequestMetrics, ServerMetrics
from serving.simulator_metrics import RequestCounts as RequestCounts
from serving.simulator_queue import QueueFull, Slots
from serving.simulator_request import ChatRequest, Refusal, read_as, read_request, refuse_other_model
from serving.simulator_settings import DecisionsRoute as DecisionsRoute
from serving.simulator_settings import SimulatorSettings as SimulatorSettings
from serving.simulator_stream import Frame, Sending, frames_of, trickle
from serving.simulator_time import Clock, Freeze, Pacer, offsets_ns
from serving.simulator_tokens import TokenizeRequest, tokenized

_LARGEST_REQUEST = 16 * 2**20
_BACKLOG = 2048
"""Connections that may wait to be accepted: a load test opens its users' all at once."""

_FAREWELL_S = 0.2
"""Seconds that answers under way get to end in, when the simulator stops."""


class _Server:
    """One simulator: its settings and all that changes while it runs."""

    pacer: Pacer
    """Made when the event loop runs."""

    def __init__(self, settings: SimulatorSettings, answerer: Answerer | None) -> None:
        self.settings, self.answerer = settings, answerer
        self.counts = RequestCounts()
        self.slots = Slots(settings.max_running, settings.max_queue)
        self.freeze = Freeze(settings.freeze_at_s, settings.freeze_for_s)
        self.metrics = ServerMetrics(settings.model, self.slots)

    async def keep_time(self, _app: web.Application) -> AsyncIterator[None]:
        """For as long as the application runs."""
        self.pacer = Pacer()
        yield
        self.pacer.close()

    async def until_thawed(self) -> None:
        """In a freeze, wait for its end."""
        now_ns = time.perf_counter_ns()
        if (end_ns := self.freeze.moved(now_ns)) > now_ns:
            await self.pacer.until(end_ns)


@dataclass(frozen=True)
class _Arrived:
    """One request on its way through the server, as it came."""

    request: web.Request
    body: bytes
    fault: Fault
    number: int
    arrived_ns: int
    progress: Progress


_Work = Callable[[_Server, _Arrived], Awaitable[web.StreamResponse]]
"""Answers a request that no fault has ended yet; raises Refusal."""


_SERVER = web.AppKey("server", _Server)


def make_app(settings: SimulatorSettings, answerer: Answerer | None = None) -> web.Application:
    """The simulator as an aiohttp application."""
    app = web.Application(client_max_size=_LARGEST_REQUEST)
    app[_SERVER] = server = _Server(settings, answerer)
    app.cleanup_ctx.append(server.keep_time)
    app.router.add_post("/v1/chat/completions", _chat_completions)
    if settings.decisions != DecisionsRoute.OFF:
        app.router.add_post("/v1/decisions", _decisions)
    if settings.label_ids:
        app.router.add_post("/tokenize", _tokenize)
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/health", _health)
    app.router.add_get("/metrics", _metrics)
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
    # What lives as long as the process need not be looked through again while tokens are due.
    gc.collect()
    gc.freeze()
    try:
        on_ready(base_url)
        await stop.wait()
    finally:
        await runner.cleanup()


# --- what is counted, and what faults hit -----------------------------------------------------------------


async def _chat_completions(request: web.Request) -> web.StreamResponse:
    return await _counted(request, _chat_completion)


async def _decisions(request: web.Request) -> web.StreamResponse:
    return await _counted(request, _decision)


async def _counted(request: web.Request, work: _Work) -> web.StreamResponse:
    arrived_ns = time.perf_counter_ns()
    server = request.app[_SERVER]
    number = server.counts.arrive()
    server.freeze.arrive(arrived_ns)
    fault = server.settings.fault_of(number)
    with server.counts.until_done(fault) as progress:
        body = await request.read()
        await server.until_thawed()
        return await _answer(server, _Arrived(request, body, fault, number, arrived_ns, progress), work)


async def _answer(server: _Server, arrived: _Arrived, work: _Work) -> web.StreamResponse:
    if arrived.fault in STATUS_OF:
        return _told_to_fail(arrived.fault, server.settings)
    if arrived.fault is Fault.DISCONNECT:
        _hang_up(arrived.request)
        return web.Response()
    if arrived.fault is Fault.NO_ANSWER:
        await asyncio.Event().wait()  # the client's leaving cancels this
    try:
        return await work(server, arrived)
    except Refusal as refusal:
        return _error(refusal)


# --- one chat completion ---------------------------------------------------------------------------------


async def _chat_completion(server: _Server, arrived: _Arrived) -> web.StreamResponse:
    """Answer once there is a place, which is free again from the answer's last deadline on."""
    chat = read_request(arrived.body, server.settings)
    reply = reply_to(chat, server.settings, arrived.fault, server.answerer)
    clock = await _started(server, arrived, len(reply.pieces))
    metrics = RequestMetrics(server.metrics, arrived.progress, clock, reply.prompt_tokens)
    free_ns, reason = None, "abort"
    try:
        if chat.stream:
            response, free_ns = await _stream(server, arrived, chat, reply, clock, metrics)
        else:
            response, free_ns = await _whole(server, arrived, reply, clock, metrics)
        reason = "error" if arrived.fault in GIVEN_UP else reply.finish_reason
        return response
    finally:
        server.slots.give_back(time.perf_counter_ns() if free_ns is None else free_ns)
        metrics.finish(reason)


async def _started(server: _Server, arrived: _Arrived, tokens: int) -> Clock:
    """The deadlines of so many tokens, from the moment there is a place on. Raises Refusal when nobody may wait."""
    try:
        started_ns = await server.slots.take(arrived.arrived_ns)
    except QueueFull:
        raise Refusal(503, "the simulator's queue is full (--max-running, --max-queue)") from None
    offsets = offsets_ns(server.settings, arrived.number, tokens)
    return Clock(arrived.arrived_ns, started_ns, offsets, server.freeze)


async def _stream(
    server: _Server, arrived: _Arrived, chat: ChatRequest, reply: Reply, clock: Clock, metrics: RequestMetrics
) -> tuple[web.StreamResponse, int]:
    """The answer as server-sent events, each token's at its deadline; and the last deadline."""
    frames = frames_of(reply, clock, chat.with_usage, server.settings.tokens_per_chunk, arrived.fault)
    return await _sent(server, arrived.request, frames, metrics, "text/event-stream")


async def _whole(
    server: _Server, arrived: _Arrived, reply: Reply, clock: Clock, metrics: RequestMetrics
) -> tuple[web.StreamResponse, int]:
    """The answer in one piece, at its last token's deadline; and that deadline."""
    if arrived.fault is Fault.TRICKLE:
        frames = trickle(whole_answer(reply, clock, arrived.fault), clock, len(reply.pieces))
        return await _sent(server, arrived.request, frames, metrics, "application/json")
    due_ns = clock.due_ns(0) if arrived.fault is Fault.EMPTY_BODY else clock.end_ns
    sent_ns = await server.pacer.until(due_ns)
    if arrived.fault is not Fault.EMPTY_BODY:
        for token in range(len(reply.pieces)):
            metrics.sent(1, clock.due_ns(token))
    body = whole_answer(reply, clock, arrived.fault).replace(STAMP, b"%d" % sent_ns)
    return web.Response(body=body, content_type="application/json"), due_ns


async def _sent(
    server: _Server, request: web.Request, frames: Iterator[Frame], metrics: RequestMetrics, content_type: str
) -> tuple[web.StreamResponse, int]:
    response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-cache"})
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has left")
    sending = Sending(transport, frames, metrics.sent, chunked=request.version >= HttpVersion11)
    return response, await sending.until_over(server.pacer)


def _hang_up(request: web.Request) -> None:
    """Close the connection: what is written from now on goes nowhere, and aiohttp says nothing about it."""
    if request.transport is not None:
        request.transport.close()


# --- one decision ----------------------------------------------------------------------------------------


async def _decision(server: _Server, arrived: _Arrived) -> web.StreamResponse:
    """All answers at the first token's deadline. It takes a place like any request; /metrics tells nothing of it."""
    if server.settings.decisions == DecisionsRoute.REFUSE_501:
        raise Refusal(501, "The model does not support the structured decision API")
    asked = read_as(DecisionRequest, arrived.body)
    refuse_other_model(asked.model, server.settings.model)
    clock = await _started(server, arrived, 1)
    free_ns = None
    try:
        told = orjson.dumps(decision(asked, server.settings.seed, arrived.fault))
        body = broken_body(stamped(told, clock, clock.end_ns), arrived.fault)
        sent_ns = await server.pacer.until(clock.end_ns)
        free_ns = clock.end_ns
        return web.Response(body=body.replace(STAMP, b"%d" % sent_ns), content_type="application/json")
    finally:
        server.slots.give_back(time.perf_counter_ns() if free_ns is None else free_ns)


# --- how a request is refused ----------------------------------------------------------------------------


def _told_to_fail(fault: Fault, settings: SimulatorSettings) -> web.Response:
    response = _error(Refusal(STATUS_OF[fault], f"the simulator was told to fail (--fault {fault})"))
    if fault is Fault.HTTP_429:
        response.headers["Retry-After"] = str(settings.retry_after_s)
    return response


def _error(refusal: Refusal) -> web.Response:
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    return web.json_response({"error": error}, status=refusal.status)


# --- what else can be asked ------------------------------------------------------------------------------


async def _models(request: web.Request) -> web.Response:
    server = request.app[_SERVER]
    await server.until_thawed()
    entry = {
        "id": server.settings.model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": SIMULATOR_OWNER,
    }
    return web.json_response({"object": "list", "data": [entry]})


async def _tokenize(request: web.Request) -> web.Response:
    server = request.app[_SERVER]
    await server.until_thawed()
    try:
        asked = read_as(TokenizeRequest, await request.read())
        refuse_other_model(asked.model or server.settings.model, server.settings.model)
    except Refusal as refusal:
        return _error(refusal)
    return web.json_response(tokenized(asked))


async def _health(request: web.Request) -> web.Response:
    await request.app[_SERVER].until_thawed()
    return web.Response()


async def _metrics(request: web.Request) -> web.Response:
    server = request.app[_SERVER]
    await server.until_thawed()
    return web.Response(body=server.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _requests(request: web.Request) -> web.Response:
    """Not held up by a freeze: it is the test's view from outside."""
    return web.json_response({"simulated": True, **asdict(request.app[_SERVER].counts)})
