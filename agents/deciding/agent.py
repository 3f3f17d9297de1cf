"""A thin agent: it builds a role's prompt, asks one shared endpoint, and checks what comes back."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from agents.asking.client import ChatClient
from agents.asking.reply import AgentError, EndpointFailed, Reply, UnusableReply, parse
from agents.asking.requests import Labels, StageRequest, labels_for, stage_request
from agents.asking.variant import DEFAULT_PROMPT, PromptVariant, load_prompt
from agents.facts.spec import PipelineSpec
from agents.fallback import fallback
from agents.guardrails import GuardrailMode, correction, unusable, violations
from agents.labels.policy import DEFAULT_POLICY, Policy, load_policy
from agents.schema import ErrorClass, FallbackReason, Recommendation, Rejected, Stage, Violation
from common.console import BadInput

HISTORY_LIMIT = 100
"""Exchanges an agent remembers: enough to look back at, few enough that a long run stays small."""

ANSWER_CHARACTERS = 16_000
"""Of an answer that cannot be given, how much is kept: a recommendation has some 500."""

_QUOTED_CHARACTERS = 1500
"""How much of a rejected answer is shown to the model again."""


@dataclass(frozen=True)
class Answer:
    """A recommendation that may be given, with what it cost."""

    recommendation: Recommendation
    replies: tuple[Reply, ...] = ()
    """Every answer the model gave, the last one last."""
    because: FallbackReason | None = None
    """Why the recommendation is the rules' and not the model's."""
    violations: tuple[Violation, ...] = ()
    """What the recommendation breaks all the same: only with guardrails set to warn."""
    rejected: tuple[Rejected, ...] = ()
    """Answers that guardrails did not let through."""
    error: AgentError | None = None
    """What the endpoint failed with, where the rules stand in for it."""

    @property
    def reply(self) -> Reply | None:
        """The last answer, with the tokens and seconds of all of them; None when there was none."""
        if not self.replies:
            return None
        first, *others = self.replies
        for other in others:
            first = other.model_copy(
                update={
                    "prompt_tokens": _sum(first.prompt_tokens, other.prompt_tokens),
                    "output_tokens": _sum(first.output_tokens, other.output_tokens),
                    "latency_s": first.latency_s + other.latency_s,
                    "tries": first.tries + other.tries,
                }
            )
        return first


def _bounded(reply: Reply | None) -> Reply | None:
    """A reply as it may be remembered: an endpoint may answer with megabytes."""
    if reply is None or len(reply.text) <= ANSWER_CHARACTERS:
        return reply
    return reply.model_copy(update={"text": reply.text[:ANSWER_CHARACTERS]})


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


@dataclass(frozen=True)
class Exchange:
    """One question an agent asked, and how it went."""

    request: StageRequest
    reply: Reply | None
    error: str | None


@dataclass(frozen=True)
class _Try:
    """One answer and what the guardrails say of it."""

    reply: Reply
    given: Recommendation | None
    """The recommendation, unless it may not be given."""
    broken: tuple[Violation, ...]


class LightweightLLMAgent:
    """A role, a prompt and a history over an endpoint that other agents share: no model is loaded here."""

    stage: ClassVar[Stage]

    def __init__(
        self,
        client: ChatClient,
        model: str,
        prompt: PromptVariant | None = None,
        policy: Policy | None = None,
        guardrails: GuardrailMode = GuardrailMode.ENFORCE,
    ) -> None:
        self.client = client
        self.model = model
        self.prompt = prompt or load_prompt(DEFAULT_PROMPT)
        self.policy = policy or load_policy(DEFAULT_POLICY)
        self.guardrails = guardrails
        self.history: deque[Exchange] = deque(maxlen=HISTORY_LIMIT)

    async def generate_response(self, body: dict[str, Any]) -> Reply:
        """Send one chat completion and return its text and cost. Raises EndpointFailed."""
        return await self.client.complete(body)

    async def recommend(
        self, spec: PipelineSpec, labels: Labels | None = None, *, until_s: float | None = None
    ) -> Answer:
        """Ask about one pipeline; what the guardrails do not let through is asked again once, then left to the rules.

        labels: what the policy gave, when the caller has it already. until_s: a moment on the event loop's clock; what
        the model has not answered by then, or the endpoint fails to, comes from the rules. Raises AgentError.
        """
        try:
            labels = labels or labels_for(spec, self.policy)
            request = stage_request(self.stage, spec, self.prompt, labels, self.model)
        except BadInput as error:
            raise AgentError(str(error), ErrorClass.BAD_INPUT) from None

        def from_rules(because: FallbackReason, **had: Any) -> Answer:
            return Answer(fallback(self.stage, spec, request.label), because=because, **had)

        try:
            async with asyncio.timeout_at(until_s):
                first = await self._try(request, spec)
        except TimeoutError:
            return from_rules("deadline")
        except EndpointFailed as error:
            if until_s is None:
                raise
            return from_rules("endpoint", error=error)
        if first.given:
            return Answer(first.given, (first.reply,), violations=first.broken)
        rejected = _rejected(first)
        try:
            async with asyncio.timeout_at(until_s):
                second = await self._try(_asked_again(request, rejected), spec)
        except TimeoutError:
            return from_rules("deadline", replies=(first.reply,), rejected=(rejected,))
        except EndpointFailed as error:
            # The first answer may not be given and no second one comes: that is what the rules are for.
            return from_rules("guardrails", replies=(first.reply,), rejected=(rejected,), error=error)
        replies = (first.reply, second.reply)
        if second.given:
            return Answer(second.given, replies, rejected=(rejected,))
        return from_rules("guardrails", replies=replies, rejected=(rejected, _rejected(second)))

    async def _try(self, request: StageRequest, spec: PipelineSpec) -> _Try:
        """Ask once and judge the answer. Raises AgentError; without enforcement that includes UnusableReply."""
        reply = None
        try:
            reply = await self.generate_response(request.body)
            advice, broken = self._judged(request, spec, reply)
        except AgentError as error:
            self.history.append(Exchange(request, _bounded(reply), str(error)))
            raise
        told = "; ".join(violation.told for violation in broken) or None
        self.history.append(Exchange(request, _bounded(reply), told))
        held_back = broken and self.guardrails is GuardrailMode.ENFORCE
        return _Try(reply, None if held_back else advice, broken)

    def _judged(
        self, request: StageRequest, spec: PipelineSpec, reply: Reply
    ) -> tuple[Recommendation | None, tuple[Violation, ...]]:
        """The recommendation in a reply, if it holds one, and the rules it breaks. Raises UnusableReply."""
        try:
            advice = parse(self.stage, self.prompt.form, reply)
        except UnusableReply as error:
            if self.guardrails is not GuardrailMode.ENFORCE:
                raise
            return None, (unusable(reply.text, str(error)),)
        if self.guardrails is GuardrailMode.OFF:
            return advice, ()
        return advice, violations(self.stage, spec, request.label, advice)


def _rejected(tried: _Try) -> Rejected:
    return Rejected(answer=tried.reply.text[:ANSWER_CHARACTERS], violations=tried.broken)


def _asked_again(request: StageRequest, rejected: Rejected) -> StageRequest:
    """The same request, with the rejected answer and what was wrong with it."""
    messages = [
        *request.body["messages"],
        {"role": "assistant", "content": rejected.answer[:_QUOTED_CHARACTERS]},
        {"role": "user", "content": correction(rejected.violations)},
    ]
    return replace(request, body={**request.body, "messages": messages})


class DataIngestionAgent(LightweightLLMAgent):
    """Advises how to bring the data in."""

    stage = Stage.INGESTION

    async def analyze_data_source(
        self, spec: PipelineSpec, labels: Labels | None = None, *, until_s: float | None = None
    ) -> Answer:
        """Mode and what matters for it, from the facts about the source. Raises AgentError."""
        return await self.recommend(spec, labels, until_s=until_s)


class DataQualityAgent(LightweightLLMAgent):
    """Advises what to do about the data's quality."""

    stage = Stage.QUALITY

    async def assess_quality(
        self, spec: PipelineSpec, labels: Labels | None = None, *, until_s: float | None = None
    ) -> Answer:
        """What the quality metrics mean and the two steps to take first. Raises AgentError."""
        return await self.recommend(spec, labels, until_s=until_s)


class InfrastructureOptimizationAgent(LightweightLLMAgent):
    """Advises what to do about the machines."""

    stage = Stage.INFRASTRUCTURE

    async def optimize_infrastructure(
        self, spec: PipelineSpec, labels: Labels | None = None, *, until_s: float | None = None
    ) -> Answer:
        """What is scarce and the two optimizations that help most. Raises AgentError."""
        return await self.recommend(spec, labels, until_s=until_s)


AGENTS: dict[Stage, type[LightweightLLMAgent]] = {
    agent.stage: agent for agent in (DataIngestionAgent, DataQualityAgent, InfrastructureOptimizationAgent)
}
"""Each stage's specialist."""
