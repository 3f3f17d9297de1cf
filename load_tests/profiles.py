"""Load profiles: what a load test does, as a checked YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from agents.asking.variant import DEFAULT_PROMPT
from agents.labels.policy import DEFAULT_POLICY
from agents.specialists.registry import stages
from common.console import BadInput
from common.located import load_yaml_model
from common.strict import Name, Strict
from load_tests.arrivals import Arrivals, Trace

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE_PROFILE = ROOT / "examples" / "load.yaml"
MOST_PROCESSES = 64
MOST_PROMPT_TOKENS = 1_000_000

_MOVED = {
    "users": "arrivals: {kind: closed, users: N}",
    "spawn_rate": "arrivals: {kind: closed, users: N, spawn_rate: R}",
    "think_time_s": "arrivals: {kind: closed, users: N, think_time_s: T}",
    "pipelines": "workload: {kind: agents, pipelines: FILE}",
    "prompt": "workload: {kind: agents, prompt: NAME}",
    "policy": "workload: {kind: agents, policy: NAME}",
}
"""Keys of profiles written before there were open loops."""

Seed = Annotated[int, Field(ge=0, le=2**53)]


class GeneratedCases(Strict):
    """Cases of the evaluation, made by seed: questions whose right answer is known."""

    count: Annotated[int, Field(ge=1, le=100_000)]
    """Different cases. A test that sends more repeats them, and a prefix cache then answers from memory."""
    seed: Seed | None = None
    """None: the profile's."""


class AgentsWorkload(Strict):
    """What the product really sends: the agents' prompts, about the pipelines of a file or about generated cases."""

    kind: Literal["agents"] = "agents"
    pipelines: Name | None = None
    """Pipeline file, all stages of each: beside the profile or relative to the repository's root."""
    cases: GeneratedCases | None = None
    """One request for the one stage that each case is about."""
    prompt: Name = DEFAULT_PROMPT
    policy: Name = DEFAULT_POLICY
    validate_schema: bool = True
    """Hold each whole answer against the schema that its own request holds; a reading has none."""
    score: bool = False
    """Score each decision as the evaluation does; needs generated cases, whose right decision is known, and a prompt
    that asks for the whole decision in one request."""

    @model_validator(mode="after")
    def _one_source(self) -> AgentsWorkload:
        if (self.pipelines is None) == (self.cases is None):
            raise ValueError("give either pipelines (a file) or cases ({count, seed}), not both and not neither")
        if self.score and self.cases is None:
            raise ValueError("score: true needs cases: nobody knows the right answer about the pipelines of a file")
        return self


class SyntheticWorkload(Strict):
    """Prompts of made-up words, exactly so many tokens long, and answers exactly so many tokens long."""

    kind: Literal["synthetic"] = "synthetic"
    prompt_tokens: Annotated[int, Field(ge=1, le=MOST_PROMPT_TOKENS)]
    """As the server counts them, the chat template's included."""
    shared_prefix: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the prompt's tokens that every request begins with; the chat template's first tokens always are."""
    output_tokens: Annotated[int, Field(ge=1)]


Workload = Annotated[AgentsWorkload | SyntheticWorkload, Field(discriminator="kind")]


class LoadProfile(Strict):
    """One load test: when requests are sent, what they ask, and how long it goes on."""

    name: Name
    arrivals: Arrivals
    workload: Workload
    duration_s: Annotated[int, Field(ge=1, le=86_400)]
    """How long new requests are sent, a closed loop's ramp included."""
    seed: Seed = 0
    """Of the schedule, of the order of requests, of synthetic prompts and, unless they have their own, of cases."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Replaces the prompt's own limit (sampling.max_tokens); a reading of one token stays one."""
    request_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Longest a request may take from sending to its last byte."""
    cancel_after_chunks: Annotated[int, Field(ge=1)] | None = None
    """Hang up after so many content chunks, as people do who have seen enough; None: read every answer to its end."""
    cancel_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the requests, drawn by the seed, that are hung up on so. They load the endpoint and are in no figure."""
    warmup_requests: Annotated[int, Field(ge=0, le=100)] = Field(default_factory=lambda: len(stages()))
    """Sent one by one before the test and not measured, a stage at a time. None given: one of each stage, so that the
    engine has what all its requests begin with."""
    drain_s: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long requests in flight may go on after the last was sent; what is cut then is a row `incomplete`."""
    processes: Annotated[int, Field(ge=1, le=MOST_PROCESSES)] = 1
    """Locust workers on this machine, each with a sender of its own."""

    @model_validator(mode="before")
    @classmethod
    def _says_where_old_keys_went(cls, data: object) -> object:
        moved = [key for key in _MOVED if isinstance(data, dict) and key in data]
        if moved:
            raise ValueError(f"{moved[0]}: has moved; write `{_MOVED[moved[0]]}`")
        return data

    @model_validator(mode="after")
    def _one_limit(self) -> LoadProfile:
        if self.max_tokens is not None and isinstance(self.workload, SyntheticWorkload):
            raise ValueError("max_tokens: a synthetic workload has output_tokens; leave max_tokens out")
        if self.cancel_after_chunks is None and self.cancel_share != 1:
            raise ValueError("cancel_share: says how many to cancel but not when; give cancel_after_chunks, too")
        return self


def load_profile(path: Path) -> LoadProfile:
    """A profile whose files exist, each named from the root where it lies below it. Raises BadInput."""
    profile = load_yaml_model(path, LoadProfile)
    workload, arrivals = profile.workload, profile.arrivals
    if isinstance(workload, AgentsWorkload) and workload.pipelines is not None:
        found = _found(path, "workload.pipelines", workload.pipelines)
        profile = profile.model_copy(update={"workload": workload.model_copy(update={"pipelines": found})})
    if isinstance(arrivals, Trace):
        found = _found(path, "arrivals.file", arrivals.file)
        profile = profile.model_copy(update={"arrivals": arrivals.model_copy(update={"file": found})})
    return profile


def _found(profile: Path, field: str, named: str) -> str:
    """A file that a profile names: beside it, or relative to the repository's root."""
    places = [profile.resolve().parent / named, ROOT / named]
    found = next((place.resolve() for place in places if place.is_file()), None)
    if found is None:
        looked = " and ".join(dict.fromkeys(str(place) for place in places))
        raise BadInput(f"{profile}: {field}: there is no file {named!r}; looked at {looked}")
    return str(found.relative_to(ROOT) if found.is_relative_to(ROOT) else found)
