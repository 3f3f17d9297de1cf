"""Storage: how full it is, and when it will be full at its growth. A full disk that does not grow is no emergency."""

from __future__ import annotations

from datetime import timedelta
from statistics import linear_regression

from agents.facts.spec import InfrastructureMetrics
from agents.labels.history import aged
from agents.labels.label import RuleFired
from agents.labels.labelling import Finding, NotJudged, lacking, shown
from agents.labels.policy_model import Disk


def disk_findings(metrics: InfrastructureMetrics, rules: Disk) -> list[Finding]:
    """How full the storage is, and when it will be full."""
    return [*_disk_full(metrics, rules), *_disk_forecast(metrics, rules)]


def _disk_full(metrics: InfrastructureMetrics, rules: Disk) -> list[Finding]:
    used, total = metrics.storage_used_gb, metrics.storage_total_gb
    if used is None or total is None:
        return lacking(metrics, "disk_full", "storage_used_gb", "storage_total_gb")
    percent = used / total * 100
    if percent <= rules.critical_percent:
        return []
    reason = f"storage is {percent:.4g} % full, above {shown(rules.critical_percent)} %"
    facts = {"storage_used_gb": used, "storage_total_gb": total}
    return [RuleFired(rule="disk_full", level="CRITICAL", reason=reason, facts={**facts})]


def _disk_forecast(metrics: InfrastructureMetrics, rules: Disk) -> list[Finding]:
    """When the storage is full at its growth, as told or as its history shows; the soonest counts."""
    used, total, told = metrics.storage_used_gb, metrics.storage_total_gb, metrics.storage_growth_gb_per_day
    if used is None or total is None:
        return lacking(metrics, "disk_forecast", "storage_used_gb", "storage_total_gb")
    seen = _seen_growths(metrics, used, rules)
    if told is None and not seen:
        return [NotJudged("disk_forecast", ("storage_growth_gb_per_day or storage_used_gb in history",))]
    growths = [(told / 24, "as told"), *seen] if told is not None else seen
    per_h, source = max(growths, key=lambda growth: growth[0])
    if per_h <= 0:
        return []
    hours = (total - used) / per_h
    level = "CRITICAL" if hours <= rules.critical_within_h else "HIGH" if hours <= rules.high_within_h else None
    if level is None:
        return []
    within = rules.critical_within_h if level == "CRITICAL" else rules.high_within_h
    growth = f"{per_h * 24:.4g} GB per day {source}"
    reason = f"storage is full in {hours:.3g} h, within {shown(within)} h, at a growth of {growth}"
    facts: dict[str, float | int | str] = {"storage_used_gb": used, "storage_total_gb": total}
    if told is not None:
        facts["storage_growth_gb_per_day"] = told
    if seen:
        facts["history"] = f"{len(metrics.history)} readings"
    return [RuleFired(rule="disk_forecast", level=level, reason=reason, facts=facts)]


def _seen_growths(metrics: InfrastructureMetrics, used: float, rules: Disk) -> list[tuple[float, str]]:
    """Growth in GB per hour over the whole history and over its last hours, each with where it comes from.

    A window with too few readings is left out. A fill that has just begun vanishes in a long flat history, and a slow
    one in the last hours.
    """
    points = [
        (-age / timedelta(hours=1), reading.storage_used_gb)
        for age, reading in aged(metrics.history)
        if reading.storage_used_gb is not None
    ]
    points.append((0.0, used))
    recent = [point for point in points if point[0] >= -rules.over_h]
    lines = [
        (_slope(points, rules.min_readings), "by the line through its history"),
        (_slope(recent, rules.min_readings), f"by the line through its last {shown(rules.over_h)} h"),
    ]
    return [(slope, source) for slope, source in lines if slope is not None]


def _slope(points: list[tuple[float, float]], min_readings: int) -> float | None:
    """Of the straight line through the points; None with too few of them."""
    if len(points) < max(min_readings, 2):
        return None
    try:
        return linear_regression([x for x, _ in points], [y for _, y in points]).slope
    except (OverflowError, ValueError):  # readings near the largest float: no line through them can be told
        return None
