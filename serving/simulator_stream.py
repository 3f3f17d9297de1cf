"""A streamed answer: its frames, each made ready before its deadline, and their way onto the connection.

A frame is what leaves at one deadline, with a place for the time of sending. Frames are made one by one, each when the
one before has left, so that after a deadline only the stamp is put in. The frames of a faulty answer are those of the
sound one, changed on their way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from serving.faults import ERROR_OBJECT, TEXT_KEY, Fault, spoken
from serving.simulator_answer import STAMP, Reply, finish_reason, logprobs_part, stamped
from serving.simulator_time import Clock, Pacer

_DONE = b"data: [DONE]\n\n"
_TRICKLE_NS = 1_000_000
"""The least distance between two bytes of a trickle."""
_SPLIT_NS = 1_000_000
"""After which the other half of a character follows: what is written at once leaves in one packet."""


@dataclass(frozen=True)
class Frame:
    """What leaves at one deadline."""

    due_ns: int
    data: bytes
    """STAMP stands for the time of sending."""
    tokens: int
    hang_up: bool = False
    """Whether the connection is closed after it."""


def frames_of(reply: Reply, clock: Clock, with_usage: bool, tokens_per_chunk: int, fault: Fault) -> Iterator[Frame]:
    """The frames of an answer, in order, as `fault` leaves them."""
    chunks = chunks_of(len(reply.pieces), tokens_per_chunk)
    events = _Events(reply, clock, fault)
    sound = _sound(events, chunks, with_usage and fault is not Fault.NO_USAGE, fault is not Fault.NO_DONE)
    change = _CHANGES.get(fault)
    return change(sound, len(chunks) // 2, events) if change else sound


def chunks_of(tokens: int, tokens_per_chunk: int) -> list[range]:
    """Which tokens share a chunk: the first is alone, as with vLLM's `--stream-interval`; the last chunk is the rest.

    Example: 6 tokens by 2 are [0], [1, 2], [3, 4], [5].
    """
    starts = [0, *range(1, tokens, tokens_per_chunk)]
    return [range(start, end) for start, end in zip(starts, [*starts[1:], tokens], strict=True)]


class _Events:
    """Writes the events of one stream."""

    def __init__(self, reply: Reply, clock: Clock, fault: Fault) -> None:
        self.reply, self.clock, self.fault = reply, clock, fault
        self._head = reply.head("chat.completion.chunk")
        whole = orjson.dumps({**self._head, "choices": [_choice(spoken("\0", fault), None)]})
        self._before, self._after = whole.split(rb'"\u0000"')

    def content(self, tokens: range, due_ns: int) -> bytes:
        """A chunk of text."""
        text = "".join(self.reply.pieces[tokens.start : tokens.stop])
        if self.reply.logprobs is not None:
            choice = _choice(spoken(text, self.fault), None)
            choice["logprobs"] = logprobs_part(self.reply.logprobs[tokens.start : tokens.stop])
            return self._event(orjson.dumps({**self._head, "choices": [choice]}), due_ns)
        return self._event(b"%b%b%b" % (self._before, orjson.dumps(text), self._after), due_ns)

    def delta(self, delta: dict[str, Any], due_ns: int, reason: str | None = None) -> bytes:
        """A chunk without text."""
        return self._event(orjson.dumps({**self._head, "choices": [_choice(delta, reason)]}), due_ns)

    def role(self, due_ns: int) -> bytes:
        """The chunk that opens a stream."""
        return self.delta({"role": "assistant", "content": None if self.fault in TEXT_KEY else ""}, due_ns)

    def end(self, due_ns: int) -> bytes:
        """The chunk that says why the answer has ended."""
        return self.delta({}, due_ns, finish_reason(self.reply, self.fault))

    def usage(self, tokens: int, due_ns: int) -> bytes:
        """The counts after so many tokens."""
        usage = self.reply.usage_after(tokens)
        return self._event(orjson.dumps({**self._head, "choices": [], "usage": usage}), due_ns)

    def _event(self, json_object: bytes, due_ns: int) -> bytes:
        return b"data: %b\n\n" % stamped(json_object, self.clock, due_ns)


def _choice(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _sound(events: _Events, chunks: list[range], with_usage: bool, with_done: bool) -> Iterator[Frame]:
    """In vLLM's order: the role before the first token, after the last one its end, the counts and [DONE]."""
    reply = events.reply
    for tokens in chunks:
        due_ns = events.clock.due_ns(tokens[-1])
        data = events.content(tokens, due_ns)
        if tokens[0] == 0:
            data = events.role(due_ns) + data
        if tokens.stop == len(reply.pieces):
            data += events.end(due_ns)
            data += events.usage(len(reply.pieces), due_ns) if with_usage else b""
            data += _DONE if with_done else b""
        yield Frame(due_ns, data, len(tokens))


# --- what faults make of it ------------------------------------------------------------------------------


def _broken_off(frames: Iterator[Frame], middle: int, _events: _Events) -> Iterator[Frame]:
    for place, frame in enumerate(frames):
        if place == middle:
            yield replace(frame, data=_half_of_last_event(frame.data), hang_up=True)
            return
        yield frame


def _half_of_last_event(data: bytes) -> bytes:
    *others, last = data.removesuffix(_DONE).removesuffix(b"\n\n").split(b"\n\n")
    return b"\n\n".join([*others, last[: len(last) // 2]])


def _error_event(frames: Iterator[Frame], middle: int, _events: _Events) -> Iterator[Frame]:
    return _given_up(frames, middle, b"event: error\ndata: %b\n\n" % ERROR_OBJECT)


def _error_data(frames: Iterator[Frame], middle: int, _events: _Events) -> Iterator[Frame]:
    return _given_up(frames, middle, b"data: %b\n\n%b" % (ERROR_OBJECT, _DONE))


def _given_up(frames: Iterator[Frame], middle: int, last_words: bytes) -> Iterator[Frame]:
    for place, frame in enumerate(frames):
        if place == middle:
            yield Frame(frame.due_ns, last_words, 0)
            return
        yield frame


def _half_json(frames: Iterator[Frame], middle: int, _events: _Events) -> Iterator[Frame]:
    for place, frame in enumerate(frames):
        first, end, others = frame.data.partition(b"\n\n")
        yield replace(frame, data=first[: len(first) // 2] + end + others) if place == middle else frame


def _empty(frames: Iterator[Frame], _middle: int, _events: _Events) -> Iterator[Frame]:
    yield Frame(next(frames).due_ns, b"", 0)


def _trickled(frames: Iterator[Frame], _middle: int, events: _Events) -> Iterator[Frame]:
    due_ns = events.clock.due_ns(0)
    for frame in frames:
        for byte in trickle(frame.data, events.clock, frame.tokens, due_ns):
            yield byte
            due_ns = byte.due_ns + _trickle_step_ns(events.clock)


def trickle(data: bytes, clock: Clock, tokens: int, begin_ns: int | None = None) -> Iterator[Frame]:
    """Byte after byte, from the first token's deadline on unless told otherwise; the last one brings the tokens.

    What comes so has no one time of sending, and its stamp says so.
    """
    data = data.replace(STAMP, b"null")
    due_ns = clock.due_ns(0) if begin_ns is None else begin_ns
    for end in range(1, len(data) + 1):
        due_ns = clock.freeze.moved(due_ns)
        yield Frame(due_ns, data[end - 1 : end], tokens if end == len(data) else 0)
        due_ns += _trickle_step_ns(clock)


def _trickle_step_ns(clock: Clock) -> int:
    first, *rest = clock.offsets_ns[:2]
    return max(_TRICKLE_NS, rest[0] - first) if rest else _TRICKLE_NS


def _crlf(frames: Iterator[Frame], _middle: int, _events: _Events) -> Iterator[Frame]:
    return (replace(frame, data=frame.data.replace(b"\n", b"\r\n")) for frame in frames)


def _split_characters(frames: Iterator[Frame], _middle: int, _events: _Events) -> Iterator[Frame]:
    for frame in frames:
        cut = next((place for place, byte in enumerate(frame.data) if byte >= 0xC0), None)
        if cut is None:
            yield frame
        else:
            yield replace(frame, data=frame.data[: cut + 1], tokens=0)
            yield replace(frame, due_ns=frame.due_ns + _SPLIT_NS, data=frame.data[cut + 1 :])


def _odd(frames: Iterator[Frame], _middle: int, events: _Events) -> Iterator[Frame]:
    sent = 0
    for frame in frames:
        before = b": ping\n\n" + events.role(frame.due_ns) + events.usage(sent, frame.due_ns)
        yield replace(frame, data=before + b":\n\n" + frame.data)
        sent += frame.tokens


_Change = Callable[[Iterator[Frame], int, _Events], Iterator[Frame]]
_CHANGES: dict[Fault, _Change] = {
    Fault.HALF_BODY: _broken_off,
    Fault.ERROR_EVENT: _error_event,
    Fault.ERROR_DATA: _error_data,
    Fault.HALF_JSON: _half_json,
    Fault.EMPTY_BODY: _empty,
    Fault.TRICKLE: _trickled,
    Fault.CRLF: _crlf,
    Fault.SPLIT_UTF8: _split_characters,
    Fault.ODD_CHUNKS: _odd,
}
"""Each is given the frames, the place of the one in the middle, and what writes events."""


# --- how it leaves ---------------------------------------------------------------------------------------


class Sending:
    """One stream on its way. It writes past the HTTP library, whose own work would be a token's lateness."""

    def __init__(
        self,
        transport: asyncio.Transport,
        frames: Iterator[Frame],
        on_sent: Callable[[int, int], None],
        *,
        chunked: bool,
    ) -> None:
        """on_sent: told of each frame with tokens, how many and when. chunked: whether HTTP's chunks frame it."""
        self._transport, self._frames, self._on_sent, self._chunked = transport, frames, on_sent, chunked
        self._frame = next(frames)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def until_over(self, pacer: Pacer) -> int:
        """Send every frame at its deadline; the last deadline. Raises ConnectionResetError when the client has left."""
        pacer.at(self._frame.due_ns, self._step)
        await self._over
        return self._frame.due_ns

    def _step(self, now_ns: int) -> int | None:
        if self._over.done():
            return None  # cancelled meanwhile
        if self._transport.is_closing():
            self._over.set_exception(ConnectionResetError("the client has left"))
            return None
        try:
            self._write(now_ns)
            following = None if self._frame.hang_up else next(self._frames, None)
        except BaseException as error:
            self._over.set_exception(error)  # else the request would wait for ever
            raise
        if following is None:
            self._over.set_result(None)
            return None
        self._frame = following
        return following.due_ns

    def _write(self, now_ns: int) -> None:
        frame = self._frame
        if data := frame.data.replace(STAMP, b"%d" % now_ns):
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if frame.tokens:
            self._on_sent(frame.tokens, now_ns)
        if frame.hang_up:
            # Of a transport that is closing, aiohttp says nothing when it writes the end of the answer.
            self._transport.close()
