"""One load test from its first to its last request, without Locust: warm-up, sending, rows, the count of both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns

from console import CannotJudge
from load_tests.profiles import MOST_USERS
from load_tests.rows import RowFile, RunEnd, start_of
from load_tests.sse import RawStream, RequestRecord, Status, record_of
from load_tests.stream_client import StreamClient
from load_tests.workload import LoadPlan


def warm_up(plan: LoadPlan) -> list[RequestRecord]:
    """Send the warm-up requests one by one. Raises CannotJudge when the endpoint answers none of them."""
    client = StreamClient(plan.endpoint, connections=1, request_timeout_s=plan.profile.request_timeout_s)
    records = []
    for turn in range(plan.profile.warmup_requests):
        raw = RawStream()
        client.fill(raw, plan.request_for(0, turn).body)
        records.append(row_of(plan, raw, user=0, turn=turn, index=turn, intended_ns=raw.sent_ns))
    client.close()
    if records and all(record.status is not Status.OK for record in records):
        first = records[0]
        raise CannotJudge(f"{plan.endpoint.base_url}: no warm-up request succeeded: {first.status}: {first.error}")
    return records


class LoadSession:
    """The measured part: counts what is sent, writes one row per request, keeps the garbage collector away."""

    def __init__(self, plan: LoadPlan, rows_path: Path, *, users: int, client: str) -> None:
        self.plan = plan
        self.rows_path = rows_path
        self._rows = RowFile(rows_path)
        self._client = StreamClient(
            plan.endpoint,
            # Locust's web UI may add users while the test runs; none may wait for a connection.
            connections=max(users, MOST_USERS),
            request_timeout_s=plan.profile.request_timeout_s,
        )
        self._users = 0
        self._sent = 0
        self._stop_ns: int | None = None
        gc.collect()
        # A full collection would stop every stream for milliseconds, and their stamps with it.
        gc.freeze()
        gc.disable()
        self._cpu_s = time.process_time()
        self._rows.write("start", start_of(plan, users=users, start_ns=perf_counter_ns(), client=client))

    @property
    def stopping(self) -> bool:
        """True once no more requests may be sent."""
        return self._stop_ns is not None

    def new_user(self) -> int:
        """A number for a user that starts now: 0, 1, 2, ..."""
        self._users += 1
        return self._users - 1

    def ask(self, user: int, turn: int, tell: Callable[[RequestRecord, int], None]) -> None:
        """Send one request and wait for its end; `tell` gets its row and the bytes received.

        The row is written also when this greenlet is killed in the middle: it then says `incomplete`.
        """
        index, self._sent = self._sent, self._sent + 1
        intended_ns = perf_counter_ns()
        raw = RawStream(sent_ns=intended_ns)
        try:
            self._client.fill(raw, self.plan.request_for(user, turn).body)
        finally:
            record = row_of(self.plan, raw, user=user, turn=turn, index=index, intended_ns=intended_ns)
            self._rows.write("request", record)
            tell(record, sum(map(len, raw.lines)))

    def stop_sending(self) -> None:
        """The measuring window ends; requests in flight may still come to their end."""
        self._stop_ns = self._stop_ns or perf_counter_ns()

    def finish(self) -> None:
        """Write the last line. Call when no request is in flight any more."""
        self.stop_sending()
        now_ns = perf_counter_ns()
        cpu_s = time.process_time() - self._cpu_s
        self._rows.write("end", RunEnd(self._stop_ns or now_ns, now_ns, self._sent, cpu_s))
        self._rows.close()
        self._client.close()
        gc.enable()
        gc.unfreeze()


def row_of(plan: LoadPlan, raw: RawStream, *, user: int, turn: int, index: int, intended_ns: int) -> RequestRecord:
    """The row of one request, without the key."""
    asked = plan.request_for(user, turn)
    record = record_of(
        raw,
        index=index,
        user=user,
        stage=asked.stage,
        pipeline_id=asked.pipeline_id,
        intended_ns=intended_ns,
    )
    key = plan.endpoint.api_key.get_secret_value()
    # A server that quotes the key in its error must not get it into rows, reports and MLflow.
    return replace(record, error=record.error.replace(key, "***")) if key in record.error else record
