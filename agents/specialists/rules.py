"""What facts and label permit, and what the rules themselves decide. One table of predicates serves both.

`permitted` narrows what a model is offered, checks what comes back, and bounds the rules' own decision: the baseline
that every model is held against.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.facts.spec import PipelineSpec
from agents.labels.label import Label
from agents.specialists.decision import MOST_ACTIONS, MOST_FACTS, Decision, Picked
from agents.specialists.specialist import Action, Specialist


@dataclass(frozen=True)
class Permitted:
    """What may be decided for one stage of one pipeline."""

    choices: tuple[str, ...]
    """In the choice's order; at least one."""
    actions: tuple[str, ...]
    """Ids in the catalogue's order; at least one."""
    right: tuple[str, ...]
    """Those of the actions that the facts or the label give a reason for."""

    def refuses(self, choice: str, actions: tuple[str, ...]) -> str | None:
        """Why a choice with these actions is not permitted; None where it is."""
        if choice not in self.choices:
            return f"{choice} is not permitted here"
        wrong = [action for action in actions if action not in self.actions]
        return f"{', '.join(wrong)} is not permitted here" if wrong else None


def holding(specialist: Specialist, spec: PipelineSpec, label: Label | None) -> frozenset[str]:
    """The names of the predicates that hold."""
    return frozenset(name for name, predicate in specialist.predicates.items() if predicate(spec, label))


def permitted(specialist: Specialist, spec: PipelineSpec, label: Label | None) -> Permitted:
    """What the pipeline's facts and its label permit.

    Where the pipeline's own policy made the label graver, it decides the choice; actions have to be permitted by the
    run's label as well, so that no input file opens up what the operator's policy does not.
    """
    own = _permitted(specialist, spec, label)
    if label is None or label.by_run is None:
        return own
    run = _permitted(specialist, spec, label.by_run)
    both = tuple(one for one in own.actions if one in run.actions)
    return Permitted(own.choices, both or run.actions, tuple(one for one in both if one in own.right + run.right))


def _permitted(specialist: Specialist, spec: PipelineSpec, label: Label | None) -> Permitted:
    holds = holding(specialist, spec, label)
    ruled_out = specialist.choice.ruled_out(spec, label)
    choices = tuple(value for value in specialist.choice.values if value not in ruled_out)
    actions = tuple(action for action in specialist.catalogue if not holds.intersection(action.wrong_when))
    right = tuple(action.id for action in actions if holds.intersection(action.right_when))
    return Permitted(
        choices=choices or (specialist.choice.preferred(spec, label),),
        actions=tuple(action.id for action in actions),
        right=right,
    )


def rules_decision(specialist: Specialist, spec: PipelineSpec, label: Label | None) -> Decision:
    """What the rules decide: the preferred choice, and the catalogue's first actions that there is a reason for."""
    may = permitted(specialist, spec, label)
    ids = (may.right or may.actions)[:MOST_ACTIONS]
    return Decision(
        by="rules",
        choice=Picked(id=specialist.choice.preferred(spec, label)),
        actions=tuple(Picked(id=one) for one in ids),
        facts=facts_answered(specialist, ids, spec, label),
    )


def facts_answered(
    specialist: Specialist, ids: tuple[str, ...], spec: PipelineSpec, label: Label | None
) -> tuple[str, ...]:
    """The facts that the actions answer to, as far as they are known; first those that the label rests on."""
    known = specialist.told(spec)
    answered = [name for one in ids for name in specialist.actions_by_id[one].facts if name in known]
    grave = {name for rule in label.rules if rule.level == label.worst_known for name in rule.facts} if label else set()
    ordered = sorted(dict.fromkeys(answered), key=lambda name: name not in grave)
    return tuple(ordered[:MOST_FACTS])


def why_not(specialist: Specialist, action: Action, spec: PipelineSpec, label: Label | None) -> list[str]:
    """The predicates that rule an action out."""
    holds = holding(specialist, spec, label)
    return [name for name in action.wrong_when if name in holds]
