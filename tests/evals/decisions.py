"""Decisions made from a case's key: one that is all right, and one that is of no use or harmful."""

from __future__ import annotations

from agents.specialists.decision import Decision, Picked
from agents.specialists.registry import specialist_of
from evals.case import Case


def decision_of(case: Case, *, good: bool, note: str | None = None) -> Decision:
    """A model's decision: right in everything the key asks for, or wrong in it."""
    choice, actions = _right(case) if good else _wrong(case)
    return Decision(
        by="model",
        choice=Picked(id=choice, probability=0.75),
        actions=tuple(Picked(id=one, probability=0.5) for one in actions),
        note=note,
    )


def _right(case: Case) -> tuple[str, list[str]]:
    specialist = specialist_of(case.stage)
    fair = [value for value in specialist.choice.values if value not in case.wrong_choices]
    spare = [one for one in specialist.actions_by_id if one not in case.harmful_actions]
    actions = list(dict.fromkeys(group[0] for group in case.right_actions))[:3]
    return (*case.right_choices, *fair)[0], actions or spare[:1]


def _wrong(case: Case) -> tuple[str, list[str]]:
    specialist = specialist_of(case.stage)
    needed = {action for group in case.right_actions for action in group}
    useless = [one for one in specialist.actions_by_id if one not in needed]
    return (*case.wrong_choices, *specialist.choice.values)[0], [(*case.harmful_actions, *useless)[0]]
