"""The `gate:` block of a suite: what a variant is held to, and by how much it may differ from its baseline.

Two kinds of metric. A `required` one must be SHOWN to be no worse than the baseline by more than its margin: where
the evidence is too thin the gate says so (exit 3) rather than pass. Every other metric is watched: it fails the gate
when it is shown to be worse, and thin evidence is only told. Asking proof of all metrics would need thousands of
cases for an A/A pair to pass; asking it of none would let a regression through for want of cases.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from agents.specialists.registry import stages
from common.console import shorten
from common.strict import Name, Strict
from evals.scorers import SCORERS

HEADLINE = "headline"
ACTIONS = "actions"
DECIDED = "decided"
LABEL_FIT = "label_fit"

DEFAULT_MARGIN = 0.05
DEFAULT_MARGINS = {LABEL_FIT: 0.0, DECIDED: 0.02, "permitted": 0.02}
"""label_fit rests on rules alone: the same rules give the same labels, so that any fall is a change, not chance."""


def stage_headlines() -> tuple[str, ...]:
    """The headline of each agent: ``headline/quality``."""
    return tuple(f"{HEADLINE}/{stage}" for stage in stages())


def metrics() -> tuple[str, ...]:
    """What can be gated: the headline, that of each agent, and every scorer."""
    return tuple(dict.fromkeys((HEADLINE, *stage_headlines(), *SCORERS, LABEL_FIT)))


def _known(metric: str) -> str:
    if metric not in metrics():
        raise ValueError(f"{shorten(metric, 60)!r} is no metric; metrics: {', '.join(metrics())}")
    return metric


Metric = Annotated[Name, AfterValidator(_known)]
Share = Annotated[float, Field(ge=0, le=1)]


class GateRules(Strict):
    """What the gate asks. The defaults need no block at all."""

    required: tuple[Metric, ...] = Field((HEADLINE, ACTIONS), min_length=1, strict=False)
    """Metrics that must be shown to be no worse; the rest is watched. One whose baseline lies below its margin cannot
    fall by it and is watched too, as with small models. At least one has to be able to fall."""
    margins: dict[Metric, Share] = Field(default={})
    """How far a metric's mean may fall below the baseline's; metrics not named here keep DEFAULT_MARGINS, else
    DEFAULT_MARGIN."""
    minimum: dict[Metric, Share] = Field(default={})
    """Levels a metric's mean must reach, whatever the baseline does."""
    ignore: tuple[Metric, ...] = Field((), strict=False)
    """Metrics that are shown and not judged."""
    max_error_rate: Share = 0.02
    """Samples without an answer, as a share of those asked; above it the run measured the endpoint, not decisions."""
    by_agent: bool = True
    """Watch the headline of each agent besides the overall one: a fall in one stage can hide in the mean."""

    @model_validator(mode="after")
    def _required_is_judged(self) -> Self:
        if both := [metric for metric in self.required if not self.judges(metric)]:
            raise ValueError(f"{both[0]} is required and ignored; leave it out of one")
        return self

    def margin(self, metric: str) -> float:
        """How far `metric` may fall."""
        return self.margins.get(metric, DEFAULT_MARGINS.get(metric, DEFAULT_MARGIN))

    def judges(self, metric: str) -> bool:
        """Whether the gate has a say about `metric` at all."""
        return metric not in self.ignore and (self.by_agent or metric not in stage_headlines())
