"""The wire of the load test: HTTP/1.1 on bare asyncio, every packet stamped before anything looks into it.

Why not a client library: what is measured is when bytes arrive. Readers of lines and blocks hold tokens back (Locust's
`iter_lines` measured TTFT 50 ms too long), and a library's own work on one stream delays the stamps of all the others.
A packet that holds several events gives them one stamp: that is when they came.

A request is stamped as sent before a connection is taken or, if none is free, made: an independent user waits for that
too, and the client is not late. Nothing is retried: a retry hides a failure. The connection that was used last is
taken first, so that no more are kept busy than are needed. Not covered: HTTP/2 and proxies.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from time import perf_counter_ns
from typing import cast
from urllib.parse import urlsplit

import httptools

from common.console import shorten
from load_tests.sse import Ending, RawStream, read_answer
from serving.endpoint import Endpoint

_CONNECT_TIMEOUT_S = 10.0
_ERROR_BODY_BYTES = 4096
_LONGEST_BODY_BYTES = 64 * 2**20
"""A stream that does not end must not fill the memory of the machine that measures."""
_KEPT_ALIVE_NS = 4_000_000_000
"""vLLM closes a connection after 5 idle seconds; one taken up at that moment would be lost with its request."""

Ended = Callable[[], None]


class Wire:
    """Connections to one endpoint; made on a running event loop and used by it alone."""

    def __init__(self, endpoint: Endpoint, *, request_timeout_s: float) -> None:
        url = urlsplit(endpoint.base_url)
        self.timeout_s = request_timeout_s
        # Once: to make one takes some 30 ms, in which no packet is stamped.
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._host, self._port = url.hostname or "", url.port or (443 if self._tls else 80)
        self._head = (
            f"POST {url.path}/chat/completions HTTP/1.1\r\n"
            f"Host: {url.netloc}\r\n"
            f"Authorization: Bearer {endpoint.api_key.get_secret_value()}\r\n"
            "Content-Type: application/json\r\nAccept: text/event-stream\r\nAccept-Encoding: identity\r\n"
            "Content-Length: "
        ).encode()
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._in_flight: set[_Exchange] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def send(self, raw: RawStream, body: bytes, ended: Ended, cancel_after_chunks: int | None = None) -> None:
        """Send one request and stamp its answer into `raw`; `ended` is called once when it has ended, by any way.

        cancel_after_chunks: hang up after so many content chunks; None: read the answer to its end.
        """
        raw.sent_ns = perf_counter_ns()
        request = b"%s%d\r\n\r\n%s" % (self._head, len(body), body)
        exchange = _Exchange(self, raw, request, ended, cancel_after_chunks)
        self._in_flight.add(exchange)
        exchange.timer = self._loop.call_later(self.timeout_s, exchange.timed_out)
        if connection := self._warm():
            connection.begin(exchange)
        else:
            task = self._loop.create_task(self._connect(exchange))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def fill(self, raw: RawStream, body: bytes, cancel_after_chunks: int | None = None) -> None:
        """Send one request and wait for its end."""
        over = self._loop.create_future()
        # Cancelled (Ctrl-C), it is done already when the wire's end ends the request.
        self.send(raw, body, lambda: None if over.done() else over.set_result(None), cancel_after_chunks)
        await over

    def stop(self) -> None:
        """Cut every request in flight; their ending stays STOPPED."""
        for exchange in list(self._in_flight):
            exchange.over(Ending.STOPPED, "")

    def close(self) -> None:
        """Cut what is in flight and close the idle connections."""
        self.stop()
        for task in self._connecting:
            task.cancel()
        while self._idle:
            self._idle.pop().close()

    def release(self, exchange: _Exchange, connection: _Connection | None) -> None:
        """An exchange is over; keep its connection if it can carry another one."""
        self._in_flight.discard(exchange)
        if connection and connection.reusable:
            self._idle.append(connection)
        elif connection:
            connection.close()

    def _warm(self) -> _Connection | None:
        oldest_ns = perf_counter_ns() - _KEPT_ALIVE_NS
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.used_ns > oldest_ns:
                return connection
            connection.close()
        return None

    async def _connect(self, exchange: _Exchange) -> None:
        limit_s = min(_CONNECT_TIMEOUT_S, self.timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                _, connection = await self._loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        except TimeoutError:
            exchange.over(Ending.TIMEOUT, f"not connected within {limit_s:g} s")
        except OSError as error:
            refused = error.errno == errno.ECONNREFUSED
            exchange.over(Ending.REFUSED if refused else Ending.CONNECTION, f"{type(error).__name__}: {error}")
        else:
            if exchange.done:  # its time was over, or it was cut, meanwhile
                connection.close()
            else:
                connection.begin(exchange)


class _Exchange:
    """One request on its way."""

    __slots__ = ("_ended", "_wire", "cancel_after_chunks", "connection", "done", "raw", "request", "timer")

    def __init__(self, wire: Wire, raw: RawStream, request: bytes, ended: Ended, cancel_after: int | None) -> None:
        self._wire, self.raw, self.request, self._ended = wire, raw, request, ended
        self.cancel_after_chunks = cancel_after
        self.timer: asyncio.TimerHandle | None = None
        self.connection: _Connection | None = None
        self.done = False

    def timed_out(self) -> None:
        """Its time is over."""
        self.over(Ending.TIMEOUT, f"no whole answer within {self._wire.timeout_s:g} s")

    def over(self, ending: Ending, error: str) -> None:
        """It has ended; only the first ending counts."""
        if self.done:
            return
        self.done = True
        self.raw.ended_ns = perf_counter_ns()
        self.raw.ending, self.raw.error = ending, shorten(error)
        if self.timer:
            self.timer.cancel()
        if self.connection:
            self.connection.exchange = None
        self._wire.release(self, self.connection)
        self._ended()


class _Connection(asyncio.Protocol):
    """One connection and, while there is one, the exchange that is under way on it."""

    def __init__(self) -> None:
        self.exchange: _Exchange | None = None
        self.used_ns = 0
        """When its last answer ended; 0 for one that carried none."""
        self._transport: asyncio.Transport | None = None
        self._stamp_ns = 0
        self._fresh()

    def _fresh(self) -> None:
        """Ready for another answer."""
        self._parser = httptools.HttpResponseParser(self)
        self._status: int | None = None
        self._has_length = self._whole = self._keep = self._more = False
        self._size = self._chunks = 0
        self._said = self._line = b""

    @property
    def reusable(self) -> bool:
        """Whether it can carry another request."""
        return self._keep and self._transport is not None and not self._transport.is_closing()

    def begin(self, exchange: _Exchange) -> None:
        """Send a request."""
        self._fresh()
        self.exchange, exchange.connection = exchange, self
        if self._transport is not None:
            self._transport.write(exchange.request)
        else:
            exchange.over(Ending.CONNECTION, "the server closed the connection at once")

    def close(self) -> None:
        """Hang up, whatever is under way."""
        if self._transport:
            self._transport.abort()

    # --- what asyncio tells us ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if own := transport.get_extra_info("socket"):
            # Else a body's last packet waits until the one before it is acknowledged: up to 40 ms of TTFT.
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._stamp_ns = perf_counter_ns()
        if self.exchange is None:  # nobody asked: it cannot be trusted with another request
            self._keep = False
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._more = True
            if not self._whole:
                self._broken(f"not HTTP/1.1 as we know it: {error}")
        if self._whole:
            self._keep &= not self._more
            self._complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.exchange is None:
            return
        if exc is None and self._status and not self._has_length:
            self._complete()  # such an answer ends where the connection does
        elif exc is None and self._status is None and self.used_ns:
            self._broken("the server closed a connection that it had kept open")
        else:
            self._broken(f"{type(exc).__name__}: {exc}" if exc else "the server closed the connection")

    # --- what httptools tells us ---

    def on_message_begin(self) -> None:
        """An answer begins; one that nobody asked for, when it comes with the end of ours."""
        self._more = self._whole

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the answer."""
        self._has_length |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """The head is there."""
        status = self._parser.get_status_code()
        if status >= 200 and self.exchange and not self._more:  # before it may come words of patience, such as 103
            self._status = self.exchange.raw.http_status = status

    def on_body(self, body: bytes) -> None:
        """A piece of the answer; no longer in chunks."""
        if self.exchange is None or self._more:
            return  # cut within this packet, or of another answer
        self._size += len(body)
        if self._status != 200:
            self._said = (self._said + body)[:_ERROR_BODY_BYTES]
        elif self._size > _LONGEST_BODY_BYTES:
            self._broken(f"the answer is longer than {_LONGEST_BODY_BYTES // 2**20} MiB")
        else:
            self.exchange.raw.pieces.append(body)
            self.exchange.raw.stamps_ns.append(self._stamp_ns)
            if (most := self.exchange.cancel_after_chunks) is not None:
                self._count(self.exchange, body, most)

    def on_message_complete(self) -> None:
        """The answer is whole, by HTTP's count."""
        if self._more:
            return
        self._whole = self._status is not None
        self._keep = self._whole and self._parser.should_keep_alive()

    # --- how it ends ---

    def _complete(self) -> None:
        self.used_ns = self._stamp_ns
        if self.exchange and self._status == 200:
            self.exchange.over(Ending.WHOLE, "")
        else:
            self._http_error()

    def _broken(self, problem: str) -> None:
        """The answer will not become whole."""
        self._keep = False
        if self.exchange is None:
            return
        if self._status is None:
            self.exchange.over(Ending.CONNECTION, problem)
        elif self._status == 200:
            self.exchange.over(Ending.BROKEN, problem)
        else:
            self._http_error()

    def _http_error(self) -> None:
        if self.exchange:
            said = f"HTTP {self._status}: {self._said.decode('utf8', 'replace')}"
            self.exchange.over(Ending.HTTP_ERROR, said)

    def _count(self, exchange: _Exchange, body: bytes, most: int) -> None:
        *lines, self._line = (self._line + body).split(b"\n")
        self._chunks += len(read_answer((line, 0) for line in lines).content_ns)
        if self._chunks >= most:
            self._keep = False
            exchange.over(Ending.CANCELLED, f"cancelled after {self._chunks} content chunks, as the profile has it")
