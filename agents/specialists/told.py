"""Facts as an agent is told them: only what is known, by the pipeline file's names, histories as short series."""

from __future__ import annotations

from collections.abc import Sequence

from agents.facts.spec import PipelineSpec, Reading
from agents.specialists.specialist import Fact, Facts
from common.strict import Strict

SERIES = 8
"""Readings of a history that are told, the newest: enough for a trend or a swing, and some 20 tokens."""


def known(part: Strict, *leave_out: str) -> Facts:
    """What is known of one part of a pipeline."""
    found = part.model_dump(mode="json", exclude_none=True, exclude={"history", *leave_out})
    return {name: plain(value) for name, value in found.items()}


def described(spec: PipelineSpec) -> Facts:
    """The owner's own words, which every agent is told: they hold what no field says."""
    return {"description": spec.source.description} if spec.source.description else {}


def series(history: Sequence[Reading]) -> Facts:
    """The newest values of each metric of a history, oldest first: ``cpu_percent_history: [68, 72, 68]``."""
    told: Facts = {}
    for name in Reading.model_fields:
        values = [value for one in history if name != "at" and (value := getattr(one, name)) is not None]
        if values:
            told[f"{name}_history"] = [_number(value) for value in values[-SERIES:]]
    if told:
        told["history_span"] = span(history)
    return told


def span(history: Sequence[Reading]) -> str:
    """How many readings there are and over what time: ``16 readings over 80 min``."""
    if len(history) == 1:
        return "1 reading"
    minutes = (history[-1].at - history[0].at).total_seconds() / 60
    days = minutes / 60 / 24
    length = f"{days:.0f} days" if days >= 2 else f"{minutes / 60:.0f} h" if minutes >= 90 else f"{minutes:.0f} min"
    return f"{len(history)} readings over {length}"


def plain(value: Fact) -> Fact:
    """Whole numbers without a decimal point; beyond 2**53 a float has no exact digits to show."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _number(value: float) -> float:
    found = plain(value)
    return found if isinstance(found, int | float) else value
