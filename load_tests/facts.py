"""What Locust's processes need to know of a load test: they steer it, while the senders build and send its requests."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:  # Locust's processes read facts and never make a plan, which brings pydantic and the agents
    from load_tests.workload import LoadPlan

FACTS_VARIABLE = "PLUMBLINE_LOAD_FACTS"
"""Set by whoever has connected and warmed up already, and will report: Locust then does neither."""


@dataclass(frozen=True)
class LoadFacts:
    """A plan in short."""

    profile: str
    """Absolute path of the profile."""
    base_url: str
    model: str
    loop: str
    """open or closed"""
    duration_s: float
    drain_s: float


def facts_of(plan: LoadPlan, profile_path: Path) -> LoadFacts:
    """The facts of one plan."""
    profile = plan.profile
    return LoadFacts(
        profile=str(profile_path.resolve()),
        base_url=plan.endpoint.base_url,
        model=plan.endpoint.model,
        loop="closed" if profile.arrivals.kind == "closed" else "open",
        duration_s=profile.duration_s,
        drain_s=profile.drain_s,
    )


def to_json(facts: LoadFacts) -> str:
    """One line; no key is in it."""
    return orjson.dumps(asdict(facts)).decode()


def from_json(text: str) -> LoadFacts:
    """The inverse of to_json."""
    return LoadFacts(**orjson.loads(text))
