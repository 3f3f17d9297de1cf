"""One question put to a model, and its decision, whatever way it is asked in."""

from __future__ import annotations

from dataclasses import dataclass

from agents.asking.endpoint.client import ChatClient
from agents.asking.endpoint.reply import Reply
from agents.asking.question import StageQuestion
from agents.asking.variant import PromptVariant
from agents.asking.ways.read import read_decision
from agents.asking.ways.reason import ASKS, reason_body
from agents.asking.ways.write import Unusable, read_written, write_body
from agents.specialists.decision import Decision


@dataclass(frozen=True)
class ModelAnswer:
    """What a model answered to one question."""

    decision: Decision | None
    """Its own decision, not yet held against what is permitted; None where its answer holds none."""
    problem: str | None
    """Why there is no decision."""
    replies: tuple[Reply, ...]
    """All that it rests on, in the order asked. What was asked once for all (label ids, priors) is not among them."""
    note_dropped: str | None = None
    """Why its sentence was left out, where it was."""


async def ask(client: ChatClient, model: str, variant: PromptVariant, question: StageQuestion) -> ModelAnswer:
    """Put a question in the variant's way. Raises BadInput when it cannot be rendered, and EndpointFailed."""
    if not variant.reads:
        return _written(variant, question, await client.complete(write_body(variant, question, model)))
    reasons: tuple[Reply, ...] = ()
    reason = None
    if variant.ask == "reason":
        reasons = (await client.complete(reason_body(variant, question, model)),)
        reason = (ASKS, reasons[0].text.strip())
    found, replies = await read_decision(client, model, variant, question, reason)
    if isinstance(found, Decision):
        return ModelAnswer(found, None, reasons + replies)
    return ModelAnswer(None, found, reasons + replies)


def _written(variant: PromptVariant, question: StageQuestion, reply: Reply) -> ModelAnswer:
    try:
        decision, note_dropped = read_written(variant, question, reply)
    except Unusable as problem:
        return ModelAnswer(None, str(problem), (reply,))
    return ModelAnswer(decision, None, (reply,), note_dropped)
