"""From the rows of a load test to its figures: pure.

TTFT   seconds from sending a request to its first content chunk
ITL    each gap between two content chunks of one answer: as many samples as gaps, not a mean per request
TPOT   per request, (e2e - TTFT) / (output tokens - 1), tokens as the server counts them
e2e    seconds from sending to the last content chunk

Which requests: those sent inside the measuring window, from the start of the test until users were told to stop;
the ramp is inside. Latencies are those of `ok` requests alone, and every other request is counted by its class:
a failed request has no latency, and a quick failure must not make an endpoint look fast. Requests cut by the end
of the test are the slow ones, so where there are any the high percentiles are too low.

Percentiles are numpy's `linear` method (Hyndman and Fan's type 7), what numpy and pandas do by default.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from load_tests.rows import LoadRows, RunStart
from load_tests.sse import NS_PER_S, RequestRecord, Status

PERCENTILES = (50, 90, 95, 99)
INTERVAL_SAMPLES = 10
"""Fewest samples an interval is given for."""
BUSY_SHARE = 0.8
"""Share of one core above which the load generator's own queueing shows in the figures."""

_RESAMPLES = 2000
_SEED = 20260
_DELIVERED = {Status.OK, Status.INCOMPLETE}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A 95% bootstrap interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Percentiles of one kind of latency, seconds; None where the samples do not carry them."""

    n: int
    percentiles: dict[int, float | None]
    p50_interval: Interval | None = None


@dataclass(frozen=True)
class ClientLag:
    """How far this client's stamps lie behind the server's, where the server stamps on the same clock, seconds."""

    n: int
    first_p50_s: float
    """Arrival minus sending of first content chunks."""
    first_p99_s: float | None
    itl_mean_abs_s: float
    """Mean of |gap measured here - gap on the server|."""


@dataclass(frozen=True)
class LatencyReport:
    """The figures of one load test and the condition they stand under."""

    start: RunStart
    window_s: float
    sent: int
    """Rows of the file, those sent after the window's end included."""
    in_window: int
    ok: int
    failures: dict[Status, int]
    """Requests in the window by how they ended, without `ok`; only classes that occurred."""
    lost: int | None
    """Requests without a row; None when the test was killed and nobody knows."""
    ttft: Summary
    itl: Summary
    tpot: Summary
    e2e: Summary
    requests_per_s: float
    """`ok` requests that ended inside the window, over its length."""
    output_tokens_per_s: float
    """Tokens that arrived inside the window, over its length."""
    tokens_per_chunk: float | None
    """Above 1, chunks hold several tokens: ITL is then the gap between chunks, and TPOT tells a token's time."""
    finish_reasons: dict[str, int]
    client_cpu_share: float | None
    """Of one core, between start and end."""
    lag: ClientLag | None


def latency_report(rows: LoadRows) -> LatencyReport:
    """Every figure of one load test."""
    start_ns, stop_ns = rows.start.start_ns, _stop_ns(rows)
    window_s = (stop_ns - start_ns) / NS_PER_S
    inside = [record for record in rows.records if start_ns <= record.sent_ns <= stop_ns]
    ok = [record for record in inside if record.status is Status.OK]
    ended = sum(record.ended_ns <= stop_ns for record in ok)
    tokens = sum(tokens_until(record, stop_ns) for record in inside if record.status in _DELIVERED)
    return LatencyReport(
        start=rows.start,
        window_s=window_s,
        sent=len(rows.records),
        in_window=len(inside),
        ok=len(ok),
        failures=dict(Counter(record.status for record in inside if record.status is not Status.OK)),
        lost=rows.lost,
        ttft=summarize([record.ttft_s for record in ok if record.ttft_s is not None], interval=True),
        itl=summarize([gap for record in ok for gap in record.itl_s]),
        tpot=summarize([tpot for record in ok if (tpot := tpot_s(record)) is not None]),
        e2e=summarize([record.e2e_s for record in ok if record.e2e_s is not None], interval=True),
        requests_per_s=ended / window_s if window_s else 0.0,
        output_tokens_per_s=tokens / window_s if window_s else 0.0,
        tokens_per_chunk=_tokens_per_chunk(ok),
        finish_reasons=dict(Counter(record.finish_reason or "none" for record in ok)),
        client_cpu_share=_cpu_share(rows),
        lag=_client_lag(ok),
    )


def needed_samples(percentile: int) -> int:
    """Fewest samples a percentile is printed for: 2 for p50, 10 for p90, 20 for p95, 100 for p99.

    With fewer than 100 / (100 - p) samples not one is expected beyond the percentile, and what would be printed is
    the largest sample under another name.
    """
    return math.ceil(100 / (100 - percentile))


def summarize(samples_s: Sequence[float], *, interval: bool = False) -> Summary:
    """Percentiles of `samples_s`, each only where there are samples enough for it."""
    values = np.asarray(samples_s, dtype=np.float64)
    found = {
        p: float(np.percentile(values, p, method="linear")) if len(values) >= needed_samples(p) else None
        for p in PERCENTILES
    }
    return Summary(len(values), found, _median_interval(values) if interval else None)


def tpot_s(record: RequestRecord) -> float | None:
    """Mean seconds per output token after the first; None for an answer of one token or of unknown length."""
    if record.e2e_s is None or record.ttft_s is None or not record.output_tokens or record.output_tokens < 2:
        return None
    return (record.e2e_s - record.ttft_s) / (record.output_tokens - 1)


def tokens_until(record: RequestRecord, stop_ns: int) -> float:
    """Output tokens of a request that arrived by `stop_ns`; a chunk counts for its share of the request's tokens.

    A request sent near the window's end brings most of its tokens after it: counting them all would overstate
    throughput, and counting none would understate it.
    """
    if record.first_content_ns is None:
        return 0.0
    offsets_ns = np.concatenate([[0.0], np.cumsum(record.itl_s)]) * NS_PER_S
    # Half a nanosecond forgives the seconds' rounding.
    arrived = int(np.count_nonzero(record.first_content_ns + offsets_ns <= stop_ns + 0.5))
    tokens = record.output_tokens if record.output_tokens is not None else record.content_chunks
    return arrived / record.content_chunks * tokens


def _median_interval(values: Floats) -> Interval | None:
    """Resamples requests as if they were independent; requests that share a queue are not quite, so it is narrow."""
    if len(values) < INTERVAL_SAMPLES:
        return None
    # Imported where it is used: it takes a second, which a mistyped option need not wait for.
    from scipy.stats import bootstrap

    found = bootstrap(
        (values,), np.median, n_resamples=_RESAMPLES, batch=100, method="percentile", rng=np.random.default_rng(_SEED)
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def _stop_ns(rows: LoadRows) -> int:
    """The window's end; of a test that was killed, the last moment a row tells of."""
    if rows.end:
        return rows.end.stop_ns
    return max((record.ended_ns for record in rows.records), default=rows.start.start_ns)


def _tokens_per_chunk(records: Sequence[RequestRecord]) -> float | None:
    counted = [record for record in records if record.output_tokens is not None]
    chunks = sum(record.content_chunks for record in counted)
    return sum(record.output_tokens or 0 for record in counted) / chunks if chunks else None


def _cpu_share(rows: LoadRows) -> float | None:
    if rows.end is None or rows.end.end_ns <= rows.start.start_ns:
        return None
    return rows.end.cpu_s / ((rows.end.end_ns - rows.start.start_ns) / NS_PER_S)


def _client_lag(records: Sequence[RequestRecord]) -> ClientLag | None:
    lags = [np.asarray(record.lag_s) for record in records if record.lag_s]
    if not lags:
        return None
    first = summarize([float(lag[0]) for lag in lags])
    gaps = np.concatenate([np.abs(np.diff(lag)) for lag in lags])
    median = first.percentiles[50]
    return ClientLag(
        n=first.n,
        first_p50_s=median if median is not None else float(lags[0][0]),
        first_p99_s=first.percentiles[99],
        itl_mean_abs_s=float(gaps.mean()) if len(gaps) else 0.0,
    )
