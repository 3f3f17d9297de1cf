"""A client whose answers a test writes itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Self

from agents.asking.endpoint.memory import Memory
from agents.asking.endpoint.reply import EndpointFailed, ErrorClass, Reply, TokenLogprob
from agents.asking.endpoint.transport import Route
from tests.agents.asking.toy import reply_of

Answer = Callable[[dict[str, Any], Route], Reply]


class ScriptedClient:
    """Answers by a function, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.memory = Memory()
        self.answer = answer
        self.asked: list[tuple[Route, dict[str, Any]]] = []

    @property
    def chats(self) -> list[dict[str, Any]]:
        """The chat completions asked for."""
        return [body for route, body in self.asked if route == "chat/completions"]

    async def complete(self, body: dict[str, Any], route: Route = "chat/completions") -> Reply:
        """The function's answer, as it is."""
        self.asked.append((route, body))
        return self.answer(body, route)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


def not_found() -> EndpointFailed:
    """What an endpoint says to a route that it does not have."""
    return EndpointFailed("the endpoint answered HTTP 404", ErrorClass.REFUSED, status=404)


def listing(shares: dict[str, float], text: str = "") -> Reply:
    """A reply whose first token had these probabilities, the rest on tokens that are no labels."""
    likely = sorted(shares.items(), key=lambda one: -one[1])
    rest = 1 - sum(shares.values())
    # Others are the least likely, so that what is not listed is at most this.
    others = [(f"word{number}", math.log(max(rest, 1e-9) / 1000)) for number in range(3)]
    top = (*((token, math.log(share)) for token, share in likely), *others)
    token = text or likely[0][0]
    return reply_of(token, logprobs=(TokenLogprob(token, dict(top)[token], len(token.encode()), top),), output_tokens=1)


def letters_only(shares: Callable[[dict[str, Any]], dict[str, float]]) -> ScriptedClient:
    """An endpoint with chat completions alone; shares: of the letters, for a request."""

    def answer(body: dict[str, Any], route: Route) -> Reply:
        if route != "chat/completions":
            raise not_found()
        return listing(shares(body))

    return ScriptedClient(answer)


def written(answer: object) -> str:
    """JSON as models write it."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
