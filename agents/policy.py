"""Severity and priority by rules: pure functions of metrics and a policy, each label with the rules that fired.

The numbers are a YAML file's, so that they can be read, argued about and replaced. Labels are never the
model's, and a label that cannot be known is UNKNOWN with the reason, never the mildest one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agents.files import load_preset, preset_names
from agents.schema import InfrastructureMetrics, Label, Name, Percent, QualityMetrics, RuleFired, Strict

POLICIES_DIR = Path(__file__).parent / "policies"
DEFAULT_POLICY = "standard"
UNKNOWN = "UNKNOWN"
SEVERITIES = ("LOW", "MEDIUM", "HIGH")
PRIORITIES = ("NORMAL", "HIGH", "CRITICAL")


class SeverityRules(Strict):
    """Cut-offs for data quality, in percent."""

    low_from_mean: Percent
    """LOW when the mean of completeness and consistency is at least this."""
    medium_from_mean: Percent
    """MEDIUM when that mean is at least this; HIGH below."""
    medium_floor: Percent | None = None
    """A dimension below this makes it at least MEDIUM."""
    high_floor: Percent | None = None
    """A dimension below this makes it HIGH."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.medium_from_mean > self.low_from_mean:
            raise ValueError("medium_from_mean must not be above low_from_mean")
        if None not in (self.medium_floor, self.high_floor) and self.high_floor > self.medium_floor:  # type: ignore[operator]
            raise ValueError("high_floor must not be above medium_floor")
        return self


class PriorityRules(Strict):
    """Cut-offs for CPU and memory use, in percent."""

    critical_above: Percent
    """CRITICAL when CPU or memory is above this."""
    high_from: Percent
    """HIGH from here on."""
    tolerance: Annotated[float, Field(ge=0, le=20)] = 0.0
    """Points above `high_from` that a single reading is allowed before it counts, since readings jitter.
    The idea is the Kubernetes autoscaler's tolerance; the width is ours."""
    judge: Literal["each", "mean"]
    """`each`: every metric for itself, the worst wins; `mean`: their average."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.high_from + self.tolerance > self.critical_above:
            raise ValueError("high_from plus tolerance must not be above critical_above")
        return self


class Policy(Strict):
    """One set of rules for both labels."""

    name: Name
    description: str
    severity: SeverityRules
    priority: PriorityRules


def policy_names() -> list[str]:
    """The presets that come with Plumbline, sorted."""
    return preset_names(POLICIES_DIR)


def load_policy(name: str) -> Policy:
    """A preset by name, or the policy in a YAML file. Raises BadInput."""
    return load_preset("policy", POLICIES_DIR, name, Policy)


def severity(metrics: QualityMetrics, policy: Policy) -> Label:
    """How bad the data is: the worst of the mean's level and each dimension's floor."""
    rules = policy.severity
    values = {
        "completeness_percent": metrics.completeness_percent,
        "consistency_percent": metrics.consistency_percent,
    }
    fired = [] if (unknown := _unusable(values)) else [_by_mean(_known(values), rules)]
    fired += [_floor(name, value, rules) for name, value in _known(values).items()]
    return _decide("severity", SEVERITIES, policy, fired, unknown)


def priority(metrics: InfrastructureMetrics, policy: Policy) -> Label:
    """How soon the infrastructure needs someone: the worst of what CPU and memory say."""
    rules = policy.priority
    values = {"cpu_percent": metrics.cpu_percent, "memory_percent": metrics.memory_percent}
    unknown = _unusable(values)
    fired = [_critical(name, value, rules) for name, value in _known(values).items()]
    if rules.judge == "each":
        fired += [_high(name, value, rules) for name, value in _known(values).items()]
    elif not unknown:
        fired.append(_high("mean of cpu_percent and memory_percent", _mean(_known(values)), rules))
    return _decide("priority", PRIORITIES, policy, fired, unknown)


# A rule's say: the level it asks for, its name, and why. None when it has nothing to say.
_Say = tuple[str, RuleFired] | None


def _decide(
    kind: Literal["severity", "priority"],
    levels: tuple[str, ...],
    policy: Policy,
    said: list[_Say],
    unknown: list[RuleFired],
) -> Label:
    """The worst level any rule asked for, with those rules; UNKNOWN, with what is known, when a metric is missing."""
    spoke = [one for one in said if one]
    if unknown:
        known = [RuleFired(rule=rule.rule, reason=f"{rule.reason}: {level} by itself") for level, rule in spoke]
        return Label(kind=kind, value=UNKNOWN, policy=policy.name, rules=(*unknown, *known))
    worst = max((level for level, _ in spoke), key=levels.index, default=levels[0])
    # At the mildest level every rule that spoke supports it; above, only those that asked for that level.
    because = tuple(rule for level, rule in spoke if level == worst)
    if not because:
        because = (RuleFired(rule="no_rule", reason="no metric reaches a threshold"),)
    return Label(kind=kind, value=worst, policy=policy.name, rules=because)


def _unusable(values: dict[str, float | None]) -> list[RuleFired]:
    reasons = []
    for name, value in values.items():
        if value is None:
            reasons.append(RuleFired(rule="missing_metric", reason=f"{name} is missing"))
        elif not _possible(value):
            reasons.append(RuleFired(rule="impossible_metric", reason=f"{name} is {value:g}, outside 0 to 100"))
    return reasons


def _possible(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= 100


def _known(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None and _possible(value)}


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _by_mean(values: dict[str, float], rules: SeverityRules) -> _Say:
    mean = _mean(values)
    text = f"mean of completeness and consistency is {mean:g}"
    if mean >= rules.low_from_mean:
        return "LOW", RuleFired(rule="quality_mean", reason=f"{text}, at least {rules.low_from_mean:g}")
    if mean >= rules.medium_from_mean:
        return "MEDIUM", RuleFired(rule="quality_mean", reason=f"{text}, at least {rules.medium_from_mean:g}")
    return "HIGH", RuleFired(rule="quality_mean", reason=f"{text}, below {rules.medium_from_mean:g}")


def _floor(name: str, value: float, rules: SeverityRules) -> _Say:
    for level, floor in (("HIGH", rules.high_floor), ("MEDIUM", rules.medium_floor)):
        if floor is not None and value < floor:
            return level, RuleFired(rule="dimension_floor", reason=f"{name} is {value:g}, below {floor:g}")
    return None


def _critical(name: str, value: float, rules: PriorityRules) -> _Say:
    if value <= rules.critical_above:
        return None
    return "CRITICAL", RuleFired(rule="above_critical", reason=f"{name} is {value:g}, above {rules.critical_above:g}")


def _high(name: str, value: float, rules: PriorityRules) -> _Say:
    limit = rules.high_from
    if value < limit:
        return None
    # Inside the tolerance the reading itself does not count: 68, 72, 68, 72 must not flap.
    if rules.tolerance and value <= limit + rules.tolerance:
        reason = f"{name} is {value:g}, within {rules.tolerance:g} points above {limit:g}: one reading does not count"
        return "NORMAL", RuleFired(rule="within_tolerance", reason=reason)
    bound = f"above {limit + rules.tolerance:g}" if rules.tolerance else f"at least {limit:g}"
    return "HIGH", RuleFired(rule="from_high", reason=f"{name} is {value:g}, {bound}")
