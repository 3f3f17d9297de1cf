"""What a row of the oracle table fixes, and what it leaves to the seed.

Facts are written flat, by the field names of agents/facts/spec.py, each with the values it may take. A fact that stands
alone is fixed; the seed picks among several.

How hard a case is, is a matter of what surrounds the fact that decides:

    easy     it stands in a typed field, far from any limit, and in plain words
    medium   it stands in a typed field; other fields say nothing that matters
    hard     the same at the edge of the row's range, among true sentences that tempt or do not matter
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from agents.facts.spec import InfrastructureMetrics, PipelineSpec, QualityMetrics, Source

Difficulty = Literal["easy", "medium", "hard"]

Facts = dict[str, Any]
"""Field name of Source, QualityMetrics or InfrastructureMetrics to value; no name stands in two of them."""
Options = Mapping[str, Sequence[Any]]
"""Field name to the values the seed may pick from."""


Group = tuple[str, ...]
"""Actions of which any one fulfils the same need."""


@dataclass(frozen=True)
class Key:
    """What is right: the part of a case that a pipeline does not show."""

    right_choices: tuple[str, ...] = ()
    wrong_choices: tuple[str, ...] = ()
    """Values in neither are debatable and do not count."""
    labels: tuple[str, ...] = ()
    right: tuple[Group, ...] = ()
    """Needs that a good decision meets, the most important one first."""
    harmful: tuple[str, ...] = ()
    """Actions that do harm here."""


@dataclass(frozen=True)
class Drawn:
    """The facts of one case with their key."""

    facts: Facts
    key: Key


def as_drawn(_rng: random.Random, drawn: Drawn) -> Drawn:
    """Nothing hangs on anything else."""
    return drawn


@dataclass(frozen=True)
class OracleRow:
    """One row of the table, as far as the fields of a PipelineSpec can express it."""

    number: int
    sources: str
    """Where the truth comes from, by the names of docs/oracle.md."""
    stage: str
    key: Key
    facts: Options
    plain: tuple[str, ...]
    """What decides in plain words; `{field}` stands for a fact."""
    lures: tuple[str, ...]
    """True of this row and no reason for anything, though it sounds like one."""
    easy: Options = field(default_factory=dict)
    """Changes to the facts where the case is easy: words beside fields, values far from any limit."""
    noise: Options = field(default_factory=dict)
    """Facts that say nothing, from medium on."""
    edge: Options = field(default_factory=dict)
    """Changes to the facts where the case is hard: values at the edge of the row's range."""
    finish: Callable[[random.Random, Drawn], Drawn] = as_drawn
    """Adds what hangs on what was picked: a growth that fills this disk in time, a label by how late the data is."""

    def draw(self, rng: random.Random, difficulty: Difficulty) -> Drawn:
        """The facts of one case of this row."""
        drawn = self.finish(rng, Drawn(pick(rng, self._options(difficulty)), self.key))
        told = _description(rng, self, difficulty, drawn.facts)
        return replace(drawn, facts=drawn.facts | {"description": told}) if told else drawn

    def _options(self, difficulty: Difficulty) -> Options:
        if difficulty == "easy":
            return {**self.facts, **self.easy}
        return {**self.noise, **self.facts, **(self.edge if difficulty == "hard" else {})}


def options(**alternatives: object) -> Options:
    """Facts with their alternatives: `a | b` in words, a range or tuple of figures, or a single value."""
    return {name: _alternatives(value) for name, value in alternatives.items()}


def tenths(low: float, high: float) -> tuple[float, ...]:
    """Every tenth from low to high, both included."""
    return tuple(tenth / 10 for tenth in range(round(low * 10), round(high * 10) + 1))


def pick(rng: random.Random, choices: Options) -> Facts:
    """One value for each fact."""
    return {name: values[0] if len(values) == 1 else one_of(rng, values) for name, values in choices.items()}


def one_of(rng: random.Random, values: Sequence[Any]) -> Any:
    """One of the values. A third of the time of random.choice, which adds up over 100,000 cases of ten facts."""
    return values[int(rng.random() * len(values))]


def spec_of(pipeline: str, facts: Facts) -> PipelineSpec:
    """The pipeline that has these facts. Raises ValidationError when one of them is not allowed."""
    parts: dict[str, Facts] = {"source": {}, "quality_metrics": {}, "infrastructure_metrics": {}}
    for name, value in facts.items():
        parts[_PART[name]][name] = value
    told = parts["source"].pop("description", None)
    source = _source(tuple(parts.pop("source").items()))
    described = source.model_copy(update={"description": told}) if told else source
    return PipelineSpec.model_validate({"id": pipeline, "source": described} | parts)


@lru_cache(maxsize=8192)
def _source(facts: tuple[tuple[str, Any], ...]) -> Source:
    """A source without its description. Kept: to bring its amounts to one spelling takes as long as all the rest."""
    return Source.model_validate(dict(facts))


_PART = {
    name: part
    for part, model in (
        ("infrastructure_metrics", InfrastructureMetrics),
        ("quality_metrics", QualityMetrics),
        ("source", Source),
    )
    for name in model.model_fields
}

ASIDES = (
    "The team moved last year.",
    "Field names are in upper case.",
    "Its first version was in Perl.",
    "Two analysts use it.",
    "All times are in UTC.",
    "The contract was renewed last spring.",
    "Its dashboard has a dark theme.",
    "The data stays in the EU.",
    "Names may hold accents and emoji.",
    "The owner is on leave.",
    "A new column order was dropped.",
    "It was audited in 2024.",
)
"""True sentences that decide nothing, for any row."""


def _description(rng: random.Random, row: OracleRow, difficulty: Difficulty, facts: Facts) -> str | None:
    """The free words of a case, after those that the row itself needs."""
    needed: str | None = facts.get("description")
    if difficulty == "medium":
        return needed
    if difficulty == "easy":
        added = one_of(rng, row.plain).format_map(facts)
    else:
        added = f"{one_of(rng, row.lures)} {one_of(rng, ASIDES)}"
    return f"{needed} {added}" if needed else added


def _alternatives(value: object) -> Sequence[Any]:
    if isinstance(value, str):
        return tuple(one.strip() for one in value.split("|"))
    return value if isinstance(value, tuple | range) else (value,)
