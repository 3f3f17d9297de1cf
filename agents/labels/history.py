"""What a history tells about time: how old each reading is, and which readings lie in a window that ends now.

The newest reading has no time of its own. It is taken to follow the history's last reading by the median spacing of
the history, so that one gap does not matter; with fewer than two readings there is no spacing and nothing is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from statistics import median_low

from agents.facts.spec import Reading

Aged = tuple[timedelta, Reading]


def aged(history: Sequence[Reading]) -> list[Aged]:
    """Each reading with its age as seen from the newest one, oldest first; empty when that cannot be known.

    Ages rather than times, since the newest one's time may lie past the last day that a datetime can hold.
    """
    if len(history) < 2:
        return []
    spacing = median_low(after.at - before.at for before, after in pairwise(history))
    return [(history[-1].at - reading.at + spacing, reading) for reading in history]


def within(readings: Sequence[tuple[timedelta, float]], window: timedelta) -> list[float] | None:
    """The values younger than the window; None when the history does not reach back so far.

    readings: age and value, oldest first.
    """
    if not readings or readings[0][0] < window:
        return None
    return [value for age, value in readings if age < window]
