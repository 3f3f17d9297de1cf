"""A thin agent: it builds a role's prompt, asks one shared endpoint, and checks what comes back.

AgentError            one stage could not be completed; the report keeps it as that stage's row
├── EndpointFailed    no usable answer came: refused, timed out, an HTTP error, half a body
└── UnusableReply     an answer came that is not the recommendation asked for
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar

import aiohttp
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    DefaultAioHttpClient,
)
from pydantic import ValidationError

from agents.policy import DEFAULT_POLICY, Policy, load_policy
from agents.prompt import DEFAULT_PROMPT, PromptVariant, load_prompt
from agents.requests import StageRequest, stage_request
from agents.schema import RECOMMENDATIONS, PipelineSpec, Recommendation, Stage, Strict
from console import shorten
from serving.endpoint import Endpoint, is_loopback

HISTORY_LIMIT = 100
"""Exchanges an agent remembers: enough to look back at, few enough that a long run stays small."""


class AgentError(Exception):
    """A stage could not be completed."""

    def __init__(self, message: str, reply: Reply | None = None) -> None:
        super().__init__(message)
        self.reply = reply
        """What came back, when something did."""


class EndpointFailed(AgentError):
    """No usable answer came from the endpoint."""


class UnusableReply(AgentError):
    """The answer is not the recommendation that was asked for."""


class Reply(Strict):
    """One answer as the endpoint gave it, its types checked: the openai client takes any JSON for an answer."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    output_tokens: int | None
    latency_s: float
    """Seconds from first sending the request to having the whole answer, retries included."""


@dataclass(frozen=True)
class Answer:
    """A checked recommendation with what it cost."""

    recommendation: Recommendation
    reply: Reply


@dataclass(frozen=True)
class Exchange:
    """One question an agent asked, and how it went."""

    request: StageRequest
    reply: Reply | None
    error: str | None


def make_client(endpoint: Endpoint, *, timeout_s: float = 120.0, max_retries: int = 2) -> AsyncOpenAI:
    """An openai client on aiohttp's transport, which costs half the CPU of the default one."""
    return AsyncOpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.api_key.get_secret_value(),
        timeout=timeout_s,
        max_retries=max_retries,
        # Our own machine is never behind a proxy, whatever the environment says.
        http_client=DefaultAioHttpClient(trust_env=not is_loopback(endpoint.base_url)),
    )


class LightweightLLMAgent:
    """A role, a prompt and a history over an endpoint that other agents share: no model is loaded here."""

    stage: ClassVar[Stage]

    def __init__(
        self,
        client: AsyncOpenAI,
        model: str,
        prompt: PromptVariant | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.client = client
        self.model = model
        self.prompt = prompt or load_prompt(DEFAULT_PROMPT)
        self.policy = policy or load_policy(DEFAULT_POLICY)
        self.history: deque[Exchange] = deque(maxlen=HISTORY_LIMIT)

    async def generate_response(self, body: dict[str, Any]) -> Reply:
        """Send one chat completion and return its text and cost. Raises EndpointFailed."""
        began = time.perf_counter()
        try:
            answer = await self.client.chat.completions.create(**body)
        except APITimeoutError as error:
            if broken := _broken_connection(error):
                raise EndpointFailed(f"the endpoint cannot be reached: {self._told(broken)}") from None
            tries = f", tried {self.client.max_retries + 1} times" if self.client.max_retries else ""
            raise EndpointFailed(f"no answer within {self.client.timeout} s{tries}") from None
        except APIConnectionError as error:
            cause = error.__cause__ or error
            raise EndpointFailed(f"the endpoint cannot be reached: {self._told(cause)}") from None
        except APIStatusError as error:
            problem = self._told(error.message)
            raise EndpointFailed(f"the endpoint answered HTTP {error.status_code}: {problem}") from None
        except (APIError, ValueError) as error:
            raise EndpointFailed(f"the endpoint's answer is broken: {self._told(error)}") from None
        latency_s = time.perf_counter() - began
        try:
            choice, usage = answer.choices[0], answer.usage
            return Reply(
                text=choice.message.content or "",
                finish_reason=choice.finish_reason or "unknown",
                prompt_tokens=usage.prompt_tokens if usage else None,
                output_tokens=usage.completion_tokens if usage else None,
                latency_s=latency_s,
            )
        except (AttributeError, LookupError, TypeError, ValidationError):
            raise EndpointFailed(
                f"the endpoint's answer is not a sound chat completion: {self._told(answer)}"
            ) from None

    def _told(self, found: object) -> str:
        """What came, short and without our key: some servers quote the key they refuse."""
        text, key = str(found), self.client.api_key
        return shorten(text.replace(key, "***") if key and key != "EMPTY" else text)

    async def recommend(self, spec: PipelineSpec) -> Answer:
        """Ask about one pipeline and check the answer against the stage's schema. Raises AgentError."""
        request = stage_request(self.stage, spec, self.prompt, self.policy, self.model)
        try:
            reply = await self.generate_response(request.body)
            answer = Answer(parse(self.stage, reply), reply)
        except AgentError as error:
            self.history.append(Exchange(request, error.reply, str(error)))
            raise
        self.history.append(Exchange(request, reply, None))
        return answer


def _broken_connection(error: BaseException) -> BaseException | None:
    """The refused or broken connection under an error; the transport (httpx-aiohttp 0.2) calls those timeouts too."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, aiohttp.ClientConnectionError) and not isinstance(cause, TimeoutError):
            return cause
        cause = cause.__cause__
    return None


def parse(stage: Stage, reply: Reply) -> Recommendation:
    """The recommendation in a reply. Raises UnusableReply that says what is wrong with it."""
    try:
        return RECOMMENDATIONS[stage].model_validate_json(reply.text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        cut = f"; it was cut off at {reply.output_tokens} tokens" if reply.finish_reason == "length" else ""
        problem = f"{field}: {first['msg']}" if field else first["msg"]
        raise UnusableReply(f"the answer does not fit the schema: {shorten(problem)}{cut}", reply) from None


class DataIngestionAgent(LightweightLLMAgent):
    """Advises how to bring the data in."""

    stage = Stage.INGESTION

    async def analyze_data_source(self, spec: PipelineSpec) -> Answer:
        """Mode and what matters for it, from source type, volume and frequency. Raises AgentError."""
        return await self.recommend(spec)


class DataQualityAgent(LightweightLLMAgent):
    """Advises what to do about the data's quality."""

    stage = Stage.QUALITY

    async def assess_quality(self, spec: PipelineSpec) -> Answer:
        """What the quality metrics mean and the two steps to take first. Raises AgentError."""
        return await self.recommend(spec)


class InfrastructureOptimizationAgent(LightweightLLMAgent):
    """Advises what to do about the machines."""

    stage = Stage.INFRASTRUCTURE

    async def optimize_infrastructure(self, spec: PipelineSpec) -> Answer:
        """What is scarce and the two optimizations that help most. Raises AgentError."""
        return await self.recommend(spec)


AGENTS: dict[Stage, type[LightweightLLMAgent]] = {
    agent.stage: agent for agent in (DataIngestionAgent, DataQualityAgent, InfrastructureOptimizationAgent)
}
"""Each stage's specialist."""
