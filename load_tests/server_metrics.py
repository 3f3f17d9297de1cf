"""Both sides of the wire: what the server counted and measured during a load test, beside what its client saw. Pure.

Counters and histograms are the difference of the readings after and before, hence of the test alone, warm-up excluded,
but of everybody who used the server meanwhile. Means are exact (sum over count). Percentiles lie somewhere in their
bucket: given is the linear interpolation, as Prometheus' histogram_quantile does it, with the bucket's bounds, which
are how far off it may be.

The server's TTFT runs from the moment its frontend has taken a request in to the first token; the client's from sending
to the first chunk with text. Their difference is the network, HTTP on both sides, reading the request, and any tokens
that had no text to show yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from load_tests.latency import PERCENTILES, needed_samples
from load_tests.rows import LoadRows
from load_tests.scrape import (
    COUNTERS,
    GAUGES,
    GPU_LISTS,
    HISTOGRAMS,
    NUMBERS,
    Cumulative,
    Scraped,
    Scraper,
    read_scraped,
)
from load_tests.sse import RequestRecord, Status

__all__ = ["Scraper", "ServerReport", "server_json", "server_metrics", "server_report", "server_sentences"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bounded:
    """A percentile read from buckets, seconds; it lies between low and high, and above the last bound nobody knows."""

    value_s: float | None
    low_s: float
    high_s: float | None


@dataclass(frozen=True)
class Distribution:
    """One of the server's own latencies over the test."""

    n: int
    mean_s: float | None
    percentiles: dict[int, Bounded | None]
    """None where there are too few samples for one."""


@dataclass(frozen=True)
class BothSides:
    """A latency as its client and its server saw it, means of all requests of the test."""

    client_n: int
    client_mean_s: float
    server_n: int
    server_mean_s: float

    @property
    def difference_s(self) -> float:
        """Client minus server."""
        return self.client_mean_s - self.server_mean_s


@dataclass(frozen=True)
class TokenCheck:
    """Tokens as the server counted them, and as its usage told the client."""

    kind: str
    """prompt or output"""
    server: int
    client: int
    without_usage: int
    """Requests that reached the server but brought no usage: the client cannot know their tokens."""
    because: str
    """Empty when both agree; else what is known of why not."""

    @property
    def equal(self) -> bool:
        """Whether both sides counted the same."""
        return self.server == self.client


@dataclass(frozen=True)
class Level:
    """A gauge over the readings during the test."""

    n: int
    mean: float
    most: float


@dataclass(frozen=True)
class ServerReport:
    """The server's side of one load test."""

    covered_s: float
    """From the first reading to the last."""
    readings: int
    missed: int
    cpu_share: float
    """Of one core, for reading the figures."""
    restarted: bool
    levels: dict[str, Level]
    """By name: running, waiting, kv_use (share of the KV cache), and gpu_* where there is a GPU."""
    counters: dict[str, float]
    """What was counted during the test; after a restart at least so much."""
    finished: dict[str, int]
    """Requests by the reason they finished for; empty after a restart."""
    latencies: dict[str, Distribution]
    """ttft, itl, e2e, queue, prefill, decode; empty after a restart."""
    both: dict[str, BothSides]
    """ttft, itl and e2e, where both sides have samples."""
    tokens: tuple[TokenCheck, ...]
    notes: tuple[str, ...]
    """What a reader must know before believing the figures."""
    series: dict[str, list[float | None]]
    """Every column of server.parquet; `at_s` in seconds since the test's start. Of several GPUs, busy is the mean, and
    memory and power are the sum."""

    @property
    def prefix_hit_rate(self) -> float | None:
        """Prompt tokens found in the prefix cache, of those looked up."""
        queries = self.counters.get("prefix_queries")
        return self.counters.get("prefix_hits", 0.0) / queries if queries else None


def server_report(path: Path, rows: LoadRows) -> ServerReport:
    """The report of what a Scraper wrote. Raises BadInput when the file is missing or is none of ours."""
    return report_of(read_scraped(path), rows)


def report_of(scraped: Scraped, rows: LoadRows) -> ServerReport:
    """Server and client, put side by side."""
    series = _series(scraped, rows.start.start_at_s)
    restarted = _restarted(series)
    covered_s = scraped.after.at_s - scraped.before.at_s
    counters = {name: _increase(series[name]) for name in COUNTERS if name in scraped.after.counters}
    finished = {} if restarted else _finished(scraped)
    latencies = {} if restarted else _latencies(scraped)
    return ServerReport(
        covered_s=covered_s,
        readings=len(scraped.lines),
        missed=scraped.missed,
        cpu_share=scraped.cpu_s / covered_s if covered_s > 0 else 0.0,
        restarted=restarted,
        levels=_levels(series),
        counters=counters,
        finished=finished,
        latencies=latencies,
        both=_both_sides(latencies, rows.records),
        tokens=_tokens(scraped, counters, finished, restarted, rows),
        notes=tuple(_notes(scraped, restarted, latencies, rows)),
        series=series,
    )


# --- the server alone ------------------------------------------------------------------------------------


def _series(scraped: Scraped, start_at_s: float) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {
        name: [line.get(name) for line in scraped.lines] for name in NUMBERS if name != "at_s"
    }
    found["at_s"] = [line["at_s"] - start_at_s for line in scraped.lines]
    for name in GPU_LISTS if scraped.gpus else ():
        found[name] = [_of_all_gpus(name, line.get(name) or []) for line in scraped.lines]
    return found


def _of_all_gpus(name: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return sum(known) / (len(known) if name == "gpu_busy" else 1)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _restarted(series: dict[str, list[float | None]]) -> bool:
    """A counter never falls and a process starts once, unless it is another process."""
    falls = any((np.diff(_known(series[name])) < 0).any() for name in (*COUNTERS, "finished"))
    return falls or len(set(_known(series["started_s"]))) > 1


def _increase(values: Sequence[float | None]) -> float:
    """How much a counter rose; after a restart it counts from 0, and what came between two readings is lost."""
    known = _known(values)
    rises = np.diff(known)
    return float(np.where(rises < 0, known[1:], rises).sum())


def _finished(scraped: Scraped) -> dict[str, int]:
    before = scraped.before.finished
    return {
        reason: round(count - before.get(reason, 0.0))
        for reason, count in sorted(scraped.after.finished.items())
        if count > before.get(reason, 0.0)
    }


def _levels(series: dict[str, list[float | None]]) -> dict[str, Level]:
    names = [name for name in (*GAUGES, *GPU_LISTS) if _known(series.get(name, []))]
    return {name: _level(_known(series[name])) for name in names}


def _level(values: Sequence[float]) -> Level:
    return Level(len(values), sum(values) / len(values), max(values))


def _latencies(scraped: Scraped) -> dict[str, Distribution]:
    before, after = scraped.before.histograms, scraped.after.histograms
    empty = Cumulative(0.0, 0.0, (), ())
    return {name: _distribution(before.get(name, empty), after[name]) for name in HISTOGRAMS if name in after}


def _distribution(before: Cumulative, after: Cumulative) -> Distribution:
    n = round(after.count - before.count)
    counts = np.asarray(after.counts)
    if before.bounds_s == after.bounds_s:
        counts = counts - np.asarray(before.counts)
    # A server that was gone at the end has left counts and sums, but no buckets.
    known = {p for p in PERCENTILES if after.bounds_s and n >= needed_samples(p)}
    found = {p: bounded(after.bounds_s, counts, n, p) if p in known else None for p in PERCENTILES}
    return Distribution(n, (after.sum_s - before.sum_s) / n if n else None, found)


def bounded(bounds_s: Sequence[float], counts: Floats, n: int, p: float) -> Bounded:
    """A percentile of `n` samples, `counts` of which lie at or below each bound."""
    rank = n * p / 100
    place = int(np.searchsorted(counts, rank, side="left"))
    low_s = bounds_s[place - 1] if place else 0.0
    if place == len(bounds_s):
        return Bounded(None, low_s, None)
    below = float(counts[place - 1]) if place else 0.0
    share = (rank - below) / (float(counts[place]) - below)
    return Bounded(low_s + share * (bounds_s[place] - low_s), low_s, bounds_s[place])


# --- beside the client -----------------------------------------------------------------------------------


def _both_sides(latencies: dict[str, Distribution], records: Sequence[RequestRecord]) -> dict[str, BothSides]:
    """All requests count that came so far, ok or not: the server has measured them too.

    Not e2e where some were hung up on: the server has those as well, and ends them when it notices.
    """
    client = {
        "ttft": [record.ttft_s for record in records if record.ttft_s is not None],
        "itl": [gap for record in records for gap in record.itl_s],
        "e2e": [record.e2e_s for record in records if record.e2e_s is not None and record.status is Status.OK],
    }
    if any(record.status is Status.CANCELLED for record in records):
        del client["e2e"]
    return {
        name: BothSides(len(values), sum(values) / len(values), server.n, server.mean_s)
        for name, values in client.items()
        if values and (server := latencies.get(name)) and server.mean_s is not None
    }


_NEVER_TAKEN = {
    Status.RATE_LIMITED,
    Status.SERVER_ERROR,
    Status.HTTP_ERROR,
    Status.REFUSED,
    Status.CONNECTION,
}
"""Requests that ended before the server generated for them."""


def _tokens(
    scraped: Scraped, counters: dict[str, float], finished: dict[str, int], restarted: bool, rows: LoadRows
) -> tuple[TokenCheck, ...]:
    sides = [
        ("prompt", counters.get("prompt_tokens"), [record.prompt_tokens for record in rows.records]),
        ("output", counters.get("output_tokens"), [record.output_tokens for record in rows.records]),
    ]
    found = []
    for kind, server, told in sides:
        if server is None:
            continue
        client = sum(count for count in told if count is not None)
        unknown = [record for record, count in zip(rows.records, told, strict=True) if count is None]
        silent = sum(record.status not in _NEVER_TAKEN for record in unknown)
        because = (
            ""
            if server == client
            else _why_different(scraped, round(server) - client, silent, finished, restarted, rows)
        )
        found.append(TokenCheck(kind, round(server), client, silent, because))
    return tuple(found)


def _why_different(
    scraped: Scraped, more: int, silent: int, finished: dict[str, int], restarted: bool, rows: LoadRows
) -> str:
    """What is known of why the server counted `more` tokens (or fewer) than its usage told."""
    if restarted:
        return "the server restarted during the test, and what it had counted since the last reading is lost"
    known = []
    others = sum(finished.values()) - len(rows.records)
    if others > 0:
        known.append(f"requests the server finished beyond those this test sent: {others}, hence other clients")
    elif scraped.busy_before:
        known.append("the server was busy before the test: other clients")
    if more > 0 and silent:
        known.append(f"without usage: {silent} requests, cut, cancelled or failed after the server took them")
    if rows.lost:
        known.append(f"requests without a row: {rows.lost}")
    if not scraped.settled:
        known.append("the last reading was taken while requests still ran")
    return "; ".join(known) or "no reason is known: is this the server that answered?"


def _notes(scraped: Scraped, restarted: bool, latencies: dict[str, Distribution], rows: LoadRows) -> list[str]:
    notes = []
    if restarted:
        notes.append("the server restarted during the test: its counters are at least so high, its latencies unknown")
    if scraped.busy_before:
        notes.append("the server was busy before the test: its figures hold other clients' requests")
    if not scraped.settled:
        notes.append("the server still worked, or was gone, at the last reading: the last requests may not be counted")
    if scraped.missed:
        notes.append(
            f"{scraped.missed} of {scraped.missed + len(scraped.lines)} readings failed: {scraped.missed_because}"
        )
    first = latencies.get("ttft")
    answered = sum(record.ttft_s is not None for record in rows.records)
    if first and first.n != answered:
        notes.append(
            f"the server gave {first.n} first tokens, this test saw {answered}: the means are of different requests"
        )
    return notes


# --- for people and programs -----------------------------------------------------------------------------


def server_json(report: ServerReport) -> dict[str, Any]:
    """Everything but the series, which is in server.parquet; seconds."""
    told = asdict(report)
    del told["series"]
    told["prefix_hit_rate"] = report.prefix_hit_rate
    told["both"] = {name: {**asdict(both), "difference_s": both.difference_s} for name, both in report.both.items()}
    told["tokens"] = [{**asdict(check), "equal": check.equal} for check in report.tokens]
    for name, one in report.latencies.items():
        told["latencies"][name]["percentiles"] = {
            f"p{p}": None if found is None else asdict(found) for p, found in one.percentiles.items()
        }
    return told


def server_metrics(report: ServerReport) -> dict[str, float]:
    """The report as flat metrics, units in their names; what cannot be said is left out, never zero."""
    found: dict[str, float | None] = {f"server_{name}": value for name, value in report.counters.items()}
    found |= {f"server_finished_{reason}": count for reason, count in report.finished.items()}
    for name, level in report.levels.items():
        found |= {f"server_{name}_mean": level.mean, f"server_{name}_most": level.most}
    for name, one in report.latencies.items():
        found |= {f"server_{name}_s_mean": one.mean_s, f"server_{name}_n": one.n}
    for name, both in report.both.items():
        found[f"client_minus_server_{name}_s"] = both.difference_s
    found["server_prefix_hit_rate"] = report.prefix_hit_rate
    return {name: float(value) for name, value in found.items() if value is not None}


def server_sentences(report: ServerReport) -> list[str]:
    """The report in a few lines: both sides, tokens, the queue, and what makes it doubtful."""
    told = [_both_told(name, both) for name, both in report.both.items()]
    told += [_tokens_told(check) for check in report.tokens]
    queue, prefill = report.latencies.get("queue"), report.latencies.get("prefill")
    if queue and queue.mean_s is not None and prefill and prefill.mean_s is not None:
        told.append(
            f"server means: queue {queue.mean_s * 1e3:.1f} ms, prefill {prefill.mean_s * 1e3:.1f} ms (n={queue.n})"
        )
    return [*told, *report.notes]


_NAMES = {"ttft": "TTFT", "itl": "ITL", "e2e": "e2e"}


def _both_told(name: str, both: BothSides) -> str:
    return (
        f"{_NAMES[name]} mean: client {both.client_mean_s * 1e3:.2f} ms (n={both.client_n}), "
        f"server {both.server_mean_s * 1e3:.2f} ms (n={both.server_n}), difference {both.difference_s * 1e3:+.2f} ms"
    )


def _tokens_told(check: TokenCheck) -> str:
    if check.equal:
        return f"{check.kind} tokens: {check.server}, the same on both sides"
    return (
        f"{check.kind} tokens: server {check.server}, client {check.client}, "
        f"difference {check.server - check.client:+d}: {check.because}"
    )
