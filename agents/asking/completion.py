"""A chat completion's bytes, read strictly: what an endpoint answers is not believed before its types are checked."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.asking.reply import Reply
from agents.asking.transport import TryFailed, broken
from agents.schema import ErrorClass

Count = Annotated[int, Field(ge=0)]


class _Read(BaseModel):
    """The parts of OpenAI's answer that we use; the others are let through unread."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _Message(_Read):
    content: str | None = None


class _Choice(_Read):
    message: _Message
    finish_reason: str | None = None


class _Usage(_Read):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


class _Completion(_Read):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def read_completion(raw: bytes, latency_s: float, tries: int) -> Reply:
    """The reply in an answer's body. Raises TryFailed when it is not JSON, and when it is no chat completion."""
    try:
        answer = _Completion.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise broken(f"{first['msg']}: {_text(raw)}") from None
        field = ".".join(map(str, first["loc"]))
        raise TryFailed(
            "the endpoint's answer is not a sound chat completion",
            ErrorClass.BROKEN_ANSWER,
            found=f"{field or 'answer'}: {first['msg']}: {_text(raw)}",
        ) from None
    choice, usage = answer.choices[0], answer.usage or _Usage()
    return Reply(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason or "unknown",
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        latency_s=latency_s,
        tries=tries,
    )


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
