"""The `gate:` block of a suite: what a variant is held to, and by how much it may differ from its baseline.

Two kinds of metric. A `required` one must be SHOWN to be no worse than the baseline by more than its margin: where
the evidence is too thin the gate says so (exit 3) rather than pass. Every other metric is watched: it fails the gate
when it is shown to be worse, and thin evidence is only told. Asking proof of all metrics would need thousands of
cases for an A/A pair to pass; asking it of none would let a regression through for want of cases.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from agents.schema import Stage
from common.console import shorten
from common.strict import Name, Strict
from evals.scorers import SCORERS

HEADLINE = "headline"
LABEL_FIT = "label_fit"
REQUIRED_POINTS = "required_points"
FROM_MODEL, UNBROKEN = "from_model", "unbroken"
OUTCOMES = (FROM_MODEL, UNBROKEN)
"""What is measured besides scores (evals/outcomes.py): the share of answers that are the model's own, not the rules',
and of samples in which no answer of the model broke a guardrail, which only runs that check can tell."""

STAGE_HEADLINES = tuple(f"{HEADLINE}/{stage}" for stage in Stage)
METRICS = tuple(dict.fromkeys((HEADLINE, *STAGE_HEADLINES, *SCORERS, LABEL_FIT, *OUTCOMES)))
"""What can be gated: scores, the headline of each agent, and two shares of what guardrails did."""

DEFAULT_MARGIN = 0.05
DEFAULT_MARGINS = {LABEL_FIT: 0.0, "schema_valid": 0.02, "not_truncated": 0.02}
"""label_fit rests on rules alone: the same rules give the same labels, so that any fall is a change, not chance."""


def _known(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"{shorten(metric, 60)!r} is no metric; metrics: {', '.join(METRICS)}")
    return metric


Metric = Annotated[Name, AfterValidator(_known)]
Share = Annotated[float, Field(ge=0, le=1)]


class GateRules(Strict):
    """What the gate asks. The defaults need no block at all."""

    required: tuple[Metric, ...] = Field((HEADLINE, REQUIRED_POINTS), min_length=1, strict=False)
    """Metrics that must be shown to be no worse; the rest is watched. One whose baseline lies below its margin cannot
    fall by it and is watched too: small models have headlines near 0. At least one has to be able to fall."""
    margins: dict[Metric, Share] = Field(default={})
    """How far a metric's mean may fall below the baseline's; metrics not named here keep DEFAULT_MARGINS, else
    DEFAULT_MARGIN."""
    minimum: dict[Metric, Share] = Field(default={})
    """Levels a metric's mean must reach, whatever the baseline does."""
    ignore: tuple[Metric, ...] = Field((), strict=False)
    """Metrics that are shown and not judged."""
    max_error_rate: Share = 0.02
    """Samples without an answer, as a share of those asked; above it the run measured the endpoint, not the answers."""
    by_agent: bool = True
    """Watch the headline of each agent besides the overall one: a fall in one stage can hide in the mean."""
    weaker_guardrails: bool = False
    """Whether guardrails may be set weaker than in the baseline (enforce, warn, off)."""

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
        return metric not in self.ignore and (self.by_agent or metric not in STAGE_HEADLINES)
