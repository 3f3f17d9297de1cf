"""How likely the simulator says its tokens were: OpenAI's `logprobs`, made up by seed.

Three kinds of answer. A label reading (plain text, one token, options offered in the messages) is a capital letter; the
offered letters share about 0.9. An answer to a schema is as after a grammar's mask: where an enum leaves a choice a
token has a log-prob above -1.5, every other is forced and has 0. (An engine's forced text may be under 0: one text has
many tokenizations.) Made-up words are above -1.5 each.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from serving.schema_answers import WORDS, compact_json
from serving.simulator_request import ChatRequest
from serving.simulator_tokens import OTHER_STARTS, token_id, token_text

_LEAST = -1.5
"""No chosen token is less likely than this log-prob."""
_RULED_OUT = -9999.0
"""vLLM's word for a token that the grammar's mask forbids, or that is not among the likely ones at all."""
_LABEL_MASS = (0.88, 0.92)
_FALLING = 0.7
"""Each token that was not chosen has this share of the one before."""
_OFFER = re.compile(r"^([A-Z]): ", re.MULTILINE)
_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"|true|false|null|-?\d[\d.eE+-]*')

Shares = Mapping[str, float]
"""The probabilities of the tokens that may stand at one place; any other token is less likely than these."""
TokenLogprob = dict[str, Any]
"""One token as OpenAI's `logprobs.content` lists it."""


@dataclass(frozen=True)
class Reading:
    """A label reading: the letter that is answered, and how likely each first token was."""

    label: str
    shares: Shares

    def answering(self, text: str) -> Reading:
        """The same with the label that an answerer chose as the likeliest; as it was for a text that is none."""
        label = text[:1]
        if label not in self.shares:
            return self
        swapped = {label: self.shares[self.label], self.label: self.shares[label]}
        return Reading(label, {**self.shares, **swapped})


def offered_labels(asked: ChatRequest) -> list[str]:
    """The letters X for which a line of any message begins `X: `, each once, in order."""
    return list(dict.fromkeys(letter for text in asked.texts for letter in _OFFER.findall(text)))


def label_reading(asked: ChatRequest, seed: int) -> Reading | None:
    """What is read off a request for one token of plain text; None for any other request, and without labels.

    It hangs on the simulator's seed and the messages alone.
    """
    labels = offered_labels(asked) if asked.answer_schema is None and asked.limit == 1 else []
    if not labels:
        return None
    rng = _drawn_by(seed, "reading", asked.messages)
    mass, weights = rng.uniform(*_LABEL_MASS), [rng.expovariate(1) for _ in labels]
    shares = {label: mass * weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}
    best = max(shares, key=shares.__getitem__)
    return Reading(best, {**_falling(OTHER_STARTS, 1 - mass), **shares})


def token_logprobs(
    pieces: Sequence[str], asked: ChatRequest, reading: Reading | None, seed: int
) -> list[TokenLogprob] | None:
    """Of each piece of an answer, how likely it was, and what else was, as far as the request asks; None if it asks
    for nothing.
    """
    if not asked.logprobs:
        return None
    if reading:
        return [_entry(piece, reading.shares, asked) for piece in pieces]
    rng = _drawn_by(seed, "logprobs", [asked.messages, asked.answer_schema, asked.seed])
    return [_entry(piece, _shares(piece, free, rng), asked) for piece, free in _with_freedom(pieces, asked)]


def _drawn_by(seed: int, purpose: str, key: object) -> random.Random:
    canonical = json.dumps(key, sort_keys=True, separators=(",", ":"))
    return random.Random(f"{seed} {purpose} {canonical}")  # noqa: S311 - not for secrets


def _with_freedom(pieces: Sequence[str], asked: ChatRequest) -> Iterator[tuple[str, bool]]:
    """Each piece, and whether it was chosen rather than forced."""
    schema = asked.answer_schema
    spans = None if schema is None else list(_chosen_spans("".join(pieces), schema))
    for piece, end in zip(pieces, accumulate(map(len, pieces)), strict=True):
        begin = end - len(piece)
        yield piece, spans is None or any(begin < last and first < end for first, last in spans)


def _chosen_spans(text: str, schema: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Where in a JSON text values of enums stand, without their opening quote: the closing one tells `a` from `ab`."""
    options = set(_options(schema))
    for found in _SCALAR.finditer(text):
        is_name = text[found.end() : found.end() + 1] == ":"
        if found.group() in options and not is_name:
            yield found.start() + found.group().startswith('"'), found.end()


def _options(schema: object) -> Iterator[str]:
    """The values of every enum with a choice in it, as JSON writes them."""
    if isinstance(schema, list):
        for inner in schema:
            yield from _options(inner)
    elif isinstance(schema, dict):
        values = schema.get("enum")
        if isinstance(values, list) and len(values) > 1:
            yield from (text for value in values for text in (compact_json(value), json.dumps(value)))
        for inner in schema.values():
            yield from _options(inner)


def _shares(piece: str, free: bool, rng: random.Random) -> Shares:
    if not free:
        return {piece: 1.0}
    share = math.exp(_LEAST * (0.01 + 0.98 * rng.random()))
    others = [word for word in rng.sample(WORDS, len(OTHER_STARTS)) if word != piece]
    return {piece: share, **_falling(others, 1 - share)}


def _falling(tokens: Sequence[str], mass: float) -> dict[str, float]:
    """The mass over tokens in falling order; some of it is left for tokens that nobody names."""
    return {token: mass * (1 - _FALLING) * _FALLING**place for place, token in enumerate(tokens)}


def _entry(piece: str, shares: Shares, asked: ChatRequest) -> TokenLogprob:
    listed = [_told(token, shares, asked) for token in _listed(piece, shares, asked)]
    # As vLLM does it: the token itself keeps its own bytes when ids stand for tokens, those listed do not.
    return {**_told(piece, shares, asked), "bytes": list(piece.encode()), "top_logprobs": listed}


def _listed(piece: str, shares: Shares, asked: ChatRequest) -> list[str]:
    """The tokens under `top_logprobs`: those asked for by id and the token itself, else the likeliest."""
    if asked.logprob_token_ids:
        own = token_id(piece)
        return [piece, *(token_text(token) for token in dict.fromkeys(asked.logprob_token_ids) if token != own)]
    most = asked.top_logprobs or 0
    likely = sorted(shares, key=shares.__getitem__, reverse=True)
    return list(dict.fromkeys([*likely, *OTHER_STARTS]))[:most]


def _told(token: str, shares: Shares, asked: ChatRequest) -> TokenLogprob:
    name = f"token_id:{token_id(token)}" if asked.return_tokens_as_token_ids else token
    return {"token": name, "logprob": _logprob(token, shares), "bytes": list(name.encode())}


def _logprob(token: str, shares: Shares) -> float:
    if token in shares:
        return math.log(shares[token])
    # A small share for every token, unless the mask forbids all but one.
    return _RULED_OUT if len(shares) == 1 else -18.0 - token_id(token) % 100 / 50
