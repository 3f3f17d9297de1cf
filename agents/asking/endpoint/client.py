"""How an endpoint is asked: bounded in number and time, and again where that may help."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from itertools import count
from typing import Any, Protocol, Self, TypeVar

from pydantic import SecretStr

from agents.asking.endpoint.completion import NoContent, read_completion, read_other
from agents.asking.endpoint.lean_client import LeanTransport
from agents.asking.endpoint.memory import Memory
from agents.asking.endpoint.reply import EndpointFailed, ErrorClass, Reply
from agents.asking.endpoint.transport import Route, Transport, TryFailed
from common.console import shorten
from serving.endpoint import Endpoint

T = TypeVar("T")

BACKOFF_S = 0.5
"""Longest pause before the second try; it doubles with each further one. The openai SDK begins with the same."""

LONGEST_BACKOFF_S = 8.0
LONGEST_RETRY_AFTER_S = 30.0
"""An endpoint that asks for more than this is tried again all the same: a run must not stand still for an hour."""

_NO_PARAMETERS = frozenset({"model", "messages"})
"""Keys of a request that no endpoint can do without."""


class ChatClient(Protocol):
    """One way to ask an endpoint; used as an async context manager, which closes its connections."""

    memory: Memory
    """What was learned of the endpoint; a client around another one shares the other's."""

    async def complete(self, body: dict[str, Any], route: Route = "chat/completions") -> Reply:
        """Send one request and return its whole answer. Raises EndpointFailed.

        Of the other routes the reply's text is the answer's JSON.
        """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


def make_client(
    endpoint: Endpoint,
    *,
    timeout_s: float = 120.0,
    max_retries: int = 2,
    concurrency: int = 64,
    backoff_s: float = BACKOFF_S,
) -> ChatClient:
    """A client; at most `concurrency` requests are in flight at once, each try takes at most timeout_s."""
    return RetryingClient(
        LeanTransport(endpoint),
        endpoint.api_key,
        timeout_s=timeout_s,
        max_retries=max_retries,
        concurrency=concurrency,
        backoff_s=backoff_s,
    )


class RetryingClient:
    """A transport with a bound on concurrency, a timeout per try, and further tries where they may help.

    A request keeps its slot while it waits to be tried again: an endpoint in trouble gets fewer requests, not others.
    """

    def __init__(
        self,
        transport: Transport,
        api_key: SecretStr,
        *,
        timeout_s: float,
        max_retries: int,
        concurrency: int,
        backoff_s: float,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency: found {concurrency}; allowed is 1 or more")
        self.transport = transport
        self.api_key = api_key
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.backoff_s = backoff_s
        self.memory = Memory()
        self._slots = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> Self:
        await self.transport.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.memory.close()
        await self.transport.close()

    async def complete(self, body: dict[str, Any], route: Route = "chat/completions") -> Reply:
        """Send one request, again where that may help, and return its whole answer. Raises EndpointFailed."""
        read = read_completion if route == "chat/completions" else read_other
        async with self._slots:
            began_s = time.perf_counter()
            for tries in count(1):
                try:
                    raw = await self._try(body, route)
                    return read(raw, time.perf_counter() - began_s, tries)
                except TryFailed as failure:
                    if not failure.again or tries > self.max_retries:
                        raise self._failed(failure, tries, body) from None
                    wait_s = pause_s(tries, self.backoff_s, failure.retry_after_s, random.random())  # noqa: S311
                await asyncio.sleep(wait_s)
        raise AssertionError("count() does not end")

    async def _try(self, body: dict[str, Any], route: Route) -> bytes:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self.transport.send(body, route)
        except TimeoutError:
            raise TryFailed(f"no answer within {self.timeout_s:g} s", ErrorClass.TIMEOUT, again=True) from None

    def _failed(self, failure: TryFailed, tries: int, body: dict[str, Any]) -> EndpointFailed:
        """The failure of the last try, short and without our key."""
        text, key = str(failure.found), self.api_key.get_secret_value()
        found = shorten(text.replace(key, "***") if key and key != "EMPTY" else text)
        told = f"{failure.problem}: {found}" if found else failure.problem
        told += remedy(failure, body) + (f", tried {tries} times" if tries > 1 else "")
        reply = failure.reply if isinstance(failure, NoContent) else None
        return EndpointFailed(told, failure.error_class, reply, failure.status)


def remedy(failure: TryFailed, body: dict[str, Any]) -> str:
    """What to do when an endpoint does not take a parameter that it names; empty where it names none of ours."""
    if failure.status not in {400, 422}:
        return ""
    ours = [name for name in body if name not in _NO_PARAMETERS]
    text = str(failure.found)
    quoted = (name for name in ours if f"'{name}'" in text or f'"{name}"' in text or f"`{name}`" in text)
    name = failure.parameter if failure.parameter in ours else next(quoted, None)
    if name is None:
        return ""
    return f"; if it does not take {name}, leave it out by the prompt's parameters.leave_out, or --leave-out {name}"


def pause_s(tries: int, backoff_s: float, retry_after_s: float | None, draw: float) -> float:
    """Seconds to wait after so many tries: what the endpoint asks for, and a random part of a doubling bound.

    draw: 0 to 1, by chance: clients that failed together must not come back together (full jitter).
    """
    bound_s = min(LONGEST_BACKOFF_S, backoff_s * 2.0 ** min(tries - 1, 30))
    return min(retry_after_s or 0.0, LONGEST_RETRY_AFTER_S) + draw * bound_s


async def together(*asking: Coroutine[Any, Any, T]) -> list[T]:
    """All of them at once. When one fails or the caller is cancelled, none of them is left behind."""
    tasks = [asyncio.ensure_future(one) for one in asking]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
