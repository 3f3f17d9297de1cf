"""An answer as the scorers see it: a case, what the rules permit on it, and what was decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agents.labels.label import Label
from agents.specialists.decision import Decision
from agents.specialists.oracle import Group
from agents.specialists.rules import Permitted
from evals.case import Case


@dataclass(frozen=True, slots=True)
class Answered:
    """One case with one answer to it."""

    case: Case
    label: Label | None
    """What the policy gives the case; None for a specialist without a label."""
    permitted: Permitted
    """What facts and label permit."""
    decision: Decision | None
    """The answerer's own, not yet held against what is permitted; None where its answer holds none."""
    problem: str | None = None
    """Why there is no decision."""

    @property
    def met(self) -> list[Group]:
        """The needs of the case that the actions meet."""
        ids = set(self.decision.ids) if self.decision else set()
        return [group for group in self.case.right_actions if ids.intersection(group)]

    def harm(self) -> Iterator[str]:
        """What is harmful or plainly wrong for the case in the decision: its choice, its actions."""
        if self.decision is None:
            return
        if self.decision.choice.id in self.case.wrong_choices:
            yield self.decision.choice.id
        yield from (action for action in self.decision.ids if action in self.case.harmful_actions)
