"""How a chat completion is asked for: one Protocol, two clients, one way to try again.

lean     aiohttp and little else: for thousands of requests, and quick to import
openai   the openai SDK: for single calls, and wherever its wire behaviour is what matters
"""

from __future__ import annotations

import asyncio
import random
import time
from itertools import count
from typing import Any, Literal, Protocol, Self

from pydantic import SecretStr

from agents.asking.completion import read_completion
from agents.asking.lean_client import LeanTransport
from agents.asking.reply import EndpointFailed, Reply
from agents.asking.transport import Transport, TryFailed
from agents.schema import ErrorClass
from common.console import shorten
from serving.endpoint import Endpoint

ClientKind = Literal["lean", "openai"]

BACKOFF_S = 0.5
"""Longest pause before the second try; it doubles with each further one. The openai SDK begins with the same."""

LONGEST_BACKOFF_S = 8.0
LONGEST_RETRY_AFTER_S = 30.0
"""An endpoint that asks for more than this is tried again all the same: a run must not stand still for an hour."""


class ChatClient(Protocol):
    """One way to ask an endpoint; used as an async context manager, which closes its connections."""

    async def complete(self, body: dict[str, Any]) -> Reply:
        """Send one chat completion and return its whole answer. Raises EndpointFailed."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


def make_client(
    endpoint: Endpoint,
    kind: ClientKind = "lean",
    *,
    timeout_s: float = 120.0,
    max_retries: int = 2,
    concurrency: int = 64,
    backoff_s: float = BACKOFF_S,
) -> ChatClient:
    """A client of that kind; at most `concurrency` requests are in flight at once, each try takes at most timeout_s."""
    return RetryingClient(
        _transport(endpoint, kind),
        endpoint.api_key,
        timeout_s=timeout_s,
        max_retries=max_retries,
        concurrency=concurrency,
        backoff_s=backoff_s,
    )


def _transport(endpoint: Endpoint, kind: ClientKind) -> Transport:
    if kind == "lean":
        return LeanTransport(endpoint)
    # Importing the SDK takes a second, which every command would wait for.
    from agents.openai_client import OpenAITransport

    return OpenAITransport(endpoint)


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
        self._slots = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> Self:
        await self.transport.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.close()

    async def complete(self, body: dict[str, Any]) -> Reply:
        """Send one chat completion, again where that may help, and return its whole answer. Raises EndpointFailed."""
        async with self._slots:
            began_s = time.perf_counter()
            for tries in count(1):
                try:
                    raw = await self._try(body)
                    return read_completion(raw, time.perf_counter() - began_s, tries)
                except TryFailed as failure:
                    if not failure.again or tries > self.max_retries:
                        raise self._failed(failure, tries) from None
                    wait_s = pause_s(tries, self.backoff_s, failure.retry_after_s, random.random())  # noqa: S311
                await asyncio.sleep(wait_s)
        raise AssertionError("count() does not end")

    async def _try(self, body: dict[str, Any]) -> bytes:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self.transport.send(body)
        except TimeoutError:
            raise TryFailed(f"no answer within {self.timeout_s:g} s", ErrorClass.TIMEOUT, again=True) from None

    def _failed(self, failure: TryFailed, tries: int) -> EndpointFailed:
        """The failure of the last try, short and without our key."""
        text, key = str(failure.found), self.api_key.get_secret_value()
        found = shorten(text.replace(key, "***") if key and key != "EMPTY" else text)
        told = f"{failure.problem}: {found}" if found else failure.problem
        return EndpointFailed(told + (f", tried {tries} times" if tries > 1 else ""), failure.error_class)


def pause_s(tries: int, backoff_s: float, retry_after_s: float | None, draw: float) -> float:
    """Seconds to wait after so many tries: what the endpoint asks for, and a random part of a doubling bound.

    draw: 0 to 1, by chance: clients that failed together must not come back together (full jitter).
    """
    bound_s = min(LONGEST_BACKOFF_S, backoff_s * 2.0 ** min(tries - 1, 30))
    return min(retry_after_s or 0.0, LONGEST_RETRY_AFTER_S) + draw * bound_s
