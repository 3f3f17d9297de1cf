"""What MLflow keeps of a capacity search: what was asked, the result, the curve by probe, and the files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from load_tests.capacity import Capacity, Probe
from load_tests.logged import EXPERIMENT, flat
from tracking.runs import LoggedRun, RunContent, log_run
from tracking.series import Point, log_series


def log_capacity(order: Mapping[str, Any], capacity: Capacity, files: Sequence[Path]) -> LoggedRun:
    """Log one search. Raises CannotJudge when the store does not take it.

    order: what was asked, as capacity_command.asked gives it.
    """
    metrics = {
        "capacity_per_s": capacity.rate_per_s,
        "missed_per_s": capacity.missed_per_s,
        "found": float(capacity.found),
        "probes_measured": float(len(capacity.probes)),
        "requests_measured": float(sum(probe.requests for probe in capacity.probes)),
    }
    content = RunContent(
        name=f"capacity-{order['profile']['name']}",
        params=flat(order),
        metrics={name: value for name, value in metrics.items() if value is not None},
        tags={"kind": "capacity", "simulated": str(order["simulated"]).lower(), "slo": order["slo"]["name"]},
        files=tuple(files),
    )
    logged = log_run(EXPERIMENT, content)
    log_series(logged, series(capacity.probes, round(time.time() * 1000)))
    return logged


def series(probes: Sequence[Probe], at_ms: int) -> dict[str, list[Point]]:
    """One value per probe, its number as step; what a probe has no value for is left out."""
    found: dict[str, list[Point]] = {}
    for step, probe in enumerate(probes, 1):
        values = {
            "probe_rate_per_s": probe.rate_per_s,
            "probe_throughput_per_s": probe.throughput_per_s,
            "probe_goodput_per_s": probe.goodput_per_s,
        }
        for kind, percentiles in probe.latencies_s.items():
            values |= {f"probe_{kind}_s_p{percentile:g}": value for percentile, value in percentiles.items()}
        for name, value in values.items():
            if value is not None:
                found.setdefault(name, []).append(Point(step, value, at_ms))
    return found
