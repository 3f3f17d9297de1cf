"""Levels of severity and priority as a text claims them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agents.schema import Label


@dataclass(frozen=True)
class Claim:
    """A level other than the rules gave, as a text claims it."""

    words: str
    negated: bool
    """Whether "not" stands before it: "this is not a HIGH priority"."""


_LEVELS = {"severity": "LOW|MEDIUM|HIGH|CRITICAL", "priority": "LOW|NORMAL|MEDIUM|HIGH|CRITICAL"}
_SAID = {
    kind: re.compile(
        rf"\b{kind}\b(?:\s+(?:is|of|level|as|to|at))*[\s:=]+({levels})\b|\b({levels})[\s-]+{kind}\b", re.IGNORECASE
    )
    for kind, levels in _LEVELS.items()
}
_DENIED = re.compile(r"\b(?:not|no|never|neither|nor)\b(?:\W+\w+){0,3}\W*$", re.IGNORECASE)


def claims(label: Label, text: str) -> Iterator[Claim]:
    """Phrases such as "severity is HIGH" or "HIGH priority" that name another level than the label's."""
    for match in _SAID[label.kind].finditer(text):
        if _level(match) != label.value:
            yield Claim(match.group(), negated=_DENIED.search(text[: match.start()]) is not None)


def levels_not_given(text: str, label: Label | None) -> Iterator[str]:
    """Every severity or priority that a text names but the one that the rules gave this stage."""
    for kind, pattern in _SAID.items():
        given = label.value if label and label.kind == kind else None
        yield from (match.group() for match in pattern.finditer(text) if _level(match) != given)


def _level(match: re.Match[str]) -> str:
    return (match.group(1) or match.group(2)).upper()
