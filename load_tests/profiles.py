"""Load profiles: what a load test does, as a checked YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from agents.files import load_yaml_model
from agents.policy import DEFAULT_POLICY
from agents.prompt import DEFAULT_PROMPT
from agents.schema import Name, NonNegative, Stage, Strict
from console import BadInput

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE_PROFILE = ROOT / "examples" / "load.yaml"
MOST_USERS = 512
"""What one process drives before it measures itself rather than the endpoint."""


class LoadProfile(Strict):
    """A closed loop: a fixed number of users, each waiting for its answer before it asks again."""

    name: Name
    users: Annotated[int, Field(ge=1, le=MOST_USERS)]
    """Requests in flight at most; one process drives them all."""
    duration_s: Annotated[int, Field(ge=1, le=86_400)]
    """How long new requests are sent, the ramp included."""
    spawn_rate: Annotated[float, Field(gt=0, le=100)] = 10.0
    """Users started per second."""
    think_time_s: NonNegative = 0.0
    """Pause between an answer and the same user's next request."""
    pipelines: Name
    """Pipeline file the requests are built from, beside the profile or relative to the repository's root."""
    prompt: Name = DEFAULT_PROMPT
    policy: Name = DEFAULT_POLICY
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Replaces the prompt's own limit."""
    request_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Longest a request may take from sending to its last byte."""
    warmup_requests: Annotated[int, Field(ge=0, le=100)] = len(Stage)
    """Sent one by one before the test and not measured: one per stage lets the engine compile each answer schema."""
    drain_s: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long requests in flight may go on after the last was sent; what is cut then is a row `incomplete`."""


def load_profile(path: Path) -> LoadProfile:
    """A profile whose pipeline file exists, named from the root where it lies below it. Raises BadInput."""
    profile = load_yaml_model(path, LoadProfile)
    places = [path.resolve().parent / profile.pipelines, ROOT / profile.pipelines]
    found = next((place.resolve() for place in places if place.is_file()), None)
    if found is None:
        looked = " and ".join(dict.fromkeys(str(place) for place in places))
        raise BadInput(f"{path}: pipelines: there is no file {profile.pipelines!r}; looked at {looked}")
    named = found.relative_to(ROOT) if found.is_relative_to(ROOT) else found
    return profile.model_copy(update={"pipelines": str(named)})
