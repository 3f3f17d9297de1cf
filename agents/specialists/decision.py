"""A decision: what an agent or the rules chose from closed lists. It is data; what people read is rendered from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.strict import Strict

MOST_ACTIONS = 3
MOST_FACTS = 2
NOTE_CHARACTERS = 160

Probability = Annotated[float, Field(ge=0, le=1)]


class Picked(Strict):
    """One option that was chosen, and how likely the answerer held it."""

    id: str
    """The option's value: ``batch``; or the action's id: ``keep_cursor``."""
    probability: Probability | None = None
    """None where none could be read, and for the rules, which are not in doubt."""


class Reading(Strict):
    """Where the probabilities of a decision come from: without this they may not be compared."""

    way: Literal["write", "read", "reason"]
    source: Literal["after the mask", "label tokens", "decisions route"]
    """after the mask: log-probs at the choosing tokens of an answer that a grammar constrained, so they sum to one over
    what was offered, however unlikely the model held all of it. label tokens: the share of each label among the labels'
    tokens. decisions route: as `POST /v1/decisions` gives them."""
    label_mass: Probability | None = None
    """The least share of all probability that fell on labels, over the questions; None where it is not known."""
    orders: int = 1
    """Orders of the options that the reading is the mean of."""
    orders_agree: bool | None = None
    """Whether each of these orders has the same winner; None with one order."""
    prior: bool = False
    """Whether the labels' own attraction, read on a case without facts, was taken out."""
    calibrated: Literal[False] = False
    """No probability of this release is calibrated: it opens no gate."""


class Decision(Strict):
    """What was decided for one stage of one pipeline."""

    by: Literal["model", "rules", "person"]
    choice: Picked
    actions: tuple[Picked, ...] = Field(min_length=1, max_length=MOST_ACTIONS, strict=False)
    """The most important one first."""
    facts: tuple[str, ...] = Field((), strict=False)
    """Names of the facts it rests on: by the model where it writes them, else those that its actions answer to."""
    note: Annotated[str, Field(min_length=1, max_length=NOTE_CHARACTERS)] | None = None
    """The model's own sentence, if it was asked for one. It is text, and decides nothing."""
    reading: Reading | None = None
    """None for the rules."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The actions' ids in order."""
        return tuple(action.id for action in self.actions)

    def agrees_with(self, other: Decision) -> bool:
        """Whether both choose the same option and the same actions, in whatever order."""
        return self.choice.id == other.choice.id and set(self.ids) == set(other.ids)

    @property
    def least_probability(self) -> float | None:
        """The smallest of its probabilities; None where one is not known."""
        known = [picked.probability for picked in (self.choice, *self.actions)]
        return None if None in known else min(one for one in known if one is not None)
