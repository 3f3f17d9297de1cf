"""Storage: how full it is, and when it will be full at its growth. A full disk that does not grow is no emergency."""

from __future__ import annotations

from datetime import timedelta
from statistics import linear_regression

from agents.history import aged
from agents.labelling import Finding, NotJudged, lacking, shown
from agents.policy_model import Disk
from agents.schema import RuleFired
from agents.spec import InfrastructureMetrics


def disk_findings(metrics: InfrastructureMetrics, rules: Disk) -> list[Finding]:
    """How full the storage is, and when it will be full."""
    return [*_disk_full(metrics, rules), *_disk_forecast(metrics, rules)]


def growth_gb_per_h(metrics: InfrastructureMetrics, min_readings: int) -> float | None:
    """Slope of the straight line through the storage readings, the newest among them; None with too few of them."""
    points = [
        (-age / timedelta(hours=1), reading.storage_used_gb)
        for age, reading in aged(metrics.history)
        if reading.storage_used_gb is not None
    ]
    if metrics.storage_used_gb is None or len(points) + 1 < max(min_readings, 2):
        return None
    points.append((0.0, metrics.storage_used_gb))
    try:
        return linear_regression([x for x, _ in points], [y for _, y in points]).slope
    except (OverflowError, ValueError):  # readings near the largest float: no line through them can be told
        return None


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
    """When the storage is full at its growth, as told or as its history shows; the sooner of both."""
    used, total, told = metrics.storage_used_gb, metrics.storage_total_gb, metrics.storage_growth_gb_per_day
    if used is None or total is None:
        return lacking(metrics, "disk_forecast", "storage_used_gb", "storage_total_gb")
    seen_per_h = growth_gb_per_h(metrics, rules.min_readings)
    if told is None and seen_per_h is None:
        return [NotJudged("disk_forecast", ("storage_growth_gb_per_day or storage_used_gb in history",))]
    per_h, source = max(
        (told / 24 if told is not None else 0.0, "as told"), (seen_per_h or 0.0, "by the line through its history")
    )
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
    if seen_per_h is not None:
        facts["history"] = f"{len(metrics.history)} readings"
    return [RuleFired(rule="disk_forecast", level=level, reason=reason, facts=facts)]
