"""Load tests made up from figures: rows as a sender would have written them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from load_tests.rows import LoadRows, RunEnd, RunStart
from load_tests.sse import RawStream, RequestRecord, Status, answer_of, record_of

START_AT_S = 1_700_000_000.0
NS = 1_000_000_000


def made_record(index: int, **changes: Any) -> RequestRecord:
    """A request of the second number `index`: TTFT 50 ms, three gaps of 10 ms, four tokens; `changes` replace fields.

    With `ttft_s` alone given, the stamps after sending follow from it.
    """
    sent_ns = changes.get("sent_ns", index * NS)
    ttft_s, itl_s = changes.get("ttft_s", 0.050), changes.get("itl_s", [0.010] * 3)
    first_ns = None if ttft_s is None else sent_ns + round(ttft_s * NS)
    last_ns = None if first_ns is None else first_ns + round(sum(itl_s) * NS)
    values = {
        "index": index,
        "user": None,
        "worker": 0,
        "stage": "data_ingestion",
        "pipeline_id": "one",
        "status": Status.OK,
        "http_status": 200,
        "error": "",
        "intended_ns": sent_ns,
        "sent_ns": sent_ns,
        "first_content_ns": first_ns,
        "last_content_ns": last_ns,
        "ended_ns": last_ns or sent_ns + NS,
        "ttft_s": ttft_s,
        "e2e_s": None if last_ns is None else (last_ns - sent_ns) / NS,
        "itl_s": itl_s,
        "prompt_tokens": 100,
        "output_tokens": 4,
        "content_chunks": 4,
        "finish_reason": "stop",
        "lag_s": None,
        "received_bytes": 800,
        "schema_valid": None,
        "headline": None,
        **changes,
    }
    return RequestRecord(**values)


def made_rows(records: Iterable[RequestRecord], *, stop_s: float = 60.0, **start: Any) -> LoadRows:
    """One worker's open-loop test of a simulated endpoint that ended well; `start` replaces fields of its start."""
    found = tuple(records)
    values = {
        "profile": {"name": "made", "arrivals": {"kind": "poisson", "rate_per_s": 5.0}, "duration_s": 60},
        "base_url": "http://127.0.0.1:1/v1",
        "model": "made-model",
        "simulated": True,
        "prompt": "baseline",
        "prompt_version": 1,
        "loop": "open",
        "users": None,
        "scheduled": len(found),
        "worker": 0,
        "workers": 1,
        "started_at": "2023-11-14T22:13:20.000+00:00",
        "start_at_s": START_AT_S,
        "start_ns": 0,
        "client": "made 1.0",
        **start,
    }
    stop_ns = round(stop_s * NS)
    return LoadRows((RunStart(**values),), found, (RunEnd(stop_ns, stop_ns + NS, len(found), 1.0, 60.0),))


def row_of(raw: RawStream, *, intended_ns: int | None = None) -> RequestRecord:
    """The row of a stream; when it was due, if not when it was sent, is all that is told besides."""
    return record_of(
        raw,
        answer_of(raw),
        index=0,
        worker=0,
        user=0,
        stage="quality",
        pipeline_id="p",
        intended_ns=raw.sent_ns if intended_ns is None else intended_ns,
    )
