"""What comes back from an endpoint: a reply, or why there is none.

AgentError            one stage could not be completed; the report keeps it as that stage's row
└── EndpointFailed    no usable answer came: refused, timed out, an HTTP error, half a body, no text
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from pydantic import Field

from common.strict import Strict


class ErrorClass(StrEnum):
    """Why a stage has no decision of the model's; each failure is counted under exactly one."""

    UNREACHABLE = "unreachable"
    """Refused, reset, broken off before the answer's head."""
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"
    """HTTP 429 to the last try."""
    SERVER_ERROR = "server_error"
    """HTTP 5xx to the last try."""
    REFUSED = "refused"
    """HTTP 4xx but 429: the request itself is not accepted, and is not tried again."""
    BROKEN_ANSWER = "broken_answer"
    """An answer that is cut off, not JSON, too large, or no chat completion."""
    NO_CONTENT = "no_content"
    """A sound answer without an answer's text: a refusal, reasoning alone, or the call of a tool."""
    UNUSABLE_REPLY = "unusable_reply"
    """A sound answer whose text is not the decision that was asked for."""
    BAD_INPUT = "bad_input"
    """The prompt cannot be rendered on this pipeline."""


class TokenLogprob(NamedTuple):
    """How likely one token of an answer was."""

    token: str
    """Its text, or ``token_id:49`` where ids were asked for."""
    logprob: float
    size: int
    """Length in bytes (UTF-8) of the text it stands for."""
    top: tuple[tuple[str, float], ...] = ()
    """Other tokens that could have stood there, with their log-probabilities."""


class Reply(Strict):
    """One answer as the endpoint gave it, its types checked."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None = None
    """How many of the prompt's tokens the endpoint had computed before; None where it does not tell."""
    latency_s: float
    """Seconds from first sending the request to having the whole answer, repetitions included."""
    tries: int = 1
    """How often the request was sent until this answer came."""
    logprobs: tuple[TokenLogprob, ...] | None = Field(None, strict=False)
    """Token by token, where that was asked for and given."""


class AgentError(Exception):
    """A stage could not be completed."""

    def __init__(self, message: str, error_class: ErrorClass, reply: Reply | None = None) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.reply = reply
        """What came back, when something did."""


class EndpointFailed(AgentError):
    """No usable answer came from the endpoint."""

    def __init__(
        self, message: str, error_class: ErrorClass, reply: Reply | None = None, status: int | None = None
    ) -> None:
        super().__init__(message, error_class, reply)
        self.status = status
        """The HTTP status of the last answer, where one came."""
