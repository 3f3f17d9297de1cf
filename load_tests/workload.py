"""What a load test sends: the agents' own requests, ready as bytes before the clock starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from agents.files import InvalidPipeline, ReadPipeline, read_pipelines
from agents.policy import load_policy
from agents.prompt import load_prompt
from agents.requests import StageRequest, requests_for
from console import BadInput
from load_tests.profiles import ROOT, LoadProfile
from serving.endpoint import Endpoint


@dataclass(frozen=True)
class PreparedRequest:
    """One streaming chat completion, serialised."""

    pipeline_id: str
    stage: str
    body: bytes


@dataclass(frozen=True)
class LoadPlan:
    """Everything decided before the first request: where to send, what, and in which order."""

    profile: LoadProfile
    endpoint: Endpoint
    prompt_name: str
    prompt_version: int
    requests: tuple[PreparedRequest, ...]

    def request_for(self, user: int, turn: int) -> PreparedRequest:
        """Each user walks through all requests in order and starts one further than the user before it."""
        return self.requests[(user + turn) % len(self.requests)]


def plan_load(profile: LoadProfile, endpoint: Endpoint) -> LoadPlan:
    """Build every request of the profile. Raises BadInput when a pipeline, the prompt or the policy is not usable."""
    specs = [_accepted(entry).spec for entry in read_pipelines([ROOT / profile.pipelines])]
    variant = load_prompt(profile.prompt)
    asked = requests_for(specs, variant, load_policy(profile.policy), endpoint.model)
    prepared = tuple(_prepare(request, profile.max_tokens) for request in asked)
    return LoadPlan(profile, endpoint, variant.name, variant.version, prepared)


def _accepted(entry: ReadPipeline | InvalidPipeline) -> ReadPipeline:
    """A load test needs every pipeline it names: leaving one out would change what is measured."""
    if isinstance(entry, InvalidPipeline):
        raise BadInput(entry.error)
    return entry


def _prepare(request: StageRequest, max_tokens: int | None) -> PreparedRequest:
    body: dict[str, Any] = {**request.body, "stream": True, "stream_options": {"include_usage": True}}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    return PreparedRequest(request.pipeline_id, request.stage.value, orjson.dumps(body))
