"""Decisions known to be right or wrong by a case's own key: they prove the scorers and stand in for a model."""

from __future__ import annotations

from agents.specialists.decision import MOST_ACTIONS, Decision, Picked
from agents.specialists.registry import specialist_of
from evals.case import Case


def reference_decision(case: Case) -> Decision:
    """A right decision: the first right choice, and of each need the first action, of the first three needs.

    What the key leaves open is taken from the specialist's choice and catalogue, without what the key calls wrong.
    """
    specialist = specialist_of(case.stage)
    open_choices = (value for value in specialist.choice.values if value not in case.wrong_choices)
    needed = list(dict.fromkeys(group[0] for group in case.right_actions))[:MOST_ACTIONS]
    open_actions = (action for action in specialist.actions_by_id if action not in case.harmful_actions)
    return _decision(next(iter((*case.right_choices, *open_choices))), needed or [next(open_actions)])


def wrong_decision(case: Case) -> Decision:
    """A wrong choice with a harmful action, as far as the key names such; else with one that meets no need.

    Raises ValueError for a case whose key calls nothing wrong.
    """
    specialist = specialist_of(case.stage)
    needed = {action for group in case.right_actions for action in group}
    useless = (action for action in specialist.actions_by_id if action not in needed)
    if not (case.wrong_choices or case.harmful_actions or needed):
        raise ValueError(f"case {case.id!r}: its key calls nothing wrong")
    chosen = (*case.wrong_choices, *specialist.choice.values)[0]
    return _decision(chosen, [next(iter((*case.harmful_actions, *useless)))])


def _decision(choice: str, actions: list[str]) -> Decision:
    return Decision(by="model", choice=Picked(id=choice), actions=tuple(Picked(id=action) for action in actions))
