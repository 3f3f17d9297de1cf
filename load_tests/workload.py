"""What a load test sends: the agents' own requests or synthetic ones, the same for the same seed on any worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b, sha256
from itertools import cycle
from operator import itemgetter
from typing import Any

import orjson

from agents.asking.requests import StageRequest, requests_for, stage_request
from agents.asking.variant import PromptVariant, load_prompt
from agents.facts.pipeline_files import InvalidPipeline, ReadPipeline, read_pipelines
from agents.labels.policy import Policy, load_policy
from agents.specialists.registry import labels_for
from common.console import BadInput
from evals.case import Case
from load_tests.arrivals import Trace
from load_tests.prepared import PreparedRequest
from load_tests.profiles import ROOT, AgentsWorkload, GeneratedCases, LoadProfile
from load_tests.synthetic import SyntheticPrompts, synthetic_prompts
from load_tests.trace_file import read_trace
from serving.endpoint import Endpoint

__all__ = ["LoadPlan", "PreparedRequest", "plan_load"]

_STREAM = 0x0F1ED
"""Keeps the order of requests apart from what else the same seed draws."""
_WARM_UP, _OPEN, _CLOSED = range(3)
"""Which part of a test a synthetic prompt is for: none may meet another's in a prefix cache."""


@dataclass(frozen=True)
class LoadPlan:
    """Everything decided before the first request: where to send, what, and in which order."""

    profile: LoadProfile
    endpoint: Endpoint
    prompt_name: str | None
    """None where the workload uses no prompt of ours."""
    prompt_version: int | None
    requests: tuple[PreparedRequest, ...]
    """Every different request of the agents; synthetic: those of the warm-up, the others are made when asked for."""
    recorded: tuple[int, ...] | None = None
    """Which request a trace has at each place of its schedule; None where it does not say."""
    synthetic: SyntheticPrompts | None = None

    def request_for(self, user: int, turn: int) -> PreparedRequest:
        """Closed loop: each user walks through all requests in order and starts one further than the one before it."""
        if self.synthetic:
            return self._cancelled(self.synthetic.request(_CLOSED, user, turn), user, turn)
        return self._cancelled(self.requests[(user + turn) % len(self.requests)], user, turn)

    def request_at(self, index: int) -> PreparedRequest:
        """Open loop: the request at a place of the schedule, from the seed and the place alone.

        All requests come once, in an order drawn by the seed, before any comes again in another one.
        """
        return self._cancelled(self._asked_at(index), index)

    def _asked_at(self, index: int) -> PreparedRequest:
        number = index if self.recorded is None else self.recorded[index]
        if self.synthetic:
            return self.synthetic.request(_OPEN, number)
        if self.recorded is not None:
            return self.requests[number]
        turn, place = divmod(index, len(self.requests))
        return self.requests[_order(len(self.requests), self.profile.seed, turn)[place]]

    def _cancelled(self, request: PreparedRequest, *place: int) -> PreparedRequest:
        """The request, to be hung up on if its place in the test is drawn."""
        after = self.profile.cancel_after_chunks
        if after is None or _share_of(self.profile.seed, *place) >= self.profile.cancel_share:
            return request
        return replace(request, cancel_after_chunks=after)


def plan_load(profile: LoadProfile, endpoint: Endpoint) -> LoadPlan:
    """Build the requests of the profile. Raises BadInput when something it names is not usable.

    A synthetic workload asks the endpoint how it counts tokens; CannotJudge when it does not answer.
    """
    if isinstance(profile.workload, AgentsWorkload):
        return _agents_plan(profile, profile.workload, endpoint)
    prompts = synthetic_prompts(profile.workload, endpoint, profile.seed)
    warm_up = tuple(prompts.request(_WARM_UP, number) for number in range(max(1, profile.warmup_requests)))
    return LoadPlan(profile, endpoint, None, None, warm_up, _recorded(profile, None), prompts)


def content_digest(profile: LoadProfile, endpoint: Endpoint) -> str:
    """Of every request of the agents: of pipelines, cases, prompt and policy, which a profile only names.

    A synthetic workload is all in the profile. Raises BadInput as plan_load does.
    """
    if not isinstance(profile.workload, AgentsWorkload):
        return ""
    found = sha256()
    for request in _agents_plan(profile, profile.workload, endpoint).requests:
        found.update(request.body)
    return found.hexdigest()[:16]


def warm_up_requests(plan: LoadPlan) -> Iterator[PreparedRequest]:
    """What to send before the test, without end: a request of each stage, then another one of each, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for request in plan.requests:
        ranked.append((seen[request.stage], request))
        seen[request.stage] += 1
    return cycle(request for _, request in sorted(ranked, key=itemgetter(0)))


def _agents_plan(profile: LoadProfile, workload: AgentsWorkload, endpoint: Endpoint) -> LoadPlan:
    variant, policy = _limited(load_prompt(workload.prompt), profile.max_tokens), load_policy(workload.policy)
    if workload.score and variant.reads:
        raise BadInput(
            f"score: prompt {variant.name} reads its decision off several requests, which are sent apart here; "
            f"use a prompt that writes it, or leave score out"
        )
    asked: Iterable[tuple[StageRequest, Case | None]]
    if workload.cases is not None:
        asked = _of_cases(workload.cases, profile.seed, variant, policy, endpoint.model)
    else:
        specs = [_accepted(entry).spec for entry in read_pipelines([ROOT / str(workload.pipelines)])]
        asked = ((request, None) for request in requests_for(specs, variant, policy, endpoint.model))
    schemas: dict[bytes, bytes] = {}
    requests = tuple(
        PreparedRequest(
            pipeline_id=request.pipeline_id,
            stage=request.stage,
            body=_streamed(body),
            schema=_schema(body, schemas) if workload.validate_schema else None,
            case=case if workload.score else None,
        )
        for request, case in asked
        for body in request.bodies
    )
    return LoadPlan(profile, endpoint, variant.name, variant.version, requests, _recorded(profile, len(requests)))


def _limited(variant: PromptVariant, max_tokens: int | None) -> PromptVariant:
    """The prompt with the profile's own limit, if it has one."""
    if max_tokens is None:
        return variant
    return variant.model_copy(update={"sampling": variant.sampling.model_copy(update={"max_tokens": max_tokens})})


def _of_cases(
    wanted: GeneratedCases, seed: int, variant: PromptVariant, policy: Policy, model: str
) -> Iterable[tuple[StageRequest, Case]]:
    from evals.generate import iter_cases

    for case in iter_cases(wanted.count, seed if wanted.seed is None else wanted.seed):
        labels = labels_for(case.spec, policy)
        yield stage_request(case.stage, case.spec, variant, labels, model), case


def _accepted(entry: ReadPipeline | InvalidPipeline) -> ReadPipeline:
    """A load test needs every pipeline it names: leaving one out would change what is measured."""
    if isinstance(entry, InvalidPipeline):
        raise BadInput(entry.error)
    return entry


def _streamed(body: dict[str, Any]) -> bytes:
    return orjson.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})


def _schema(body: dict[str, Any], known: dict[bytes, bytes]) -> bytes | None:
    """The schema a request holds its answer to, one object for equal ones; None where it has none."""
    held = (body.get("response_format") or {}).get("json_schema")
    if held is None:
        return None
    schema = orjson.dumps(held["schema"])
    return known.setdefault(schema, schema)


def _recorded(profile: LoadProfile, requests: int | None) -> tuple[int, ...] | None:
    """What a trace says of which request is sent when. requests: how many there are to choose from; None: any."""
    if not isinstance(profile.arrivals, Trace):
        return None
    found = read_trace(profile.arrivals.path).requests
    if found is None:
        return None
    if requests is not None and int(found.max()) >= requests:
        raise BadInput(
            f"{profile.arrivals.path}: request: found {int(found.max())}; the workload has {requests}, "
            f"numbered from 0: add pipelines or cases, or leave the column out"
        )
    return tuple(found.tolist())


def _share_of(*place: int) -> float:
    """A number in [0, 1) that looks random and is the same for the same place, on whichever worker."""
    told = f"{_STREAM} cancel {place}".encode()
    return int.from_bytes(blake2b(told, digest_size=6).digest(), "big") / 2**48


@lru_cache(maxsize=64)
def _order(n: int, seed: int, turn: int) -> tuple[int, ...]:
    import numpy as np

    drawn = np.random.Generator(np.random.PCG64([seed, _STREAM, turn])).permutation(n)
    return tuple(drawn.tolist())
