"""A label: a severity, a priority or the like, given by a policy's rules and never by the model."""

from __future__ import annotations

from pydantic import Field

from common.strict import Strict

UNKNOWN = "UNKNOWN"


class RuleFired(Strict):
    """One rule of a policy that had a say in a label."""

    rule: str
    level: str
    """The level it asks for by itself; UNKNOWN for what is missing."""
    reason: str
    facts: dict[str, float | int | str] = Field(default_factory=dict)
    """The facts it went by, under the names of the pipeline file; the one it is about stands first."""


class Label(Strict):
    """How grave something is, by a policy's rules."""

    kind: str
    """What it grades: ``severity``, ``priority``."""
    value: str
    """LOW, MEDIUM, HIGH (severity); NORMAL, HIGH, CRITICAL (priority); UNKNOWN where a metric is missing."""
    policy: str
    rules: tuple[RuleFired, ...] = Field(strict=False)
    at_least: str | None = None
    """Where the value is UNKNOWN: the worst level that what is known asks for by itself, if any."""
    by_run: Label | None = None
    """The run's own label, where the pipeline's policy made a graver one of it, which may not permit more actions."""

    @property
    def worst_known(self) -> str:
        """The value, or where that is UNKNOWN, the worst level known."""
        return self.at_least or self.value


def level(label: Label | None) -> str:
    """A label's value, or where that is UNKNOWN, the worst level known; UNKNOWN too without a label."""
    return label.worst_known if label else UNKNOWN
