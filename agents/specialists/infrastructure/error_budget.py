"""How fast the error budget burns: 1 uses it up exactly at the end of the SLO's period.

Pairs of windows that must agree (Google SRE Workbook, chapter 5): the long one shows that it matters, the short one
that it still goes on. A pair is measured when the history reaches back over the long window and has a reading inside
it; the short one may hold the newest reading only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from statistics import fmean

from agents.facts.spec import InfrastructureMetrics
from agents.labels.history import aged, within
from agents.labels.label import RuleFired
from agents.labels.labelling import Finding, lacking, shown
from agents.labels.policy_model import BurnRate, ErrorBudget


def burn_findings(metrics: InfrastructureMetrics, rules: ErrorBudget) -> list[Finding]:
    """CRITICAL or HIGH where both windows of a pair burn too fast.

    One reading by itself is at most HIGH: where the pair for HIGH is not measured, and where only the newest reading
    burns as fast as CRITICAL asks. Else a calm history would make the label worse than none.
    """
    error_rate, slo = metrics.error_rate_percent, metrics.availability_slo_percent
    if error_rate is None or slo is None:
        return lacking(metrics, "error_budget_burn", "error_rate_percent", "availability_slo_percent")
    earlier = [
        (age, reading.error_rate_percent)
        for age, reading in aged(metrics.history)
        if reading.error_rate_percent is not None
    ]

    earlier_burns = [(age, burn_rate(value, slo)) for age, value in earlier]
    newest = burn_rate(error_rate, slo)
    critical, high = (_measured(earlier_burns, newest, pair) for pair in (rules.critical, rules.high))
    reasons = [
        ("CRITICAL" if critical and critical.again else "HIGH", _over_windows(critical, rules.critical)),
        ("HIGH", _over_windows(high, rules.high) if high else _single(newest, rules.high)),
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


@dataclass(frozen=True)
class _Measured:
    """What a pair of windows measures."""

    short: float
    long: float
    again: bool
    """Whether an earlier reading in the long window burns at the pair's rate too."""


def _measured(earlier: list[tuple[timedelta, float]], newest: float, pair: BurnRate) -> _Measured | None:
    """None where the history does not reach back over the long window or has nothing inside it.

    earlier: age and burn rate, oldest first.
    """
    short, long = (within(earlier, timedelta(minutes=minutes)) for minutes in (pair.short_min, pair.long_min))
    if short is None or not long:
        return None
    return _Measured(fmean([*short, newest]), fmean([*long, newest]), max(long) >= pair.rate)


def _over_windows(found: _Measured | None, pair: BurnRate) -> str | None:
    if found is None or min(found.short, found.long) < pair.rate:
        return None
    return (
        f"the error budget burns {found.short:.3g} times too fast over {shown(pair.short_min)} min and "
        f"{found.long:.3g} times over {shown(pair.long_min)} min, at least {shown(pair.rate)}"
    )


def _single(newest: float, pair: BurnRate) -> str | None:
    if newest < pair.rate:
        return None
    return (
        f"the error budget burns {newest:.3g} times too fast in this reading, at least {shown(pair.rate)}; "
        f"over {shown(pair.long_min)} min it is unknown"
    )
