"""The SLO file: what an endpoint promises under load, as checked YAML.

    name: chat
    measured_from: intended                                       # or sent
    objectives:
      - {metric: ttft, percentile: 95, at_most_ms: 300}           # ttft, itl, tpot, e2e
      - {metric: error_rate, at_most: 0.01}
      - {metric: schema_valid_rate, at_least: 0.99}
      - {metric: goodput, at_least_per_s: 2}                      # or at_least: 0.95, as a share of requests

Goodput counts the requests that end `ok`, are within every latency objective, and hold a schema-valid answer where a
schema was asked for. A request is within an objective on ITL when that percentile of its own gaps is within the limit.
Of several percentiles of one metric the highest gives the limit that each single request is held to.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.located import load_yaml_model
from common.strict import Name, Strict
from load_tests.measured import Origin

Share = Annotated[float, Field(ge=0, le=1)]
Limit = Annotated[float, Field(gt=0, le=3_600_000)]


class LatencyObjective(Strict):
    """A percentile of one latency may not be above a limit."""

    metric: Literal["ttft", "itl", "tpot", "e2e"]
    percentile: Annotated[float, Field(ge=1, le=99.9)]
    at_most_ms: Limit

    @property
    def limit_s(self) -> float:
        """The limit in seconds."""
        return self.at_most_ms / 1e3

    def told(self, origin: Origin) -> str:
        """The objective in words."""
        since = f" from {origin} start" if self.metric in {"ttft", "e2e"} else ""
        name = self.metric if self.metric == "e2e" else self.metric.upper()
        return f"{name} p{self.percentile:g}{since} at most {self.at_most_ms:g} ms"


class ErrorRate(Strict):
    """Requests that did not end `ok`, of any class."""

    metric: Literal["error_rate"]
    at_most: Share

    def told(self, _origin: Origin) -> str:
        """The objective in words."""
        return f"error rate at most {self.at_most:g}"


class SchemaValidRate(Strict):
    """Answers that fit the schema they were asked for, of `ok` requests that were checked."""

    metric: Literal["schema_valid_rate"]
    at_least: Share

    def told(self, _origin: Origin) -> str:
        """The objective in words."""
        return f"schema-valid rate at least {self.at_least:g}"


class Goodput(Strict):
    """Requests that are good in every respect, per second or as a share of those sent."""

    metric: Literal["goodput"]
    at_least_per_s: Annotated[float, Field(gt=0)] | None = None
    at_least: Share | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.at_least_per_s is None) == (self.at_least is None):
            raise ValueError("give one of at_least_per_s (requests per second) and at_least (share of requests)")
        return self

    def told(self, _origin: Origin) -> str:
        """The objective in words."""
        if self.at_least_per_s is not None:
            return f"goodput at least {self.at_least_per_s:g} requests/s"
        return f"goodput at least {self.at_least:g} of requests"


Objective = LatencyObjective | ErrorRate | SchemaValidRate | Goodput


class Slo(Strict):
    """What is promised; all of it must hold."""

    name: Name
    measured_from: Origin = "intended"
    """`sent` leaves out what a request waited here before it could be sent: it hides queueing in a closed loop."""
    objectives: tuple[Annotated[Objective, Field(discriminator="metric")], ...] = Field(min_length=1, strict=False)

    @model_validator(mode="after")
    def _failures_count(self) -> Self:
        if all(objective.metric in {"itl", "schema_valid_rate"} for objective in self.objectives):
            raise ValueError("itl and schema_valid_rate look at successful requests only; add error_rate")
        return self

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        keys = Counter((objective.metric, getattr(objective, "percentile", None)) for objective in self.objectives)
        if twice := [metric for (metric, _), count in keys.items() if count > 1 and metric != "goodput"]:
            raise ValueError(f"{twice[0]} stands twice with the same percentile; keep the stricter one")
        return self

    @property
    def per_request(self) -> tuple[LatencyObjective, ...]:
        """The latency objective of each metric that a single request is held to."""
        latencies = [objective for objective in self.objectives if isinstance(objective, LatencyObjective)]
        highest = {objective.metric: objective for objective in sorted(latencies, key=lambda found: found.percentile)}
        return tuple(highest.values())


def load_slo(path: Path) -> Slo:
    """Raises BadInput naming file and field."""
    return load_yaml_model(path, Slo)
