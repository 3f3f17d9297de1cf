"""What is learned of an endpoint once and then kept: which routes it has, the ids of labels, their attraction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar, cast

T = TypeVar("T")

MOST_KEPT = 4096
"""Things kept; the oldest goes first, so that any number of pipelines takes the same memory."""


class Memory:
    """Things learned by asking, each asked for once however many want to know it at the same moment."""

    def __init__(self) -> None:
        self._known: dict[Hashable, object] = {}
        self._learning: dict[Hashable, asyncio.Task[None]] = {}

    async def once(self, key: Hashable, learn: Callable[[], Awaitable[T]]) -> T:
        """What `learn` gave for this key. What it raises is not kept: the next one who wants to know asks again.

        Learning goes on when a caller gives up waiting: a deadline that is shorter must not have it begin for ever.
        """
        while key not in self._known:
            task = self._learning.get(key)
            if task is None:
                task = self._learning[key] = asyncio.ensure_future(self._learn(key, learn))
                task.add_done_callback(_looked_at)
            await asyncio.shield(task)
        return cast("T", self._known[key])

    async def _learn(self, key: Hashable, learn: Callable[[], Awaitable[object]]) -> None:
        try:
            value = await learn()
        finally:
            del self._learning[key]
        while len(self._known) >= MOST_KEPT:
            del self._known[next(iter(self._known))]
        self._known[key] = value

    async def close(self) -> None:
        """Leave off what is still being learned."""
        tasks = list(self._learning.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _looked_at(task: asyncio.Task[None]) -> None:
    """Nobody may be waiting any more: asyncio would print an error that nobody has looked at."""
    if not task.cancelled():
        task.exception()
