"""What the page of a load test draws: its rows as columns of seconds, and charts of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from load_tests.charts import Axis, Chart, Drawn, heat_map, latency_axis, linear_axis, round_step, time_axis
from load_tests.rows import LoadRows
from load_tests.server_metrics import ServerReport
from load_tests.sse import NS_PER_S, RequestRecord, Status

MOST_DOTS = 6000
"""Single requests in one chart: 60 kB of page."""
_BINS = 100
_HEAT_ROWS = 24
_FEW = 10
"""Fewest requests in a bin of time for it to have a p95."""

Floats = NDArray[np.float64]


class Shown(NamedTuple):
    """A chart, and what a reader should know of it."""

    title: str
    svg: Markup
    legend: list[tuple[str, Markup]]
    words: str


@dataclass(frozen=True)
class TestTimes:
    """Every request's moments, seconds after the start; NaN for what did not happen. In the rows' order."""

    __test__ = False  # no test of pytest's

    intended_s: Floats
    sent_s: Floats
    ended_s: Floats
    ok: NDArray[np.bool_]
    ttft_s: Floats
    e2e_s: Floats
    gaps_s: Floats
    """Every gap between chunks of ok requests sent in the steady window, or of all where there is none."""
    chunk_s: Floats
    """When each content chunk came."""
    chunk_tokens: Floats
    """Tokens of each chunk: its request's, as its usage says, over its chunks."""
    steady: tuple[float, float] | None
    end_s: float
    """The last moment of the test."""

    @classmethod
    def of(cls, rows: LoadRows, steady: tuple[float, float] | None) -> TestTimes:
        """The columns of `rows`; steady: the window that counts."""
        records = rows.records
        sent_s = _seconds(record.sent_ns for record in records)
        ended_s = _seconds(record.ended_ns for record in records)
        chunk_s, chunk_tokens = _chunks(records)
        start_s, end_s = steady or (-math.inf, math.inf)
        ok = np.array([r.status is Status.OK and r.cancel_after_chunks is None for r in records], np.bool_)
        inside = ok & (sent_s >= start_s) & (sent_s < end_s)
        gaps = [record.itl_s for record, wanted in zip(records, inside, strict=True) if wanted]
        return cls(
            intended_s=_seconds(record.intended_ns for record in records),
            sent_s=sent_s,
            ended_s=ended_s,
            ok=ok,
            ttft_s=_column(record.ttft_s for record in records),
            e2e_s=_column(record.e2e_s for record in records),
            gaps_s=np.fromiter(chain.from_iterable(gaps), np.float64),
            chunk_s=chunk_s,
            chunk_tokens=chunk_tokens,
            steady=steady,
            end_s=max([0.1, *(float(found.max()) for found in (sent_s, ended_s) if len(found))]),
        )

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Ok requests sent in the steady window; all ok ones where there is no such window."""
        start_s, end_s = self.steady or (-math.inf, math.inf)
        inside: NDArray[np.bool_] = self.ok & (self.sent_s >= start_s) & (self.sent_s < end_s)
        return inside

    @property
    def late_s(self) -> Floats:
        """How late each request was sent."""
        return self.sent_s - self.intended_s

    @property
    def e2e_from_intended_s(self) -> Floats:
        """From the intended start to the last content chunk."""
        return self.e2e_s + self.late_s

    def in_flight_at(self, moments_s: Floats) -> NDArray[np.int64]:
        """Requests sent by each moment and not ended by then."""
        begun = np.searchsorted(np.sort(self.sent_s), moments_s, side="right")
        return begun - np.searchsorted(np.sort(self.ended_s), moments_s, side="right")


def charts_of(times: TestTimes) -> dict[str, list[Shown]]:
    """The charts of the client's side, by section of the page; empty where nothing was answered."""
    if not len(times.sent_s):
        return {}
    return {
        "percentiles": _percentile_curves(times),
        "timeline": [_timeline(times), _in_flight(times)],
        "throughput": _throughput(times),
        "heat": _heat(times),
    }


def server_charts(server: ServerReport, times: TestTimes) -> list[Shown]:
    """What the server said every second."""
    series = {name: np.array([math.nan if one is None else one for one in row]) for name, row in server.series.items()}
    at_s = series["at_s"]
    x = time_axis(min(0.0, float(at_s.min())), max(times.end_s, float(at_s.max())))
    running = [("running", "running"), ("waiting", "waiting")]
    shown = [_gauges("Requests running and waiting", at_s, x, series, running, "")]
    shown += [_gauges("KV cache in use", at_s, x, series, [("kv_use", "share of the cache")], "", most=1.0)]
    shown += [_gauges("GPUs busy", at_s, x, series, [("gpu_busy", "share of the time")], "", most=1.0)]
    shown += [_gauges("GPU power", at_s, x, series, [("gpu_power_w", "watts")], " W")]
    shown += [_rates("Tokens a second, as the server counts them", at_s, x, series)]
    shown += [_means("Mean of each second's requests, on the server", at_s, x, series)]
    return [one for one in shown if one]


# --- the client's side -----------------------------------------------------------------------------------


def _percentile_curves(times: TestTimes) -> list[Shown]:
    here = times.counted
    ttft_s, e2e_s, late_s = times.ttft_s[here], times.e2e_s[here], times.late_s[here]
    kinds = [
        ("Percentiles of TTFT", [("from sending", ttft_s), ("from intended start", ttft_s + late_s)]),
        ("Percentiles of e2e", [("from sending", e2e_s), ("from intended start", e2e_s + late_s)]),
        ("Percentiles of ITL", [("gaps between chunks", times.gaps_s)]),
    ]
    return [found for title, curves in kinds if (found := _percentile_chart(title, curves))]


def _percentile_chart(title: str, curves: Sequence[tuple[str, Floats]]) -> Shown | None:
    n = len(curves[0][1])
    if n < 2:
        return None
    # As far as the samples go: the highest percentile shown has one sample beyond it.
    nines = math.log10(n)
    shares = 1 - 10 ** -np.linspace(0.0, nines, 160)
    rows = []
    for place, (name, values) in enumerate(curves):
        found_ms = np.asarray(np.quantile(values, shares), np.float64) * 1e3
        rows.append(Drawn(name, -np.log10(1 - shares), found_ms, "dashes" if place else "line", place))
    marks = [(0.0, "0"), (-math.log10(0.5), "50"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99")]
    x = Axis(0.0, nines, tuple((at, f"p{words}") for at, words in marks if at <= nines))
    y = latency_axis(np.concatenate([row.y for row in rows]) / 1e3)
    chart = Chart(title, x, y, rows)
    return Shown(title, chart.svg, chart.legend, f"n={n:,}; to the right each mark is ten times rarer.")


def _timeline(times: TestTimes) -> Shown:
    known = np.flatnonzero(np.isfinite(times.ttft_s))
    order = known[np.argsort(times.sent_s[known], kind="stable")]
    every = max(1, math.ceil(len(order) / MOST_DOTS))
    dots = order[::every]
    edges, middles = _bins(times.end_s)
    ttft_s = times.ttft_s[order] + times.late_s[order]
    of_bin = np.digitize(times.sent_s[order], edges) - 1
    rows = [
        Drawn("one request, from sending", times.sent_s[dots], times.ttft_s[dots] * 1e3, "dots", 0),
        Drawn("p50 from intended start", middles, _binned(of_bin, ttft_s, len(middles), 50) * 1e3, "line", 2),
        Drawn("p95 from intended start", middles, _binned(of_bin, ttft_s, len(middles), 95) * 1e3, "line", 1),
    ]
    axis = latency_axis(np.concatenate([row.y for row in rows]) / 1e3)
    title = "TTFT over time"
    chart = Chart(title, time_axis(0.0, times.end_s), axis, rows, _shaded(times))
    told = f"Percentiles of every {edges[1] - edges[0]:g} s, from all {len(order):,} requests with a first chunk"
    told += f"; dots: every {every}th of them, {len(dots):,}." if every > 1 else "; each is a dot."
    return Shown(title, chart.svg, chart.legend, told)


def _in_flight(times: TestTimes) -> Shown:
    edges, _ = _bins(times.end_s)
    moments_s = np.sort(np.concatenate([times.sent_s, edges]))
    level = times.in_flight_at(moments_s)
    starts = np.searchsorted(moments_s, edges[:-1])
    most = np.maximum.reduceat(level, starts).astype(float)
    rows = [Drawn("requests in flight", np.repeat(edges, 2)[1:-1], np.repeat(most, 2))]
    title = "Requests in flight"
    chart = Chart(
        title, time_axis(0.0, times.end_s), linear_axis(0.0, max(1.0, float(most.max()))), rows, _shaded(times)
    )
    return Shown(title, chart.svg, chart.legend, f"The most in every {edges[1] - edges[0]:g} s.")


def _throughput(times: TestTimes) -> list[Shown]:
    edges, _ = _bins(times.end_s)
    width_s = edges[1] - edges[0]
    requests = [
        ("sent", np.histogram(times.sent_s, edges)[0] / width_s, 3),
        ("ended ok", np.histogram(times.ended_s[times.ok], edges)[0] / width_s, 0),
        ("ended otherwise", np.histogram(times.ended_s[~times.ok], edges)[0] / width_s, 1),
    ]
    tokens = [("output tokens", np.histogram(times.chunk_s, edges, weights=times.chunk_tokens)[0] / width_s, 0)]
    return [
        _steps(title, edges, rows, times)
        for title, rows in (("Requests a second", requests), ("Output tokens a second", tokens))
    ]


def _steps(title: str, edges: Floats, rows: Sequence[tuple[str, Floats, int]], times: TestTimes) -> Shown:
    x = np.repeat(edges, 2)[1:-1]
    drawn = [Drawn(name, x, np.repeat(values, 2), "line", colour) for name, values, colour in rows if values.any()]
    most = max((float(row.y.max()) for row in drawn), default=1.0)
    chart = Chart(title, time_axis(0.0, times.end_s), linear_axis(0.0, most), drawn, _shaded(times))
    return Shown(title, chart.svg, chart.legend, f"In every {edges[1] - edges[0]:g} s.")


def _heat(times: TestTimes) -> list[Shown]:
    return [
        found
        for title, values in (
            ("TTFT from intended start", times.ttft_s + times.late_s),
            ("e2e from intended start", times.e2e_from_intended_s),
        )
        if (found := _heat_chart(title, values, times))
    ]


def _heat_chart(title: str, values_s: Floats, times: TestTimes) -> Shown | None:
    known = np.isfinite(values_s) & (values_s > 0)
    if not known.any():
        return None
    edges, _ = _bins(times.end_s)
    y = latency_axis(values_s[known])
    heights = np.geomspace(y.low, y.high, _HEAT_ROWS + 1)
    counts, _, _ = np.histogram2d(times.sent_s[known], np.clip(values_s[known] * 1e3, y.low, y.high), [edges, heights])
    x = Axis(0.0, float(edges[-1]), time_axis(0.0, float(edges[-1])).ticks)
    n, most = int(known.sum()), int(counts.max())
    told = f"n={n:,}; by moment of sending; the fullest cell holds {most:,}, shades go by the root of the count."
    return Shown(title, heat_map(title, x, y, counts.astype(np.int64)), [], told)


# --- the server's side -----------------------------------------------------------------------------------


def _gauges(
    title: str,
    at_s: Floats,
    x: Axis,
    series: dict[str, Floats],
    wanted: Sequence[tuple[str, str]],
    unit: str,
    most: float | None = None,
) -> Shown | None:
    rows = [
        Drawn(words, at_s, series[name], "line", place)
        for place, (name, words) in enumerate(wanted)
        if name in series and np.isfinite(series[name]).any()
    ]
    return _server_chart(title, x, rows, unit, most) if rows else None


def _rates(title: str, at_s: Floats, x: Axis, series: dict[str, Floats]) -> Shown | None:
    rows = [
        Drawn(words, at_s[1:], _per_second(series[name], at_s), "line", place)
        for place, (name, words) in enumerate((("prompt_tokens", "prompt"), ("output_tokens", "output")))
        if np.isfinite(series[name]).any()
    ]
    return _server_chart(title, x, rows, "", None) if rows and len(at_s) > 1 else None


def _means(title: str, at_s: Floats, x: Axis, series: dict[str, Floats]) -> Shown | None:
    rows = []
    for place, name in enumerate(("ttft", "queue", "prefill", "decode")):
        count, total = _rises(series[f"{name}_count"]), _rises(series[f"{name}_sum_s"])
        mean_ms = np.where(count > 0, total / np.where(count > 0, count, 1.0), math.nan) * 1e3
        if np.isfinite(mean_ms).any():
            rows.append(Drawn(name, at_s[1:], mean_ms, "line", place))
    return _server_chart(title, x, rows, " ms", None) if rows else None


def _server_chart(title: str, x: Axis, rows: Sequence[Drawn], unit: str, most: float | None) -> Shown:
    high = most or max(1.0 if not unit else 0.0, *(float(np.nanmax(row.y, initial=0.0)) for row in rows))
    chart = Chart(title, x, linear_axis(0.0, high, unit), rows)
    return Shown(title, chart.svg, chart.legend, "")


def _rises(values: Floats) -> Floats:
    """How much a counter rose from reading to reading; NaN over a restart."""
    rises: Floats = np.diff(values)
    return np.where(rises < 0, math.nan, rises)


def _per_second(values: Floats, at_s: Floats) -> Floats:
    apart_s = np.diff(at_s)
    return np.where(apart_s > 0, _rises(values) / np.where(apart_s > 0, apart_s, 1.0), math.nan)


# --- columns ---------------------------------------------------------------------------------------------


def _seconds(stamps_ns: Any) -> Floats:
    return np.fromiter(stamps_ns, np.int64).astype(np.float64) / NS_PER_S


def _column(values: Any) -> Floats:
    return np.fromiter((math.nan if value is None else value for value in values), np.float64)


def _chunks(records: Sequence[RequestRecord]) -> tuple[Floats, Floats]:
    """When each content chunk came, seconds after the start, and how many tokens it stands for."""
    moments: list[Floats] = []
    tokens: list[Floats] = []
    for record in records:
        if record.first_content_ns is None:
            continue
        came = record.first_content_ns / NS_PER_S + np.concatenate([[0.0], np.cumsum(record.itl_s)])
        told = record.output_tokens if record.output_tokens is not None else len(came)
        moments.append(came)
        tokens.append(np.full(len(came), told / len(came)))
    if not moments:
        return np.zeros(0), np.zeros(0)
    return np.concatenate(moments), np.concatenate(tokens)


def _bins(end_s: float) -> tuple[Floats, Floats]:
    """Edges and middles of about a hundred bins of round length over the test."""
    width_s = round_step(end_s / _BINS)
    edges = np.arange(math.floor(end_s / width_s) + 2, dtype=np.float64) * width_s
    return edges, (edges[:-1] + edges[1:]) / 2


def _binned(of_bin: NDArray[np.intp], values: Floats, bins: int, p: float) -> Floats:
    """A percentile of each bin's values; NaN where a bin has too few for it."""
    order = np.argsort(of_bin, kind="stable")
    parts = np.split(values[order], np.searchsorted(of_bin[order], np.arange(1, bins)))
    least = 1 if p == 50 else _FEW
    return np.array([np.percentile(part, p) if len(part) >= least else math.nan for part in parts])


def _shaded(times: TestTimes) -> list[tuple[float, float]]:
    return [times.steady] if times.steady else []
