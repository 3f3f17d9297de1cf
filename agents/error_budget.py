"""How fast the error budget burns: 1 uses it up exactly at the end of the SLO's period.

Pairs of windows that must agree (Google SRE Workbook, chapter 5): the long one shows that it matters, the short one
that it still goes on.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from agents.history import aged, window_mean
from agents.labelling import Finding, lacking, shown
from agents.policy_model import BurnRate, ErrorBudget
from agents.schema import RuleFired
from agents.spec import InfrastructureMetrics


def burn_findings(metrics: InfrastructureMetrics, rules: ErrorBudget) -> list[Finding]:
    """CRITICAL or HIGH where both windows of a pair burn too fast.

    Where the history does not cover the pair for HIGH, a single reading at that rate is HIGH and says so.
    """
    error_rate, slo = metrics.error_rate_percent, metrics.availability_slo_percent
    if error_rate is None or slo is None:
        return lacking(metrics, "error_budget_burn", "error_rate_percent", "availability_slo_percent")
    earlier = [
        (age, reading.error_rate_percent)
        for age, reading in aged(metrics.history)
        if reading.error_rate_percent is not None
    ]

    def burn_over(minutes: float) -> float | None:
        mean = window_mean(earlier, error_rate, timedelta(minutes=minutes))
        return None if mean is None else burn_rate(mean, slo)

    high, critical = rules.high, rules.critical
    short, long = burn_over(high.short_min), burn_over(high.long_min)
    reasons = [
        ("CRITICAL", _over_windows(burn_over(critical.short_min), burn_over(critical.long_min), critical)),
        ("HIGH", _single(burn_rate(error_rate, slo), high) if long is None else _over_windows(short, long, high)),
    ]
    facts: dict[str, float | int | str] = {"error_rate_percent": error_rate, "availability_slo_percent": slo}
    if earlier:
        facts["history"] = f"{len(earlier)} readings"
    return [
        RuleFired(rule="error_budget_burn", level=level, reason=reason, facts=facts)
        for level, reason in reasons
        if reason
    ]


def burn_rate(error_rate_percent: float, slo_percent: float) -> float:
    """Errors over what the SLO allows, to six decimals. In decimals, since 100 - 99.99 is not 0.01 in binary."""
    budget = Decimal(100) - Decimal(str(slo_percent))
    return round(float(Decimal(str(error_rate_percent)) / budget), 6)


def _over_windows(short: float | None, long: float | None, pair: BurnRate) -> str | None:
    if short is None or long is None or min(short, long) < pair.rate:
        return None
    return (
        f"the error budget burns {short:.3g} times too fast over {shown(pair.short_min)} min and {long:.3g} times over "
        f"{shown(pair.long_min)} min, at least {shown(pair.rate)}"
    )


def _single(newest: float, pair: BurnRate) -> str | None:
    if newest < pair.rate:
        return None
    return (
        f"the error budget burns {newest:.3g} times too fast in this reading, at least {shown(pair.rate)}; "
        f"over {shown(pair.long_min)} min it is unknown"
    )
