"""What makes a specialist: its facts, its label, its choice, its catalogue of actions, and when each of them is right.

Predicates are named pure functions of a pipeline and its label. A catalogue names them; nothing in a file is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from agents.facts.spec import PipelineSpec
from agents.labels.label import Label
from agents.labels.labelling import Finding, decide
from agents.labels.policy_model import Policy
from common.strict import Strict

Fact = str | float | int | bool | list[float]
Facts = dict[str, Fact]
Predicate = Callable[[PipelineSpec, Label | None], bool]
"""Whether something holds of a pipeline with this label. Pure; its docstring says what holds and its source."""


class When(StrEnum):
    """How soon an action is to be taken."""

    NOW = "now"
    PLANNED = "planned"
    WATCHING = "watching"


class Action(Strict):
    """One thing a specialist may advise."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,29}$")]
    do: Annotated[str, Field(min_length=3, max_length=120)]
    """What to do, as a person reads it, without figures and without a full stop: ``Add memory``."""
    means: Annotated[str, Field(min_length=3, max_length=160)]
    """What that means and what it is good for, for model and person; no word of when it is right."""
    facts: tuple[str, ...] = Field((), strict=False)
    """Names of the facts it answers to: what a person is shown beside it."""
    right_when: tuple[str, ...] = Field((), strict=False)
    """Predicates of which each by itself is a reason for it: the rules then advise it."""
    wrong_when: tuple[str, ...] = Field((), strict=False)
    """Predicates of which each by itself rules it out: it is then neither offered nor accepted."""
    source: Annotated[str, Field(min_length=1, max_length=120)]
    """Where that is known from, by the names of docs/oracle.md; ``ours`` for a judgement of our own."""
    can_be_undone: bool
    spends: Literal["little", "some", "much"] = "little"
    when: When = Field(When.PLANNED, strict=False)


class Option(Strict):
    """One value of a specialist's choice."""

    value: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,29}$")]
    means: str


@dataclass(frozen=True)
class Choice:
    """The one closed question that comes before the actions."""

    name: str
    """``mode``."""
    asks: str
    """The question, for model and person."""
    options: tuple[Option, ...]
    ruled_out: Callable[[PipelineSpec, Label | None], Mapping[str, str]]
    """Values that the facts and the label rule out, each with the reason."""
    preferred: Callable[[PipelineSpec, Label | None], str]
    """What the rules choose; never a value that is ruled out."""

    @property
    def values(self) -> tuple[str, ...]:
        """The options' values, in their order."""
        return tuple(option.value for option in self.options)


@dataclass(frozen=True)
class LabelRule:
    """A label that a specialist's pipelines get."""

    kind: str
    """``severity``."""
    levels: tuple[str, ...]
    """From the mildest to the worst."""
    findings: Callable[[PipelineSpec, Policy], Sequence[Finding]]
    """What every rule of a policy says of a pipeline, or that it has nothing to go by."""
    approval_from: str
    """From this level on a person has to approve."""

    def decide(self, spec: PipelineSpec, policy: Policy) -> Label:
        """The label: the worst of what the rules say."""
        return decide(self.kind, self.levels, policy.name, self.findings(spec, policy))

    def rank(self, label: Label) -> int:
        """How grave what is known is: 0 for the mildest level, 0 too where nothing is known."""
        return self.levels.index(label.worst_known) if label.worst_known in self.levels else 0


@dataclass(frozen=True)
class Specialist:
    """One agent's subject. See agents/specialists/__init__.py for how one is registered."""

    name: str
    """Also the name of its stage."""
    role: str
    """``data quality analyst``."""
    subject: str
    """What it decides on, as a prompt says it: ``what to do about the quality of this data``."""
    told: Callable[[PipelineSpec], Facts]
    """What is known of a pipeline for this agent, under the names of the pipeline file."""
    choice: Choice
    predicates: Mapping[str, Predicate]
    catalogue: tuple[Action, ...]
    """In the order in which the rules prefer them."""
    label: LabelRule | None = None
    block: tuple[str, type[Strict]] | None = None
    """The key and model of its own part of a pipeline file, for facts that PipelineSpec does not hold already."""
    actions_by_id: Mapping[str, Action] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the actions and see that every predicate is there. Raises ValueError naming what is wrong."""
        found: dict[str, Action] = {}
        for action in self.catalogue:
            if action.id in found:
                raise ValueError(f"action {action.id!r} stands twice")
            unknown = {*action.right_when, *action.wrong_when} - set(self.predicates)
            if unknown:
                allowed = ", ".join(sorted(self.predicates))
                raise ValueError(f"action {action.id!r}: predicate {min(unknown)!r} is not known; allowed: {allowed}")
            found[action.id] = action
        object.__setattr__(self, "actions_by_id", found)

    def with_actions(self, more: tuple[Action, ...]) -> Specialist:
        """The same specialist with further actions at the end of its catalogue. Raises ValueError."""
        return replace(self, catalogue=(*self.catalogue, *more))
