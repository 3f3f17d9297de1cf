"""What MLflow keeps of one load test: the condition, every figure, the course of the test and its files.

Rows travel as Parquet and not as a table of MLflow's, which would be JSON and take seconds for a long test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from load_tests.latency import Floats, LatencyReport
from load_tests.phases import in_flight, stop_of
from load_tests.report import markdown, metrics
from load_tests.rows import LoadRows, RunStart
from load_tests.run_folder import RunFolder
from load_tests.sse import NS_PER_S, Status
from tracking.runs import LoggedRun, RunContent, log_run
from tracking.series import Point, log_series

EXPERIMENT = "plumbline-load"
MOST_POINTS = 120
"""Per metric over time: MLflow's charts show no more, and each costs time to write."""
_LEAST_BIN_S = 1.0


def log_load_test(
    folder: RunFolder,
    rows: LoadRows,
    report: LatencyReport,
    *,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> LoggedRun:
    """Log a test whose Parquet file is written. Raises CannotJudge when the store does not take it.

    metrics, tags: what others know of the test, such as the server's own figures and the SLO's verdict. Of the folder,
    the Parquet file goes there, report.md, and of report.json, report.html and server.parquet what is there.
    """
    logged = log_run(EXPERIMENT, _content(folder, rows, report, metrics or {}, tags or {}))
    log_series(logged, series(rows))
    return logged


def series(rows: LoadRows) -> dict[str, list[Point]]:
    """The course of the test: one value per bin of time, named `over_time_...`; bins without a value are left out.

    step: seconds after the start at which the bin begins.
    """
    stop_s = max([stop_of(rows), *(record.ended_ns / NS_PER_S for record in rows.records)])
    if not rows.records or stop_s <= 0:
        return {}
    width_s = float(np.ceil(max(_LEAST_BIN_S, stop_s / MOST_POINTS)))
    edges_s: Floats = np.arange(0.0, stop_s + width_s, width_s, dtype=np.float64)
    at_ms = [round((rows.start.start_at_s + edge_s) * 1e3) for edge_s in edges_s[:-1]]
    return {
        f"over_time_{name}": [
            Point(int(edge_s), float(value), when_ms)
            for edge_s, value, when_ms in zip(edges_s[:-1], values, at_ms, strict=True)
            if not np.isnan(value)
        ]
        for name, values in _values(rows, edges_s, width_s).items()
    }


def _values(rows: LoadRows, edges_s: Floats, width_s: float) -> dict[str, Any]:
    records = rows.records
    sent_s = np.array([record.sent_ns for record in records]) / NS_PER_S
    ended_s = np.array([record.ended_ns for record in records]) / NS_PER_S
    counts = np.array([record.cancel_after_chunks is None for record in records])
    ok = counts & np.array([record.status is Status.OK for record in records])
    nan = float("nan")
    ttft_s = np.array([nan if record.ttft_s is None else record.ttft_s for record in records])
    waited_s = np.array([nan if r.ttft_from_intended_s is None else r.ttft_from_intended_s for r in records])
    return {
        "requests_in_flight": in_flight(sent_s, ended_s, edges_s),
        "requests_sent_per_s": np.histogram(sent_s, edges_s)[0] / width_s,
        "requests_ok_per_s": np.histogram(ended_s[ok], edges_s)[0] / width_s,
        "requests_failed_per_s": np.histogram(ended_s[counts & ~ok], edges_s)[0] / width_s,
        "ttft_s_p50": _medians(sent_s[ok], ttft_s[ok], edges_s),
        "ttft_from_intended_s_p50": _medians(sent_s[ok], waited_s[ok], edges_s),
    }


def _medians(at_s: Any, values: Any, edges_s: Any) -> list[float]:
    """The median in each bin; NaN where there is no value."""
    known = ~np.isnan(values)
    of_bin, values = np.searchsorted(edges_s, at_s[known], side="right") - 1, values[known]
    inside = [values[of_bin == place] for place in range(len(edges_s) - 1)]
    return [float(np.median(own)) if len(own) else float("nan") for own in inside]


def _content(
    folder: RunFolder,
    rows: LoadRows,
    report: LatencyReport,
    more: Mapping[str, float],
    tags: Mapping[str, str],
) -> RunContent:
    start = rows.start
    own = [path for path in (folder.report_json, folder.page, folder.server) if path.is_file()]
    return RunContent(
        name=f"load-{start.profile.get('name', 'test')}",
        params=_condition(start),
        metrics={**metrics(report), **more},
        tags={"simulated": str(start.simulated).lower(), "kind": "load", **tags},
        texts={"report.md": markdown(report)},
        files=tuple(own),
        row_files={folder.parquet: len(rows.records)},
    )


def _condition(start: RunStart) -> dict[str, object]:
    """The profile flat, `arrivals.rate_per_s` and the like, and what it was run against."""
    told = {
        "base_url": start.base_url,
        "model": start.model,
        "prompt": start.prompt,
        "prompt_version": start.prompt_version,
        "simulated": start.simulated,
        "client": start.client,
        "loop": start.loop,
        "users": start.users,
        "workers": start.workers,
        "started_at": start.started_at,
    }
    return {**flat(start.profile), **{key: value for key, value in told.items() if value is not None}}


def flat(value: Mapping[str, Any], before: str = "") -> dict[str, object]:
    """Nested settings as parameters, `arrivals.rate_per_s` and the like; those that are None are left out."""
    found: dict[str, object] = {}
    for key, inside in value.items():
        if isinstance(inside, Mapping):
            found |= flat(inside, f"{before}{key}.")
        elif inside is not None:
            found[f"{before}{key}"] = inside
    return found
