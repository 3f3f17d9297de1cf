"""Who is worked on and who waits: a limit on requests at once, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque


class QueueFull(Exception):
    """Nobody more may wait."""


class Slots:
    """Places to be worked on, and the queue before them.

    A place that is given back at a moment starts the next request at that moment, not when someone gets round to it:
    lateness never adds up, and what the places hold per second is exact.
    """

    def __init__(self, most_running: int | None, most_waiting: int | None) -> None:
        self._most_running, self._most_waiting = most_running, most_waiting
        self._queue: deque[tuple[int, asyncio.Future[int]]] = deque()
        self.running = 0
        """Requests that hold a place."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def share_taken(self) -> float:
        """Places taken, 0 to 1; 0 where there is no end of them."""
        return self.running / self._most_running if self._most_running else 0.0

    async def take(self, arrived_ns: int) -> int:
        """Wait for a place; the moment it was free. Raises QueueFull."""
        if self._most_running is None or self.running < self._most_running:
            self.running += 1
            return arrived_ns
        if self._most_waiting is not None and self.waiting >= self._most_waiting:
            raise QueueFull
        return await self._wait(arrived_ns)

    def give_back(self, at_ns: int) -> None:
        """A place is free from that moment on: the next in the queue has it."""
        while self._queue:
            arrived_ns, turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(max(arrived_ns, at_ns))
                return
        self.running -= 1

    async def _wait(self, arrived_ns: int) -> int:
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        place = (arrived_ns, turn)
        self._queue.append(place)
        try:
            return await turn
        except asyncio.CancelledError:
            if place in self._queue:
                self._queue.remove(place)
            else:  # it left at the very moment that it was called up
                self.give_back(turn.result())
            raise
