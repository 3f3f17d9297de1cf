"""One try at a chat completion: what a client's transport gives back, and what can go wrong with it.

The two transports (agents/asking/lean_client.py, agents/openai_client.py) tell every failure as a TryFailed made here, so that
both are worded, classed and repeated alike (agents/asking/client.py).
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from agents.schema import ErrorClass

LARGEST_ANSWER_BYTES = 4 * 2**20
"""The largest answer that is taken, a thousand times what an agent's schema lets through. The lean transport stops
reading there; the SDK has read the whole answer by then."""

REPEATED_STATUSES = frozenset({429, 500, 502, 503, 504})
"""What may go away by itself; every other status says something about the request, which would be the same again."""


class TryFailed(Exception):
    """One try gave no answer."""

    def __init__(
        self,
        problem: str,
        error_class: ErrorClass,
        *,
        found: object = "",
        again: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.error_class = error_class
        self.found = found
        """What came, as it came: it may be long, and some servers quote the key they refuse."""
        self.again = again
        """Whether another try may go better."""
        self.retry_after_s = retry_after_s
        """How long the endpoint asks to be left alone."""


class Transport(Protocol):
    """Sends one chat completion once; it is not the transport's to wait, to repeat or to count time."""

    async def open(self) -> None:
        """Get ready on the running event loop."""

    async def send(self, body: dict[str, Any]) -> bytes:
        """The body of the endpoint's 2xx answer, at most LARGEST_ANSWER_BYTES. Raises TryFailed.

        Cancelled, it closes the request's connection.
        """

    async def close(self) -> None:
        """Close all connections."""


def unreachable(error: BaseException) -> TryFailed:
    """The connection failed before the answer's head had come."""
    return TryFailed("the endpoint cannot be reached", ErrorClass.UNREACHABLE, found=error, again=True)


def cut_off(error: BaseException) -> TryFailed:
    """The connection failed inside the answer."""
    return TryFailed("the endpoint's answer is broken", ErrorClass.BROKEN_ANSWER, found=error, again=True)


def broken(found: object) -> TryFailed:
    """An answer came whole and cannot be read; the same request would bring it again."""
    return TryFailed("the endpoint's answer is broken", ErrorClass.BROKEN_ANSWER, found=found)


def body_of(status: int, body: bytes, retry_after: str | None) -> bytes:
    """`body` if the answer is sound HTTP of a bearable size. Raises TryFailed otherwise.

    retry_after: the header of that name. A redirect is no answer: the key would follow it anywhere.
    """
    if not 200 <= status < 300:
        raise TryFailed(
            f"the endpoint answered HTTP {status}",
            _status_class(status),
            found=_told_in(body),
            again=status in REPEATED_STATUSES,
            retry_after_s=read_retry_after(retry_after),
        )
    if len(body) > LARGEST_ANSWER_BYTES:
        raise broken(f"it is larger than {LARGEST_ANSWER_BYTES / 2**20:g} MiB")
    return body


def read_retry_after(header: str | None) -> float | None:
    """Seconds in a Retry-After header, parts of one too; None for none, for a date and for nonsense."""
    with suppress(TypeError, ValueError):
        seconds = float(header)  # type: ignore[arg-type]
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    return None


def _status_class(status: int) -> ErrorClass:
    if status == 429:
        return ErrorClass.RATE_LIMITED
    return ErrorClass.SERVER_ERROR if status >= 500 else ErrorClass.REFUSED


class _ErrorMessage(BaseModel):
    model_config = ConfigDict(strict=True)
    message: str


class _ErrorAnswer(BaseModel):
    """OpenAI's form of an error."""

    error: _ErrorMessage


def _told_in(body: bytes) -> str:
    """The message of an error in OpenAI's form; of any other, the whole text."""
    try:
        return _ErrorAnswer.model_validate_json(body).error.message
    except ValidationError:
        return body.decode(errors="replace")
