"""From the stamped lines of one streamed answer to one row: pure, and run only after the stream has ended.

A stream of chat completions, with what each line means here:

    : ping                                          comment, ignored
    data: {"choices":[{"delta":{"role":...}}]}      role chunk: carries no token, so it does not stop the clock
    data: {"choices":[{"delta":{"content":"Use"}}]} content chunk: the first gives TTFT, the gaps between them ITL
    data: {"choices":[{"delta":{},"finish_reason":"stop"}]}   finish chunk: no token, unless content is in it
    data: {"choices":[],"usage":{...}}              usage chunk: how many tokens there were; not a token itself
    event: error  /  data: {"error":{...}}          the server gave up, though it had answered HTTP 200
    data: [DONE]                                    the answer is whole; without it the stream was cut

One chunk may hold several tokens, and several chunks may arrive in one packet: chunks and tokens are counted apart.
A model's reasoning is output too: `reasoning` and `reasoning_content` count as content. Not covered: an event
spread over several data lines, and tool calls; no endpoint we know sends either here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, pairwise
from typing import Any

import orjson

from common.console import shorten

NS_PER_S = 1e9
_ERROR_EVENT = "event: error"
_LINES_AT_ONCE = 16
"""Some 0.1 ms of work."""


class Status(StrEnum):
    """How a request ended; everything but `ok` is a failure or, for `incomplete`, unknown."""

    OK = "ok"
    RATE_LIMITED = "rate_limited"
    """HTTP status 429."""
    SERVER_ERROR = "server_error"
    """HTTP status 500 and above."""
    HTTP_ERROR = "http_error"
    """Any other HTTP status but 200."""
    STREAM_ERROR = "stream_error"
    """An error event, an error object or something that is not JSON came in the stream."""
    CUT_STREAM = "cut_stream"
    """The stream broke off, or ended without [DONE]."""
    EMPTY = "empty"
    """An answer without a single content token: it has no TTFT, so it must not count as a success."""
    TIMEOUT = "timeout"
    REFUSED = "refused"
    """Nobody listens there, or the system's queue is full."""
    CONNECTION = "connection"
    """Not made, or lost before the answer's headers."""
    CANCELLED = "cancelled"
    """Cut by this client after so many content chunks, as the profile has it."""
    INCOMPLETE = "incomplete"
    """Still running when the test ended."""


_MOST_TOKENS = 2**31
"""A count above is none: the rows keep 64 bits, and an endpoint may say anything."""

_UNSAID = {
    Status.CUT_STREAM: "the stream ended without [DONE]",
    Status.EMPTY: "the answer holds no token",
    Status.INCOMPLETE: "cut by the end of the test",
}
"""What to say of a failure that nothing else explains."""


class Ending(StrEnum):
    """How the transport ended, before anyone looked at what it carried."""

    WHOLE = "whole"
    HTTP_ERROR = "http_error"
    BROKEN = "broken"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    CONNECTION = "connection"
    CANCELLED = "cancelled"
    STOPPED = "stopped"


@dataclass(slots=True)
class RawStream:
    """What one request left behind; filled while it runs, so that a request cut at any moment still has a row."""

    sent_ns: int = 0
    pieces: list[bytes] = field(default_factory=list)
    """The answer's body as it came, in pieces that may end anywhere."""
    stamps_ns: array[int] = field(default_factory=lambda: array("q"))
    """Arrival of each piece, perf_counter nanoseconds."""
    ending: Ending = Ending.STOPPED
    """Stays STOPPED unless the request comes to an end of its own."""
    error: str = ""
    http_status: int | None = None
    ended_ns: int = 0


@dataclass(slots=True)
class Answer:
    """What a stream said."""

    texts: list[str] = field(default_factory=list)
    """The content, a chunk apiece; without the model's reasoning."""
    content_ns: list[int] = field(default_factory=list)
    server_ns: list[int] = field(default_factory=list)
    """When the server says it sent each content chunk; only the simulator does, on the same machine's clock."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    done: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request's row. Stamps are perf_counter nanoseconds of one process; None means there was no such moment."""

    index: int
    """Open loop: its place in the schedule. Closed loop: n-th of its worker, times workers, plus worker."""
    worker: int
    user: int | None
    """None in an open loop."""
    stage: str
    pipeline_id: str
    status: Status
    http_status: int | None
    error: str
    intended_ns: int
    """Open loop: when the schedule had it. Closed loop: when its user was ready to send."""
    sent_ns: int
    first_content_ns: int | None
    last_content_ns: int | None
    ended_ns: int
    """When the request was over, the end of the stream or the failure."""
    ttft_s: float | None
    """Sending to first content chunk."""
    e2e_s: float | None
    """Sending to last content chunk: what follows it (usage, [DONE]) is not the answer."""
    itl_s: list[float]
    """Each gap between two content chunks."""
    prompt_tokens: int | None
    output_tokens: int | None
    """As the server's usage says; None when it did not."""
    content_chunks: int
    finish_reason: str | None
    lag_s: list[float] | None
    """Each content chunk's arrival here minus its sending there; None unless the server stamps its chunks."""
    received_bytes: int
    schema_valid: bool | None = None
    """Whether the answer fits the schema that was asked for; None where none was, and without a whole answer."""
    headline: float | None = None
    """The evaluation's score of the answer (evals/headline.py); None where it was not scored."""
    cancel_after_chunks: int | None = None
    """Drawn to be hung up on after so many: load for the others, and in no figure whatever became of it. Left out by
    how they ended, those that failed before would stay and be too large a share. None: read to its end."""

    @property
    def scheduling_lag_s(self) -> float:
        """How much later than intended it was sent."""
        return (self.sent_ns - self.intended_ns) / NS_PER_S

    @property
    def ttft_from_intended_s(self) -> float | None:
        """Intended start to first content chunk: what an independent user waits, the client's lag included."""
        return None if self.first_content_ns is None else (self.first_content_ns - self.intended_ns) / NS_PER_S

    @property
    def e2e_from_intended_s(self) -> float | None:
        """Intended start to last content chunk."""
        return None if self.last_content_ns is None else (self.last_content_ns - self.intended_ns) / NS_PER_S


def record_of(
    raw: RawStream,
    answer: Answer,
    *,
    index: int,
    worker: int,
    user: int | None,
    stage: str,
    pipeline_id: str,
    intended_ns: int,
) -> RequestRecord:
    """The row of one request, whatever became of it. answer: what its stream said, by `answer_of`."""
    times = answer.content_ns
    stamped = bool(times) and len(answer.server_ns) == len(times)
    status = status_of(raw.ending, answer, raw.http_status)
    return RequestRecord(
        index=index,
        worker=worker,
        user=user,
        stage=stage,
        pipeline_id=pipeline_id,
        status=status,
        http_status=raw.http_status,
        error=answer.error or raw.error or _UNSAID.get(status, ""),
        intended_ns=intended_ns,
        sent_ns=raw.sent_ns,
        first_content_ns=times[0] if times else None,
        last_content_ns=times[-1] if times else None,
        ended_ns=raw.ended_ns,
        ttft_s=(times[0] - raw.sent_ns) / NS_PER_S if times else None,
        e2e_s=(times[-1] - raw.sent_ns) / NS_PER_S if times else None,
        itl_s=[(later - earlier) / NS_PER_S for earlier, later in pairwise(times)],
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        content_chunks=len(times),
        finish_reason=answer.finish_reason,
        lag_s=[(here - there) / NS_PER_S for here, there in zip(times, answer.server_ns, strict=True)]
        if stamped
        else None,
        received_bytes=sum(map(len, raw.pieces)),
    )


def status_of(ending: Ending, answer: Answer, http_status: int | None) -> Status:
    """The class of a request. A whole answer stays ok though the connection lingered or broke after [DONE]."""
    if ending is Ending.HTTP_ERROR:
        return _http_class(http_status)
    if answer.error:
        return Status.STREAM_ERROR
    if answer.done:
        return Status.OK if answer.content_ns else Status.EMPTY
    if ending is Ending.WHOLE and not answer.content_ns:
        return Status.EMPTY
    return _CLASS_OF.get(ending, Status.CUT_STREAM)


_CLASS_OF = {
    Ending.TIMEOUT: Status.TIMEOUT,
    Ending.REFUSED: Status.REFUSED,
    Ending.CONNECTION: Status.CONNECTION,
    Ending.CANCELLED: Status.CANCELLED,
    Ending.STOPPED: Status.INCOMPLETE,
}


def _http_class(http_status: int | None) -> Status:
    if http_status == 429:
        return Status.RATE_LIMITED
    return Status.SERVER_ERROR if http_status and http_status >= 500 else Status.HTTP_ERROR


def answer_of(raw: RawStream) -> Answer:
    """What a stream said; a line has come when the piece that ends it has."""
    *_, answer = reading(raw)
    return answer


def reading(raw: RawStream) -> Iterator[Answer]:
    """Read an answer a part at a time, so that who reads can look after other streams in between; the last is whole."""
    # A line that a break tore says nothing; half a line at the end of a whole body is the server's own.
    lines = stamped_lines(zip(raw.pieces, raw.stamps_ns, strict=True), torn=raw.ending is not Ending.WHOLE)
    answer = Answer()
    while part := list(islice(lines, _LINES_AT_ONCE)):
        _read(answer, part)
        yield answer
    yield answer


def stamped_lines(pieces: Iterable[tuple[bytes, int]], *, torn: bool = False) -> Iterator[tuple[bytes, int]]:
    """The lines of a body that came in pieces, each with the stamp of the piece that ends it; blank ones left out.

    torn: leave out a last line without its newline.
    """
    begun, stamp_ns = list[bytes](), 0  # joined once: a hostile line of megabytes comes in thousands of pieces
    for piece, stamp_ns in pieces:
        first, *others = piece.split(b"\n")
        begun.append(first)
        if others:
            lines = [b"".join(begun), *others[:-1]]
            begun = [others[-1]]
            yield from ((line, stamp_ns) for line in lines if line.strip())
    if not torn and (last := b"".join(begun)).strip():
        yield last, stamp_ns


def read_answer(stamped_lines: Iterable[tuple[bytes, int]]) -> Answer:
    """Tell the lines of one stream apart; `stamped_lines` are lines as they came, with or without CR, and arrivals."""
    answer = Answer()
    _read(answer, stamped_lines)
    return answer


def _read(answer: Answer, stamped_lines: Iterable[tuple[bytes, int]]) -> None:
    for line, stamp_ns in stamped_lines:
        name, _, value = line.strip().partition(b":")
        value = value.strip()
        if name == b"event" and value == b"error":
            answer.error = _ERROR_EVENT
        elif name == b"data" and value == b"[DONE]":
            answer.done = True
        elif name == b"data":
            _take_data(answer, value, stamp_ns)
        elif line.startswith(b"{"):
            # HTTP 200 with plain JSON instead of a stream: some gateways report errors so.
            _take_data(answer, line, stamp_ns)


def _take_data(answer: Answer, data: bytes, stamp_ns: int) -> None:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        answer.error = f"not JSON: {shorten(data.decode('utf8', 'replace'), 120)}"
        return
    if not isinstance(chunk, dict) or chunk.get("error") or answer.error == _ERROR_EVENT:
        answer.error = f"error in the stream: {shorten(data.decode('utf8', 'replace'))}"
        return
    _take_usage(answer, chunk.get("usage"))
    choices = chunk.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        _take_choice(answer, choices[0], stamp_ns, chunk)


def _take_usage(answer: Answer, usage: Any) -> None:
    if isinstance(usage, dict):
        answer.prompt_tokens = _count(usage.get("prompt_tokens"))
        answer.output_tokens = _count(usage.get("completion_tokens"))


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None


def _take_choice(answer: Answer, choice: dict[str, Any], stamp_ns: int, chunk: dict[str, Any]) -> None:
    reason = choice.get("finish_reason")
    if isinstance(reason, str):
        answer.finish_reason = reason
        if reason in {"error", "abort"}:
            answer.error = f"finish_reason {reason}"
    delta = choice.get("delta")
    # The role chunk's content is "": it carries no token, so it does not stop the clock.
    if isinstance(delta, dict) and (delta.get("content") or delta.get("reasoning") or delta.get("reasoning_content")):
        answer.content_ns.append(stamp_ns)
        if isinstance(content := delta.get("content"), str):
            answer.texts.append(content)
        stamp = chunk.get("plumbline")
        if isinstance(stamp, dict) and type(stamp.get("sent_ns")) is int:
            answer.server_ns.append(stamp["sent_ns"])
