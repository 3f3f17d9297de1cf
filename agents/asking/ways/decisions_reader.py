"""Labels read from `POST /v1/decisions`, where an endpoint has it for the model: a `choice` for each question."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.asking.endpoint.client import ChatClient
from agents.asking.endpoint.reply import EndpointFailed, Reply
from agents.asking.ways.label_question import LabelQuestion
from agents.asking.ways.label_reading import LabelReading, Unread, not_offered, probe
from agents.asking.ways.probabilities import LEAST_LOGPROB, LabelLogprob


@dataclass(frozen=True)
class DecisionsReader:
    """Asks a `choice` question each; the options not offered are not shown there."""

    client: ChatClient
    model: str

    async def read(self, question: LabelQuestion) -> LabelReading:
        """See Reader."""
        options = question.offered_options
        if len(options) == 1:  # the route wants two or more
            return LabelReading({options[0].id: LabelLogprob(0.0)}, None, "decisions route", None)
        reply = await self.client.complete(decisions_body(question, self.model), "decisions")
        return read_decision_answer(question, reply)


def decisions_body(question: LabelQuestion, model: str) -> dict[str, Any]:
    """One question for `POST /v1/decisions`; its input is one string, as not every server takes messages."""
    reason = question.reason[1] if question.reason else ""
    return {
        "model": model,
        "input": "\n".join(part for part in (question.state, reason) if part),
        "questions": [
            {
                "type": "choice",
                "name": question.part,
                "instructions": f"{question.introduction}\n{question.asks}",
                "choices": [{"value": one.id, "description": one.words} for one in question.offered_options],
            }
        ],
    }


class _Probability(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    value: str
    probability: Annotated[float, Field(ge=0, le=1)]


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    type: str
    name: str | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    probabilities: list[_Probability] = Field(default_factory=list)


class _Answers(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    answers: Annotated[list[_Answer], Field(min_length=1, max_length=1)]


def read_decision_answer(question: LabelQuestion, reply: Reply) -> LabelReading:
    """The probabilities in an answer of `POST /v1/decisions`. Raises Unread.

    Probabilities there add up to one over the options. vLLM's confidence is the highest of them times the label mass,
    which is so known; another server's may mean something else, and then cannot be larger than the highest.
    """
    try:
        answer = _Answers.model_validate_json(reply.text).answers[0]
    except ValidationError:
        raise Unread("no probabilities: /v1/decisions answers in another form", reply) from None
    if answer.type == "refusal":
        raise Unread("no probabilities: the model refuses to answer", reply)
    given = {one.value: one.probability for one in answer.probabilities}
    if answer.type != "choice" or set(given) != set(question.offered) or not any(given.values()):
        raise Unread("no probabilities: /v1/decisions answers another question", reply)
    known = answer.confidence / max(given.values()) if answer.confidence is not None else None
    share = known if known is not None and 0 < known <= 1 else None
    logprobs = {option: _logprob(probability * (share or 1.0)) for option, probability in given.items()}
    return LabelReading(logprobs, share, "decisions route", reply)


def _logprob(probability: float) -> LabelLogprob:
    if probability <= 0:
        return LabelLogprob(LEAST_LOGPROB, censored=True)
    return LabelLogprob(max(LEAST_LOGPROB, math.log(probability)))


async def has_decisions(client: ChatClient, model: str) -> bool:
    """Whether the endpoint answers one small choice for this model in the form that we read."""
    try:
        question = probe()
        read_decision_answer(question, await client.complete(decisions_body(question, model), "decisions"))
    except EndpointFailed as failure:
        if not not_offered(failure):
            raise
        return False
    except Unread:
        return False
    return True
