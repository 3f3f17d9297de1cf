"""A thin agent: it puts one specialist's question to a shared endpoint and gives what the rules permit of the answer.

Nothing is asked twice. What is not permitted, cannot be read, is late or does not come is decided by the rules instead,
and the report says so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from agents.asking.answerer import ModelAnswer, ask
from agents.asking.endpoint.client import ChatClient
from agents.asking.endpoint.reply import AgentError, EndpointFailed, ErrorClass, Reply
from agents.asking.question import question_for
from agents.asking.variant import DEFAULT_PROMPT, PromptVariant, load_prompt
from agents.facts.spec import PipelineSpec
from agents.labels.policy import DEFAULT_POLICY, Policy, load_policy
from agents.specialists.decision import Decision
from agents.specialists.registry import Labels, labels_for, specialist_of
from agents.specialists.rules import rules_decision
from common.console import BadInput

HISTORY_LIMIT = 100
"""Answers an agent remembers: enough to look back at, few enough that a long run stays small."""
FREE_TEXT_TOKENS = 220

Because = Literal["unusable", "not_permitted", "deadline", "endpoint"]
"""Why the rules decided in a model's place: its answer could not be read or holds what the rules do not permit, or,
with a deadline, was late or did not come."""


@dataclass(frozen=True)
class Answer:
    """What is given for one stage, what the rules say, and how it came about."""

    decision: Decision
    """The model's where it is permitted, else the rules'."""
    rules: Decision
    """What the rules decide, whoever decided."""
    because: Because | None = None
    """Why the decision is not the model's; None where it is, and where no model was asked."""
    model: ModelAnswer | None = None
    """What the model answered, whatever became of it."""
    problem: str | None = None
    """What was wrong with the model's answer."""
    error: AgentError | None = None
    """What the endpoint failed with, where the rules stand in for it."""


class Decider(Protocol):
    """Whoever decides for one specialist: a model behind an endpoint, or the rules."""

    async def decide(self, spec: PipelineSpec, labels: Labels | None = None, *, until_s: float | None = None) -> Answer:
        """Decide about one pipeline. labels: the policy's, when the caller has them. until_s: a moment on the event
        loop's clock; what the model has not answered by then the rules decide. Raises AgentError."""


class LightweightLLMAgent:
    """A specialist's question over an endpoint that other agents share: no model is loaded here."""

    stage: ClassVar[str] = ""

    def __init__(
        self,
        client: ChatClient,
        model: str,
        prompt: PromptVariant | None = None,
        policy: Policy | None = None,
        *,
        stage: str | None = None,
    ) -> None:
        """stage: a specialist's name, for those that have no class of their own. Raises BadInput if it is not known."""
        self.client = client
        self.model = model
        self.prompt = prompt or load_prompt(DEFAULT_PROMPT)
        self.policy = policy or load_policy(DEFAULT_POLICY)
        self.specialist = specialist_of(stage or self.stage)
        self.history: deque[Answer] = deque(maxlen=HISTORY_LIMIT)

    async def generate_response(self, prompt: str, *, max_tokens: int = FREE_TEXT_TOKENS) -> Reply:
        """The model's free text on a prompt of the caller's own; nothing is checked and nothing decided by it.

        Raises EndpointFailed.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": f"You are a {self.specialist.role}."},
                {"role": "user", "content": prompt},
            ],
            "max_tokens": max_tokens,
            "temperature": self.prompt.sampling.temperature,
        }
        return await self.client.complete(body)

    async def decide(self, spec: PipelineSpec, labels: Labels | None = None, *, until_s: float | None = None) -> Answer:
        """Ask about one pipeline and check the answer; see Decider. Raises AgentError."""
        try:
            labels = labels_for(spec, self.policy) if labels is None else labels
            question = question_for(self.prompt, self.specialist.name, spec, labels[self.specialist.name])
        except BadInput as error:
            raise AgentError(str(error), ErrorClass.BAD_INPUT) from None
        rules = rules_decision(self.specialist, spec, question.label)
        try:
            async with asyncio.timeout_at(until_s):
                came = await ask(self.client, self.model, self.prompt, question)
        except TimeoutError:
            return self._kept(Answer(rules, rules, "deadline", problem="the model had not answered by the deadline"))
        except BadInput as error:
            raise AgentError(str(error), ErrorClass.BAD_INPUT) from None
        except EndpointFailed as error:
            if until_s is None:
                raise
            return self._kept(Answer(rules, rules, "endpoint", problem=str(error), error=error))
        if came.decision is None:
            return self._kept(Answer(rules, rules, "unusable", came, came.problem))
        if refused := question.permitted.refuses(came.decision.choice.id, came.decision.ids):
            return self._kept(Answer(rules, rules, "not_permitted", came, refused))
        return self._kept(Answer(came.decision, rules, model=came))

    def _kept(self, answer: Answer) -> Answer:
        self.history.append(answer)
        return answer


class DataIngestionAgent(LightweightLLMAgent):
    """Decides how to bring the data in."""

    stage = "ingestion"

    async def analyze_data_source(
        self, spec: PipelineSpec, labels: Labels | None = None, *, until_s: float | None = None
    ) -> Answer:
        """The mode, and what to do for it, from the facts about the source. Raises AgentError."""
        return await self.decide(spec, labels, until_s=until_s)


class DataQualityAgent(LightweightLLMAgent):
    """Decides what to do about the data's quality."""

    stage = "quality"

    async def assess_quality(
        self, spec: PipelineSpec, labels: Labels | None = None, *, until_s: float | None = None
    ) -> Answer:
        """Whether to publish, quarantine, block or measure first, and what to do. Raises AgentError."""
        return await self.decide(spec, labels, until_s=until_s)


class InfrastructureOptimizationAgent(LightweightLLMAgent):
    """Decides what to do about the machines."""

    stage = "infrastructure"

    async def optimize_infrastructure(
        self, spec: PipelineSpec, labels: Labels | None = None, *, until_s: float | None = None
    ) -> Answer:
        """Whether to watch, plan or act now, and what to do. Raises AgentError."""
        return await self.decide(spec, labels, until_s=until_s)
