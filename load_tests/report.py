"""A latency report for people (table, Markdown) and for programs (JSON, MLflow metrics)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import console
from load_tests.latency import BUSY_SHARE, PERCENTILES, LatencyReport, Summary

_COLUMNS = ["", "n", *(f"p{p}" for p in PERCENTILES), "95% of p50"]
_SIMULATED = "SIMULATED endpoint, figures say nothing about a model"


def print_report(report: LatencyReport) -> None:
    """Table and notes on stderr; what went wrong in red."""
    console.say(title(report))
    simulated = " (SIMULATED)" if report.start.simulated else ""
    console.table(f"Latency, milliseconds{simulated}", _COLUMNS, _rows(report), right=_COLUMNS[1:])
    console.say(_throughput(report))
    if report.lag:
        console.say(_lag(report))
    for warning in warnings(report):
        console.stderr.print(console.printable(warning), style="red", markup=False, soft_wrap=True)


def markdown(report: LatencyReport) -> str:
    """The same as a Markdown document."""
    lines = [f"# {title(report)}", "", "Latencies in milliseconds.", ""]
    lines += [_row(_COLUMNS), _row(["---"] * len(_COLUMNS)), *map(_row, _rows(report)), "", _throughput(report)]
    lines += ["", _lag(report)] if report.lag else []
    lines += ["", *(f"- **{warning}**" for warning in warnings(report))]
    return "\n".join(lines).rstrip() + "\n"


def title(report: LatencyReport) -> str:
    """What was measured, under which condition; a simulated endpoint is said first."""
    start = report.start
    told = (
        f"Load test {start.profile['name']}: {start.model} at {start.base_url}, prompt {start.prompt} "
        f"v{start.prompt_version}, {start.users} users, closed loop, {report.window_s:.1f} s"
    )
    return f"{_SIMULATED}. {told}" if start.simulated else told


def warnings(report: LatencyReport) -> list[str]:
    """What a reader must know before believing the figures; empty when all went well."""
    found = [f"{count} of {report.in_window} requests: {status}" for status, count in sorted(report.failures.items())]
    if "incomplete" in report.failures:
        found.append("incomplete requests are the slow ones: high percentiles are too low; raise drain_s")
    if report.lost is None:
        found.append("the test was killed: requests may be missing, and every figure is of the rows there are")
    elif report.lost:
        found.append(f"{report.lost} requests were sent but left no row")
    if report.client_cpu_share is not None and report.client_cpu_share > BUSY_SHARE:
        share = f"{report.client_cpu_share:.0%} of a core"
        found.append(f"the load generator used {share}: its own queueing is in these figures; use fewer users")
    return found


def as_json(report: LatencyReport) -> dict[str, Any]:
    """Everything as one JSON object; latencies in seconds."""
    told = asdict(report)
    start = told.pop("start")
    for kind in ("ttft", "itl", "tpot", "e2e"):
        told[f"{kind}_s"] = _summary_json(getattr(report, kind))
        del told[kind]
    return {"simulated": start["simulated"], "condition": start, **told, "warnings": warnings(report)}


def metrics(report: LatencyReport) -> dict[str, float]:
    """The report as flat metrics, units in their names; what cannot be said is left out, never zero."""
    found: dict[str, float | None] = {
        "requests_sent": report.sent,
        "requests_in_window": report.in_window,
        "requests_ok": report.ok,
        "requests_failed": report.in_window - report.ok,
        "window_s": report.window_s,
        "requests_per_s": report.requests_per_s,
        "output_tokens_per_s": report.output_tokens_per_s,
        "tokens_per_chunk": report.tokens_per_chunk,
        "client_cpu_share": report.client_cpu_share,
        **{f"failed_{status}": count for status, count in report.failures.items()},
    }
    for kind in ("ttft", "itl", "tpot", "e2e"):
        for key, value in _summary_json(getattr(report, kind)).items():
            found[f"{kind}_{key}" if key == "n" else f"{kind}_s_{key}"] = value
    return {key: float(value) for key, value in found.items() if value is not None}


def _summary_json(summary: Summary) -> dict[str, float | None]:
    interval = summary.p50_interval
    told: dict[str, float | None] = {"n": summary.n}
    told |= {f"p{p}": value for p, value in summary.percentiles.items()}
    if interval:
        told |= {"p50_low": interval.low, "p50_high": interval.high}
    return told


def _rows(report: LatencyReport) -> list[list[str]]:
    kinds = [("TTFT", report.ttft), ("ITL", report.itl), ("TPOT", report.tpot), ("e2e", report.e2e)]
    return [_cells(name, summary) for name, summary in kinds]


def _cells(name: str, summary: Summary) -> list[str]:
    interval = summary.p50_interval
    shown = [_ms(value, summary.n) for value in summary.percentiles.values()]
    return [name, str(summary.n), *shown, f"{_ms(interval.low)} to {_ms(interval.high)}" if interval else ""]


def _ms(value_s: float | None, n: int = 0) -> str:
    return f"n/a (n={n})" if value_s is None else f"{value_s * 1e3:,.1f}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _throughput(report: LatencyReport) -> str:
    told = (
        f"{report.sent} requests sent, {report.ok} of {report.in_window} in the window ok; "
        f"{report.requests_per_s:.2f} requests/s, {report.output_tokens_per_s:.1f} output tokens/s"
    )
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
