"""How the simulator fails: the kinds of failure, which requests they hit, and what is said in them.

Everything here is decided by seed and request number, so that a storm can be run again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from jsonschema import Draft202012Validator

from serving.schema_answers import UnsupportedSchema, compact_json


class Fault(StrEnum):
    """What goes wrong with a chat completion that is hit. "The middle" is the chunk halfway through a stream."""

    NONE = "none"
    HTTP_429 = "http-429"
    """Status 429 and Retry-After, at once."""
    HTTP_500 = "http-500"
    """Status 500 and an error in OpenAI's form, at once."""
    HTTP_400 = "http-400"
    """Status 400 for a request that is sound."""
    DISCONNECT = "disconnect"
    """The connection is closed before any of the answer."""
    NO_ANSWER = "no-answer"
    """Nothing comes, and the connection stays open, until the client leaves; it takes no place of --max-running."""
    HALF_BODY = "half-body"
    """A whole answer is half its body, of matching Content-Length; a stream breaks off inside an event."""
    HALF_ANSWER = "half-answer"
    """Sound HTTP around the first half of the answer's text, said to have ended by itself."""
    WRONG_SCHEMA = "wrong-schema"
    """Sound HTTP around sound JSON that does not fit the schema asked for."""
    HUGE_ANSWER = "huge-answer"
    """Sound HTTP around a text of 8 MiB, in as many tokens as ever: a token limit cuts it like any other."""
    ERROR_EVENT = "error-event"
    """Status 200; a stream says `event: error` in the middle and ends; a whole answer is an error object."""
    ERROR_DATA = "error-data"
    """As vLLM does it: an error object in a data line in the middle of a stream, then [DONE]; a whole answer is one."""
    TRICKLE = "trickle"
    """The answer comes a byte at a time, as far apart as tokens are, at least 1 ms."""
    EMPTY_BODY = "empty-body"
    """Status 200 and nothing else, at the first token's deadline."""
    HALF_JSON = "half-json"
    """A stream's middle event is cut in two and everything else is there; a whole answer is half its body."""
    CRLF = "crlf"
    """A stream's lines end in CR LF, which is allowed. Whole answers have no lines."""
    SPLIT_UTF8 = "split-utf8"
    """The answer has characters of two bytes, sent as such; in a stream the second leaves 1 ms after the first."""
    HUGE_CHUNK = "huge-chunk"
    """The first token is 256 KiB of blanks and what it would be; blanks leave JSON as valid as it was."""
    ODD_CHUNKS = "odd-chunks"
    """Sound, but every chunk of a stream comes after a `: ping`, a role, counts so far and an empty comment."""
    NO_DONE = "no-done"
    """A stream ends as it should, without [DONE]. A whole answer is as it should be."""
    NO_USAGE = "no-usage"
    """No token counts, though a stream was asked for them."""
    NO_LOGPROBS = "no-logprobs"
    """Null in place of log-probabilities, though they were asked for: most servers do this in silence."""
    REFUSAL = "refusal"
    """Content is null, and the model's text is a refusal. A decision's answers are refusals, each of them."""
    REASONING_ONLY = "reasoning-only"
    """Content is null, and all text is `reasoning_content`."""
    TOOL_CALL = "tool-call"
    """Content is null, and the text is the arguments of a call of a tool that nobody offered."""


STATUS_OF = {Fault.HTTP_429: 429, Fault.HTTP_500: 500, Fault.HTTP_400: 400}
"""The faults that are an HTTP error at once."""

GIVEN_UP = frozenset({Fault.HALF_BODY, Fault.ERROR_EVENT, Fault.ERROR_DATA, Fault.EMPTY_BODY})
"""The faults after which the server has not finished its work."""

TEXT_KEY = {
    Fault.REFUSAL: "refusal",
    Fault.REASONING_ONLY: "reasoning_content",
    Fault.TOOL_CALL: "tool_calls",
}
"""The faults whose answer has no content, and the key of the message that has its text instead."""
REFUSAL_TEXT = "I'm sorry, but I can't help with that: the simulator was told to refuse."
_TOOL = "simulated_tool"

HUGE_CHARACTERS = 8 * 2**20
_HUGE_WORD = "simulated "
HUGE_CHUNK_PADDING = " " * 2**18

ERROR_OBJECT = b'{"error":{"message":"the simulator was told to fail","type":"server_error","param":null,"code":500}}'
"""What stands in an answer of status 200 that is an error."""

_ACCENTS = str.maketrans("aeiou", "áéíóú")

_MISFITS: tuple[Any, ...] = ({"simulated": "a sound answer to another question"}, [], "simulated", 0, None)
"""Answers to try, until one does not fit; the first is wrong for nearly every schema."""


def is_hit(number: int, seed: int, rate: float, first: int | None) -> bool:
    """Whether request `number`, counted from 0 as they arrive, fails.

    rate: the share of requests that do, by chance. first: later ones never do; None for no such end.
    """
    if first is not None and number >= first:
        return False
    return random.Random(f"{seed} fault {number}").random() < rate  # noqa: S311 - not for secrets


def faulty_text(fault: Fault, text: str, schema: dict[str, Any] | None) -> str:
    """What is answered in place of `text`. Raises UnsupportedSchema when nothing is wrong by the schema."""
    if fault is Fault.HALF_ANSWER:
        return text[: max(1, len(text) // 2)]
    if fault is Fault.REFUSAL:
        return REFUSAL_TEXT
    if fault is Fault.HUGE_ANSWER:
        return _HUGE_WORD * (HUGE_CHARACTERS // len(_HUGE_WORD) + 1)
    if fault is Fault.SPLIT_UTF8:
        return accented(text, schema)
    return misfit(schema) if fault is Fault.WRONG_SCHEMA else text


def spoken(text: str, fault: Fault) -> dict[str, Any]:
    """The part of a message, or of a stream's delta, that brings text."""
    key = TEXT_KEY.get(fault, "content")
    if key != "tool_calls":
        return {key: text}
    function = {"name": _TOOL, "arguments": text}
    return {key: [{"index": 0, "id": "call_simulated", "type": "function", "function": function}]}


def broken_body(body: bytes, fault: Fault) -> bytes:
    """What is sent in place of a whole answer's JSON."""
    if fault is Fault.EMPTY_BODY:
        return b""
    if fault in {Fault.ERROR_EVENT, Fault.ERROR_DATA}:
        return ERROR_OBJECT
    return body[: len(body) // 2] if fault in {Fault.HALF_BODY, Fault.HALF_JSON} else body


def accented(text: str, schema: dict[str, Any] | None) -> str:
    """The text with characters of two bytes; one that answers a schema has them where it stays an answer.

    Raises UnsupportedSchema where it would not stay one anywhere.
    """
    if schema is None:
        return text.translate(_ACCENTS)
    answer, sound = {"": json.loads(text)}, Draft202012Validator(schema)
    for holder, place in _strings(answer):
        plain = holder[place]
        holder[place] = plain.translate(_ACCENTS)
        if not sound.is_valid(answer[""]):
            holder[place] = plain
    changed = compact_json(answer[""])
    if changed.isascii():
        raise UnsupportedSchema("split-utf8", "#", "is not possible, since no answer has other than ASCII characters")
    return changed


def _strings(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Every string below a list or an object, as what holds it and its place there."""
    for place, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
        if isinstance(value, str):
            yield holder, place
        elif isinstance(value, (dict, list)):
            yield from _strings(value)


def misfit(schema: dict[str, Any] | None) -> str:
    """JSON that does not fit a schema; without one, JSON that nobody asked for."""
    for answer in _MISFITS:
        if schema is None or not Draft202012Validator(schema).is_valid(answer):
            return json.dumps(answer)
    raise UnsupportedSchema("wrong-schema", "#", "is not possible, since every answer fits")
