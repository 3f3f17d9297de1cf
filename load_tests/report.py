"""A latency report for people (tables, Markdown) and for programs (JSON, MLflow metrics)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from common import console
from evals.markup import plain
from load_tests.latency import BUSY_SHARE, LATE_SHARE, PERCENTILES, STOLEN_SHARE, Estimate, LatencyReport, Summary
from load_tests.phases import NoSteady, Steady

_COLUMNS = ["", "n", *(f"p{p}" for p in PERCENTILES), "90% of p50", "90% of p95"]
_STAGE_COLUMNS = ["stage", "n", "ok", "TTFT p50", "TTFT p95", "e2e p50", "e2e p95", "tokens", "schema valid"]
_LOAD_COLUMNS = ["in flight when sent", "n", "headline, 95%", "schema valid"]
_SIMULATED = "SIMULATED endpoint, figures say nothing about a model"
_LATENCIES = {
    "ttft": "TTFT from send",
    "ttft_from_intended": "TTFT from intended start",
    "itl": "ITL, gaps between chunks",
    "tpot": "TPOT, per request",
    "e2e": "e2e from send",
    "e2e_from_intended": "e2e from intended start",
    "scheduling_lag": "scheduling lag",
}


@dataclass(frozen=True)
class Table:
    """Rows for people, in whatever form they are shown."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def print_report(report: LatencyReport) -> None:
    """Tables and notes on stderr; what went wrong in red."""
    console.say(title(report))
    for table in tables(report):
        console.table(table.title, table.columns, table.rows, right=table.columns[1:])
    for line in notes(report):
        console.say(line)
    for warning in warnings(report):
        console.stderr.print(console.printable(warning), style="red", markup=False, soft_wrap=True)


def markdown(report: LatencyReport) -> str:
    """The same as a Markdown document."""
    lines = [f"# {plain(title(report))}", ""]
    for table in tables(report):
        lines += [f"## {table.title}", "", _row(table.columns), _row(["---"] * len(table.columns))]
        lines += [*map(_row, table.rows), ""]
    lines += [f"- {plain(note)}" for note in notes(report)]
    lines += [f"- **{plain(warning)}**" for warning in warnings(report)]
    return "\n".join(lines).rstrip() + "\n"


def title(report: LatencyReport) -> str:
    """What was measured, under which condition; a simulated endpoint is said first."""
    start = report.start
    prompt = f", prompt {start.prompt} v{start.prompt_version}" if start.prompt else ""
    workers = f", {start.workers} workers" if start.workers > 1 else ""
    told = (
        f"Load test {start.profile.get('name', 'without a name')}: {start.model} at {start.base_url}{prompt}, "
        f"{loop(report)}{workers}, started {start.started_at}"
    )
    return console.one_line(f"{_SIMULATED}. {told}" if start.simulated else told)


def loop(report: LatencyReport) -> str:
    """Closed with so many users, or open with which arrivals."""
    start = report.start
    if start.loop == "closed":
        return f"closed loop, {start.users} users"
    arrivals = dict(start.profile.get("arrivals") or {})
    kind = arrivals.pop("kind", "schedule")
    told = ", ".join(f"{name} {value}" for name, value in arrivals.items() if value is not None)
    return f"open loop, {kind} {told}".strip()


def tables(report: LatencyReport) -> list[Table]:
    """Latencies, then each stage, then quality by load where there is any."""
    simulated = " (SIMULATED)" if report.start.simulated else ""
    latencies = [_cells(words, getattr(report, name)) for name, words in _LATENCIES.items()]
    found = [Table(f"Latency, milliseconds{simulated}", _COLUMNS, latencies)]
    if len(report.stages) > 1:
        rows = [_stage_cells(report, place) for place in range(len(report.stages))]
        found.append(Table(f"By stage, milliseconds from intended start{simulated}", _STAGE_COLUMNS, rows))
    if report.by_load:
        rows = [
            [_between(one.from_in_flight, one.to_in_flight), str(one.headline.n), _mean(one.headline), _share(one)]
            for one in report.by_load
        ]
        found.append(Table(f"Answers by load{simulated}", _LOAD_COLUMNS, rows))
    return found


def notes(report: LatencyReport) -> list[str]:
    """What else was measured, a line each."""
    found = [phases_told(report), _throughput(report)]
    if report.schema_valid:
        found.append(f"answers that fit their schema: {_percent(report.schema_valid)} of whole ones")
    if report.headline:
        found.append(f"headline score: {_mean(report.headline)} (n={report.headline.n})")
    if report.prompt_lengths and not report.prompt_lengths.other and report.prompt_lengths.counted:
        lengths = report.prompt_lengths
        found.append(f"every prompt was {lengths.asked} tokens long, as the server counts them (n={lengths.counted})")
    if report.cpu_by_worker:
        shares = ", ".join(f"{share:.0%}" for _, share in sorted(report.cpu_by_worker.items()))
        found.append(f"load generator: {shares} of a core{' by worker' if len(report.cpu_by_worker) > 1 else ''}")
    if report.lag:
        found.append(_lag(report))
    return found


def phases_told(report: LatencyReport) -> str:
    """Which part of the test the figures are of."""
    if isinstance(report.phases, NoSteady):
        return f"no steady state; the figures are of all {report.window_s:.1f} s, warm-up included"
    return f"steady window: {report.phases.start_s:.1f} to {report.phases.end_s:.1f} s ({report.phases.why})"


def warnings(report: LatencyReport) -> list[str]:
    """What a reader must know before believing the figures; empty when all went well."""
    found = []
    if isinstance(report.phases, NoSteady):
        found.append(f"no steady state: {report.phases.why}")
    found += [f"{count} of {report.in_window} requests: {status}" for status, count in sorted(report.failures.items())]
    if report.failed_outside:
        found.append(f"{report.failed_outside} more requests failed outside the steady window")
    if "incomplete" in report.failures:
        found.append("incomplete requests are the slow ones: high percentiles are too low; raise drain_s")
    return found + _missing(report) + _client_faults(report) + _answers(report)


def _missing(report: LatencyReport) -> list[str]:
    found = []
    if report.lost is None:
        found.append("the test was killed or a worker is missing: every figure is of the rows there are")
    elif report.lost:
        found.append(f"{report.lost} requests were sent but left no row")
    if report.unsent:
        found.append(f"{report.unsent} of {report.scheduled} requests of the schedule were not sent")
    if report.start.loop == "open" and report.unsent is None:
        found.append("nobody knows whether the whole schedule was sent: a worker did not come to its end")
    return found


def _client_faults(report: LatencyReport) -> list[str]:
    """Signs that the load generator measured itself."""
    found = []
    for worker, share in sorted(report.cpu_by_worker.items()):
        if share > BUSY_SHARE:
            told = f"worker {worker} of the load generator used {share:.0%} of a core"
            found.append(f"{told}: its own queueing is in these figures; use more processes or a lower load")
    if report.stolen_share is not None and report.stolen_share > STOLEN_SHARE:
        found.append(
            f"this machine's hypervisor gave {report.stolen_share:.0%} of its processor time to others: latencies are "
            "too long by milliseconds that are not the endpoint's"
        )
    late_s, median_s = report.scheduling_lag.percentiles[99], report.ttft.percentiles[50]
    if late_s is not None and median_s is not None and late_s > LATE_SHARE * median_s:
        found.append(
            f"requests were sent late: p99 {late_s * 1e3:.2f} ms is above {LATE_SHARE:.0%} of the TTFT's median "
            f"{median_s * 1e3:.1f} ms, so this client shows in the figures"
        )
    return found


def _answers(report: LatencyReport) -> list[str]:
    """What was asked for and not done."""
    found = []
    lengths, cut_off = report.prompt_lengths, report.finish_reasons.get("length", 0)
    if lengths and lengths.other:
        told = f"{lengths.other} of {lengths.counted} prompts were not {lengths.asked} tokens long"
        found.append(f"{told}, as the server counts them")
    if report.schema_valid and cut_off:
        found.append(f"{cut_off} of {report.ok} answers were cut off by max_tokens, and half an answer fits no schema")
    return found


# --- for programs ----------------------------------------------------------------------------------------


def as_json(report: LatencyReport) -> dict[str, Any]:
    """Everything as one JSON object, what `report.json` holds; latencies in seconds."""
    told = asdict(report)
    start, stages = told.pop("start"), told.pop("stages")
    for name in _LATENCIES:
        del told[name]
    return {
        "simulated": start["simulated"],
        "condition": start,
        **told,
        "phases": _phases_json(report.phases),
        **{f"{name}_s": _summary_json(getattr(report, name)) for name in _LATENCIES},
        "stages": [
            {**stage, "ttft": _summary_json(of.ttft), "e2e": _summary_json(of.e2e)}
            for stage, of in zip(stages, report.stages, strict=True)
        ],
        "cpu_by_worker": {str(worker): share for worker, share in report.cpu_by_worker.items()},
        "client_cpu_share": report.client_cpu_share,
        "warnings": warnings(report),
    }


def metrics(report: LatencyReport) -> dict[str, float]:
    """The report as flat metrics, units in their names; what cannot be said is left out, never zero."""
    steady = report.phases if isinstance(report.phases, Steady) else None
    found: dict[str, float | None] = {
        "steady": float(steady is not None),
        "steady_start_s": steady.start_s if steady else None,
        "steady_end_s": steady.end_s if steady else None,
        "requests_sent": report.sent,
        "requests_scheduled": report.scheduled,
        "requests_lost": report.lost,
        "requests_cancelled": report.cancelled,
        "requests_in_window": report.in_window,
        "requests_ok": report.ok,
        "requests_failed": report.in_window - report.ok,
        "window_s": report.window_s,
        "requests_per_s": report.requests_per_s,
        "output_tokens_per_s": report.output_tokens_per_s,
        "tokens_per_chunk": report.tokens_per_chunk,
        "client_cpu_share": report.client_cpu_share,
        "client_stolen_share": report.stolen_share,
        **{f"failed_{status}": count for status, count in report.failures.items()},
        **_estimate("schema_valid_rate", report.schema_valid),
        **_estimate("headline", report.headline),
    }
    for name in _LATENCIES:
        for key, value in _summary_json(getattr(report, name)).items():
            found[f"{name}_{key}" if key == "n" else f"{name}_s_{key}"] = value
    return {key: float(value) for key, value in found.items() if value is not None}


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high, f"{name}_n": estimate.n}


def _phases_json(phases: Steady | NoSteady) -> dict[str, Any]:
    if isinstance(phases, NoSteady):
        return {"steady": False, "start_s": None, "end_s": None, "n": None, "why": phases.why}
    return {"steady": True, **asdict(phases)}


def _summary_json(summary: Summary) -> dict[str, float | None]:
    told: dict[str, float | None] = {"n": summary.n, "mean": summary.mean}
    told |= {f"p{p}": value for p, value in summary.percentiles.items()}
    for p, interval in summary.intervals.items():
        told |= {f"p{p}_low": interval.low, f"p{p}_high": interval.high}
    return told


# --- words -----------------------------------------------------------------------------------------------


def _cells(name: str, summary: Summary) -> list[str]:
    shown = [_ms(value, summary.n) for value in summary.percentiles.values()]
    return [name, str(summary.n), *shown, _interval(summary, 50), _interval(summary, 95)]


def _interval(summary: Summary, percentile: int) -> str:
    interval = summary.intervals.get(percentile)
    if interval is None or interval.low is None:
        return ""
    return f"{_ms(interval.low)} to {'?' if interval.high is None else _ms(interval.high)}"


def _stage_cells(report: LatencyReport, place: int) -> list[str]:
    stage = report.stages[place]
    percentiles = [_ms(one.percentiles[p], one.n) for one in (stage.ttft, stage.e2e) for p in (50, 95)]
    tokens = "n/a" if stage.output_tokens is None else f"{stage.output_tokens:.1f}"
    valid = _percent(stage.schema_valid) if stage.schema_valid else ""
    return [stage.stage, str(stage.n), str(stage.ok), *percentiles, tokens, valid]


def _share(one: Any) -> str:
    return _percent(one.schema_valid) if one.schema_valid else ""


def _percent(estimate: Estimate) -> str:
    told = f"{estimate.value:.1%} (n={estimate.n})"
    if estimate.low is None or estimate.high is None:
        return told
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}] (n={estimate.n})"


def _mean(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _between(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _ms(value_s: float | None, n: int = 0) -> str:
    if value_s is None:
        return f"n/a (n={n})"
    value_ms = value_s * 1e3
    # From hundredths of a millisecond (scheduling lag) to minutes: three or four digits that mean something.
    decimals = 3 if abs(value_ms) < 1 else 2 if abs(value_ms) < 100 else 1
    return f"{value_ms:,.{decimals}f}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(map(plain, cells)) + " |"


def _throughput(report: LatencyReport) -> str:
    told = (
        f"{report.sent} requests sent, {report.ok} of {report.in_window} in the window ok; "
        f"{report.requests_per_s:.2f} requests/s, {report.output_tokens_per_s:.1f} output tokens/s"
    )
    if report.cancelled:
        told += f"; {report.cancelled} were to be hung up on, as the profile has it, and are in no figure"
    if report.tokens_per_chunk is not None:
        told += f", {report.tokens_per_chunk:.2f} tokens per chunk"
    if report.finish_reasons:
        told += "; answers ended by " + ", ".join(f"{k} {n}" for k, n in sorted(report.finish_reasons.items()))
    return told


def _lag(report: LatencyReport) -> str:
    lag = report.lag
    if lag is None:
        return ""
    p99 = "n/a" if lag.first_p99_s is None else f"{lag.first_p99_s * 1e3:.2f} ms"
    return (
        f"client stamp behind server stamp: first chunk p50 {lag.first_p50_s * 1e3:.2f} ms, p99 {p99} (n={lag.n}); "
        f"ITL off by {lag.itl_mean_abs_s * 1e3:.2f} ms on average"
    )
