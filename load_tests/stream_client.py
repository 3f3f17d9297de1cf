"""The streaming client of the load test: geventhttpclient, each line stamped the moment it is there.

Why not what is at hand: `FastHttpSession.iter_lines` reads blocks of 1024 bytes, so that 4 to 6 tokens are glued
together (measured: TTFT 50 ms too long at an ITL of 10 ms), and the openai SDK's httpx costs tens of milliseconds
under gevent. `readline` returns a line as soon as its newline has come. Nothing is retried: a retry hides a failure.
"""

from __future__ import annotations

import socket
from http.client import HTTPException
from time import perf_counter_ns
from urllib.parse import urlsplit

from gevent import Timeout, get_hub  # type: ignore[import-untyped] # it ships no types
from geventhttpclient import HTTPClient

from console import shorten
from load_tests.sse import Ending, RawStream
from serving.endpoint import Endpoint

_BLANK = (b"\n", b"\r\n")
_ERROR_BODY_BYTES = 4096
_CONNECT_TIMEOUT_S = 10.0


class StreamClient:
    """One pool of connections to one endpoint, shared by every user of the process."""

    def __init__(self, endpoint: Endpoint, *, connections: int, request_timeout_s: float) -> None:
        self._timeout_s = request_timeout_s
        self._path = f"{urlsplit(endpoint.base_url).path}/chat/completions"
        self._headers = {
            "Authorization": f"Bearer {endpoint.api_key.get_secret_value()}",
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
        }
        self._http = HTTPClient.from_url(
            endpoint.origin,
            concurrency=connections,
            connection_timeout=min(_CONNECT_TIMEOUT_S, request_timeout_s),
            network_timeout=request_timeout_s,
        )
        # Ctrl-C while we wait ends the program, and gevent need not print a stack first.
        get_hub().NOT_ERROR = (*get_hub().NOT_ERROR, KeyboardInterrupt)
        # The library's hook for socket options; setattr since the pool is the client's own.
        setattr(self._http._connection_pool, "after_connect", _send_at_once)  # noqa: B010

    def fill(self, raw: RawStream, body: bytes) -> None:
        """Send one request and stamp its answer into `raw`, until it ends, fails or its time is over.

        When the greenlet is killed meanwhile, `raw` holds what came and its ending stays STOPPED.
        """
        limit = Timeout(self._timeout_s)
        try:
            with limit:
                self._exchange(raw, body)
        except Timeout as caught:
            if caught is not limit:
                raise
            raw.ending, raw.error = Ending.TIMEOUT, f"no whole answer within {self._timeout_s:g} s"
        except TimeoutError as error:
            raw.ending, raw.error = Ending.TIMEOUT, shorten(str(error))
        except (OSError, HTTPException) as error:
            raw.ending = Ending.CONNECTION if raw.http_status is None else Ending.BROKEN
            raw.error = shorten(f"{type(error).__name__}: {error}")
        finally:
            raw.ended_ns = perf_counter_ns()

    def close(self) -> None:
        """Close the idle connections."""
        self._http.close()

    def _exchange(self, raw: RawStream, body: bytes) -> None:
        raw.sent_ns = perf_counter_ns()
        with self._http.request("POST", self._path, body=body, headers=self._headers) as response:
            raw.http_status = response.status_code
            if response.status_code != 200:
                said = response.read(_ERROR_BODY_BYTES).decode("utf8", "replace")
                raw.ending, raw.error = Ending.HTTP_ERROR, shorten(f"HTTP {response.status_code}: {said}")
                return
            # The loop that is measured: stamp first, then one comparison of bytes; JSON is read after the end.
            while line := response.readline(b"\n"):
                stamp_ns = perf_counter_ns()
                if line not in _BLANK:
                    raw.stamps_ns.append(stamp_ns)
                    raw.lines.append(line)
            if tail := response.read():  # a last line without its newline
                raw.stamps_ns.append(perf_counter_ns())
                raw.lines.append(tail)
            raw.ending = Ending.WHOLE


def _send_at_once(connection: socket.socket) -> None:
    """Without TCP_NODELAY a body's last packet waits until the one before it is acknowledged: up to 40 ms of TTFT."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
