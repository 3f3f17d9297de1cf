"""The shell of our HTML pages: one file, no request to anywhere, everything escaped.

A page's templates extend `page.html.j2`. The content security policy lets in nothing but the shell's own style sheet
and script, by their digests: words of a model that got past the escaping would still not run. It also forbids style
attributes; colour comes from classes, and the geometry of plots from SVG's own attributes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.console import printable

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 1_000_000
"""A page is something one mails."""

_PLOT_WIDTH, _PLOT_HEIGHT, _PLOT_EDGE = 160, 22, 6


def render(template: str, *folders: Path, **values: object) -> str:
    """A whole page. folders: where templates besides evals/templates lie."""
    return _environment(folders).get_template(template).render(values) + "\n"


@cache
def _environment(folders: tuple[Path, ...]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _own("page.css"), _own("page.js")
    environment.globals.update(
        style=Markup(style),  # noqa: S704 - a file of ours
        script=Markup(script),  # noqa: S704 - a file of ours
        policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        plot=plot,
        heat=heat,
        difference_plot=difference_plot,
    )
    return environment


def _own(name: str) -> str:
    """A file of ours that stands in the page as it is."""
    return (TEMPLATES / name).read_text("utf8").strip()


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def plot(mean: float, low: float | None, high: float | None) -> Markup:
    """A mean between 0 and 1 as a dot with its interval."""
    told = f"{mean:.2f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")
    return _dot_and_whisker(mean, low, high, 0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), told)


def difference_plot(difference: float, low: float | None, high: float | None, reach: float) -> Markup:
    """A difference around zero; reach: the largest bound of the table, so that its rows share one scale."""
    told = f"{difference:+.2f}" + ("" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]")
    return _dot_and_whisker(difference, low, high, -reach, reach, (0.0,), told)


def _dot_and_whisker(
    at: float, low: float | None, high: float | None, least: float, most: float, ticks: tuple[float, ...], told: str
) -> Markup:
    def x(value: float) -> str:
        share = (min(max(value, least), most) - least) / (most - least)
        return f"{_PLOT_EDGE + share * (_PLOT_WIDTH - 2 * _PLOT_EDGE):.1f}"

    middle = _PLOT_HEIGHT // 2
    lines = [
        Markup('<line class="tick" x1="{0}" x2="{0}" y1="2" y2="{1}"/>').format(x(one), _PLOT_HEIGHT - 2)
        for one in ticks
    ]
    if low is not None and high is not None:
        lines.append(
            Markup('<line class="whisker" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(x(low), x(high), y=middle)
        )
    lines.append(Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(x(at), middle))
    return Markup(
        '<svg class="plot" role="img" aria-label="{}" viewBox="0 0 {} {}" width="{}" height="{}">{}</svg>'
    ).format(told, _PLOT_WIDTH, _PLOT_HEIGHT, _PLOT_WIDTH, _PLOT_HEIGHT, Markup("").join(lines))


def heat(value: float) -> str:
    """The class of a cell's colour, h0 to h10; one hue from light to dark, so that no colour has to be told apart."""
    return f"h{round(min(max(value, 0.0), 1.0) * 10)}"


def cut(text: str, limit: int) -> dict[str, Any]:
    """A long text for a page: its beginning without control characters, and how many characters were left out."""
    return {"text": printable(text[:limit]), "left_out": max(0, len(text) - limit)}
