"""Decisions and keys in short lines, as reports and MLflow show them: what was decided, and what is right."""

from __future__ import annotations

from collections.abc import Iterator

from agents.specialists.decision import Decision, Picked, Reading
from agents.specialists.registry import specialist_of
from agents.specialists.specialist import Specialist
from evals.case import Case

Line = tuple[str, str]
"""What it is about, and what is said of it."""


def decision_lines(decision: Decision, stage: str) -> Iterator[Line]:
    """The choice, the actions in order, the facts it rests on, the note, and where its probabilities come from."""
    specialist = specialist_of(stage)
    yield specialist.choice.name, _picked(decision.choice)
    for number, action in enumerate(decision.actions, 1):
        yield f"action {number}", f"{_picked(action)}{_do(specialist, action.id)}"
    if decision.facts:
        yield "rests on", ", ".join(decision.facts)
    if decision.note:
        yield "note", decision.note
    if decision.reading:
        yield "probabilities", reading_in_words(decision.reading)


def key_lines(case: Case) -> Iterator[Line]:
    """What is right for a case: choices, groups of which one action each is needed, harm, labels."""
    choice = specialist_of(case.stage).choice.name
    for name, values in ((f"right {choice}", case.right_choices), (f"wrong {choice}", case.wrong_choices)):
        if values:
            yield name, " or ".join(values)
    for number, group in enumerate(case.right_actions, 1):
        yield f"need {number}", " or ".join(group)
    if case.harmful_actions:
        yield "harmful", ", ".join(case.harmful_actions)
    if case.acceptable_labels:
        yield "right label", " or ".join(case.acceptable_labels)


def reading_in_words(reading: Reading) -> str:
    """Where probabilities come from, and that they are not calibrated."""
    told = [f"{reading.way}, {reading.source}, not calibrated"]
    if reading.label_mass is not None:
        told.append(f"label mass {reading.label_mass:.2f}")
    if reading.orders > 1:
        agree = {True: ", which agree", False: ", which disagree", None: ""}[reading.orders_agree]
        told.append(f"mean of {reading.orders} orders{agree}")
    if reading.prior:
        told.append("prior taken out")
    return "; ".join(told)


def groups_in_words(case: Case) -> str:
    """The groups of right actions in one line: ``keep_cursor or overlap; paginate``."""
    return "; ".join(" or ".join(group) for group in case.right_actions)


def _picked(one: Picked) -> str:
    return one.id if one.probability is None else f"{one.id} {one.probability:.2f}"


def _do(specialist: Specialist, action: str) -> str:
    """Its sentence in the catalogue; an action that was taken out of it since has none."""
    known = specialist.actions_by_id.get(action)
    return f": {known.do}" if known else ""
