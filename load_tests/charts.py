"""Charts of a page as SVG: as wide as the page is, with letters that do not shrink on a telephone.

A chart is an SVG without a view box, so that text keeps its size, around one with a view box stretched to its width:
that one holds only paths, whose strokes do not stretch. Colours are the page's own variables, so that dark and light
follow; the page's policy forbids style attributes, and needs none here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COLOURS = ("var(--accent)", "var(--worse)", "var(--better)", "var(--soft)")
_SIDE = 2000
"""Of the stretched view box: finer than any screen."""
_TOP, _BOTTOM = 14, 20
_HEIGHT = 240


@dataclass(frozen=True)
class Drawn:
    """One row of points, in the units of its chart's axes; a NaN interrupts a line."""

    name: str
    x: Floats
    y: Floats
    form: Literal["line", "dots", "dashes"] = "line"
    colour: int = 0
    """Place in COLOURS."""


@dataclass(frozen=True)
class Axis:
    """What a chart shows from where to where, and the marks beside it."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def place(self, values: Floats) -> Floats:
        """0 to 1 along the axis; what is beyond its ends is put on them."""
        low, high = self.low, self.high
        if self.logarithmic:
            values, low, high = np.log10(np.maximum(values, self.low)), math.log10(low), math.log10(high)
        placed: Floats = np.clip((values - low) / (high - low), 0.0, 1.0)
        return placed


@dataclass(frozen=True)
class Chart:
    """A chart and what stands beside it."""

    title: str
    x: Axis
    y: Axis
    rows: Sequence[Drawn]
    shaded: Sequence[tuple[float, float]] = field(default_factory=tuple)
    """Stretches of x behind the rows."""

    @property
    def svg(self) -> Markup:
        """The chart itself."""
        inside = [self._shade(*ends) for ends in self.shaded]
        inside += [_path(_grid(self.y.place(np.array([at]))[0]), "var(--line)", 1.0) for at, _ in self.y.ticks]
        inside += [self._row(row) for row in self.rows]
        return _framed(self.title, inside, self._labels())

    @property
    def legend(self) -> list[tuple[str, Markup]]:
        """Each row's name and a piece of it."""
        return [(row.name, _sample(row)) for row in self.rows]

    def _shade(self, start: float, end: float) -> Markup:
        left, right = self.x.place(np.array([start, end])) * _SIDE
        return Markup('<path fill="var(--h2)" d="M{:.0f} 0H{:.0f}V{side}H{:.0f}Z"/>').format(
            left, right, left, side=_SIDE
        )

    def _row(self, row: Drawn) -> Markup:
        here = np.isfinite(row.y)
        x = np.rint(self.x.place(row.x) * _SIDE).astype(int)
        y = np.rint((1 - self.y.place(np.where(here, row.y, self.y.low))) * _SIDE).astype(int)
        if row.form == "dots":
            # A dot is a line of no length with round ends: the stretching does not reach it.
            drawn = "".join(f"M{one} {other}h0" for one, other in zip(x[here], y[here], strict=True))
            return _path(drawn, COLOURS[row.colour], 3.5, faint=True)
        return _path(_line(x, y, here), COLOURS[row.colour], 1.8, dashed=row.form == "dashes")

    def _labels(self) -> list[Markup]:
        height = _HEIGHT - _TOP - _BOTTOM
        places_y = 1 - self.y.place(np.array([at for at, _ in self.y.ticks]))
        places_x = self.x.place(np.array([at for at, _ in self.x.ticks]))
        return [
            *(
                _text("2", _TOP + place * height - 3, name, "start")
                for place, (_, name) in zip(places_y, self.y.ticks, strict=True)
            ),
            *(
                _text(f"{place * 100:.2f}%", _HEIGHT - 5, name, _anchor(place))
                for place, (_, name) in zip(places_x, self.x.ticks, strict=True)
            ),
        ]


def heat_map(title: str, x: Axis, y: Axis, counts: NDArray[np.int64]) -> Markup:
    """How many fell where: `counts` by column of x and, from the bottom, row of y. Darker on light is more.

    The shades go by the root of the count, so that few are seen beside many.
    """
    columns, rows = counts.shape
    levels = np.where(counts > 0, np.maximum(1, np.rint(10 * np.sqrt(counts / max(1, counts.max())))), 0).astype(int)
    wide, high = _SIDE / columns, _SIDE / rows
    inside = []
    for level in range(1, 11):
        cells = "".join(
            f"M{column * wide:.1f} {(rows - 1 - row) * high:.1f}h{wide:.1f}v{high:.1f}h-{wide:.1f}z"
            for column, row in np.argwhere(levels == level)
        )
        if cells:
            inside.append(Markup('<path fill="var(--h{})" d="{}"/>').format(level, cells))
    return _framed(title, inside, Chart(title, x, y, ())._labels())


def linear_axis(low: float, high: float, unit: str = "") -> Axis:
    """An axis with about five round marks."""
    high = high if high > low else low + 1.0
    step = round_step((high - low) / 5)
    first = math.ceil(low / step - 1e-9)
    marks = [step * (first + number) for number in range(int((high - low) / step + 1e-9) + 1)]
    return Axis(low, high, tuple((mark, f"{mark:,.10g}{unit}") for mark in marks if mark <= high * (1 + 1e-9)))


def time_axis(low_s: float, high_s: float) -> Axis:
    """Seconds after the start."""
    return linear_axis(low_s, high_s, " s")


def latency_axis(values_s: Floats) -> Axis:
    """A logarithmic axis of milliseconds around the values (seconds), marked at 1, 2 and 5 of each power of ten."""
    known = values_s[np.isfinite(values_s) & (values_s > 0)] * 1e3
    low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 10.0)
    low, high = low / 1.1, max(high * 1.1, low * 1.5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    inside = [mark for mark in marks if low <= mark <= high]
    if len(inside) > 8:
        inside = [mark for mark in inside if math.log10(mark).is_integer()]
    if len(inside) < 3:  # a narrow range
        inside = [mark for mark, _ in linear_axis(low, high).ticks]
    return Axis(low, high, tuple((mark, f"{mark:,.4g} ms") for mark in inside), logarithmic=True)


def round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def _framed(title: str, inside: Sequence[Markup], labels: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg role="img" aria-label="{title}" width="100%" height="{height}" font-size="11">'
        '<svg x="0" y="{top}" width="100%" height="{inner}" viewBox="0 0 {side} {side}" preserveAspectRatio="none" '
        'overflow="visible">{inside}</svg>{labels}</svg>'
    ).format(
        title=title,
        height=_HEIGHT,
        top=_TOP,
        inner=_HEIGHT - _TOP - _BOTTOM,
        side=_SIDE,
        inside=Markup("").join(inside),
        labels=Markup("").join(labels),
    )


def _path(drawn: str, colour: str, width: float, *, dashed: bool = False, faint: bool = False) -> Markup:
    more = Markup(' stroke-dasharray="6 4"') if dashed else Markup(' opacity=".55"') if faint else Markup("")
    return Markup(
        '<path fill="none" stroke="{}" stroke-width="{}" stroke-linecap="round" stroke-linejoin="round"{} '
        'vector-effect="non-scaling-stroke" d="{}"/>'
    ).format(colour, width, more, drawn)


def _grid(place: float) -> str:
    return f"M0 {(1 - place) * _SIDE:.0f}H{_SIDE}"


def _line(x: NDArray[np.int64], y: NDArray[np.int64], here: NDArray[np.bool_]) -> str:
    parts = []
    pen_down = False
    for one, other, known in zip(x, y, here, strict=True):
        if known:
            parts.append(f"{'L' if pen_down else 'M'}{one} {other}")
        pen_down = bool(known)
    return "".join(parts)


def _text(x: str, y: float, words: str, anchor: str) -> Markup:
    # The paper's colour around the letters keeps them legible where data lie beneath.
    return Markup(
        '<text x="{}" y="{:.1f}" text-anchor="{}" fill="var(--soft)" stroke="var(--paper)" stroke-width="3" '
        'stroke-linejoin="round" paint-order="stroke">{}</text>'
    ).format(x, y, anchor, words)


def _anchor(place: float) -> str:
    return "start" if place < 0.02 else "end" if place > 0.98 else "middle"


def _sample(row: Drawn) -> Markup:
    drawn = "M10 6h0" if row.form == "dots" else "M1 6H19"
    path = _path(drawn, COLOURS[row.colour], 5.0 if row.form == "dots" else 2.0, dashed=row.form == "dashes")
    return Markup('<svg aria-hidden="true" width="20" height="10">{}</svg>').format(path)
