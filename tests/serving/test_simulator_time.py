"""The simulator's deadlines are drawn as documented, moved by a freeze, and kept without being early."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable
from itertools import pairwise
from time import perf_counter_ns
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.console import BadInput
from serving import alarm, simulator_time
from serving.simulator_settings import SimulatorSettings
from serving.simulator_time import Clock, Freeze, Pacer, offsets_ns

T = TypeVar("T")
MS = 1_000_000
S = 1_000_000_000


# --- when tokens are due ---------------------------------------------------------------------------------


def test_without_a_spread_tokens_are_due_on_a_grid() -> None:
    assert offsets_ns(SimulatorSettings(ttft_ms=50, itl_ms=2.5), 7, 4) == [50 * MS, 52_500_000, 55 * MS, 57_500_000]


@pytest.mark.parametrize("cv", [0.1, 0.5, 1.0])
def test_drawn_times_have_the_mean_and_spread_asked_for(cv: float) -> None:
    settings = SimulatorSettings(ttft_ms=50, itl_ms=10, ttft_cv=cv, itl_cv=cv)
    requests = [offsets_ns(settings, number, 11) for number in range(2000)]
    ttfts = [offsets[0] / MS for offsets in requests]
    gaps = [(later - earlier) / MS for offsets in requests for earlier, later in pairwise(offsets)]
    # Four standard errors of a mean of 2,000 draws; the spread of a spread is wider.
    assert statistics.fmean(ttfts) == pytest.approx(50, rel=4 * cv / 2000**0.5)
    assert statistics.fmean(gaps) == pytest.approx(10, rel=4 * cv / 20_000**0.5)
    assert statistics.stdev(gaps) == pytest.approx(10 * cv, rel=0.15)


def test_a_spread_of_one_time_leaves_the_other_exact() -> None:
    offsets = offsets_ns(SimulatorSettings(ttft_cv=0.5), 0, 5)
    assert offsets[0] != 50 * MS
    assert [later - earlier for earlier, later in pairwise(offsets)] == [10 * MS] * 4


@given(seed=st.integers(0, 5), number=st.integers(0, 1000), tokens=st.integers(1, 20), cv=st.floats(0.01, 3))
def test_draws_hang_on_seed_and_number_alone_and_time_never_runs_back(
    seed: int, number: int, tokens: int, cv: float
) -> None:
    settings = SimulatorSettings(seed=seed, ttft_cv=cv, itl_cv=cv)
    drawn = offsets_ns(settings, number, tokens)
    assert drawn == offsets_ns(settings, number, tokens + 5)[:tokens]
    assert drawn == sorted(drawn)
    assert drawn != offsets_ns(settings, number + 1, tokens)


def test_a_spread_around_nothing_is_nothing() -> None:
    assert offsets_ns(SimulatorSettings(ttft_ms=0, itl_ms=0, ttft_cv=1, itl_cv=1), 0, 3) == [0, 0, 0]


def test_the_knee_is_what_the_places_hold_per_second() -> None:
    assert SimulatorSettings(max_running=68, ttft_ms=50, itl_ms=10, output_tokens=64).knee_per_s == 100
    assert SimulatorSettings().knee_per_s is None


# --- the freeze ------------------------------------------------------------------------------------------


def test_what_is_due_in_a_freeze_is_due_at_its_end_and_the_rest_stays() -> None:
    freeze = Freeze(at_s=1, for_s=2)
    assert freeze.moved(5 * S) == 5 * S  # nobody has come yet
    freeze.arrive(10 * S)
    freeze.arrive(12 * S)  # only the first sets it off
    assert [freeze.moved(at) for at in (11 * S - 1, 11 * S, 12 * S, 13 * S - 1, 13 * S, 20 * S)] == [
        11 * S - 1,
        *[13 * S] * 4,
        20 * S,
    ]


@given(at_s=st.floats(0, 10), for_s=st.floats(0, 10), times=st.lists(st.integers(0, 30 * S), min_size=2))
def test_a_freeze_never_makes_anything_early_and_keeps_the_order(at_s: float, for_s: float, times: list[int]) -> None:
    freeze = Freeze(at_s, for_s)
    freeze.arrive(0)
    moved = [freeze.moved(at) for at in sorted(times)]
    assert moved == sorted(moved)
    assert all(after >= before for before, after in zip(sorted(times), moved, strict=True))
    assert [freeze.moved(at) for at in moved] == moved


def test_a_clock_counts_from_the_start_and_ends_with_the_last_token() -> None:
    freeze = Freeze(0, 0.065)
    freeze.arrive(S)
    clock = Clock(S, S + 5 * MS, [50 * MS, 60 * MS, 70 * MS], freeze)
    assert [clock.due_ns(token) for token in range(3)] == [S + 65 * MS, S + 65 * MS, S + 75 * MS]
    assert clock.end_ns == S + 75 * MS


# --- the pacer -------------------------------------------------------------------------------------------


@pytest.fixture(params=["timerfd", "event loop"])
def pacing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run work with a pacer, on each kind of alarm."""
    if request.param == "event loop":
        monkeypatch.setattr(simulator_time, "new_alarm", alarm.SpinAlarm)
    elif sys.platform != "linux":
        pytest.skip("timerfd is Linux' own")

    def run(work: Callable[[Pacer], Awaitable[T]]) -> T:
        async def with_pacer() -> T:
            pacer = Pacer()
            try:
                return await work(pacer)
            finally:
                pacer.close()

        return asyncio.run(with_pacer())

    return run


def test_steps_come_in_order_of_their_deadlines_and_none_early(pacing: Callable[..., Any]) -> None:
    seen: list[tuple[str, int, int]] = []

    async def work(pacer: Pacer) -> None:
        begin_ns = perf_counter_ns()

        def stepping(name: str, deadlines: list[int]) -> Callable[[int], int | None]:
            def step(now_ns: int) -> int | None:
                seen.append((name, begin_ns + deadlines.pop(0) * MS, now_ns))
                return begin_ns + deadlines[0] * MS if deadlines else None

            return step

        pacer.at(begin_ns + 12 * MS, stepping("late", [12]))
        pacer.at(begin_ns + 2 * MS, stepping("many", [2, 4, 9]))
        pacer.at(begin_ns, stepping("past", [0]))
        await pacer.until(begin_ns + 15 * MS)

    pacing(work)
    assert [name for name, _, _ in seen] == ["past", "many", "many", "many", "late"]
    assert all(now_ns >= due_ns for _, due_ns, now_ns in seen)


def test_a_deadline_set_while_another_is_waited_for_is_not_held_up(pacing: Callable[..., Any]) -> None:
    async def work(pacer: Pacer) -> tuple[int, int]:
        begin_ns = perf_counter_ns()
        far = asyncio.create_task(pacer.until(begin_ns + 60_000 * MS))
        await asyncio.sleep(0)
        near_ns = await pacer.until(begin_ns + 3 * MS)
        far.cancel()
        return near_ns, begin_ns

    near_ns, begin_ns = pacing(work)
    assert near_ns - begin_ns < 60_000 * MS


def test_one_step_that_fails_does_not_stop_the_others(pacing: Callable[..., Any]) -> None:
    async def work(pacer: Pacer) -> list[str]:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(str(context["exception"])))
        begin_ns = perf_counter_ns()

        def fail(_now_ns: int) -> int | None:
            raise ValueError("this step fails")

        pacer.at(begin_ns, fail)
        await pacer.until(begin_ns + MS)
        return told

    assert pacing(work) == ["this step fails"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"ttft_cv": -0.1}, "--ttft-cv: found -0.1; allowed is 0 or more"),
        ({"itl_cv": float("inf")}, "--itl-cv: found inf"),
        ({"tokens_per_chunk": 0}, "--tokens-per-chunk: found 0; allowed is 1"),
        ({"freeze_at_s": -1}, "--freeze-at-s: found -1; allowed is 0 or more seconds"),
        ({"freeze_for_s": float("nan")}, "--freeze-for-s: found nan"),
        ({"freeze_at_s": 1}, "--freeze-for-s"),
        ({"max_running": 0}, "--max-running: found 0; allowed is 1"),
        ({"max_running": 1, "max_queue": -1}, "--max-queue: found -1"),
        ({"max_queue": 1}, "--max-running"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_option(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(BadInput) as refused:
        SimulatorSettings(**wrong)  # type: ignore[arg-type]
    assert named in str(refused.value)
