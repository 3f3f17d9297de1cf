"""Amounts with units, as people write them: ``10GB/day``, ``4 GiB/h``, ``1M events/s``, ``15 min``.

Conventions, stated once: bytes are counted in powers of 1024 whether or not the ``i`` is written (10 GB/day is
10240 MB/day), K and M of anything else are 1000 and 1000000, a week is 7 days. Everything is brought to one
canonical spelling, so that the same amount in other units is the same request, label and report. Arithmetic is
exact (fractions), and a canonical spelling keeps six significant digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

from common.console import shorten

_NUMBER = r"(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,15}(?:\.\d{1,15})?)"
_RATE = re.compile(
    rf"\s*{_NUMBER}\s*(?P<unit>[A-Za-z]+(?:\s+[A-Za-z]+)?)\s*(?:/|\bper\b)\s*(?P<period>[A-Za-z]+)\s*", re.A
)
_DURATION = re.compile(rf"\s*{_NUMBER}\s*(?P<unit>[A-Za-z]+)\s*", re.A)

_BYTES = re.compile(r"([kKMGTP]?)i?B|([kmgtp])i?b")
_COUNT = re.compile(r"(?:([kKM])\s*)?(events?|records?|rows?|messages?|requests?|calls?|files?|readings?)")
_POWERS = "KMGTP"

_SECONDS = {
    "s": Fraction(1),
    "min": Fraction(60),
    "h": Fraction(3600),
    "day": Fraction(86400),
    "week": Fraction(604800),
}
_PERIODS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "min"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "day"),
    **dict.fromkeys(("w", "week", "weeks"), "week"),
}

_RATES_ALLOWED = (
    "an amount per time such as '10GB/day', '4 GiB/h' or '1M events/s' (B, KB to PB, or events, records, rows, "
    "messages, requests, calls, files, readings; per s, min, h, day, week)"
)
_DURATIONS_ALLOWED = "a time with its unit such as '500 ms', '30 s', '15 min', '4 h', '1 day'"


@dataclass(frozen=True)
class Rate:
    """An amount per second."""

    per_s: Fraction
    what: str
    """``B`` for bytes, else what is counted, in the plural: ``events``."""


@lru_cache(maxsize=4096)
def rate(text: str) -> Rate:
    """Read an amount per time. Raises ValueError that says what is allowed."""
    match = _RATE.fullmatch(text)
    period = _PERIODS.get(match["period"].lower()) if match else None
    if not match or not period:
        raise ValueError(f"found {shorten(text, 60)!r}; allowed: {_RATES_ALLOWED}")
    amount, unit = _number(match["number"]), " ".join(match["unit"].split())
    if found := _BYTES.fullmatch(unit):
        prefix = (found[1] or found[2] or "").upper()
        power = _POWERS.index(prefix) + 1 if prefix else 0
        return Rate(amount * 1024**power / _SECONDS[period], "B")
    if found := _COUNT.fullmatch(unit):
        thousands = {None: 0, "k": 1, "K": 1, "M": 2}[found[1]]
        return Rate(amount * 1000**thousands / _SECONDS[period], found[2].rstrip("s") + "s")
    hint = " (a small b may mean bits; write B)" if re.fullmatch("[KMGTP]?i?b", unit) else ""
    raise ValueError(f"found {shorten(text, 60)!r}{hint}; allowed: {_RATES_ALLOWED}")


@lru_cache(maxsize=4096)
def canonical_rate(text: str) -> str:
    """One spelling for one rate: bytes per day in their largest unit; counts per the shortest period that leaves a
    whole number (100 requests/min), else per day."""
    return _settled(text, _spelled_rate)


@lru_cache(maxsize=4096)
def seconds(text: str) -> float:
    """Read a duration. Raises ValueError that says what is allowed."""
    return float(_seconds(text))


@lru_cache(maxsize=4096)
def canonical_duration(text: str) -> str:
    """One spelling for one duration, in the largest unit that it fills: 90 s is 1.5 min."""
    return _settled(text, _spelled_duration)


def bytes_per_hour(text: str | None) -> float | None:
    """A data volume's rate in bytes per hour; None when it counts something else or is absent."""
    found = rate(text) if text is not None else None
    return float(found.per_s * 3600) if found and found.what == "B" else None


def _settled(text: str, spelled: Callable[[str], str]) -> str:
    """The spelling that spells itself: rounding may fill the next unit (59.9999999 s is 60 s, and so 1 min)."""
    before, after = text, spelled(text)
    try:
        while after != before:
            before, after = after, spelled(after)
    except ValueError:  # more digits than an amount may have
        raise ValueError(f"found {shorten(text, 60)!r}, which is too large or too small") from None
    return after


def _spelled_rate(text: str) -> str:
    found = rate(text)
    if found.what == "B":
        amount, unit = _largest(found.per_s * _SECONDS["day"], 1024, ("B", *(f"{power}B" for power in _POWERS)))
        return f"{amount} {unit}/day"
    period = next((name for name, length in _SECONDS.items() if (found.per_s * length).denominator == 1), "day")
    amount, multiple = _largest(found.per_s * _SECONDS[period], 1000, ("", "K", "M"))
    return f"{amount}{multiple} {found.what}/{period}"


def _spelled_duration(text: str) -> str:
    found = _seconds(text)
    for unit in ("day", "h", "min", "s"):
        if found >= _SECONDS[unit]:
            return f"{_digits(found / _SECONDS[unit])} {unit}"
    return f"{_digits(found * 1000)} ms"


def _seconds(text: str) -> Fraction:
    match = _DURATION.fullmatch(text)
    unit = match["unit"].lower() if match else ""
    if match and unit in {"ms", "msec", "millisecond", "milliseconds"}:
        return _number(match["number"]) / 1000
    if not match or unit not in _PERIODS:
        raise ValueError(f"found {shorten(text, 60)!r}; allowed: {_DURATIONS_ALLOWED}")
    return _number(match["number"]) * _SECONDS[_PERIODS[unit]]


def _number(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def _largest(amount: Fraction, step: int, units: tuple[str, ...]) -> tuple[str, str]:
    """The amount in the largest unit that leaves at least 1, as digits and unit."""
    power = 0
    while power + 1 < len(units) and amount >= step:
        amount, power = amount / step, power + 1
    return _digits(amount), units[power]


def _digits(amount: Fraction) -> str:
    """Six significant digits, without an exponent or trailing zeros."""
    rounded = Context(prec=6).divide(Decimal(amount.numerator), Decimal(amount.denominator))
    plain = f"{rounded:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
