"""Labels read off the first token of a chat completion, from any endpoint that gives log-probabilities.

By the labels' token ids where the engine knows them (vLLM: /tokenize, `logprob_token_ids`), else among the 20 likeliest
tokens. An endpoint is asked in one form only: where requests of both meet in one step, vLLM answers wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.asking.endpoint.client import ChatClient, together
from agents.asking.endpoint.parameters import adapted
from agents.asking.endpoint.reply import EndpointFailed, Reply
from agents.asking.variant import PromptVariant
from agents.asking.ways.label_question import LETTERS, LabelQuestion
from agents.asking.ways.label_reading import LabelReading, Unread, not_offered, probe
from agents.asking.ways.probabilities import label_logprob, mass

TOP = 20
"""The most that OpenAI and vLLM list."""
FEWEST_LISTED = 3
"""A shorter list says that the server gives none, or met vLLM's trap; it is no certainty."""

LabelIds = Mapping[str, tuple[int, ...]]
"""The ids of each letter's spellings: `A` and ` A`."""


@dataclass(frozen=True)
class ChatReader:
    """Reads the first token of a chat completion."""

    client: ChatClient
    model: str
    variant: PromptVariant
    ids: LabelIds | None
    """None: among the likeliest tokens."""

    async def read(self, question: LabelQuestion) -> LabelReading:
        """See Reader."""
        return read_labels(question, await self.client.complete(self.body(question)), self.ids)

    def body(self, question: LabelQuestion) -> dict[str, Any]:
        """The chat completion that asks a question."""
        return label_body(question, self.model, self.variant, self.ids)


def label_body(
    question: LabelQuestion, model: str, variant: PromptVariant, ids: LabelIds | None = None
) -> dict[str, Any]:
    """The chat completion for one token and how likely others were in its place."""
    body: dict[str, Any] = {
        "model": model,
        "messages": question.messages,
        "temperature": variant.sampling.temperature,
        "seed": variant.sampling.seed,
        "max_tokens": 1,
        "logprobs": True,
    }
    if ids is None:
        body["top_logprobs"] = TOP
    else:
        wanted = [one for letter in LETTERS[: len(question.options)] for one in ids[letter]]
        # By id, since two tokens may have one text: the space before a letter gets lost.
        body |= {"logprob_token_ids": wanted, "return_tokens_as_token_ids": True}
    return adapted(body, variant.parameters)


def read_labels(question: LabelQuestion, reply: Reply, ids: LabelIds | None) -> LabelReading:
    """How likely each option is by a reply's first token. Raises Unread."""
    first = reply.logprobs[0] if reply.logprobs else None
    if first is None:
        raise Unread("no log-probs: the endpoint gives none (logprobs, top_logprobs)", reply)
    listed_tokens = {**dict(first.top), first.token: first.logprob}
    spellings = {
        option: (letter, f" {letter}") if ids is None else tuple(f"token_id:{one}" for one in ids[letter])
        for option, letter in question.letters.items()
    }
    if ids is None and len(first.top) < FEWEST_LISTED:
        raise Unread(f"no log-probs: the endpoint lists {len(first.top)} of {TOP} likely tokens", reply)
    if ids is not None and any(token not in listed_tokens for tokens in spellings.values() for token in tokens):
        raise Unread("no log-probs: the endpoint leaves out tokens that were asked for by id", reply)
    logprobs = {option: label_logprob(listed_tokens, tokens) for option, tokens in spellings.items()}
    offered = [logprob for option, logprob in logprobs.items() if option in question.offered]
    return LabelReading(logprobs, mass(offered), "label tokens", reply)


async def label_ids(client: ChatClient, model: str, variant: PromptVariant) -> LabelIds | None:
    """The letters' ids where the engine tells them and takes them; None where labels must be looked for by text."""
    try:
        found = await together(*(_ids_of(client, model, letter) for letter in LETTERS))
        ids = dict(zip(LETTERS, found, strict=True))
        return ids if await _takes_ids(client, model, variant, ids) else None
    except EndpointFailed as failure:
        if not not_offered(failure):
            raise
        return None
    except Unread:
        return None


async def _ids_of(client: ChatClient, model: str, letter: str) -> tuple[int, ...]:
    """The ids of a letter's spellings that are one token each. Raises Unread where there are none."""
    spellings = [letter, f" {letter}"]
    asked = [{"model": model, "prompt": one, "add_special_tokens": False} for one in spellings]
    replies = await together(*(client.complete(one, "tokenize") for one in asked))
    ids = [tokens[0] for reply in replies if len(tokens := _tokens(reply.text)) == 1]
    if not ids:
        raise Unread(f"{letter} is not one token")
    return tuple(dict.fromkeys(ids))


class _Tokenized(BaseModel):
    model_config = ConfigDict(strict=True)
    tokens: list[Annotated[int, Field(ge=0)]]


def _tokens(text: str) -> list[int]:
    try:
        return _Tokenized.model_validate_json(text).tokens
    except ValidationError:
        raise Unread("/tokenize answers in another form") from None


async def _takes_ids(client: ChatClient, model: str, variant: PromptVariant, ids: LabelIds) -> bool:
    """Whether the engine lists the tokens it is asked for: others let the unknown parameter pass in silence."""
    question = probe()
    try:
        read_labels(question, await client.complete(label_body(question, model, variant, ids)), ids)
    except Unread:
        return False
    return True
