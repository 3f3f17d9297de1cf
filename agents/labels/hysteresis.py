"""Levels that begin and end late, so that a metric that swings around a threshold does not make its label flap.

One machine per level and metric. The level begins once `for_readings` readings in a row are beyond its threshold and
ends once `keep_readings` in a row are below it by more than the margin. The idea is Prometheus' `for` and
`keep_firing_for`, the asymmetric thresholds are netdata's; the widths are the policy's. With fewer readings than
`for_readings` all of them must be beyond; a single reading, or the newest where nothing is damped, decides alone.

Nothing hangs on the first reading, so a history that is always cut to its last readings does not change its label with
every cut. But what has been cut off is forgotten: a level that only readings before the cut have begun ends with them,
so that a swing which comes again more rarely than the history is long may still change the label. No rule without a
memory of its own can do better: constant histories on either side of a threshold must have different labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.labels.label import RuleFired
from agents.labels.labelling import Finding, shown
from agents.labels.policy_model import Damping


@dataclass(frozen=True)
class Line:
    """A threshold of one metric, in the metric's own unit."""

    level: str
    rule: str
    """The rule's name when a reading beyond it decides."""
    limit: float
    inclusive: bool
    """Whether the limit itself is beyond."""
    ends_below: float
    """Readings below this count towards the level's end."""
    bound: str
    """The limit in words: ``above 85``."""

    def beyond(self, value: float) -> bool:
        """Whether a reading counts towards the level."""
        return value >= self.limit if self.inclusive else value > self.limit


@dataclass(frozen=True)
class State:
    """Where a level stands after the newest reading."""

    on: bool
    beyond: int
    """Readings in a row, up to the newest, that are beyond the line."""
    below: int
    """Readings in a row, up to the newest, that count towards its end."""


def state(series: Sequence[float], line: Line, damping: Damping | None) -> State:
    """The level after the whole series, which has at least one reading and stands oldest first."""
    if damping is None:
        series = series[-1:]
    needed = min(damping.for_readings, len(series)) if damping else 1
    keep = damping.keep_readings if damping else 1
    on = False
    beyond = below = 0
    for value in series:
        beyond = beyond + 1 if line.beyond(value) else 0
        below = below + 1 if value < line.ends_below else 0
        on = below < keep if on else beyond >= needed
    return State(on, beyond, below)


def judge(
    name: str, series: Sequence[float], lines: Sequence[Line], damping: Damping | None, mildest: str, note: str = ""
) -> list[Finding]:
    """What a metric says: each level that holds, and each that a reading asks for but not yet enough of them.

    lines: the mildest first. note: added to the reasons of the first line. A reading that does not count yet speaks
    for the level that holds.
    """
    states = [state(series, line, damping) for line in lines]
    level = next((line.level for line, at in reversed(list(zip(lines, states, strict=True))) if at.on), mildest)
    value = series[-1]
    facts: dict[str, float | int | str] = {name: value}
    if damping and len(series) > 1:
        facts["history"] = f"{len(series) - 1} readings"
    found: list[Finding] = []
    for line, at in zip(lines, states, strict=True):
        said = _said(name, value, line, at, damping)
        if said:
            rule, reason = said
            extra = note if line is lines[0] else ""
            holds = line.level if at.on else level
            found.append(RuleFired(rule=rule, level=holds, reason=reason + extra, facts=facts))
    return found


def _said(name: str, value: float, line: Line, at: State, damping: Damping | None) -> tuple[str, str] | None:
    """The rule that speaks about one line, and its reason."""
    text = f"{name} is {shown(value)}"
    if at.on and line.beyond(value):
        return line.rule, f"{text}, {line.bound}"
    if at.on and damping:
        needed = f"{damping.keep_readings} readings in a row are below {shown(line.ends_below)}"
        return "held", f"held: {text}, {line.level} until {needed} ({at.below} so far)"
    if line.beyond(value) and damping:
        return "not_yet", f"{text}, {line.bound}, in {at.beyond} of {damping.for_readings} readings needed: not yet"
    return None
