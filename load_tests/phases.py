"""Warm-up, steady state and drain of a load test, found from its requests: pure.

Three series are looked at, each over the time in which requests are sent:

    TTFT          means of five requests, in order of sending
    throughput    requests that ended, per bin of time
    in flight     requests under way, mean over each bin of time

Start    MSER-5 (White 1997; White, Cobb and Spratt 2000): of every way to leave out the first batches, half of them at
         most, the one whose rest has the smallest standard error. It would also leave out a stall of the server in the
         first half, which is no warm-up: so the start is no later than the first three batches in a row that look
         like the rest, that is, lie between its 5th and 95th percentile. The latest start of the three series counts.
End      when no more was sent: what is still in flight then is drain, and its requests count by when they were sent.
Steady   what is left must neither rise nor fall. TTFT and requests in flight are cut into 20 batches; a trend is
         significant by Mann-Kendall's test (p < 0.01, two-sided), its variance corrected for batches that are alike
         (Hamed and Rao 1998), and matters where Theil-Sen's line changes by at least 40 % of the median. An open loop
         beyond an endpoint's capacity shows so: its queue grows without end, and any percentile of it is arbitrary.

How often that is wrong, 1000 seeds each, a queue with eight servers, 60 s of 20 requests a second: refused at 30, 70,
80, 90, 95 % of capacity in 0, 0.2, 0.8, 5.9, 12 % of tests; found at 110 % in 91 %, at 120 % in 99.9 %. With one
request a second, at 30 %, 2.1 % are refused. Near capacity a queue wanders for minutes, and one that happens to be
longer at the end is not told from a trend: where a test is refused, measure longer or lower the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from load_tests.rows import LoadRows
from load_tests.sse import NS_PER_S, Status

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEAST_REQUESTS = 20
"""In the steady window; with fewer there is no median of anything to speak of."""
BATCH = 5
"""The 5 of MSER-5."""
TREND_BATCHES = 20
TREND_P = 0.01
TREND_SHARE = 0.4
"""Of the median: a smaller change over the window is let be."""
TREND_IN_FLIGHT = 1.0
"""Requests: fewer more or less say nothing at a light load."""

_MOST_BINS = 200
_LIKE_THE_REST = (5, 95)
_IN_A_ROW = 3
_LATE_GAPS = 10
_LONG_WARM_UP = 0.25
"""Of the test: where the warm-up seems longer, a trend is looked for from here on."""


@dataclass(frozen=True)
class Steady:
    """The part of a test that counts: requests sent in [start_s, end_s), seconds after the test's start."""

    start_s: float
    end_s: float
    n: int
    """Requests sent in it."""
    why: str


@dataclass(frozen=True)
class NoSteady:
    """A test without a steady state, and why."""

    why: str


class _Series(NamedTuple):
    name: str
    at_s: Floats
    """When each value's time began."""
    values: Floats


def steady_window(sent_s: Floats, ended_s: Floats, ttft_s: Floats, ok: Bools, stop_s: float) -> Steady | NoSteady:
    """Find the steady window of a test.

    sent_s, ended_s: of each request, seconds after the start. ttft_s: from the intended start, so that a queue on our
    side shows too; NaN for none. ok: whose TTFT counts. stop_s: when the last request could be sent.
    """
    order = np.argsort(sent_s, kind="stable")
    sent_s, ended_s, ttft_s, ok = sent_s[order], ended_s[order], ttft_s[order], ok[order]
    if len(sent_s) < LEAST_REQUESTS:
        return NoSteady(_too_few(len(sent_s), "were sent"))
    if sent_s[0] == sent_s[-1]:
        return NoSteady(f"all {len(sent_s)} requests were sent at one moment: there is no time to be steady in")
    end_s = _end(sent_s, stop_s)
    series = [_ttft_series(sent_s, ttft_s, ok), *_time_series(sent_s, ended_s, end_s)]
    starts = {one.name: _start(one) for one in series if len(one.values) >= 2 * _IN_A_ROW}
    latest = max(starts, key=lambda name: starts[name])
    start_s = starts[latest]
    inside = (sent_s >= start_s) & (sent_s < end_s)
    if inside.sum() < LEAST_REQUESTS:
        return NoSteady(_too_few(int(inside.sum()), f"were sent after the warm-up of {start_s:.3g} s"))
    # What grows without end looks like a warm-up of half the test, and less of its growth is left to be seen.
    look_from_s = start_s if start_s <= _LONG_WARM_UP * end_s else _LONG_WARM_UP * end_s
    if problem := _trend(sent_s, ended_s, np.where(ok, ttft_s, np.nan), look_from_s, end_s):
        return NoSteady(problem)
    return Steady(start_s, end_s, int(inside.sum()), _told(start_s, end_s, stop_s, latest))


def steady_state(rows: LoadRows) -> Steady | NoSteady:
    """The steady window of a test that was read back."""
    records = rows.records
    nan = float("nan")
    ttft_s = [nan if record.ttft_from_intended_s is None else record.ttft_from_intended_s for record in records]
    return steady_window(
        np.array([record.sent_ns for record in records], dtype=np.float64) / NS_PER_S,
        np.array([record.ended_ns for record in records], dtype=np.float64) / NS_PER_S,
        np.array(ttft_s, dtype=np.float64),
        np.array([record.status is Status.OK for record in records], dtype=np.bool_),
        stop_of(rows),
    )


def window_of(rows: LoadRows) -> tuple[tuple[float, float] | None, str]:
    """Start and end of the steady window, or None, and why; as verdicts and searches take it."""
    found = steady_state(rows)
    return ((found.start_s, found.end_s) if isinstance(found, Steady) else None), found.why


def stop_of(rows: LoadRows) -> float:
    """When the last worker was to send no more, seconds after the start; if none says so, the last sending."""
    ended = [end.stop_ns for end in rows.ends if end is not None]
    last_ns = max(ended or [record.sent_ns + 1 for record in rows.records], default=0)
    return last_ns / NS_PER_S


# --- where it begins and ends ----------------------------------------------------------------------------


def _end(sent_s: Floats, stop_s: float) -> float:
    """The end of sending: that of the test, unless the last request (of a trace) came well before it."""
    last_s, gap_s = float(sent_s[-1]), float(sent_s[-1] - sent_s[0]) / (len(sent_s) - 1)
    if last_s >= stop_s:  # it was due just before the end
        return float(np.nextafter(last_s, np.inf))
    return last_s + gap_s if stop_s - last_s > _LATE_GAPS * gap_s else stop_s


def _ttft_series(sent_s: Floats, ttft_s: Floats, ok: Bools) -> _Series:
    known = ok & ~np.isnan(ttft_s)
    whole = int(known.sum()) // BATCH * BATCH
    at_s = sent_s[known][:whole:BATCH]
    return _Series("TTFT", at_s, ttft_s[known][:whole].reshape(-1, BATCH).mean(axis=1))


def _time_series(sent_s: Floats, ended_s: Floats, end_s: float) -> list[_Series]:
    bins = min(_MOST_BINS, max(2 * _IN_A_ROW, len(sent_s) // BATCH))
    edges_s = np.linspace(0.0, end_s, bins + 1)
    ended, _ = np.histogram(ended_s, edges_s)
    return [
        _Series("throughput", edges_s[:-1], ended / np.diff(edges_s)),
        _Series("requests in flight", edges_s[:-1], in_flight(sent_s, ended_s, edges_s)),
    ]


def in_flight(sent_s: Floats, ended_s: Floats, edges_s: Floats) -> Floats:
    """Requests under way, the mean over each bin between two edges; exact, whatever the bins are."""
    # The integral of the number in flight up to t is the sum of how long each request has been under way by then.
    by_then = _elapsed(np.sort(sent_s), edges_s) - _elapsed(np.sort(ended_s), edges_s)
    mean: Floats = np.diff(by_then) / np.diff(edges_s)
    return mean


def _elapsed(since_s: Floats, at_s: Floats) -> Floats:
    """Sum of max(0, at - since) over all of `since_s` (sorted), for each of `at_s`."""
    before = np.searchsorted(since_s, at_s, side="right")
    total = np.concatenate([[0.0], np.cumsum(since_s)])
    elapsed: Floats = before * at_s - total[before]
    return elapsed


def _start(series: _Series) -> float:
    """When the series' warm-up is over, seconds."""
    left_out = mser(series.values)
    rest = series.values[left_out:]
    low, high = np.percentile(rest, _LIKE_THE_REST)
    alike = (series.values >= low) & (series.values <= high)
    for place in range(left_out):
        if alike[place : place + _IN_A_ROW].all():
            return float(series.at_s[place]) if place else 0.0
    return float(series.at_s[left_out]) if left_out else 0.0


def mser(values: Floats) -> int:
    """How many batches to leave out at the start, by the marginal standard error rule; half of them at most."""
    n = len(values)
    ends = np.arange(n // 2 + 1)
    left = n - ends
    # Sums over values[d:], shifted by the mean so that squares lose no digits.
    shifted = values - values.mean()
    sums = np.cumsum(shifted[::-1])[::-1][ends]
    squares = np.cumsum((shifted**2)[::-1])[::-1][ends]
    return int(np.argmin((squares - sums**2 / left) / left**2))


# --- whether it is steady --------------------------------------------------------------------------------


def _trend(sent_s: Floats, ended_s: Floats, ttft_s: Floats, start_s: float, end_s: float) -> str | None:
    """What rises or falls in the window, in words; None when nothing does."""
    edges_s = np.linspace(start_s, end_s, TREND_BATCHES + 1)
    under_way = in_flight(sent_s, ended_s, edges_s)
    if (change := _change(under_way)) is not None and abs(change.total) >= TREND_IN_FLIGHT:
        return f"requests in flight {change.verb} from {change.first:.3g} to {change.last:.3g}"
    waits_s = _medians(sent_s, ttft_s, edges_s)
    if len(waits_s) > TREND_BATCHES // 2 and (change := _change(waits_s)) is not None:
        return f"TTFT {change.verb} from {change.first * 1e3:.4g} to {change.last * 1e3:.4g} ms"
    return None


def _medians(sent_s: Floats, ttft_s: Floats, edges_s: Floats) -> Floats:
    """The median TTFT of each bin's requests; bins without one are left out."""
    known = ~np.isnan(ttft_s) & (sent_s >= edges_s[0]) & (sent_s < edges_s[-1])
    of_bin = np.searchsorted(edges_s, sent_s[known], side="right") - 1
    values = ttft_s[known]
    return np.array([np.median(values[of_bin == one]) for one in np.unique(of_bin)])


class _Change(NamedTuple):
    verb: str
    first: float
    last: float
    total: float


def _change(values: Floats) -> _Change | None:
    """How a series changes from end to end, where it does so significantly and by much."""
    total, median = theil_sen(values) * (len(values) - 1), float(np.median(values))
    if abs(total) < TREND_SHARE * abs(median) or trend_p(values) >= TREND_P:
        return None
    edge = max(1, len(values) // 10)
    first, last = float(np.mean(values[:edge])), float(np.mean(values[-edge:]))
    return _Change("grew" if total > 0 else "fell", first, last, total)


def trend_p(values: Floats) -> float:
    """Two-sided p of Mann-Kendall's test with Hamed and Rao's correction for autocorrelation.

    The correction uses the autocorrelation of the ranks after Theil-Sen's line is taken away, where it is significant
    at 5 %; a trend itself would else pass for correlation.
    """
    from scipy.special import ndtr

    n = len(values)
    place = np.arange(n)
    score = float(np.sign(values[None, :] - values[:, None])[np.triu_indices(n, 1)].sum())
    _, ties = np.unique(values, return_counts=True)
    variance = (n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    if variance <= 0:
        return 1.0
    ranks = _ranks(values - theil_sen(values) * place)
    variance *= _alike_factor(ranks - ranks.mean())
    z = (score - np.sign(score)) / variance**0.5
    return float(2 * ndtr(-abs(z)))


# scipy.stats has the next two as well, but costs every test 0.9 s and 49 MB to import.


def theil_sen(values: Floats) -> float:
    """The median slope between any two of the values, which are one step apart each."""
    here, there = np.triu_indices(len(values), 1)
    return float(np.median((values[there] - values[here]) / (there - here)))


def _ranks(values: Floats) -> Floats:
    """From 1; equal values share the mean of theirs."""
    ordered = np.sort(values)
    ranks: Floats = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2
    return ranks


def _alike_factor(ranks: Floats) -> float:
    """Hamed and Rao's n / n*: how much wider the score spreads when neighbours are alike; at least 1."""
    n, total = len(ranks), float(ranks @ ranks)
    if total == 0:
        return 1.0
    found = 0.0
    for lag in range(1, n - 2):
        correlation = float(ranks[:-lag] @ ranks[lag:]) / total
        if abs(correlation) > 1.96 / n**0.5:
            found += (n - lag) * (n - lag - 1) * (n - lag - 2) * correlation
    return max(1.0, 1 + 2 / (n * (n - 1) * (n - 2)) * found)


# --- words -----------------------------------------------------------------------------------------------


def _too_few(n: int, what: str) -> str:
    return f"{n} requests {what}; a steady state takes at least {LEAST_REQUESTS}: measure longer"


def _told(start_s: float, end_s: float, stop_s: float, latest: str) -> str:
    warm_up = f"warm-up until {start_s:.3g} s by {latest}" if start_s else "no warm-up seen"
    early = f"; nothing was sent in the last {stop_s - end_s:.3g} s" if stop_s - end_s > 1e-6 else ""
    return f"{warm_up}, steady until {end_s:.4g} s{early}"
