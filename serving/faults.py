"""How the simulator fails: the kinds of failure, which requests they hit, and what is said in them.

Everything here is decided by seed and request number, so that a storm can be run again.
"""

from __future__ import annotations

import json
import random
from enum import StrEnum
from typing import Any

from jsonschema import Draft202012Validator

from serving.schema_answers import UnsupportedSchema


class Fault(StrEnum):
    """What goes wrong with a chat completion that is hit."""

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
    """Nothing comes, and the connection stays open, until the client leaves."""
    HALF_BODY = "half-body"
    """A whole answer is half its body, of matching Content-Length; a stream breaks off inside an event."""
    HALF_ANSWER = "half-answer"
    """Sound HTTP around the first half of the answer's text, said to have ended by itself."""
    WRONG_SCHEMA = "wrong-schema"
    """Sound HTTP around sound JSON that does not fit the schema asked for."""
    HUGE_ANSWER = "huge-answer"
    """Sound HTTP around a text of 8 MiB, in as many tokens as ever: a token limit cuts it like any other."""


STATUS_OF = {Fault.HTTP_429: 429, Fault.HTTP_500: 500, Fault.HTTP_400: 400}
"""The faults that are an HTTP error at once."""

HUGE_CHARACTERS = 8 * 2**20
_HUGE_WORD = "simulated "

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
    if fault is Fault.HUGE_ANSWER:
        return _HUGE_WORD * (HUGE_CHARACTERS // len(_HUGE_WORD) + 1)
    return misfit(schema) if fault is Fault.WRONG_SCHEMA else text


def misfit(schema: dict[str, Any] | None) -> str:
    """JSON that does not fit a schema; without one, JSON that nobody asked for."""
    for answer in _MISFITS:
        if schema is None or not Draft202012Validator(schema).is_valid(answer):
            return json.dumps(answer)
    raise UnsupportedSchema("wrong-schema", "#", "is not possible, since every answer fits")
