"""What a sender is told and what it says: lines of JSON on its stdin and stdout, neither of which can make it wait.

in    {"prepare": true, "worker": 0, "workers": 2, "rows": PATH, "client": "locust 2.47.0"}
      {"start_at_s": 1790000000.0}     wall clock, the same for all workers
      {"users": 3}                     closed loop: so many from now on; may be told before the start
      {"stop": true}                   send no more, wait for what is in flight, end
      end of file                      whoever gave orders is gone: cut what is in flight, end
out   {"kind": "ready"}
      {"kind": "request", "name": "quality", "response_ms": 812.5, "bytes": 9184, "error": null}
      {"kind": "end", "sent": 100, "rows": 100, "cpu_s": 1.9}
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import orjson

_MOST = 65536


class Orders:
    """Lines of stdin, as they come."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._part = b""
        self._fd = sys.stdin.fileno()
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    async def next(self) -> dict[str, Any] | None:
        """The next order; None when there will be no more."""
        return await self._queue.get()

    def hang_up(self) -> None:
        """As if the orders had ended: what a signal to end means."""
        self._queue.put_nowait(None)

    def _read(self) -> None:
        data = os.read(self._fd, _MOST)
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            self.hang_up()
            return
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            self._queue.put_nowait(orjson.loads(line))


class Lines:
    """Lines for stdout. A reader that is slow makes them wait here, and never the sender."""

    def __init__(self, transport: asyncio.WriteTransport, gone: asyncio.Future[None]) -> None:
        self._transport, self._gone = transport, gone

    @classmethod
    async def begin(cls) -> Lines:
        """Take over stdout, a pipe."""
        loop = asyncio.get_running_loop()
        gone = loop.create_future()
        transport, _ = await loop.connect_write_pipe(lambda: _Pipe(gone), sys.stdout)
        return cls(transport, gone)

    def say(self, kind: str, **fields: Any) -> None:
        """One line."""
        if not self._transport.is_closing():  # nobody listens any more
            self._transport.write(orjson.dumps({"kind": kind, **fields}) + b"\n")

    async def close(self) -> None:
        """Wait until all is said."""
        self._transport.close()
        await self._gone


class _Pipe(asyncio.BaseProtocol):
    def __init__(self, gone: asyncio.Future[None]) -> None:
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
