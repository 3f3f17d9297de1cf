"""Severity: how bad the data is, by a policy's rules."""

from __future__ import annotations

from agents.facts.spec import QualityMetrics
from agents.facts.units import seconds
from agents.labels.label import Label, RuleFired
from agents.labels.labelling import Finding, decide, lacking, missing, shown, without_impossible
from agents.labels.policy_model import Policy, SeverityRules

SEVERITIES = ("LOW", "MEDIUM", "HIGH")
"""From the mildest to the worst."""
NEEDED = ("completeness_percent", "consistency_percent")
"""Without these the severity is UNKNOWN."""
DIMENSIONS = (*NEEDED, "validity_percent")
"""Each has a floor of its own."""


def severity(metrics: QualityMetrics, policy: Policy) -> Label:
    """The worst of what the mean, each dimension, freshness and keys say."""
    return decide("severity", SEVERITIES, policy.name, severity_findings(metrics, policy.severity))


def severity_findings(metrics: QualityMetrics, rules: SeverityRules) -> list[Finding]:
    """What every rule says, or that it has nothing to go by."""
    metrics, impossible = without_impossible(metrics)
    return [
        *impossible,
        *missing(metrics, NEEDED, impossible),
        *_mean(metrics, rules),
        *_floors(metrics, rules),
        *_freshness(metrics, rules),
        *_uniqueness(metrics, rules),
    ]


def _mean(metrics: QualityMetrics, rules: SeverityRules) -> list[Finding]:
    completeness, consistency = metrics.completeness_percent, metrics.consistency_percent
    if completeness is None or consistency is None:
        return lacking(metrics, "quality_mean", *NEEDED)
    mean = (completeness + consistency) / 2
    if mean >= rules.mean.low:
        level, bound = "LOW", f"at least {shown(rules.mean.low)}"
    elif mean >= rules.mean.medium:
        level, bound = "MEDIUM", f"at least {shown(rules.mean.medium)}"
    else:
        level, bound = "HIGH", f"below {shown(rules.mean.medium)}"
    facts = {"completeness_percent": completeness, "consistency_percent": consistency}
    reason = f"mean of completeness and consistency is {shown(mean)}, {bound}"
    return [RuleFired(rule="quality_mean", level=level, reason=reason, facts={**facts})]


def _floors(metrics: QualityMetrics, rules: SeverityRules) -> list[Finding]:
    critical = metrics.column_criticality == "critical" and rules.critical_floors is not None
    floors = rules.critical_floors if critical else rules.floors
    if floors is None:
        return []
    found: list[Finding] = []
    for name in DIMENSIONS:
        value: float | None = getattr(metrics, name)
        if value is None:
            found += lacking(metrics, "dimension_floor", name)
        elif value < floors.medium:
            level, floor = ("HIGH", floors.high) if value < floors.high else ("MEDIUM", floors.medium)
            reason = f"{name} is {shown(value)}, below {shown(floor)}"
            found.append(
                RuleFired(
                    rule="critical_floor" if critical else "dimension_floor",
                    level=level,
                    reason=f"{reason}, the floor for critical columns" if critical else reason,
                    facts={name: value, **({"column_criticality": "critical"} if critical else {})},
                )
            )
    return found


def _freshness(metrics: QualityMetrics, rules: SeverityRules) -> list[Finding]:
    if rules.freshness is None:
        return []
    age, sla = metrics.freshness, metrics.freshness_sla
    if age is None or sla is None:
        return lacking(metrics, "freshness", "freshness", "freshness_sla")
    for level, multiple in (("HIGH", rules.freshness.high), ("MEDIUM", rules.freshness.medium)):
        if seconds(age) > multiple * seconds(sla):
            times = "" if multiple == 1 else f"{shown(multiple)} times "
            reason = f"freshness is {age}, above {times}its SLA of {sla}"
            return [
                RuleFired(rule="freshness", level=level, reason=reason, facts={"freshness": age, "freshness_sla": sla})
            ]
    return []


def _uniqueness(metrics: QualityMetrics, rules: SeverityRules) -> list[Finding]:
    if rules.uniqueness is None:
        return []
    value = metrics.uniqueness_percent
    if value is None:
        return lacking(metrics, "duplicate_keys", "uniqueness_percent")
    if value >= rules.uniqueness.high:
        return []
    reason = f"uniqueness_percent is {shown(value)}, below {shown(rules.uniqueness.high)}: keys stand twice"
    return [RuleFired(rule="duplicate_keys", level="HIGH", reason=reason, facts={"uniqueness_percent": value})]
