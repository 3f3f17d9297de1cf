"""Latency and goodput over rate, as a picture: what a capacity search saw."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from load_tests.capacity import Capacity, Probe, latest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_COLOURS = {"met": "#2a7f4f", "undecided": "#8a8a8a", "missed": "#b3342d"}


def draw_capacity(capacity: Capacity, title: str, limits_s: dict[str, float], paths: Sequence[Path]) -> None:
    """Draw the probes into each of `paths`; the suffix (.png, .svg) chooses the format.

    limits_s: what the SLO allows, by `ttft p95` and the like; these latencies are drawn, or TTFT p95 if there is none.
    """
    # Figure alone and not pyplot: no global state, no display.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    probes = sorted(latest(capacity.probes), key=lambda probe: probe.rate_per_s)
    _latencies(upper, probes, limits_s)
    _goodput(lower, probes)
    for axes in (upper, lower):
        if probes:  # where no probe could be judged there is nothing to scale by
            axes.set_xscale("log")
            _plain(axes.xaxis)
        axes.grid(visible=True, alpha=0.3)
        if capacity.rate_per_s is not None:
            axes.axvspan(capacity.rate_per_s, capacity.missed_per_s or capacity.rate_per_s, color="#3b6ea5", alpha=0.25)
    upper.set_title("\n".join(textwrap.wrap(title, 95)), fontsize=9, parse_math=False)
    lower.set_xlabel("requests sent per second")
    # Words stay words in an SVG, and the same probes give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "plumbline"}):
        for path in paths:
            figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _plain(axis: Axis) -> None:
    """Marks at 1, 2 and 5 of each power of ten, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _latencies(axes: Axes, probes: Sequence[Probe], limits_s: dict[str, float]) -> None:
    drawn = False
    for number, name in enumerate(limits_s or {"ttft p95": 0.0}):
        kind, _, percentile = name.partition(" p")
        points = [(p, found) for p in probes if (found := p.latencies_s.get(kind, {}).get(float(percentile)))]
        colour, drawn = f"C{number}", drawn or bool(points)
        axes.plot([p.rate_per_s for p, _ in points], [s * 1e3 for _, s in points], color=colour, label=name)
        for probe, value_s in points:
            axes.plot(probe.rate_per_s, value_s * 1e3, "o", color=_COLOURS[probe.verdict])
        if name in limits_s:
            axes.axhline(limits_s[name] * 1e3, color=colour, linestyle="--", linewidth=1)
    if drawn:
        axes.set_yscale("log")
        _plain(axes.yaxis)
    axes.set_ylabel("latency, ms (dashed: limit)")
    axes.legend(fontsize=8)


def _goodput(axes: Axes, probes: Sequence[Probe]) -> None:
    for name, style in (("throughput_per_s", "s--"), ("goodput_per_s", "o-")):
        points = [(p.rate_per_s, value) for p in probes if (value := getattr(p, name)) is not None]
        axes.plot([rate for rate, _ in points], [value for _, value in points], style, label=name.partition("_")[0])
    rates = [probe.rate_per_s for probe in probes]
    axes.plot(rates, rates, ":", color="#8a8a8a", label="sent")
    axes.set_ylabel("requests per second")
    axes.legend(fontsize=8)
