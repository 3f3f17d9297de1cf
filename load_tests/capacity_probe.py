"""From the rows of one short load test to a probe of a capacity search: pure.

The verdict is the SLO's own over the steady window. Three things differ from judging a test for its own sake:

- A client that was late or busy, lost rows, and an endpoint that is gone (every connection was refused or broke) make
  the probe void: it says nothing about what the endpoint holds.
- Without a steady state the requests of the last three quarters are judged instead. If they miss, or if fewer came out
  than FULL of those that went in, the endpoint could not keep up, which is a miss; else nothing is decided.
- What the samples do not decide still leans one way, by the measured values alone.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from load_tests.capacity import FULL, Ask, Probe, Verdict
from load_tests.latency import PERCENTILES, ended_between, sent_between
from load_tests.measured import Measured, measured
from load_tests.phases import stop_of
from load_tests.rows import LoadRows
from load_tests.slo import Outcome, SloVerdict, good_requests, judge, latencies, run_faults, window_faults
from load_tests.slo_file import LatencyObjective, Slo
from load_tests.sse import Status

_RAMP_SHARE = 0.25
"""Left out at the start of a probe without a steady state."""
_AT_LEAST = {"schema_valid_rate", "goodput"}
"""Metrics whose limit is a floor."""

Window = tuple[float, float]
"""[start, end) in seconds after the start of the test."""


def probe_of(slo: Slo, ask: Ask, rows: LoadRows, window_s: Window | None, why_no_window: str = "") -> Probe:
    """What one test at `ask.rate_per_s` tells; window_s: its steady window, None where it has none."""
    judged_s = window_s or _last_part(rows)
    requests = measured(rows.records, *judged_s, slo.measured_from)
    answered_per_s = throughput_per_s(rows, judged_s)
    verdict, leans, because = _verdict(slo, rows, requests, answered_per_s, None if window_s else why_no_window)
    return Probe(
        rate_per_s=ask.rate_per_s,
        duration_s=ask.duration_s,
        verdict=verdict,
        because=because,
        leans=leans,
        requests=requests.n,
        throughput_per_s=answered_per_s,
        goodput_per_s=float(good_requests(slo, requests).sum()) / requests.window_s if requests.n else None,
        latencies_s={kind: _percentiles(slo, requests, kind) for kind in ("ttft", "itl", "e2e")},
    )


def _verdict(
    slo: Slo, rows: LoadRows, requests: Measured, answered_per_s: float, unsteady: str | None
) -> tuple[Verdict, Literal["met", "missed"], str]:
    """unsteady: why there is no steady state; None where there is one."""
    faults = run_faults(rows) + window_faults(requests) + _gone(rows)
    if faults:
        return "void", "missed", "; ".join(faults)
    judged = judge(slo, requests, open_loop=True, simulated=rows.start.simulated)
    leans: Literal["met", "missed"] = "missed" if any(map(_beyond, judged.objectives)) else "met"
    if unsteady is None:
        return _of(judged), leans, judged.because
    sent_per_s = len(sent_between(rows.records, requests.start_s, requests.end_s)) / requests.window_s
    if judged.status == "missed" or answered_per_s < FULL * sent_per_s:
        told = f"{answered_per_s:.3g}/s came out of {sent_per_s:.3g}/s sent; {judged.because}"
        return "missed", "missed", f"no steady state: {unsteady}; {told}"
    return "undecided", leans, f"no steady state: {unsteady}"


def _gone(rows: LoadRows) -> tuple[str, ...]:
    if rows.records and all(record.status in {Status.REFUSED, Status.CONNECTION} for record in rows.records):
        return (f"the endpoint is gone: {rows.records[0].error}",)
    return ()


def _of(judged: SloVerdict) -> Verdict:
    """Without faults, `invalid` says that an objective is undecided."""
    return "undecided" if judged.status == "invalid" else judged.status


def _beyond(outcome: Outcome) -> bool:
    """Whether the measured value is on the bad side; a latency that is beyond all that ended has no value."""
    if outcome.value is None:
        return outcome.unit == "s" and outcome.n > 0
    if outcome.metric in _AT_LEAST:
        return outcome.value < outcome.limit
    return outcome.value > outcome.limit


def _last_part(rows: LoadRows) -> Window:
    stop_s = stop_of(rows)
    return _RAMP_SHARE * stop_s, stop_s


def throughput_per_s(rows: LoadRows, window_s: Window | None = None) -> float:
    """Answers that ended inside the window, whenever they were asked for, per second; by default the last part's.

    Those that were hung up on count: beside the rate that was sent they came out as well.
    """
    start_s, end_s = window_s or _last_part(rows)
    ended = ended_between(rows.records, start_s, end_s, {Status.OK, Status.CANCELLED})
    return ended / (end_s - start_s) if end_s > start_s else 0.0


def _percentiles(slo: Slo, requests: Measured, kind: str) -> dict[float, float | None]:
    """For the curve: where failures reach into a percentile it has no value."""
    values_s = requests.itl_s if kind == "itl" else latencies(requests, kind)
    asked = {o.percentile for o in slo.objectives if isinstance(o, LatencyObjective) and o.metric == kind}
    found = {}
    for percentile in sorted(asked.union(PERCENTILES)):
        with np.errstate(invalid="ignore"):
            value = float(np.percentile(values_s, percentile)) if len(values_s) else float("nan")
        found[float(percentile)] = value if np.isfinite(value) else None
    return found
