"""From what rules say to one label: the worst level wins, and what cannot be known is UNKNOWN with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from agents.labels.label import UNKNOWN, Label, RuleFired

Metrics = TypeVar("Metrics", bound=BaseModel)


@dataclass(frozen=True)
class NotJudged:
    """A rule that had nothing to go by."""

    rule: str
    missing: tuple[str, ...]
    """The facts it lacks, under the names of the pipeline file."""


Finding = RuleFired | NotJudged


def decide(kind: str, levels: tuple[str, ...], policy: str, findings: Iterable[Finding]) -> Label:
    """The worst level any rule asked for, with those rules; UNKNOWN, with what is known, when a metric is missing.

    levels: from the mildest to the worst. policy: its name.
    """
    fired = [finding for finding in findings if isinstance(finding, RuleFired)]
    spoke = [rule for rule in fired if rule.level != UNKNOWN]
    worst = max((rule.level for rule in spoke), key=levels.index, default=levels[0])
    if len(spoke) < len(fired):
        unknown = [rule for rule in fired if rule.level == UNKNOWN]
        known = [rule.model_copy(update={"reason": f"{rule.reason}: {rule.level} by itself"}) for rule in spoke]
        # The mildest level is no news about what is missing: who reads `worst_known` must not take it for calm.
        at_least = None if worst == levels[0] else worst
        return Label(kind=kind, value=UNKNOWN, policy=policy, rules=(*unknown, *known), at_least=at_least)
    # At the mildest level every rule that spoke supports it; above, only those that asked for that level.
    because = tuple(rule for rule in spoke if rule.level == worst)
    if not because:
        because = (RuleFired(rule="no_rule", level=levels[0], reason="no metric reaches a threshold"),)
    return Label(kind=kind, value=worst, policy=policy, rules=because)


def stricter(given: Label, own: Label, rank: Callable[[Label], int]) -> Label:
    """The graver of two labels of one kind; `given` where neither is. rank: how grave what a label knows is."""
    return own.model_copy(update={"by_run": given}) if rank(own) > rank(given) else given


def without_impossible(metrics: Metrics) -> tuple[Metrics, list[RuleFired]]:
    """The metrics without figures that cannot be (140 percent, not a number), and what is to be said about these.

    Files are checked on reading; this is for metrics that code has built unchecked.
    """
    bad = {name: value for name, value in metrics if isinstance(value, int | float) and not _possible(name, value)}
    if not bad:
        return metrics, []
    said = [
        RuleFired(
            rule="impossible_metric",
            level=UNKNOWN,
            reason=f"{name} is {value:g}, {_why_not(name, value)}",
            facts={name: f"{value:g}"},
        )
        for name, value in bad.items()
    ]
    return metrics.model_copy(update=dict.fromkeys(bad)), said


def missing(metrics: BaseModel, needed: Sequence[str], impossible: Sequence[RuleFired]) -> list[RuleFired]:
    """An UNKNOWN for each metric that a label cannot do without and that is not there."""
    told = {name for rule in impossible for name in rule.facts}
    return [
        RuleFired(rule="missing_metric", level=UNKNOWN, reason=f"{name} is missing")
        for name in needed
        if getattr(metrics, name) is None and name not in told
    ]


def lacking(metrics: BaseModel, rule: str, *needed: str) -> list[Finding]:
    """That a rule has nothing to go by, with those of the facts it needs that are not known."""
    return [NotJudged(rule, tuple(name for name in needed if getattr(metrics, name) in (None, ())))]


def shown(value: float) -> str:
    """A figure as a reason tells it: as it was given, without trailing zeros."""
    return f"{value:.10g}"


def _possible(name: str, value: float) -> bool:
    """Whether a field may hold the figure: the bounds of agents/facts/spec.py, for metrics that never passed there."""
    if not math.isfinite(value) or (value < 0 and name != "storage_growth_gb_per_day"):
        return False
    if value == 0 and name in {"storage_total_gb", "latency_slo_ms", "availability_slo_percent"}:
        return False
    if name == "availability_slo_percent" and value == 100:  # it leaves no budget to burn
        return False
    return value <= 100 or not name.endswith("_percent")


def _why_not(name: str, value: float) -> str:
    return "outside 0 to 100" if name.endswith("_percent") and not 0 <= value <= 100 else "which cannot be"
