"""What a priority is about: of the facts its rules went by, those that are bad themselves."""

from __future__ import annotations

from agents.labels.label import UNKNOWN, Label, RuleFired, level
from agents.specialists.infrastructure.priority import PRIORITIES

_COMPARED = ("cpu_percent", "memory_percent")
"""What a rule about a mean takes together: the fuller of them is what it is about."""


def deciding(label: Label | None) -> tuple[RuleFired, ...]:
    """The rules that made the priority HIGH or CRITICAL; none for NORMAL, and none where nothing is known."""
    if label is None or level(label) in (PRIORITIES[0], UNKNOWN):
        return ()
    return tuple(rule for rule in label.rules if rule.level == level(label) and rule.facts)


def causes(label: Label | None) -> frozenset[str]:
    """The facts that the deciding rules are about; what these only compared them with is none."""
    return frozenset(_about(rule) for rule in deciding(label))


def _about(rule: RuleFired) -> str:
    """The fact that stands first; of a mean the larger part."""
    if rule.rule != "mean_from_high":
        return next(iter(rule.facts))
    return max(_COMPARED, key=lambda name: float(rule.facts[name]))
