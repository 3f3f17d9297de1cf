"""What a severity is about: of the facts its rules went by, those that are bad themselves."""

from __future__ import annotations

from agents.labels.label import UNKNOWN, Label, RuleFired, level
from agents.specialists.quality.severity import DIMENSIONS, SEVERITIES

FAIR_PERCENT = 95.0
"""Below this a dimension is bad by itself: the lower end of row 18, where practice only warns (S20; figure ours)."""


def causes(label: Label | None) -> frozenset[str]:
    """The facts that made the severity MEDIUM or HIGH; none for LOW, and none where nothing is known.

    The mean of completeness and consistency names both, though one of them may be perfect: only what is bad counts.
    """
    if label is None or level(label) in (SEVERITIES[0], UNKNOWN):
        return frozenset()
    return frozenset(name for rule in label.rules if rule.level == level(label) for name in _bad(rule))


def _bad(rule: RuleFired) -> set[str]:
    """Dimensions below what is fair, or the lowest where none is; of other rules the fact they are about."""
    shares = {name: float(value) for name, value in rule.facts.items() if name in DIMENSIONS}
    if not shares:
        return set(list(rule.facts)[:1])
    return {name for name, value in shares.items() if value < FAIR_PERCENT} or {
        min(shares, key=lambda name: shares[name])
    }
