"""What the simulator is asked: OpenAI's request, read strictly where it changes an answer, and how one is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.console import shorten
from serving.simulator_settings import SimulatorSettings

Kind = TypeVar("Kind", bound=BaseModel)

JSON_OBJECT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string", "minLength": 1}},
    "required": ["answer"],
}
"""What `response_format: json_object`, which names no schema, is answered by."""


class _Asked(BaseModel):
    """The parts of OpenAI's request that change an answer here; the others are let through unread."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _JsonSchema(_Asked):
    definition: dict[str, Any] = Field(alias="schema")


class _Format(_Asked):
    type: Literal["text", "json_object"]


class _SchemaFormat(_Asked):
    type: Literal["json_schema"]
    json_schema: _JsonSchema


class _StreamOptions(_Asked):
    include_usage: bool = False


class ChatRequest(_Asked):
    """A chat completion that can be answered."""

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = None
    temperature: float | None = None
    """Read by answerers only: made-up words are drawn by seed."""
    n: Literal[1] | None = 1
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """How many tokens to list at each place, the likeliest first."""
    logprob_token_ids: list[int] | None = Field(None, max_length=128)
    """vLLM's own: list exactly these tokens, and the one that was answered."""
    return_tokens_as_token_ids: bool | None = None
    """vLLM's own: write a token as `token_id:N`."""
    response_format: _Format | _SchemaFormat | None = Field(None, discriminator="type")

    @property
    def limit(self) -> int | None:
        """The most output tokens allowed; the newer of OpenAI's two names comes first."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends in a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The schema to answer by; None for plain words."""
        if isinstance(self.response_format, _SchemaFormat):
            return self.response_format.json_schema.definition
        wants_object = self.response_format is not None and self.response_format.type == "json_object"
        return JSON_OBJECT_SCHEMA if wants_object else None

    @property
    def prompt_tokens(self) -> int:
        """Words between spaces in all messages, in place of real tokens."""
        return sum(len(text.split()) for text in self.texts)

    @property
    def texts(self) -> Iterator[str]:
        """The texts of all messages, in order."""
        return (text for message in self.messages for text in texts_of(message.get("content")))


def texts_of(content: object) -> Iterable[str]:
    """The texts of a message: one string, or a list of parts of which some are text."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]


class Refusal(Exception):
    """What is wrong with a request, to be told in OpenAI's form."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def read_request(body: bytes, settings: SimulatorSettings) -> ChatRequest:
    """What is asked. Raises Refusal for what cannot be read, is told to be refused, or is for another model."""
    _refuse_parameters(body, settings.refused_parameters)
    asked = read_as(ChatRequest, body)
    if not settings.label_ids:  # like a server that does not know the two fields
        asked = asked.model_copy(update={"logprob_token_ids": None, "return_tokens_as_token_ids": None})
    for field in ("top_logprobs", "logprob_token_ids"):
        if getattr(asked, field) and not asked.logprobs:
            raise Refusal(400, f"when using `{field}`, `logprobs` must be set to true.", field)
    refuse_other_model(asked.model, settings.model)
    return asked


def read_as(kind: type[Kind], body: bytes) -> Kind:
    """A request of some kind. Raises Refusal that names the first field that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(map(str, first["loc"])) or None
        raise Refusal(400, f"{param or 'body'}: {shorten(first['msg'])}", param) from None


def refuse_other_model(asked: str, served: str) -> None:
    """Raise Refusal for a model that is not served."""
    if asked != served:
        message = f"The model {shorten(asked)!r} does not exist; served here is {served!r}."
        raise Refusal(404, message, "model", "model_not_found")


def _refuse_parameters(body: bytes, refused: Sequence[str]) -> None:
    if not refused:
        return
    with suppress(orjson.JSONDecodeError):  # told as what it is when the request is read
        given = orjson.loads(body)
        for name in refused:
            if isinstance(given, dict) and name in given:
                raise Refusal(400, _unsupported(name), name, "unsupported_parameter")


def _unsupported(name: str) -> str:
    """In OpenAI's words."""
    instead = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
    return f"Unsupported parameter: {name!r} is not supported with this model.{instead}"
