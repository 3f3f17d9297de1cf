"""What comes back from an endpoint: a reply, or why there is none.

AgentError            one stage could not be completed; the report keeps it as that stage's row
├── EndpointFailed    no usable answer came: refused, timed out, an HTTP error, half a body
└── UnusableReply     an answer came that is not the recommendation asked for
"""

from __future__ import annotations

from pydantic import ValidationError

from agents.answers import AnswerForm, read_answer
from agents.schema import ErrorClass, Recommendation, Stage
from common.console import shorten
from common.strict import Strict


class Reply(Strict):
    """One answer as the endpoint gave it, its types checked."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    output_tokens: int | None
    latency_s: float
    """Seconds from first sending the request to having the whole answer, repetitions included."""
    tries: int = 1
    """How often the request was sent until this answer came."""


class AgentError(Exception):
    """A stage could not be completed."""

    def __init__(self, message: str, error_class: ErrorClass, reply: Reply | None = None) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.reply = reply
        """What came back, when something did."""


class EndpointFailed(AgentError):
    """No usable answer came from the endpoint."""


class UnusableReply(AgentError):
    """The answer is not the recommendation that was asked for."""

    def __init__(self, message: str, reply: Reply) -> None:
        super().__init__(message, ErrorClass.UNUSABLE_REPLY, reply)


def parse(stage: Stage, form: AnswerForm, reply: Reply) -> Recommendation:
    """The recommendation in a reply. Raises UnusableReply that says what is wrong with it."""
    try:
        return read_answer(reply.text, form, stage)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        cut = f"; it was cut off at {reply.output_tokens} tokens" if reply.finish_reason == "length" else ""
        problem = f"{field}: {first['msg']}" if field else first["msg"]
        raise UnusableReply(f"the answer does not fit the schema: {shorten(problem)}{cut}", reply) from None
