"""What is read for one question, whatever it is read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from agents.asking.endpoint.reply import EndpointFailed, ErrorClass, Reply
from agents.asking.ways.label_question import LabelQuestion, Shown
from agents.asking.ways.probabilities import LabelLogprob

Source = Literal["label tokens", "decisions route"]


class Unread(Exception):
    """No log-probabilities could be read; the message says why, and `reply` is what came instead."""

    def __init__(self, message: str, reply: Reply | None = None) -> None:
        super().__init__(message)
        self.reply = reply


@dataclass(frozen=True)
class LabelReading:
    """What was read for one question."""

    logprobs: Mapping[str, LabelLogprob]
    """By option."""
    mass: float | None
    """The share of all probability that fell on the options offered; None where it cannot be told."""
    source: Source
    reply: Reply | None
    """None where nothing had to be asked."""


class Reader(Protocol):
    """Reads how likely each option of a question is."""

    async def read(self, question: LabelQuestion) -> LabelReading:
        """One reading. Raises EndpointFailed, and Unread where an answer came that cannot be read."""


def probe() -> LabelQuestion:
    """A question for finding out what an endpoint can do."""
    options = (Shown("yes", "yes"), Shown("no", "no"))
    return LabelQuestion(
        part="choice",
        order=0,
        asks="Is water wet?",
        introduction="Answer the question.",
        options=options,
        offered=frozenset({"yes", "no"}),
        state="No facts are needed.",
    )


def not_offered(failure: EndpointFailed) -> bool:
    """Whether an endpoint says by this that it has no such route, or not for this model."""
    status = failure.status or 0
    no_route = status == 501 or (400 <= status < 500 and status not in {401, 429})
    return no_route or failure.error_class is ErrorClass.BROKEN_ANSWER
