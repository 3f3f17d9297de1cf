"""The page of a capacity search: capacity.html, one file that asks nothing of anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals import page
from load_tests.capacity import Capacity, Probe, latest
from load_tests.charts import Axis, Chart, Drawn, latency_axis, linear_axis

TEMPLATES = Path(__file__).parent / "templates"


def capacity_page(report: Mapping[str, Any], capacity: Capacity, result: str, limits_s: Mapping[str, float]) -> str:
    """The whole page.

    report: what capacity_command.as_json gave. result: the result in one sentence. limits_s: as plots.draw_capacity.
    """
    probes = sorted(latest(capacity.probes), key=lambda probe: probe.rate_per_s)
    charts = [_latency_chart(probes, limits_s), _rate_chart(probes)] if probes else []
    return page.render(
        "capacity.html.j2", TEMPLATES, report=report, capacity=capacity, result=result, charts=charts, limits=limits_s
    )


def _latency_chart(probes: Sequence[Probe], limits_s: Mapping[str, float]) -> dict[str, Any]:
    rates = _rates(probes)
    names = list(limits_s) or ["ttft p95"]
    found = {name: _latency(probes, name) for name in names}
    every = np.concatenate([*found.values(), np.array(list(limits_s.values()), dtype=np.float64)])
    rows = [
        Drawn(name, rates, values_s * 1e3, "line", number % 4) for number, (name, values_s) in enumerate(found.items())
    ]
    rows += [
        Drawn(f"limit of {name}", rates, np.full(len(rates), limits_s[name] * 1e3), "dashes", number % 4)
        for number, name in enumerate(found)
        if name in limits_s
    ]
    return _chart("Latency over requests sent per second", _rate_axis(rates), latency_axis(every), rows)


def _rate_chart(probes: Sequence[Probe]) -> dict[str, Any]:
    rates = _rates(probes)
    rows = [
        Drawn("sent", rates, rates, "dashes", 3),
        Drawn("answered", rates, _floats([probe.throughput_per_s for probe in probes]), "line", 0),
        Drawn("good", rates, _floats([probe.goodput_per_s for probe in probes]), "line", 2),
    ]
    return _chart(
        "Goodput over requests sent per second", _rate_axis(rates), linear_axis(0.0, float(rates.max())), rows
    )


def _chart(title: str, x: Axis, y: Axis, rows: Sequence[Drawn]) -> dict[str, Any]:
    chart = Chart(title, x, y, rows)
    return {"title": title, "svg": chart.svg, "legend": chart.legend}


def _rate_axis(rates: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Axis:
    return linear_axis(0.0, float(rates.max()), "/s")


def _rates(probes: Sequence[Probe]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([probe.rate_per_s for probe in probes], dtype=np.float64)


def _latency(probes: Sequence[Probe], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    kind, _, percentile = name.partition(" p")
    return _floats([probe.latencies_s.get(kind, {}).get(float(percentile)) for probe in probes])


def _floats(values: Sequence[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """NaN for None."""
    return np.array(values, dtype=np.float64)
