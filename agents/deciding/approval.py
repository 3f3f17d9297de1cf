"""What a person has to approve: it follows from labels, the catalogue and probabilities. No words are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agents.specialists.decision import Decision
from agents.specialists.registry import Labels, specialist_of
from agents.specialists.specialist import Specialist


def approval_reasons(labels: Labels, decisions: Iterable[tuple[str, Decision]], ask_below: float | None) -> list[str]:
    """Why a person has to decide before anything is done; empty where nobody has to.

    A grave label (where it is UNKNOWN, the worst that is known counts), an action that cannot be undone or spends much,
    and a model's probability below `ask_below` (None: no such threshold). decisions: stage and decision.
    """
    reasons = list(_of_labels(labels))
    for stage, decision in decisions:
        reasons += [f"{stage}: {why}" for why in _of_actions(specialist_of(stage), decision)]
        reasons += [f"{stage}: {why}" for why in _of_doubt(decision, ask_below)]
    return reasons


def _of_labels(labels: Labels) -> Iterator[str]:
    for stage, label in labels.items():
        rule = specialist_of(stage).label
        if rule and label and rule.rank(label) >= rule.levels.index(rule.approval_from):
            yield f"{label.kind} {label.worst_known}"


def _of_actions(specialist: Specialist, decision: Decision) -> Iterator[str]:
    for one in decision.ids:
        action = specialist.actions_by_id[one]
        if not action.can_be_undone:
            yield f"{one} cannot be undone"
        if action.spends == "much":
            yield f"{one} spends much"


def _of_doubt(decision: Decision, ask_below: float | None) -> Iterator[str]:
    if decision.by != "model" or ask_below is None:
        return
    least = decision.least_probability
    if least is None:
        yield f"the probability is not known, and below {ask_below:g} a person is asked"
    elif least < ask_below:
        yield f"probability {least:.2f} is below {ask_below:g}"
