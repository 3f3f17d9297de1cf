"""An answer's bytes, read strictly: what an endpoint answers is not believed before its types are checked."""

from __future__ import annotations

from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.asking.endpoint.reply import ErrorClass, Reply, TokenLogprob
from agents.asking.endpoint.transport import TryFailed, broken

Count = Annotated[int, Field(ge=0)]
Byte = Annotated[int, Field(ge=0, le=255)]
Logprob = Annotated[float, Field(allow_inf_nan=False)]


class NoContent(TryFailed):
    """A sound answer without an answer's text; `reply` holds the words that came in its place."""

    def __init__(self, what: str, reply: Reply) -> None:
        cut = ", cut off by its token limit (sampling.max_tokens)" if reply.finish_reason == "length" else ""
        super().__init__(f"the endpoint's answer has no text but {what}{cut}", ErrorClass.NO_CONTENT, found=reply.text)
        self.reply = reply


class _Read(BaseModel):
    """The parts of OpenAI's answers that we use; the others are let through unread."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _Message(_Read):
    content: str | None = None
    # Of these only strings are used, and only without content: servers disagree on their form.
    refusal: object = None
    reasoning_content: object = None
    reasoning: object = None
    tool_calls: object = None


class _Top(_Read):
    token: str
    logprob: Logprob


class _Token(_Top):
    bytes: list[Byte] | None = None
    top_logprobs: list[_Top] | None = None


class _Logprobs(_Read):
    content: list[_Token] | None = None


class _Choice(_Read):
    message: _Message
    finish_reason: str | None = None
    logprobs: object = None


class _PromptDetails(_Read):
    cached_tokens: Count | None = None


class _Usage(_Read):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Completion(_Read):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


class _DecisionUsage(_Read):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_tokens_details: _PromptDetails | None = None


class _Decided(_Read):
    usage: _DecisionUsage | None = None


def read_completion(raw: bytes, latency_s: float, tries: int) -> Reply:
    """The reply in a chat completion. Raises TryFailed when it is not JSON or no completion, NoContent when it has no
    text and its words stand elsewhere."""
    try:
        answer = _Completion.model_validate_json(raw)
    except ValidationError as error:
        raise _not_sound(error, raw) from None
    choice, usage = answer.choices[0], answer.usage or _Usage()
    content = choice.message.content or ""
    elsewhere = None if content else _words_elsewhere(choice.message)
    reply = Reply(
        text=elsewhere[1] if elsewhere else content,
        finish_reason=choice.finish_reason or "unknown",
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_tokens=(usage.prompt_tokens_details or _PromptDetails()).cached_tokens,
        latency_s=latency_s,
        tries=tries,
        logprobs=_logprobs(choice.logprobs),
    )
    if elsewhere:
        raise NoContent(elsewhere[0], reply)
    return reply


def read_other(raw: bytes, latency_s: float, tries: int) -> Reply:
    """The answer of another route than chat completions: its JSON as the text, with what it says of its usage."""
    try:
        usage = _Decided.model_validate_json(raw).usage or _DecisionUsage()
    except ValidationError:
        usage = _DecisionUsage()
    return Reply(
        text=_text(raw),
        finish_reason="stop",
        prompt_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=(usage.input_tokens_details or _PromptDetails()).cached_tokens,
        latency_s=latency_s,
        tries=tries,
    )


def _words_elsewhere(message: _Message) -> tuple[str, str] | None:
    """What stands in a message in place of its content, and its words."""
    reasoning = message.reasoning_content or message.reasoning
    for what, words in (("a refusal", message.refusal), ("its reasoning", reasoning)):
        if words and isinstance(words, str):
            return what, words
    return ("the call of a tool", orjson.dumps(message.tool_calls).decode()) if message.tool_calls else None


def _logprobs(given: object) -> tuple[TokenLogprob, ...] | None:
    """None where there are none, and where they come in a form of the server's own."""
    try:
        tokens = _Logprobs.model_validate(given).content if given else None
    except ValidationError:
        return None
    return tuple(map(_token, tokens)) if tokens else None


def _token(one: _Token) -> TokenLogprob:
    size = len(one.token.encode()) if one.bytes is None else len(one.bytes)
    return TokenLogprob(one.token, one.logprob, size, tuple((top.token, top.logprob) for top in one.top_logprobs or ()))


def _not_sound(error: ValidationError, raw: bytes) -> TryFailed:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return broken(f"{first['msg']}: {_text(raw)}")
    field = ".".join(map(str, first["loc"]))
    return TryFailed(
        "the endpoint's answer is not a sound chat completion",
        ErrorClass.BROKEN_ANSWER,
        found=f"{field or 'answer'}: {first['msg']}: {_text(raw)}",
    )


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
