"""Sending requests and making their rows: what is sent has a row, whatever became of it.

The row is made after the stream has ended: one at a time, the answer read a part at a time, and not begun while another
request is about to be due. No packet is stamped meanwhile, but for what comes between two parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter_ns

from load_tests.answer_check import fits
from load_tests.rows import RowFile
from load_tests.score_answers import Scoring
from load_tests.sse import Answer, RawStream, RequestRecord, reading, record_of
from load_tests.wire import Wire
from load_tests.workload import PreparedRequest

Told = Callable[[RequestRecord], None]

_TELLING = 4
"""So many first characters of a key are not left standing; a word may well begin with fewer of them."""
_CLEAR_NS = 1_000_000
"""A row is not begun when a request is due within this time: making one takes some 0.4 ms."""


@dataclass(frozen=True, slots=True)
class _Asked:
    request: PreparedRequest
    index: int
    user: int | None
    intended_ns: int
    raw: RawStream


class Dispatch:
    """One worker's requests, from sending to row; `tell` gets each row after it is written."""

    def __init__(
        self, wire: Wire, rows: RowFile, *, worker: int, key: str, tell: Told, scoring: Scoring | None = None
    ) -> None:
        self._wire, self._rows, self._worker, self._tell = wire, rows, worker, tell
        self._key = key
        self._scoring = scoring
        self._in_flight = 0
        self._ended: asyncio.Queue[_Asked | None] = asyncio.Queue()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.next_due_ns = 0
        """When the next request is due, as far as it is known; perf_counter."""
        self.sent = 0
        self.rows = 0

    def send(
        self,
        request: PreparedRequest,
        *,
        index: int,
        user: int | None,
        intended_ns: int,
        then: Callable[[RawStream], None] | None = None,
    ) -> None:
        """Send a request; `then` is called when it has ended, before its row is made."""
        self.sent += 1
        self._in_flight += 1
        self._quiet.clear()
        asked = _Asked(request, index, user, intended_ns, RawStream())
        self._wire.send(asked.raw, request.body, lambda: self._over(asked, then), request.cancel_after_chunks)

    async def quiet(self, limit_s: float) -> None:
        """Wait until nothing is in flight; cut what still is after `limit_s`: rows `incomplete`."""
        try:
            async with asyncio.timeout(limit_s):
                await self._quiet.wait()
        except TimeoutError:
            self._wire.stop()

    def end_of_requests(self) -> None:
        """Nothing is sent any more, and nothing is in flight."""
        self._ended.put_nowait(None)

    async def make_rows(self) -> None:
        """Until the end of requests. Raises CannotJudge when a row cannot be written."""
        while asked := await self._ended.get():
            if 0 <= self.next_due_ns - perf_counter_ns() < _CLEAR_NS:
                await asyncio.sleep(_CLEAR_NS / 1e9)  # at most once a row, or a busy schedule would put off all of them
            for answer in reading(asked.raw):  # noqa: B007 - the last one is the whole
                await asyncio.sleep(0)
            self._make_row(asked, answer)
        if self._scoring:
            await self._scoring.finish()

    def _make_row(self, asked: _Asked, answer: Answer) -> None:
        raw, request = asked.raw, asked.request
        record = record_of(
            raw,
            answer,
            index=asked.index,
            worker=self._worker,
            user=asked.user,
            stage=request.stage,
            pipeline_id=request.pipeline_id,
            intended_ns=asked.intended_ns,
        )
        text = "".join(answer.texts)
        record = replace(
            without_key(record, self._key),
            schema_valid=fits(record, request.schema, text),
            cancel_after_chunks=request.cancel_after_chunks,
        )
        if self._scoring is None or not self._scoring.take(record, request.case, text, self._keep):
            self._keep(record)

    def _keep(self, record: RequestRecord) -> None:
        self._rows.write("request", record)
        self.rows += 1
        self._tell(record)

    def _over(self, asked: _Asked, then: Callable[[RawStream], None] | None) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._quiet.set()
        self._ended.put_nowait(asked)
        if then:
            then(asked.raw)


def without_key(record: RequestRecord, key: str) -> RequestRecord:
    """A server that quotes the key in its error must not get it into rows, reports and MLflow, nor a part of it."""
    error = record.error.replace(key, "***") if key else record.error
    # Errors are shortened before they come here, and the cut may have gone through the key.
    for length in range(len(key) - 1, _TELLING - 1, -1):
        error = error.replace(f"{key[:length]}…", "***…")
    return record if error == record.error else replace(record, error=error)
