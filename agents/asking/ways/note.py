"""Whether a model's sentence may stand beside its decision. Form alone is looked at, never words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

from agents.asking.question import StageQuestion
from agents.specialists.decision import NOTE_CHARACTERS

_FIGURE = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?")
_MOST_DIGITS = 15
"""A figure of more is nobody's. Twice as many still fit the 28 digits that Decimal rounds to."""


def note_problem(note: object, question: StageQuestion) -> str | None:
    """Why a note is dropped; None where it may stand."""
    if not isinstance(note, str) or not note.strip():
        return "empty"
    if len(note.strip()) > NOTE_CHARACTERS:
        return "too long"
    if not note.strip().isprintable():
        return "control characters"
    held = [*figures(map(str, _values(question)))]
    if any(not holds(held, figure) for figure in figures([note])):
        return "a figure that no fact holds"
    return None


def figures(texts: Iterable[str]) -> Iterator[Decimal]:
    """The numbers in texts, without sign: `1,200` and `1200` are one."""
    for text in texts:
        for found in _FIGURE.findall(text):
            if len(found) <= _MOST_DIGITS:
                yield Decimal(found.replace(",", ""))
            else:
                yield Decimal("Infinity")


def holds(held: Iterable[Decimal], figure: Decimal) -> bool:
    """Whether a figure is one of these, rounded to the digits it is told with: 87 and 87.5 of 87.46, but not 87.4."""
    if not figure.is_finite():
        return False
    exponent = figure.as_tuple().exponent
    unit = Decimal(1).scaleb(exponent if isinstance(exponent, int) else 0)
    return any(
        one.is_finite() and figure in (one.quantize(unit, ROUND_HALF_UP), one.quantize(unit, ROUND_HALF_EVEN))
        for one in held
        if abs(one.adjusted()) < _MOST_DIGITS or not one
    )


def _values(question: StageQuestion) -> Iterator[object]:
    """Everything with figures that the model was told of this pipeline: its facts, and the label's reasons."""
    for value in question.told.values():
        yield from value if isinstance(value, list) else [value]
    for rule in question.label.rules if question.label else ():
        yield rule.reason
