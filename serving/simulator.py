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
limits; usage; errors in OpenAI's form; counts of requests, so that a test sees what a client left behind (GET
/plumbline/requests); vLLM's figures (GET /metrics). Not covered: batching (requests that run do so at the same speed,
however many), tokenization (an output token is a piece of the answer, a prompt token a word between spaces), prefix
caching, sampling parameters, tools and several choices.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass

import uvloop
from aiohttp import HttpVersion11, web
from prometheus_client import CONTENT_TYPE_LATEST

from common.console import BadInput
from serving.endpoint import SIMULATOR_OWNER
from serving.faults import GIVEN_UP, STATUS_OF
from serving.faults import Fault as Fault  # part of the settings, and so given on from here
from serving.simulator_answer import STAMP, Answerer, Reply, reply_to, whole_answer
from serving.simulator_metrics import Progress, RequestMetrics, ServerMetrics
from serving.simulator_metrics import RequestCounts as RequestCounts
from serving.simulator_queue import QueueFull, Slots
from serving.simulator_request import ChatRequest, Refusal, read_request
from serving.simulator_settings import SimulatorSettings as SimulatorSettings
from serving.simulator_stream import Frame, Sending, frames_of, trickle
from serving.simulator_time import Clock, Freeze, Pacer, offsets_ns

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
class _Asked:
    """One chat completion on its way through the server."""

    request: web.Request
    chat: ChatRequest
    fault: Fault
    number: int
    arrived_ns: int
    progress: Progress


_SERVER = web.AppKey("server", _Server)


def make_app(settings: SimulatorSettings, answerer: Answerer | None = None) -> web.Application:
    """The simulator as an aiohttp application."""
    app = web.Application(client_max_size=_LARGEST_REQUEST)
    app[_SERVER] = server = _Server(settings, answerer)
    app.cleanup_ctx.append(server.keep_time)
    app.router.add_post("/v1/chat/completions", _chat_completions)
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


# --- one chat completion ---------------------------------------------------------------------------------


async def _chat_completions(request: web.Request) -> web.StreamResponse:
    arrived_ns = time.perf_counter_ns()
    server = request.app[_SERVER]
    number = server.counts.arrive()
    server.freeze.arrive(arrived_ns)
    fault = server.settings.fault_of(number)
    with server.counts.until_done(fault) as progress:
        return await _answer(server, request, fault, number, arrived_ns, progress)


async def _answer(
    server: _Server, request: web.Request, fault: Fault, number: int, arrived_ns: int, progress: Progress
) -> web.StreamResponse:
    body = await request.read()
    await server.until_thawed()
    if fault in STATUS_OF:
        return _told_to_fail(fault, server.settings)
    if fault is Fault.DISCONNECT:
        _hang_up(request)
        return web.Response()
    if fault is Fault.NO_ANSWER:
        await asyncio.Event().wait()  # the client's leaving cancels this
    try:
        chat = read_request(body, server.settings.model)
        reply = reply_to(chat, server.settings, fault, server.answerer)
        asked = _Asked(request, chat, fault, number, arrived_ns, progress)
        return await _in_turn(server, asked, reply)
    except Refusal as refusal:
        return _error(refusal)


async def _in_turn(server: _Server, asked: _Asked, reply: Reply) -> web.StreamResponse:
    """Answer once there is a place, which is free again from the answer's last deadline on."""
    try:
        started_ns = await server.slots.take(asked.arrived_ns)
    except QueueFull:
        raise Refusal(503, "the simulator's queue is full (--max-running, --max-queue)") from None
    offsets = offsets_ns(server.settings, asked.number, len(reply.pieces))
    clock = Clock(asked.arrived_ns, started_ns, offsets, server.freeze)
    metrics = RequestMetrics(server.metrics, asked.progress, clock, reply.prompt_tokens)
    free_ns, reason = None, "abort"
    try:
        answer = _stream if asked.chat.stream else _whole
        response, free_ns = await answer(server, asked, reply, clock, metrics)
        reason = "error" if asked.fault in GIVEN_UP else reply.finish_reason
        return response
    finally:
        server.slots.give_back(time.perf_counter_ns() if free_ns is None else free_ns)
        metrics.finish(reason)


async def _stream(
    server: _Server, asked: _Asked, reply: Reply, clock: Clock, metrics: RequestMetrics
) -> tuple[web.StreamResponse, int]:
    """The answer as server-sent events, each token's at its deadline; and the last deadline."""
    frames = frames_of(reply, clock, asked.chat.with_usage, server.settings.tokens_per_chunk, asked.fault)
    return await _sent(server, asked.request, frames, metrics, "text/event-stream")


async def _whole(
    server: _Server, asked: _Asked, reply: Reply, clock: Clock, metrics: RequestMetrics
) -> tuple[web.StreamResponse, int]:
    """The answer in one piece, at its last token's deadline; and that deadline."""
    if asked.fault is Fault.TRICKLE:
        frames = trickle(whole_answer(reply, clock, asked.fault), clock, len(reply.pieces))
        return await _sent(server, asked.request, frames, metrics, "application/json")
    due_ns = clock.due_ns(0) if asked.fault is Fault.EMPTY_BODY else clock.end_ns
    sent_ns = await server.pacer.until(due_ns)
    if asked.fault is not Fault.EMPTY_BODY:
        for token in range(len(reply.pieces)):
            metrics.sent(1, clock.due_ns(token))
    body = whole_answer(reply, clock, asked.fault).replace(STAMP, b"%d" % sent_ns)
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
