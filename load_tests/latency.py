"""From the rows of a load test to its figures: pure.

TTFT   seconds from sending a request to its first content chunk
ITL    each gap between two content chunks of one answer: as many samples as gaps, not a mean per request
TPOT   per request, (e2e - TTFT) / (output tokens - 1), tokens as the server counts them
e2e    seconds from sending to the last content chunk

TTFT and e2e are also given from the intended start: the moment the schedule had, or a user was ready. The difference
is the scheduling lag, always shown, since a client that sends late hides the queue it makes.

Which requests: those sent inside the steady window (phases.py); where there is none, all that were sent while the test
ran, and the report says so. Latencies are those of `ok` requests alone, and every other request is counted by its
class: a failed request has no latency, and a quick failure must not make an endpoint look fast. Requests cut by the end
of the test are the slow ones, so where there are any the high percentiles are too low.

Percentiles are numpy's `linear` method (Hyndman and Fan's type 7), what numpy and pandas do by default. Intervals are
intervals.py's: order statistics, widened for requests that are alike because they share a queue.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from load_tests.intervals import batches, percentile_bounds, share_bounds
from load_tests.phases import NoSteady, Steady, steady_state, stop_of
from load_tests.profiles import SyntheticWorkload
from load_tests.rows import LoadRows, RunStart
from load_tests.sse import NS_PER_S, RequestRecord, Status

PERCENTILES = (50, 90, 95, 99)
BUSY_SHARE = 0.8
"""Share of one core above which the load generator's own queueing shows in the figures."""
LATE_SHARE = 0.05
"""Of the TTFT's median: a p99 of the scheduling lag above it shows in the figures."""
STOLEN_SHARE = 0.05
"""Of the machine's time. On two cores at 50 requests/s, the p99 of the lag was 0.7 ms with 0.3 % stolen, 2.1 and 2.2 ms
with 4 %, and 3 to 10 ms with 5 to 26 % (docs/log.md, one run each)."""
LOADS = 3
"""Into so many equal parts are requests cut by how many others were in flight when they were sent."""
LEAST_PER_LOAD = 5
"""Scored answers in each part; with fewer nothing is said."""

_DELIVERED = {Status.OK, Status.INCOMPLETE}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A two-sided 90 % interval: one-sided 95 % bounds each; None where the samples are too few to have one."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class Summary:
    """Percentiles of one kind of latency, seconds; None where the samples do not carry them."""

    n: int
    percentiles: dict[int, float | None]
    intervals: dict[int, Interval]
    """Of the percentiles that are given."""
    mean: float | None = None


@dataclass(frozen=True)
class Estimate:
    """A share with one-sided 95 % bounds, or a mean score with its two-sided 95 % interval; None where unknown."""

    n: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StageFigures:
    """One agent's requests in the window."""

    stage: str
    n: int
    ok: int
    ttft: Summary
    e2e: Summary
    output_tokens: float | None
    """Mean per answer; None where the server told none."""
    schema_valid: Estimate | None


@dataclass(frozen=True)
class LoadFigures:
    """The scored answers of requests that were sent when so many were in flight."""

    from_in_flight: int
    to_in_flight: int
    headline: Estimate
    schema_valid: Estimate | None


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
class PromptLengths:
    """Whether synthetic prompts had the length that was asked for, by the server's own usage."""

    asked: int
    counted: int
    """Requests whose usage is known."""
    other: int
    """Of those, how many had another length."""


@dataclass(frozen=True)
class LatencyReport:
    """The figures of one load test and the condition they stand under."""

    start: RunStart
    phases: Steady | NoSteady
    window_s: float
    sent: int
    """Rows of the whole test."""
    scheduled: int | None
    """Requests the schedule had, all workers together; None in a closed loop."""
    unsent: int | None
    """Of those, how many were never sent; None in a closed loop, or when nobody knows."""
    cancelled: int
    """Of them, those drawn to be hung up on, as the profile has it. They are in no figure below."""
    in_window: int
    ok: int
    failures: dict[Status, int]
    """Requests in the window by how they ended, without `ok`; only classes that occurred."""
    failed_outside: int
    """Requests that failed and were sent outside the window."""
    lost: int | None
    """Requests without a row; None when the test was killed and nobody knows."""
    ttft: Summary
    ttft_from_intended: Summary
    itl: Summary
    tpot: Summary
    e2e: Summary
    e2e_from_intended: Summary
    scheduling_lag: Summary
    """Of every request in the window, whatever became of it."""
    requests_per_s: float
    """`ok` requests that ended inside the window, over its length."""
    output_tokens_per_s: float
    """Tokens that arrived inside the window, over its length."""
    tokens_per_chunk: float | None
    """Above 1, chunks hold several tokens: ITL is then the gap between chunks, and TPOT tells a token's time."""
    finish_reasons: dict[str, int]
    schema_valid: Estimate | None
    """Share of whole answers that fit the schema asked for; None where none was checked."""
    headline: Estimate | None
    """Mean of the evaluation's score; None where nothing was scored."""
    by_load: tuple[LoadFigures, ...]
    """Whether answers are worse when the server is full; empty without scores enough."""
    stages: tuple[StageFigures, ...]
    cpu_by_worker: dict[int, float]
    """Share of one core that each worker's sending process used; workers that did not end are left out."""
    stolen_share: float | None
    """Of the client machine's time, what its hypervisor gave to others: that of the worst worker's machine."""
    lag: ClientLag | None
    prompt_lengths: PromptLengths | None

    @property
    def client_cpu_share(self) -> float | None:
        """That of the busiest worker."""
        return max(self.cpu_by_worker.values(), default=None)


def latency_report(rows: LoadRows) -> LatencyReport:
    """Every figure of one load test."""
    phases = steady_state(rows)
    steady = phases if isinstance(phases, Steady) else None
    start_s, end_s = (steady.start_s, steady.end_s) if steady else (0.0, _all_sent(rows))
    kept = [record for record in rows.records if record.cancel_after_chunks is None]
    inside = sent_between(kept, start_s, end_s)
    ok = [record for record in inside if record.status is Status.OK]
    window_s = end_s - start_s
    return LatencyReport(
        start=rows.start,
        phases=phases,
        window_s=window_s,
        sent=len(rows.records),
        scheduled=_scheduled(rows),
        unsent=rows.unsent if rows.start.loop == "open" else None,
        cancelled=len(rows.records) - len(kept),
        in_window=len(inside),
        ok=len(ok),
        failures=dict(Counter(record.status for record in inside if record.status is not Status.OK)),
        failed_outside=sum(record.status is not Status.OK for record in kept) - (len(inside) - len(ok)),
        lost=rows.lost,
        ttft=_summary(ok, lambda record: record.ttft_s),
        ttft_from_intended=_summary(ok, lambda record: record.ttft_from_intended_s),
        itl=_gaps(ok),
        tpot=_summary(ok, tpot_s),
        e2e=_summary(ok, lambda record: record.e2e_s),
        e2e_from_intended=_summary(ok, lambda record: record.e2e_from_intended_s),
        scheduling_lag=_summary(inside, lambda record: record.scheduling_lag_s),
        requests_per_s=ended_between(kept, start_s, end_s) / window_s if window_s else 0.0,
        output_tokens_per_s=tokens_between(kept, start_s, end_s) / window_s if window_s else 0.0,
        tokens_per_chunk=_tokens_per_chunk(ok),
        finish_reasons=dict(Counter(record.finish_reason or "none" for record in ok)),
        schema_valid=_schema_valid(ok),
        headline=_headline(ok),
        by_load=_by_load(rows.records, ok),
        stages=tuple(_stage(stage, inside) for stage in sorted({record.stage for record in inside})),
        cpu_by_worker=cpu_shares(rows),
        stolen_share=stolen_share(rows),
        lag=_client_lag(ok),
        prompt_lengths=_prompt_lengths(rows),
    )


def sent_between(records: Sequence[RequestRecord], start_s: float, end_s: float) -> list[RequestRecord]:
    """Requests sent in [start_s, end_s), in order of sending."""
    inside = [record for record in records if start_s <= record.sent_ns / NS_PER_S < end_s]
    return sorted(inside, key=lambda record: (record.sent_ns, record.index))


def needed_samples(percentile: float) -> int:
    """Fewest samples a percentile is printed for: 2 for p50, 10 for p90, 20 for p95, 100 for p99.

    With fewer than 100 / (100 - p) samples not one is expected beyond the percentile, and what would be printed is
    the largest sample under another name.
    """
    return math.ceil(100 / (100 - percentile))


def summarize(samples_s: Sequence[float] | Floats, batch_of: NDArray[np.intp] | None = None) -> Summary:
    """Percentiles of samples in order of sending, each only where there are samples enough for it.

    batch_of: the batch each sample is in, where one request has several; else they are cut into equal batches.
    """
    values = np.asarray(samples_s, dtype=np.float64)
    places = batches(len(values)) if batch_of is None else batch_of
    given = {p: len(values) >= needed_samples(p) for p in PERCENTILES}
    return Summary(
        n=len(values),
        percentiles={p: float(np.percentile(values, p, method="linear")) if given[p] else None for p in PERCENTILES},
        intervals={p: Interval(*percentile_bounds(values, p, places)) for p in PERCENTILES if given[p]},
        mean=float(values.mean()) if len(values) else None,
    )


def tpot_s(record: RequestRecord) -> float | None:
    """Mean seconds per output token after the first; None for an answer of one token or of unknown length."""
    if record.e2e_s is None or record.ttft_s is None or not record.output_tokens or record.output_tokens < 2:
        return None
    return (record.e2e_s - record.ttft_s) / (record.output_tokens - 1)


def tokens_between(records: Sequence[RequestRecord], start_s: float, end_s: float) -> float:
    """Output tokens that arrived in [start_s, end_s), of requests sent at any time.

    A request near an edge of the window brings a part of its tokens on the other side: counting all of those that were
    sent inside would leave out the first ones' predecessors and count what came after the end.
    """
    delivered = [record for record in records if record.status in _DELIVERED]
    return sum(tokens_until(record, end_s) - tokens_until(record, start_s) for record in delivered)


def tokens_until(record: RequestRecord, until_s: float) -> float:
    """Output tokens of a request that arrived before a moment, seconds after the test's start.

    A chunk counts for its share of the request's tokens.
    """
    first_ns, until_ns = record.first_content_ns, until_s * NS_PER_S
    if first_ns is None or record.last_content_ns is None or first_ns >= until_ns:
        return 0.0
    tokens = record.output_tokens if record.output_tokens is not None else record.content_chunks
    if record.last_content_ns < until_ns:
        return float(tokens)
    offsets_ns = np.concatenate([[0.0], np.cumsum(record.itl_s)]) * NS_PER_S
    # Half a nanosecond forgives the seconds' rounding.
    return int(np.count_nonzero(first_ns + offsets_ns < until_ns - 0.5)) / record.content_chunks * tokens


def cpu_shares(rows: LoadRows) -> dict[int, float]:
    """Share of one core that each worker's sending process used while it sent; those that did not end are left out."""
    return {
        start.worker: end.cpu_s / (end.stop_ns / NS_PER_S)
        for start, end in zip(rows.starts, rows.ends, strict=True)
        if end is not None and end.stop_ns > 0
    }


def stolen_share(rows: LoadRows) -> float | None:
    """Of the client machines' time, what a hypervisor gave to others: the worst one's; None where nobody knows."""
    return max((end.stolen_share for end in rows.ends if end and end.stolen_share is not None), default=None)


def in_flight_when_sent(records: Sequence[RequestRecord], of: Sequence[RequestRecord]) -> NDArray[np.intp]:
    """How many of `records` were under way when each of `of` was sent, itself left out."""
    sent = np.sort([record.sent_ns for record in records])
    ended = np.sort([record.ended_ns for record in records])
    at = np.array([record.sent_ns for record in of])
    under_way: NDArray[np.intp] = np.searchsorted(sent, at, "right") - np.searchsorted(ended, at, "right") - 1
    return under_way


# --- parts of the report ---------------------------------------------------------------------------------


def _summary(records: Sequence[RequestRecord], value: Callable[[RequestRecord], float | None]) -> Summary:
    return summarize([found for record in records if (found := value(record)) is not None])


def _gaps(records: Sequence[RequestRecord]) -> Summary:
    """Gaps of one request are alike, so a request's gaps stay in one batch."""
    counts = np.array([len(record.itl_s) for record in records], dtype=np.intp)
    gaps = [gap for record in records for gap in record.itl_s]
    return summarize(gaps, np.repeat(batches(len(records)), counts))


def _all_sent(rows: LoadRows) -> float:
    """A moment after the last sending, and the end of sending if that is later."""
    last_s = max((record.sent_ns for record in rows.records), default=-1) / NS_PER_S
    return max(stop_of(rows), float(np.nextafter(last_s, np.inf)))


def _scheduled(rows: LoadRows) -> int | None:
    known = [start.scheduled for start in rows.starts if start.scheduled is not None]
    return sum(known) if len(known) == rows.start.workers else None


def ended_between(
    records: Sequence[RequestRecord], start_s: float, end_s: float, how: Collection[Status] = (Status.OK,)
) -> int:
    """Requests that ended so in [start_s, end_s), whenever they were sent."""
    return sum(record.status in how and start_s <= record.ended_ns / NS_PER_S < end_s for record in records)


def _tokens_per_chunk(records: Sequence[RequestRecord]) -> float | None:
    counted = [record for record in records if record.output_tokens is not None]
    chunks = sum(record.content_chunks for record in counted)
    return sum(record.output_tokens or 0 for record in counted) / chunks if chunks else None


def _schema_valid(records: Sequence[RequestRecord]) -> Estimate | None:
    found = np.array([record.schema_valid for record in records if record.schema_valid is not None], dtype=np.bool_)
    if not len(found):
        return None
    return Estimate(len(found), float(found.mean()), *share_bounds(found, batches(len(found))))


def _headline(records: Sequence[RequestRecord]) -> Estimate | None:
    """Mean score, 95 % interval; the same case asked again is no new evidence, so the interval counts cases."""
    scored = [(record.headline, record.pipeline_id) for record in records if record.headline is not None]
    if not scored:
        return None
    from evals.statistics import estimate

    found = estimate([value for value, _ in scored], [case for _, case in scored])
    return Estimate(len(scored), found.mean, found.low, found.high)


def _by_load(everything: Sequence[RequestRecord], ok: Sequence[RequestRecord]) -> tuple[LoadFigures, ...]:
    """Scores by how full the server was when the request was sent, in thirds."""
    scored = [record for record in ok if record.headline is not None]
    if len(scored) < LOADS * LEAST_PER_LOAD:
        return ()
    under_way = in_flight_when_sent(everything, scored)
    bounds = np.quantile(under_way, np.arange(1, LOADS) / LOADS, method="lower")
    third = np.searchsorted(bounds, under_way, side="left")
    found = []
    for one in range(LOADS):
        places = np.flatnonzero(third == one)
        if len(places) < LEAST_PER_LOAD:
            return ()  # the load was the same most of the time: there is nothing to compare
        own = [scored[place] for place in places]
        estimate = _headline(own)
        if estimate is not None:
            low, high = int(under_way[places].min()), int(under_way[places].max())
            found.append(LoadFigures(low, high, estimate, _schema_valid(own)))
    return tuple(found)


def _stage(stage: str, inside: Sequence[RequestRecord]) -> StageFigures:
    own = [record for record in inside if record.stage == stage]
    ok = [record for record in own if record.status is Status.OK]
    tokens = [record.output_tokens for record in ok if record.output_tokens is not None]
    return StageFigures(
        stage=stage,
        n=len(own),
        ok=len(ok),
        ttft=_summary(ok, lambda record: record.ttft_from_intended_s),
        e2e=_summary(ok, lambda record: record.e2e_from_intended_s),
        output_tokens=sum(tokens) / len(tokens) if tokens else None,
        schema_valid=_schema_valid(ok),
    )


def _client_lag(records: Sequence[RequestRecord]) -> ClientLag | None:
    lags = [np.asarray(record.lag_s) for record in records if record.lag_s]
    if not lags:
        return None
    first = np.array([lag[0] for lag in lags])
    gaps = np.concatenate([np.abs(np.diff(lag)) for lag in lags])
    return ClientLag(
        n=len(first),
        first_p50_s=float(np.median(first)),
        first_p99_s=float(np.percentile(first, 99)) if len(first) >= needed_samples(99) else None,
        itl_mean_abs_s=float(gaps.mean()) if len(gaps) else 0.0,
    )


def _prompt_lengths(rows: LoadRows) -> PromptLengths | None:
    workload = rows.start.profile.get("workload")
    if not isinstance(workload, dict) or workload.get("kind") != "synthetic":
        return None
    asked = SyntheticWorkload.model_validate(workload).prompt_tokens
    counted = [record.prompt_tokens for record in rows.records if record.prompt_tokens is not None]
    return PromptLengths(asked, len(counted), sum(length != asked for length in counted))
