"""Is a run worse than its baseline? Two load tests compared, metric by metric. Pure.

Each run's steady window is cut into 30 batches of requests in order of sending. A metric's change is the mean over
batches of log(now / baseline), as a percentage; its error comes from the batches' spread, widened where neighbouring
batches are alike (lag-1 autocorrelation r: variance times (1 + r) / (1 - r), the AR(1) correction of Skart, Tafazzoli
et al. 2011). So what requests of one queue have in common is in the interval. Tests are Student's t.

Same schedule in both runs (open loop, same arrivals, seed and workload): batch i of one run met the same arrivals and
prompts as batch i of the other, so the differences of the pairs are tested, which takes the schedule's own bursts out.
Otherwise the two runs' batches are compared as independent (Welch).

    worse      slower by at least half the margin, and that is no chance: one-sided p <= 0.025 after Holm over metrics
    no worse   the one-sided 95 % upper bound of the change is below the margin
    undecided  neither: measure longer

With the margin at 5 % a true 5 % regression is estimated at more than half of it unless noise hides the other half,
and a change of under 2.5 % is never an alarm, however long the runs. The whole is worse when one metric is, undecided
when none is and a required one is undecided. TTFT's p95 is watched and not required: it is so much noisier than the
typical one that an unchanged endpoint would stay undecided for its sake.

Latencies are those of ok requests. Failures are the metric error_rate, its change in percentage points, with a margin
of its own (Newcombe's interval and Fisher's test on effective counts, intervals.py). Throughput is compared in closed
loops only: on a schedule it is given.

What this cannot see: one run is one draw. Whatever holds for a whole run (a throttled machine, another tenant, where
memory was placed) moves all its batches together and looks like a regression. Compare a baseline with a repeat of
itself to know how much that is, and set `run_spread_percent` to the spread seen, which is added to the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from common.console import CannotJudge, ExitCode, shorten
from load_tests.intervals import CONFIDENCE, batches, effective_n, share_bounds
from load_tests.measured import Bools, Floats, Measured, Origin, measured
from load_tests.rows import LoadRows, RunStart

MARGIN_PERCENT = 5.0
ERROR_MARGIN_POINTS = 1.0
FEWEST_BATCHES = 10
"""Student's t with fewer degrees of freedom needs regressions twice as large."""

_ALPHA = 0.025
"""As the evaluation's gate: a two-sided 5 %, of which only regressions are alarms."""
_BATCHES = 30
_TYPICAL_SAMPLES, _P95_SAMPLES, _TRIMMED = 5, 20, 0.1
"""Fewest requests in a batch for its figure to move with the run's, and the share of them cut off at each end."""
_MOST_ALIKE = 0.9
_LEAST_S = 1e-9
_SAME = ("arrivals", "workload", "max_tokens", "request_timeout_s", "cancel_after_chunks", "cancel_share")
_SCHEDULE = (*_SAME, "seed")
_NEW = {"cancel_share": 1.0}
"""Settings that profiles of earlier versions do not have, and what those did."""

Unit = Literal["percent", "points"]
Verdict = Literal["no worse", "worse", "undecided"]

EXIT_CODES = {
    "no worse": ExitCode.DONE,
    "worse": ExitCode.VERDICT_AGAINST,
    "undecided": ExitCode.NOT_JUDGED,
}


@dataclass(frozen=True)
class Change:
    """How one metric changed; positive is worse."""

    metric: str
    unit: Unit
    baseline: float | None
    """The run's own value: seconds, share or requests per second."""
    now: float | None
    n_baseline: int
    n_now: int
    change: float | None
    low: float | None
    high: float | None
    """One-sided 95 % bounds each."""
    margin: float
    p: float | None
    """One-sided, of being no worse."""
    p_holm: float | None
    verdict: Verdict
    because: str
    required: bool = True
    """Whether the whole is undecided when this is; a watched metric only counts when it is worse."""


@dataclass(frozen=True)
class Comparison:
    """A run against its baseline."""

    verdict: Verdict
    because: str
    changes: tuple[Change, ...]
    paired: bool
    """Whether both runs followed one schedule."""
    notes: tuple[str, ...]
    simulated: bool

    @property
    def exit_code(self) -> ExitCode:
        """0 no worse, 1 worse, 3 undecided."""
        return EXIT_CODES[self.verdict]


class Margins(NamedTuple):
    """How much worse is too much, and how much whole runs differ anyway."""

    percent: float = MARGIN_PERCENT
    error_points: float = ERROR_MARGIN_POINTS
    run_spread_percent: float = 0.0
    """Standard deviation of a latency over runs of the same, beyond what batches show; measured by repeating."""


def same_schedule(baseline: LoadRows, now: LoadRows) -> bool:
    """Whether request i of both runs was the same one, due at the same moment."""
    one, other = baseline.start, now.start
    return one.loop == other.loop == "open" and not _differing(one.profile, other.profile, _SCHEDULE)


def refuse_incomparable(baseline: RunStart, profile: Mapping[str, Any], *, simulated: bool) -> None:
    """Raises CannotJudge when a run of `profile` is not asked what the baseline was: the load would differ.

    simulated: whether the run is of the simulator.
    """
    # How long these are decides what is sent at each moment, or how large a part of the test the spike is.
    also = ("duration_s",) if (profile.get("arrivals") or {}).get("kind") in {"ramp", "spike", "trace"} else ()
    if keys := _differing(baseline.profile, profile, (*_SAME, *also)):
        told = shorten(f"{keys[0]}: baseline {baseline.profile.get(keys[0])}, now {profile.get(keys[0])}")
        raise CannotJudge(f"the runs were not asked the same ({told}): run the baseline's profile")
    if baseline.simulated != simulated:
        raise CannotJudge("one run is of the simulator, the other is not: run both against one kind of endpoint")


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [key for key in keys if one.get(key, _NEW.get(key)) != other.get(key, _NEW.get(key))]


def compare_runs(
    baseline: LoadRows,
    baseline_window_s: tuple[float, float],
    now: LoadRows,
    now_window_s: tuple[float, float],
    *,
    margins: Margins | None = None,
    origin: Origin = "intended",
) -> Comparison:
    """Compare two runs over their steady windows, [start, end) in seconds after each run's start.

    Raises CannotJudge when the two were not asked the same (refuse_incomparable).
    """
    refuse_incomparable(baseline.start, now.start.profile, simulated=now.start.simulated)
    return compare_windows(
        measured(baseline.records, *baseline_window_s, origin),
        measured(now.records, *now_window_s, origin),
        paired=same_schedule(baseline, now),
        closed_loop=now.start.loop == "closed",
        simulated=now.start.simulated,
        margins=margins,
    )


def compare_windows(
    baseline: Measured,
    now: Measured,
    *,
    paired: bool,
    closed_loop: bool,
    simulated: bool = False,
    margins: Margins | None = None,
) -> Comparison:
    """Compare two steady windows. paired: request i of both was the same one, due at the same moment."""
    margins = margins or Margins()
    changes = [_latency_change(metric, baseline, now, paired, margins) for metric in _LATENCIES]
    changes.append(_error_change(baseline, now, margins))
    if closed_loop:
        changes.append(_throughput_change(baseline, now, margins))
    judged = tuple(_with_holm(changes))
    verdict, because = _whole(judged)
    told = f"SIMULATED endpoint: {because}" if simulated else because
    return Comparison(verdict, told, judged, paired, _notes(margins), simulated)


def _notes(margins: Margins) -> tuple[str, ...]:
    if margins.run_spread_percent:
        return (f"runs of the same are taken to differ by {margins.run_spread_percent:g} % (standard deviation)",)
    return ("one run each: a difference that holds for whole runs (another tenant, a throttled core) looks the same",)


# --- latencies -------------------------------------------------------------------------------------------


class _Latency(NamedTuple):
    name: str
    values: Callable[[Measured], Floats]
    """One per request, seconds, NaN where it has none."""
    statistic: Callable[[Floats], float]
    batch_samples: int
    required: bool = True


def _typical(values_s: Floats) -> float:
    """Geometric mean without the quickest and the slowest tenth: steady as a median, from more of the sample."""
    from scipy.stats import trim_mean

    return float(np.exp(trim_mean(np.log(np.maximum(values_s, _LEAST_S)), _TRIMMED)))


def _p95(values_s: Floats) -> float:
    return float(np.percentile(values_s, 95))


def _of_ok(column: str) -> Callable[[Measured], Floats]:
    def values(requests: Measured) -> Floats:
        found: Floats = np.where(requests.ok, getattr(requests, column), np.nan)
        return found

    return values


def _mean_gap(requests: Measured) -> Floats:
    gaps = np.bincount(requests.itl_of, minlength=requests.n)
    total_s = np.bincount(requests.itl_of, weights=requests.itl_s, minlength=requests.n)
    found: Floats = np.where(gaps > 0, total_s / np.maximum(gaps, 1), np.nan)
    return found


def _mean(values_s: Floats) -> float:
    return float(values_s.mean())


_LATENCIES = (
    _Latency("ttft_typical", _of_ok("ttft_s"), _typical, _TYPICAL_SAMPLES),
    _Latency("ttft_p95", _of_ok("ttft_s"), _p95, _P95_SAMPLES, required=False),
    _Latency("itl_mean", _mean_gap, _mean, _TYPICAL_SAMPLES),
    _Latency("e2e_typical", _of_ok("e2e_s"), _typical, _TYPICAL_SAMPLES),
)
"""ITL is the mean, so that stalls count; a request's gaps are one value, their mean."""


def _latency_change(metric: _Latency, baseline: Measured, now: Measured, paired: bool, margins: Margins) -> Change:
    was, is_ = metric.values(baseline), metric.values(now)
    if paired:
        was, is_ = _of_both(was, baseline, is_, now)
    was, is_ = was[~np.isnan(was)], is_[~np.isnan(is_)]
    size = max(metric.batch_samples, min(len(was), len(is_)) // _BATCHES)
    one, other = (_log_statistics(values_s, size, metric.statistic) for values_s in (was, is_))
    values = _value(metric, was), _value(metric, is_)
    shell = _shell(metric.name, "percent", values, (len(was), len(is_)), margins.percent)
    shell = replace(shell, required=metric.required)
    if min(len(one), len(other)) < FEWEST_BATCHES:
        needed = size * FEWEST_BATCHES
        return replace(shell, because=f"too few requests to compare: {min(len(was), len(is_))}, it takes {needed}")
    found = _paired_shift(other - one) if paired else _welch_shift(one, other)
    return _judged(shell, found.widened(margins.run_spread_percent), _as_percent)


def _value(metric: _Latency, values_s: Floats) -> float | None:
    return metric.statistic(values_s) if len(values_s) else None


def _of_both(was: Floats, baseline: Measured, is_: Floats, now: Measured) -> tuple[Floats, Floats]:
    """The values of requests that both runs have one of, in the order of the schedule."""
    _, here, there = np.intersect1d(baseline.index, now.index, return_indices=True)
    both = ~np.isnan(was[here]) & ~np.isnan(is_[there])
    return was[here][both], is_[there][both]


def _log_statistics(values_s: Floats, size: int, statistic: Callable[[Floats], float]) -> Floats:
    """The log of each batch's statistic; batches have `size` values, since a percentile's bias depends on it."""
    count = len(values_s) // size
    parts = np.array_split(values_s, count) if count else []
    return np.log([max(statistic(part), _LEAST_S) for part in parts])


class _Shift(NamedTuple):
    """A difference, its standard error and the degrees of freedom that is known with."""

    mean: float
    error: float
    df: float

    def widened(self, spread_percent: float) -> _Shift:
        """With what whole runs differ by: each of the two has its own."""
        return self._replace(error=float(np.hypot(self.error, 2**0.5 * np.log1p(spread_percent / 100))))

    def bound(self, side: int) -> float:
        from scipy.special import stdtrit

        return self.mean + side * float(stdtrit(self.df, CONFIDENCE)) * self.error

    def p_worse(self) -> float:
        """One-sided p of no regression; without any spread a difference is certain."""
        from scipy.special import stdtr

        if self.error == 0:
            return 0.0 if self.mean > 0 else 1.0
        return float(stdtr(self.df, -self.mean / self.error))


def _paired_shift(differences: Floats) -> _Shift:
    error, df = _error_of_mean(differences)
    return _Shift(float(differences.mean()), error, df)


def _welch_shift(one: Floats, other: Floats) -> _Shift:
    (error_a, df_a), (error_b, df_b) = _error_of_mean(one), _error_of_mean(other)
    error = float(np.hypot(error_a, error_b))
    pooled = error_a**4 / df_a + error_b**4 / df_b
    return _Shift(float(other.mean() - one.mean()), error, error**4 / pooled if pooled else df_a + df_b)


def _error_of_mean(batch_values: Floats) -> tuple[float, float]:
    """Standard error of the mean of batches and its degrees of freedom, with their lag-1 autocorrelation."""
    count = len(batch_values)
    away = batch_values - batch_values.mean()
    total = float(away @ away)
    if total == 0:
        return 0.0, count - 1.0
    # Estimated from so few batches it comes out 1 / count too low (Marriott and Pope 1954).
    alike = float(away[:-1] @ away[1:]) / total + 1 / count
    alike = min(max(alike, 0.0), _MOST_ALIKE)
    widening = (1 + alike) / (1 - alike)
    return (total / (count - 1) / count * widening) ** 0.5, max(1.0, (count - 1) / widening)


def _as_percent(log_ratio: float) -> float:
    return float(np.expm1(log_ratio)) * 100


# --- rates -----------------------------------------------------------------------------------------------


def _throughput_change(baseline: Measured, now: Measured, margins: Margins) -> Change:
    one, other = _rates(baseline), _rates(now)
    values = float(one.mean()), float(other.mean())
    n = (int(baseline.ok.sum()), int(now.ok.sum()))
    shell = _shell("requests_per_s", "percent", values, n, margins.percent)
    if min(n) < _BATCHES * _TYPICAL_SAMPLES:
        return replace(shell, because=f"too few requests to compare: {min(n)}, it takes {_BATCHES * _TYPICAL_SAMPLES}")
    # Fewer is worse; as a share of the baseline's mean, since a slice may be empty and has no logarithm then.
    lost = _welch_shift(-one / values[0], -other / values[0])
    return _judged(shell, lost.widened(margins.run_spread_percent), lambda share: share * 100)


def _rates(requests: Measured) -> Floats:
    """Good requests per second in each slice of the window, by when they were sent."""
    counts, _ = np.histogram(requests.sent_s[requests.ok], bins=_BATCHES, range=(requests.start_s, requests.end_s))
    return counts / (requests.window_s / _BATCHES)


def _error_change(baseline: Measured, now: Measured, margins: Margins) -> Change:
    was, is_ = ~baseline.ok, ~now.ok
    n = len(was), len(is_)
    if not (len(was) and len(is_)):
        shell = _shell("error_rate", "points", (None, None), n, margins.error_points)
        return replace(shell, because="a run has no request to compare")
    shell = _shell("error_rate", "points", (float(was.mean()), float(is_.mean())), n, margins.error_points)
    difference = float(is_.mean() - was.mean())
    low, high = _newcombe(was, is_)
    return _change_of(shell, difference * 100, low * 100, high * 100, _fisher(was, is_))


def _newcombe(was: Bools, is_: Bools) -> tuple[float, float]:
    """Bounds of the difference of two shares from the bounds of each (Newcombe 1998, method 10)."""
    a, b = float(was.mean()), float(is_.mean())
    (low_a, high_a), (low_b, high_b) = (share_bounds(hits, batches(len(hits))) for hits in (was, is_))
    if low_a is None or high_a is None or low_b is None or high_b is None:
        raise ValueError("a share of no requests has no bounds")
    return b - a - float(np.hypot(b - low_b, high_a - a)), b - a + float(np.hypot(high_b - b, a - low_a))


def _fisher(was: Bools, is_: Bools) -> float:
    """One-sided p of Fisher's exact test, each run with as many requests as it has independent ones."""
    from scipy.stats import fisher_exact

    table = []
    for hits in (is_, was):
        n = round(effective_n(hits, batches(len(hits))))
        failed = round(float(hits.mean()) * n)
        table.append([failed, n - failed])
    return float(fisher_exact(table, alternative="greater").pvalue)


# --- verdicts --------------------------------------------------------------------------------------------


def _shell(
    metric: str, unit: Unit, values: tuple[float | None, float | None], n: tuple[int, int], margin: float
) -> Change:
    """A change of which nothing is known yet."""
    return Change(metric, unit, *values, *n, None, None, None, margin, None, None, "undecided", "")


def _judged(shell: Change, shift: _Shift, told: Callable[[float], float]) -> Change:
    return _change_of(shell, told(shift.mean), told(shift.bound(-1)), told(shift.bound(1)), shift.p_worse())


def _change_of(shell: Change, change: float, low: float, high: float, p: float) -> Change:
    return replace(shell, change=change, low=low, high=high, p=p)


def _with_holm(changes: Sequence[Change]) -> list[Change]:
    from evals.comparison import holm_adjusted

    adjusted = holm_adjusted([change.p for change in changes])
    return [change if p is None else _decided(change, p) for change, p in zip(changes, adjusted, strict=True)]


def _decided(change: Change, p_holm: float) -> Change:
    if change.change is None or change.high is None:
        raise ValueError(f"{change.metric} has a p and no change")
    unit = "%" if change.unit == "percent" else "points"
    told = f"{change.change:+.2f} {unit} [{change.low:+.2f}, {change.high:+.2f}], p {p_holm:.2g} after Holm"
    if change.change >= change.margin / 2 and p_holm <= _ALPHA:
        verdict: Verdict = "worse"
    elif change.high < change.margin:
        verdict = "no worse"
    else:
        verdict, told = "undecided", f"{told}: a change of {change.margin:g} {unit} is not ruled out; measure longer"
    return replace(change, p_holm=p_holm, verdict=verdict, because=told)


def _whole(changes: tuple[Change, ...]) -> tuple[Verdict, str]:
    worse = [change for change in changes if change.verdict == "worse"]
    if worse:
        return "worse", f"worse: {_told(worse)}"
    undecided = [change for change in changes if change.verdict == "undecided"]
    if any(change.required for change in undecided):
        return "undecided", f"undecided: {_told([change for change in undecided if change.required])}"
    watched = f"; watched and undecided: {_told(undecided)}" if undecided else ""
    return "no worse", f"no worse in {len(changes) - len(undecided)} of {len(changes)} metrics{watched}"


def _told(changes: Sequence[Change]) -> str:
    return "; ".join(f"{change.metric} {change.because}" for change in changes)
