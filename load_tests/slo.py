"""Whether a load test met an SLO: each objective with its interval, and one verdict. Pure.

An objective is met when the one-sided 95 % bound on the bad side is still within the limit, missed when the bound on
the good side is beyond it, undecided between. So a run too short for its percentile is not passed by luck (p99 needs
299 requests), while one that is plainly too slow is missed however short it is.

The verdict: invalid when the figures say nothing about the endpoint (`unusable`), else missed when one objective is,
else invalid when one is undecided, else met. All must be met, so no correction for their number is due (Berger 1982);
a run that lies exactly at k limits is called missed in at most 5 k % of cases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from common.console import ExitCode
from load_tests.intervals import (
    Bounds,
    batches,
    needed_for_share,
    needed_for_upper_bound,
    percentile_bounds,
    rate_bounds,
    share_bounds,
)
from load_tests.latency import BUSY_SHARE, LATE_SHARE, cpu_shares
from load_tests.measured import Bools, Floats, Measured, measured
from load_tests.rows import LoadRows
from load_tests.slo_file import ErrorRate, Goodput, LatencyObjective, Objective, SchemaValidRate, Slo, load_slo

__all__ = ["Outcome", "Slo", "SloVerdict", "judge", "judge_run", "load_slo"]

OutcomeStatus = Literal["met", "missed", "undecided"]
VerdictStatus = Literal["met", "missed", "invalid"]
Unit = Literal["s", "share", "per_s"]

EXIT_CODES = {
    "met": ExitCode.DONE,
    "missed": ExitCode.VERDICT_AGAINST,
    "invalid": ExitCode.NOT_JUDGED,
}


@dataclass(frozen=True)
class Outcome:
    """One objective, judged. Figures in `unit`; None where the samples do not carry them or it is beyond them all."""

    metric: str
    objective: str
    """In words."""
    status: OutcomeStatus
    because: str
    unit: Unit
    limit: float
    value: float | None
    low: float | None
    high: float | None
    """One-sided 95 % bounds each."""
    n: int
    """Requests, or gaps for ITL."""
    share: float | None = None
    """Goodput only: good requests of those sent."""


@dataclass(frozen=True)
class SloVerdict:
    """Whether the SLO holds."""

    slo: str
    status: VerdictStatus
    because: str
    """One sentence."""
    objectives: tuple[Outcome, ...]
    measured_from: str
    requests: int
    """Sent in the steady window."""
    simulated: bool
    unusable: tuple[str, ...] = ()
    """Why the run as a whole cannot be judged; its objectives are then for information."""

    @property
    def exit_code(self) -> ExitCode:
        """0 met, 1 missed, 3 invalid."""
        return EXIT_CODES[self.status]


def judge_run(slo: Slo, rows: LoadRows, window_s: tuple[float, float] | None, why_no_window: str = "") -> SloVerdict:
    """Judge a whole run over its steady window, [start, end) in seconds after its start; None if it has none."""
    start_s, end_s = window_s or (0.0, 0.0)
    requests = measured(rows.records, start_s, end_s, slo.measured_from)
    faults = run_faults(rows)
    faults += window_faults(requests) if window_s else (f"there is no steady state: {why_no_window}",)
    return judge(slo, requests, unusable=faults, open_loop=rows.start.loop == "open", simulated=rows.start.simulated)


def judge(
    slo: Slo, requests: Measured, *, unusable: tuple[str, ...] = (), open_loop: bool, simulated: bool
) -> SloVerdict:
    """Judge the requests of a steady window.

    unusable: why the run cannot be judged at all, each a sentence's half; empty if it can. open_loop: requests came on
    a schedule, so their number is given and not measured.
    """
    outcomes = tuple(_judge_objective(slo, objective, requests, open_loop) for objective in slo.objectives)
    status, because = _whole(outcomes, unusable)
    told = f"SIMULATED endpoint: {because}" if simulated else because
    return SloVerdict(slo.name, status, told, outcomes, slo.measured_from, requests.n, simulated, unusable)


def unusable(rows: LoadRows, window_s: tuple[float, float]) -> tuple[str, ...]:
    """Why a run with a steady window says nothing about its endpoint; empty when it does."""
    return run_faults(rows) + window_faults(measured(rows.records, *window_s, "intended"))


EVERY_ONE_CANCELLED = "every request was to be hung up on, so none is left to measure: give a cancel_share below 1"


def run_faults(rows: LoadRows) -> tuple[str, ...]:
    """Why the whole run cannot be judged: rows or workers missing, a schedule not kept, a busy client."""
    found = []
    if rows.lost is None:
        found.append("the test was killed or a worker is missing, so requests may be missing")
    elif rows.lost:
        found.append(f"{rows.lost} requests were sent but left no row")
    if rows.unsent:
        found.append(f"{rows.unsent} requests of the schedule were not sent")
    found += [
        f"the load generator was the bottleneck: worker {worker} used {share:.0%} of a core (above {BUSY_SHARE:.0%})"
        for worker, share in cpu_shares(rows).items()
        if share > BUSY_SHARE
    ]
    if rows.records and all(record.cancel_after_chunks is not None for record in rows.records):
        found.append(EVERY_ONE_CANCELLED)
    return tuple(found)


def window_faults(requests: Measured) -> tuple[str, ...]:
    """Why the requests of a window cannot be judged: there are none, or the client sent them late."""
    if not requests.n:
        return ("no request was sent in the steady window",)
    sent_ttft_s = requests.ttft_from_sent_s
    sent_ttft_s = sent_ttft_s[np.isfinite(sent_ttft_s)]
    if not len(sent_ttft_s):
        return ()
    late_s, median_s = float(np.percentile(requests.lag_s, 99)), float(np.median(sent_ttft_s))
    if late_s <= LATE_SHARE * median_s:
        return ()
    return (
        f"the load generator was the bottleneck: it sent p99 {late_s * 1e3:.2f} ms late, above {LATE_SHARE:.0%} of "
        f"the TTFT's median {median_s * 1e3:.1f} ms",
    )


def _whole(outcomes: tuple[Outcome, ...], unusable: tuple[str, ...]) -> tuple[VerdictStatus, str]:
    missed = [outcome for outcome in outcomes if outcome.status == "missed"]
    undecided = [outcome for outcome in outcomes if outcome.status == "undecided"]
    if unusable:
        return "invalid", f"cannot be judged: {'; '.join(unusable)}"
    if missed:
        return "missed", f"missed {len(missed)} of {len(outcomes)} objectives: {_told(missed)}"
    if undecided:
        return "invalid", f"cannot be judged: {len(undecided)} of {len(outcomes)} undecided: {_told(undecided)}"
    return "met", f"met {'its objective' if len(outcomes) == 1 else f'all {len(outcomes)} objectives'}"


def _told(outcomes: list[Outcome]) -> str:
    return "; ".join(f"{outcome.objective}: {outcome.because}" for outcome in outcomes)


# --- one objective ---------------------------------------------------------------------------------------


def _judge_objective(slo: Slo, objective: Objective, requests: Measured, open_loop: bool) -> Outcome:
    """What requests cut by the test's end would have become nobody knows, so a miss must hold either way."""
    worst = _outcome(slo, objective, requests, open_loop, cut_good=False)
    if worst.status == "met" or not requests.cut.any():
        return worst
    best = _outcome(slo, objective, requests, open_loop, cut_good=True)
    if best.status == worst.status:
        return worst
    why = f"{int(requests.cut.sum())} requests were cut by the end of the test, which decides it; raise drain_s"
    return replace(worst, status="undecided", because=why)


def _outcome(slo: Slo, objective: Objective, requests: Measured, open_loop: bool, *, cut_good: bool) -> Outcome:
    told = objective.told(slo.measured_from)
    match objective:
        case LatencyObjective(metric="itl"):
            places = batches(requests.n)[requests.itl_of]
            return _latency_outcome(objective, told, requests.itl_s, places)
        case LatencyObjective():
            values_s = latencies(requests, objective.metric, cut_good=cut_good)
            known = values_s[~np.isnan(values_s)]
            return _latency_outcome(objective, told, known, batches(len(known)))
        case ErrorRate():
            failed = ~(requests.ok | requests.cut) if cut_good else ~requests.ok
            return _share_outcome("error_rate", told, failed, at_most=objective.at_most)
        case SchemaValidRate():
            checked = requests.schema_valid[requests.ok & ~np.isnan(requests.schema_valid)]
            return _share_outcome("schema_valid_rate", told, checked == 1, at_least=objective.at_least)
        case Goodput():
            return _goodput(objective, told, good_requests(slo, requests, cut_good=cut_good), requests, open_loop)


def latencies(requests: Measured, metric: str, *, cut_good: bool = False) -> Floats:
    """One value per request, seconds: inf for a failed one, NaN where an ok one has none (TPOT of a single token).

    cut_good: take a request that the test's end cut for as quick as it can have been, else for endless.
    """
    found: Floats = getattr(requests, f"{metric}_s")
    least = np.zeros(requests.n) if metric == "tpot" else requests.waited_s
    unknown = np.where(requests.cut & cut_good, least, np.inf)
    values: Floats = np.where(requests.ok | (requests.cut & ~np.isnan(found)), found, unknown)
    return values


def good_requests(slo: Slo, requests: Measured, *, cut_good: bool = False) -> Bools:
    """Which requests count for goodput (slo.py)."""
    good: Bools = (requests.ok | requests.cut if cut_good else requests.ok) & (requests.schema_valid != 0)
    for objective in slo.per_request:
        if objective.metric == "itl":
            good &= _quick_gaps(objective, requests)
        else:
            values_s = latencies(requests, objective.metric, cut_good=cut_good)
            good &= np.isnan(values_s) | (values_s <= objective.limit_s)
    return good


def _quick_gaps(objective: LatencyObjective, requests: Measured) -> Bools:
    gaps = np.bincount(requests.itl_of, minlength=requests.n)
    within = np.bincount(requests.itl_of, weights=requests.itl_s <= objective.limit_s, minlength=requests.n)
    quick: Bools = within >= gaps * objective.percentile / 100 - 1e-9
    return quick


def _latency_outcome(
    objective: LatencyObjective, told: str, values_s: Floats, batch_of: np.ndarray[tuple[int], np.dtype[np.intp]]
) -> Outcome:
    n, limit_s = len(values_s), objective.limit_s
    value = _percentile(values_s, objective.percentile)
    bounds = _around(percentile_bounds(values_s, objective.percentile, batch_of), value)
    status = _status(bounds, at_most=limit_s)
    if n == 0:
        why = "no request has one"
    elif status == "undecided" and bounds.high is None:
        needed = needed_for_upper_bound(objective.percentile)
        # Requests of one queue are alike: they count for fewer than they are.
        told_n = f"n={n} is too few" if n < needed else f"n={n} correlated requests count for too few"
        why = f"{told_n} for p{objective.percentile:g}: it needs at least {needed} independent ones"
    else:
        slow = int(np.count_nonzero(values_s > limit_s))
        why = f"{_ms(value)} [{_ms(bounds.low)}, {_ms(bounds.high)}], {slow} of {n} above"
        why += _LONGER if status == "undecided" else ""
    return Outcome(
        objective.metric, told, status, why, "s", limit_s, _finite(value), _finite(bounds.low), _finite(bounds.high), n
    )


def _around(bounds: Bounds, value: float | None) -> Bounds:
    """Bounds that hold the value: of very few samples, the interpolated percentile may lie below the lower rank."""
    low, high = bounds
    if value is None:
        return bounds
    return Bounds(None if low is None else min(low, value), None if high is None else max(high, value))


_LONGER = "; the limit lies between the bounds: measure longer"


def _percentile(values_s: Floats, percentile: float) -> float | None:
    """numpy's linear method where both neighbours are finite; between a latency and none, it is beyond them all."""
    if not len(values_s):
        return None
    with np.errstate(invalid="ignore"):
        value = float(np.percentile(values_s, percentile))
    return float("inf") if np.isnan(value) else value


def _share_outcome(
    metric: str, told: str, hits: Bools, *, at_most: float | None = None, at_least: float | None = None
) -> Outcome:
    n, count = len(hits), int(hits.sum())
    bounds = share_bounds(hits, batches(n))
    status = _status(bounds, at_most=at_most, at_least=at_least)
    limit = at_most if at_most is not None else at_least
    if limit is None:
        raise ValueError("a share needs a limit")
    value = count / n if n else None
    why = _share_told(count, n, bounds) + (_share_undecided(limit, at_most, n) if status == "undecided" else "")
    return Outcome(metric, told, status, why, "share", limit, value, bounds.low, bounds.high, n)


def _share_undecided(limit: float, at_most: float | None, n: int) -> str:
    bad = limit if at_most is not None else 1 - limit
    needed = needed_for_share(bad)
    if bad == 0:
        return "; no finite test shows that it never happens: allow a share above 0"
    return f"; too few to tell: it takes at least {needed}" if n < needed else _LONGER


def _goodput(objective: Goodput, told: str, good: Bools, requests: Measured, open_loop: bool) -> Outcome:
    if objective.at_least is not None:
        outcome = _share_outcome("goodput", told, good, at_least=objective.at_least)
        return replace(outcome, share=outcome.value)
    limit = objective.at_least_per_s
    if limit is None:
        raise ValueError("goodput needs a limit")
    share = float(good.mean()) if requests.n else None
    bounds = _goodput_bounds(good, requests, open_loop)
    value = float(good.sum()) / requests.window_s if requests.n else None
    status = _status(bounds, at_least=limit)
    why = "no request was sent" if value is None else f"{value:.3g} requests/s {_between(bounds)}"
    why += f", {int(good.sum())} of {requests.n} good" + (_LONGER if status == "undecided" and requests.n else "")
    return Outcome("goodput", told, status, why, "per_s", limit, value, bounds.low, bounds.high, requests.n, share)


def _goodput_bounds(good: Bools, requests: Measured, open_loop: bool) -> Bounds:
    if not open_loop:
        return rate_bounds(requests.sent_s[good] - requests.start_s, requests.window_s)
    rate = requests.n / requests.window_s if requests.n else 0.0
    low, high = share_bounds(good, batches(requests.n))
    return Bounds(None if low is None else low * rate, None if high is None else high * rate)


def _status(bounds: Bounds, *, at_most: float | None = None, at_least: float | None = None) -> OutcomeStatus:
    low, high = bounds
    if at_most is not None:
        met, missed = high is not None and high <= at_most, low is not None and low > at_most
    elif at_least is not None:
        met, missed = low is not None and low >= at_least, high is not None and high < at_least
    else:
        raise ValueError("an objective needs a limit")
    return "met" if met else "missed" if missed else "undecided"


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _ms(value_s: float | None) -> str:
    if value_s is None:
        return "unknown"
    return f"{value_s * 1e3:,.1f} ms" if np.isfinite(value_s) else "beyond all that ended"


def _share_told(count: int, n: int, bounds: Bounds) -> str:
    return f"{count} of {n} ({count / n:.2%} {_between(bounds)})" if n else "there is nothing to count"


def _between(bounds: Bounds) -> str:
    low, high = bounds
    return "" if low is None or high is None else f"[{low:.3g}, {high:.3g}]"
