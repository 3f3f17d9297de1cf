"""What a client does on every sound endpoint: run on the simulator, and on the real engine.

The endpoint must take longer than a millisecond for an answer, and longer than CANCELLED_AFTER_S for a long one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agents.asking.endpoint.client import ChatClient, make_client
from agents.asking.endpoint.reply import EndpointFailed, ErrorClass, Reply
from serving.endpoint import Endpoint

CANCELLED_AFTER_S = 0.02

Check = Callable[[Endpoint], Coroutine[Any, Any, None]]


def short_body(model: str, **more: Any) -> dict[str, Any]:
    """A request for at most eight tokens, with `more` over it."""
    messages = [{"role": "user", "content": "Name three colours."}]
    return {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0, **more}


async def failure_of(client: ChatClient, body: dict[str, Any]) -> EndpointFailed:
    """Why a request was not answered; fails the test when it was."""
    with pytest.raises(EndpointFailed) as failed:
        await client.complete(body)
    return failed.value


def check_sound(reply: Reply) -> None:
    """What a reply to short_body has to be."""
    assert reply.text.strip()
    assert reply.finish_reason in {"length", "stop"}
    assert reply.prompt_tokens is not None
    assert reply.prompt_tokens > 0
    assert reply.output_tokens is not None
    assert 1 <= reply.output_tokens <= 8
    assert reply.latency_s > 0
    assert reply.tries == 1


def check_nothing_left() -> None:
    """Only the caller's task is there."""
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def sound_answer_with_usage(endpoint: Endpoint) -> None:
    async with make_client(endpoint) as client:
        check_sound(await client.complete(short_body(endpoint.model)))
    check_nothing_left()


async def answer_by_a_schema(endpoint: Endpoint) -> None:
    fields = {"mode": {"type": "string", "enum": ["batch", "streaming"]}}
    schema = {"type": "object", "properties": fields, "required": ["mode"], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "decision", "schema": schema, "strict": True}}
    async with make_client(endpoint) as client:
        reply = await client.complete(short_body(endpoint.model, max_tokens=100, response_format=asked))
    assert json.loads(reply.text)["mode"] in {"batch", "streaming"}


async def tokens_add_up_to_the_text(endpoint: Endpoint) -> None:
    async with make_client(endpoint) as client:
        reply = await client.complete(short_body(endpoint.model, logprobs=True))
    assert reply.logprobs is not None
    assert sum(token.size for token in reply.logprobs) >= len(reply.text.encode())
    assert all(token.logprob <= 0 for token in reply.logprobs)


async def bad_body_is_refused_after_one_try(endpoint: Endpoint) -> None:
    async with make_client(endpoint) as client:
        failure = await failure_of(client, short_body(endpoint.model, max_tokens=0))
    assert failure.error_class is ErrorClass.REFUSED
    assert str(failure).startswith("the endpoint answered HTTP 400: ")
    assert "tried" not in str(failure)


async def unknown_model_is_refused_after_one_try(endpoint: Endpoint) -> None:
    async with make_client(endpoint) as client:
        failure = await failure_of(client, short_body("no-such-model"))
    assert failure.error_class is ErrorClass.REFUSED
    assert str(failure).startswith("the endpoint answered HTTP 404: ")
    assert "no-such-model" in str(failure)
    assert "tried" not in str(failure)


async def too_short_a_timeout_is_told(endpoint: Endpoint) -> None:
    async with make_client(endpoint, timeout_s=0.001, max_retries=1, backoff_s=0) as client:
        failure = await failure_of(client, short_body(endpoint.model))
    assert failure.error_class is ErrorClass.TIMEOUT
    assert str(failure) == "no answer within 0.001 s, tried 2 times"
    check_nothing_left()


async def cancelled_request_leaves_nothing(endpoint: Endpoint) -> None:
    async with make_client(endpoint, concurrency=1) as client:
        asking = asyncio.create_task(client.complete(short_body(endpoint.model, max_tokens=400)))
        await asyncio.sleep(CANCELLED_AFTER_S)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        check_sound(await client.complete(short_body(endpoint.model)))
    check_nothing_left()


async def eight_at_once(endpoint: Endpoint) -> None:
    async with make_client(endpoint) as client:
        bodies = [short_body(endpoint.model, seed=number) for number in range(8)]
        for reply in await asyncio.gather(*map(client.complete, bodies)):
            check_sound(reply)
    check_nothing_left()


CONTRACT: tuple[Check, ...] = (
    sound_answer_with_usage,
    answer_by_a_schema,
    tokens_add_up_to_the_text,
    bad_body_is_refused_after_one_try,
    unknown_model_is_refused_after_one_try,
    too_short_a_timeout_is_told,
    cancelled_request_leaves_nothing,
    eight_at_once,
)


def check_contract(endpoint: Endpoint) -> None:
    """All of it, each check on an event loop of its own."""
    for check in CONTRACT:
        asyncio.run(check(endpoint))
