"""Places are given in order of arrival, and a place that is free at a moment is used from that moment on."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.simulator_queue import QueueFull, Slots

T = TypeVar("T")


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` on an event loop of its own."""

    async def running() -> T:
        return await work()

    return asyncio.run(running())


async def settle() -> None:
    """Let everything that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_two_places_serve_five_who_come_at_once_as_worked_out_by_hand() -> None:
    async def work() -> list[int]:
        slots = Slots(2, None)
        turns = [asyncio.create_task(slots.take(arrived)) for arrived in range(5)]
        await settle()
        assert (slots.running, slots.waiting, slots.share_taken) == (2, 3, 1.0)
        for end in (10, 11, 20, 21, 30):  # each takes ten
            slots.give_back(end)
            await settle()
        assert (slots.running, slots.waiting, slots.share_taken) == (0, 0, 0.0)
        return [turn.result() for turn in turns]

    assert run(work) == [0, 1, 10, 11, 20]


@given(
    places=st.integers(1, 3),
    service=st.integers(1, 20),
    gaps=st.lists(st.integers(0, 15), min_size=1, max_size=25),
)
def test_starts_are_those_of_the_textbook_queue(places: int, service: int, gaps: list[int]) -> None:
    arrivals = [sum(gaps[: place + 1]) for place in range(len(gaps))]
    free = [0] * places
    wanted = []
    for arrived in arrivals:
        wanted.append(max(arrived, heapq.heappop(free)))
        heapq.heappush(free, wanted[-1] + service)

    async def work() -> list[int]:
        slots, ends, starts = Slots(places, None), list[int](), dict[int, int]()

        async def serve(place: int, arrived: int) -> None:
            starts[place] = await slots.take(arrived)
            heapq.heappush(ends, starts[place] + service)

        async def until(now: int) -> None:
            while ends and ends[0] <= now:
                slots.give_back(heapq.heappop(ends))
                await settle()

        tasks = []
        for place, arrived in enumerate(arrivals):
            await until(arrived)
            tasks.append(asyncio.create_task(serve(place, arrived)))
            await settle()
        await until(10**9)
        await asyncio.gather(*tasks)
        assert slots.running == slots.waiting == 0
        return [starts[place] for place in range(len(arrivals))]

    assert run(work) == wanted


def test_one_more_than_may_wait_is_turned_away_and_takes_nobodys_place() -> None:
    async def work() -> None:
        slots = Slots(1, 1)
        await slots.take(0)
        waiting = asyncio.create_task(slots.take(1))
        await settle()
        with pytest.raises(QueueFull):
            await slots.take(2)
        slots.give_back(9)
        assert await waiting == 9

    run(work)


def test_who_leaves_the_queue_is_passed_over() -> None:
    async def work() -> int:
        slots = Slots(1, None)
        await slots.take(0)
        leaving, staying = (asyncio.create_task(slots.take(at)) for at in (1, 2))
        await settle()
        leaving.cancel()
        await settle()
        assert slots.waiting == 1
        slots.give_back(9)
        return await staying

    assert run(work) == 9


@pytest.mark.parametrize("another_waits", [True, False])
def test_a_place_given_to_one_who_leaves_at_that_moment_is_not_lost(another_waits: bool) -> None:
    async def work() -> None:
        slots = Slots(1, None)
        await slots.take(0)
        leaving = asyncio.create_task(slots.take(1))
        await settle()
        staying = asyncio.create_task(slots.take(2)) if another_waits else None
        await settle()
        slots.give_back(9)  # the turn is set, and before its task runs
        leaving.cancel()
        await settle()
        assert slots.running == another_waits
        if staying:
            assert await staying == 9
            slots.give_back(10)
        assert slots.running == 0

    run(work)


def test_without_a_limit_nobody_waits() -> None:
    async def work() -> None:
        slots = Slots(None, None)
        assert [await slots.take(at) for at in range(100)] == list(range(100))
        assert (slots.running, slots.share_taken) == (100, 0.0)

    run(work)
