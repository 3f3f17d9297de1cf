"""What is learned of an endpoint is asked for once, and what failed is asked for again."""

from __future__ import annotations

import asyncio

import pytest

from agents.asking.endpoint.memory import MOST_KEPT, Memory


def test_many_who_want_to_know_at_once_ask_once() -> None:
    asked = 0

    async def learn() -> int:
        nonlocal asked
        asked += 1
        number = asked
        await asyncio.sleep(0.01)
        return number

    async def run() -> list[int]:
        memory = Memory()
        return await asyncio.gather(*(memory.once("key", learn) for _ in range(9)), memory.once("other", learn))

    assert sorted(asyncio.run(run())) == [1] * 9 + [2]


def test_none_is_known_too() -> None:
    asked: list[None] = []

    async def learn() -> None:
        asked.append(None)

    async def run() -> None:
        memory = Memory()
        for _ in range(3):
            await memory.once("key", learn)

    asyncio.run(run())
    assert len(asked) == 1


def test_what_fails_is_learned_by_the_next() -> None:
    async def fails() -> int:
        raise ValueError("down")

    async def learns() -> int:
        return 2

    async def run() -> int:
        memory = Memory()
        with pytest.raises(ValueError, match="down"):
            await memory.once("key", fails)
        return await memory.once("key", learns)

    assert asyncio.run(run()) == 2


def test_learning_goes_on_when_the_first_who_asked_gives_up() -> None:
    async def never() -> int:
        raise AssertionError("it was learned twice")

    async def run() -> int:
        memory, known = Memory(), asyncio.Event()

        async def learns() -> int:
            await known.wait()
            return 1

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(memory.once("key", learns), 0.01)
        known.set()
        return await memory.once("key", never)

    assert asyncio.run(run()) == 1


def test_closing_leaves_nothing_running() -> None:
    async def waits() -> int:
        await asyncio.sleep(60)
        return 1

    async def run() -> int:
        memory = Memory()
        asking = asyncio.create_task(memory.once("key", waits))
        await asyncio.sleep(0)
        await memory.close()
        await asyncio.gather(asking, return_exceptions=True)
        return len(asyncio.all_tasks()) - 1

    assert asyncio.run(run()) == 0


def test_it_does_not_grow_without_end() -> None:
    async def learn() -> int:
        return 1

    async def run() -> Memory:
        memory = Memory()
        for number in range(MOST_KEPT + 10):
            await memory.once(number, learn)
        return memory

    memory = asyncio.run(run())
    assert len(memory._known) == MOST_KEPT
    assert not memory._learning
