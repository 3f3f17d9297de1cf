"""A call at a moment of the clock that stamps everything, to some 0.1 ms; the event loop's own timers count in ms.

On Linux a timerfd wakes the loop, which costs nothing while it waits. Elsewhere the loop's timer wakes it shortly
before, and it goes round until the moment is there.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol

_NS = 1_000_000_000
_CLOCK_MONOTONIC = 1  # what perf_counter reads on Linux
_TFD_TIMER_ABSTIME = 1
_EARLY_NS = 2_000_000
"""How much too late the loop's own timer may be, and some more."""


class Alarm(Protocol):
    """One moment at a time; setting another forgets the one before."""

    def set(self, at_ns: int) -> None:
        """Ring at that moment of perf_counter, or at once if it has passed."""

    def close(self) -> None:
        """Ring no more."""


def new_alarm(ring: Callable[[], None]) -> Alarm:
    """The best alarm there is here; needs a running event loop, on which it rings."""
    return TimerAlarm(ring) if sys.platform == "linux" else SpinAlarm(ring)


class _Moment(ctypes.Structure):
    """struct timespec"""

    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Setting(ctypes.Structure):
    """struct itimerspec: an interval, here always none, and the moment."""

    _fields_ = [("interval", _Moment), ("moment", _Moment)]


class TimerAlarm:
    """timerfd_create(2), which Python offers from 3.13 on."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._setting = _Setting()
        self._setting_place = ctypes.byref(self._setting)
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._rang)

    def set(self, at_ns: int) -> None:
        """Ring at that moment of perf_counter, or at once if it has passed."""
        moment = self._setting.moment
        moment.seconds, moment.nanoseconds = divmod(max(1, at_ns), _NS)  # 0 would mean never
        if self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, self._setting_place, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Ring no more."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _rang(self) -> None:
        try:
            os.read(self._fd, 8)  # how often it has expired
        except BlockingIOError:
            return  # it was set anew since it rang
        self._ring()


class SpinAlarm:
    """The event loop's own timer up to _EARLY_NS before, then round and round; packets are read meanwhile."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._at_ns = 0

    def set(self, at_ns: int) -> None:
        """Ring at that moment of perf_counter, or at once if it has passed."""
        self.close()
        self._at_ns = at_ns
        self._wait()

    def close(self) -> None:
        """Ring no more."""
        if self._handle:
            self._handle.cancel()

    def _wait(self) -> None:
        left_ns = self._at_ns - perf_counter_ns()
        if left_ns > _EARLY_NS:
            self._handle = self._loop.call_later((left_ns - _EARLY_NS) / _NS, self._wait)
        else:
            self._handle = self._loop.call_soon(self._spin)

    def _spin(self) -> None:
        if perf_counter_ns() >= self._at_ns:
            self._ring()
        else:
            self._handle = self._loop.call_soon(self._spin)
