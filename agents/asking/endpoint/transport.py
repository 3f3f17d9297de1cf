"""One try at a request: what a client's transport gives back, and what can go wrong with it.

A transport (lean_client.py) tells every failure as a TryFailed made here, so that all are worded, classed
and repeated alike (client.py).
"""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from agents.asking.endpoint.reply import ErrorClass

LARGEST_ANSWER_BYTES = 4 * 2**20
"""The largest answer that is taken, a thousand times what a decision needs; reading stops there."""

REPEATED_STATUSES = frozenset({429, 500, 502, 503, 504})
"""What may go away by itself; every other status says something about the request, which would be the same again."""

Route = Literal["chat/completions", "decisions", "tokenize"]
"""What can be asked: the first two below the API's address, the last one, vLLM's own, at the server's root."""


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
        status: int | None = None,
        parameter: str | None = None,
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
        self.status = status
        self.parameter = parameter
        """The key of the request that the endpoint names as the reason."""


class Transport(Protocol):
    """Sends one request once; it is not the transport's to wait, to repeat or to count time."""

    async def open(self) -> None:
        """Get ready on the running event loop."""

    async def send(self, body: dict[str, Any], route: Route) -> bytes:
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
        message, parameter = _told_in(body)
        raise TryFailed(
            f"the endpoint answered HTTP {status}",
            _status_class(status),
            found=message,
            again=status in REPEATED_STATUSES,
            retry_after_s=read_retry_after(retry_after),
            status=status,
            parameter=parameter,
        )
    if len(body) > LARGEST_ANSWER_BYTES:
        raise broken(f"it is larger than {LARGEST_ANSWER_BYTES / 2**20:g} MiB")
    return body


def read_retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds in a Retry-After header, parts of one too, or until the date it gives; None for none and for nonsense.

    now: for a date; the clock's if not given. A date that is over asks for no wait.
    """
    if header is None:
        return None
    with suppress(ValueError):
        seconds = float(header)
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    with suppress(ValueError, OverflowError):
        date = parsedate_to_datetime(header)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    return None


def _status_class(status: int) -> ErrorClass:
    if status == 429:
        return ErrorClass.RATE_LIMITED
    return ErrorClass.SERVER_ERROR if status >= 500 else ErrorClass.REFUSED


class _ErrorMessage(BaseModel):
    model_config = ConfigDict(strict=True)
    message: str
    param: object = None


class _ErrorAnswer(BaseModel):
    """OpenAI's form of an error."""

    error: _ErrorMessage


def _told_in(body: bytes) -> tuple[str, str | None]:
    """The message of an error in OpenAI's form and the parameter it names; of any other, the whole text."""
    try:
        error = _ErrorAnswer.model_validate_json(body).error
    except ValidationError:
        return body.decode(errors="replace"), None
    return error.message, error.param if isinstance(error.param, str) else None
