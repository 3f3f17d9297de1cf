"""What the simulator answers: a text made up by the request's schema or by an answerer, cut into tokens."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import orjson

from serving.endpoint import SIMULATOR_OWNER
from serving.faults import HUGE_CHUNK_PADDING, TEXT_KEY, Fault, broken_body, faulty_text, spoken
from serving.schema_answers import WORDS, UnsupportedSchema, answer_for, compact_json
from serving.simulator_logprobs import Reading, TokenLogprob, label_reading, token_logprobs
from serving.simulator_request import ChatRequest, Refusal
from serving.simulator_settings import SimulatorSettings
from serving.simulator_time import Clock

_CHARACTERS_A_TOKEN = 4
"""Of an answerer's text: about what English takes."""

STAMP = b"\0"
"""Where in bytes that are ready the time of sending goes; JSON holds no such byte of its own."""

Answerer = Callable[[ChatRequest], str]
"""Stands in for a model's behaviour: what to answer to a request, instead of words made up by its schema."""


@dataclass(frozen=True)
class Reply:
    """A whole answer, before any of it is sent."""

    id: str
    created_s: int
    model: str
    pieces: list[str]
    """The answer's text, an output token apiece."""
    finish_reason: str
    prompt_tokens: int
    logprobs: list[TokenLogprob] | None = None
    """Of each piece, how likely it was; None where nobody asked."""

    @property
    def usage(self) -> dict[str, int]:
        """Token counts of the whole answer."""
        return self.usage_after(len(self.pieces))

    def usage_after(self, tokens: int) -> dict[str, int]:
        """Token counts when so many have been sent."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }

    def head(self, kind: str) -> dict[str, Any]:
        """What every object of this answer begins with."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": SIMULATOR_OWNER,
        }


def reply_to(asked: ChatRequest, settings: SimulatorSettings, fault: Fault, answerer: Answerer | None) -> Reply:
    """The answer to a request. Raises Refusal for a schema that no answer can be made for."""
    try:
        reading = label_reading(asked, settings.seed)
        right = answerer(asked) if answerer else reading.label if reading else _made_up(asked, settings)
        text = faulty_text(fault, right, asked.answer_schema)
    except UnsupportedSchema as error:
        raise Refusal(400, f"response_format.json_schema.schema: {error}", "response_format") from None
    pieces = _split(text, len(text) // _CHARACTERS_A_TOKEN + 1 if answerer else settings.output_tokens)
    kept = pieces[: asked.limit]
    if fault is Fault.HUGE_CHUNK:
        kept[0] = HUGE_CHUNK_PADDING + kept[0]
    return Reply(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created_s=int(time.time()),
        model=settings.model,
        pieces=kept,
        # An engine that may say no more than a label does not know that it has done.
        finish_reason="stop" if len(kept) == len(pieces) and not reading else "length",
        prompt_tokens=asked.prompt_tokens,
        logprobs=_logprobs(kept, asked, reading, right, settings.seed, fault),
    )


def _logprobs(
    pieces: list[str], asked: ChatRequest, reading: Reading | None, right: str, seed: int, fault: Fault
) -> list[TokenLogprob] | None:
    if fault is Fault.NO_LOGPROBS or fault in TEXT_KEY:
        return None
    return token_logprobs(pieces, asked, reading and reading.answering(right), seed)


def whole_answer(reply: Reply, clock: Clock, fault: Fault) -> bytes:
    """A completion in one piece, stamped with its last token's deadline, as `fault` leaves it.

    STAMP stands for the time of sending.
    """
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, **spoken("".join(reply.pieces), fault)},
        "logprobs": logprobs_part(reply.logprobs),
        "finish_reason": finish_reason(reply, fault),
    }
    answer = {**reply.head("chat.completion"), "choices": [choice], "usage": reply.usage}
    if fault is Fault.NO_USAGE:
        del answer["usage"]
    return broken_body(stamped(orjson.dumps(answer), clock, clock.end_ns), fault)


def logprobs_part(some: list[TokenLogprob] | None) -> dict[str, list[TokenLogprob]] | None:
    """What a choice says of its tokens' log-probabilities."""
    return None if some is None else {"content": some}


def finish_reason(reply: Reply, fault: Fault) -> str:
    """Why it ended, in OpenAI's words."""
    return "tool_calls" if fault is Fault.TOOL_CALL and reply.finish_reason == "stop" else reply.finish_reason


def stamped(json_object: bytes, clock: Clock, due_ns: int) -> bytes:
    """A JSON object with when it was due and when it left; STAMP stands for the latter."""
    return b'%b,"plumbline":{"simulated":true,"sent_ns":%b,"due_ns":%d,"arrived_ns":%d,"started_ns":%d}}' % (
        json_object[:-1],
        STAMP,
        due_ns,
        clock.arrived_ns,
        clock.started_ns,
    )


def _made_up(asked: ChatRequest, settings: SimulatorSettings) -> str:
    # The key keeps the order of a schema's properties: a constrained model writes them in that order.
    key = json.dumps([asked.messages, asked.answer_schema, asked.seed])
    return _answer_text(key, settings.seed, settings.output_tokens)


@lru_cache(maxsize=1024)
def _answer_text(key: str, seed: int, output_tokens: int) -> str:
    """The one answer to what was asked, given the seed; kept, since load tests repeat themselves."""
    asked = json.loads(key)
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    rng = random.Random(f"{seed} {canonical}")  # noqa: S311 - not for secrets
    schema = asked[1]
    if schema is None:
        return " ".join(rng.choices(WORDS, k=output_tokens))
    return compact_json(answer_for(schema, rng, min_characters=2 * output_tokens))


def _split(text: str, pieces: int) -> list[str]:
    """Cut into so many parts of nearly equal length, none empty; fewer where the text is too short."""
    pieces = min(pieces, len(text))
    cuts = [index * len(text) // pieces for index in range(pieces + 1)]
    return [text[start:end] for start, end in pairwise(cuts)]
