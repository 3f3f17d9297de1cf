"""What is sent before a load test and not measured."""

from __future__ import annotations

from itertools import islice

import uvloop

from common.console import CannotJudge
from load_tests.dispatch import without_key
from load_tests.sse import RawStream, RequestRecord, Status, answer_of, record_of
from load_tests.wire import Wire
from load_tests.workload import LoadPlan, PreparedRequest, warm_up_requests


def warm_up(plan: LoadPlan) -> list[RequestRecord]:
    """Send the warm-up requests one by one. Raises CannotJudge when the endpoint answers none of them.

    Not under gevent, which does not go together with an event loop.
    """
    records = uvloop.run(_ask_all(plan))
    if records and all(record.status is not Status.OK for record in records):
        first = records[0]
        raise CannotJudge(f"{plan.endpoint.base_url}: no warm-up request succeeded: {first.status}: {first.error}")
    return records


async def _ask_all(plan: LoadPlan) -> list[RequestRecord]:
    wire = Wire(plan.endpoint, request_timeout_s=plan.profile.request_timeout_s)
    try:
        asked = islice(warm_up_requests(plan), plan.profile.warmup_requests)
        return [await _ask(wire, plan, request, index) for index, request in enumerate(asked)]
    finally:
        wire.close()


async def _ask(wire: Wire, plan: LoadPlan, asked: PreparedRequest, index: int) -> RequestRecord:
    raw = RawStream()
    await wire.fill(raw, asked.body)
    record = record_of(
        raw,
        answer_of(raw),
        index=index,
        worker=0,
        user=None,
        stage=asked.stage,
        pipeline_id=asked.pipeline_id,
        intended_ns=raw.sent_ns,
    )
    return without_key(record, plan.endpoint.api_key.get_secret_value())
