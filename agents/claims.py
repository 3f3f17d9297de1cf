"""Levels of severity and priority as a text claims them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agents.labels.label import Label


@dataclass(frozen=True)
class Claim:
    """A level other than the rules gave, as a text claims it."""

    words: str
    level: str
    negated: bool
    """Whether "not" stands before it: "this is not a HIGH priority"."""
    ranks_work: bool
    """Whether it ranks pieces of work and not the pipeline: "move low-priority jobs"."""


_LEVELS = {"severity": "LOW|MEDIUM|HIGH|CRITICAL", "priority": "LOW|NORMAL|MEDIUM|HIGH|CRITICAL"}
_SAID = {
    kind: re.compile(
        rf"\b{kind}\b(?:\s+(?:is|of|level|as|to|at))*[\s:=]+({levels})\b|\b({levels})[\s-]+{kind}\b", re.IGNORECASE
    )
    for kind, levels in _LEVELS.items()
}
_WORK = re.compile(
    r"[\s-]+(?:(?!(?:for|and|so|of|in|with|to|is|as|that|on|but|or|because|since|while|all|the)\b)\w+[\s-]+)?"
    r"(?:jobs?|quer(?:y|ies)|tasks?|work|workloads?|traffic|consumers?|requests?|batch(?:es)?|process(?:es)?"
    r"|services?|pods?|queues?|reports?|users?|tenants?)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:not|no|never|neither|nor)\b(?:\W+\w+){0,3}\W*$", re.IGNORECASE)


def claims(label: Label, text: str) -> Iterator[Claim]:
    """Phrases such as "severity is HIGH" or "HIGH priority" that name another level than the label's."""
    if label.kind not in text.lower():
        return
    for match in _SAID[label.kind].finditer(text):
        if (level := _level(match)) != label.value:
            negated = _DENIED.search(text[: match.start()]) is not None
            yield Claim(match.group(), level, negated, ranks_work=_ranks_work(match))


def levels_not_given(text: str, label: Label | None) -> Iterator[str]:
    """Every severity or priority that a text names but the one that the rules gave this stage."""
    for kind, pattern in _SAID.items():
        given = label.value if label and label.kind == kind else None
        yield from (match.group() for match in pattern.finditer(text) if _level(match) != given)


def _ranks_work(match: re.Match[str]) -> bool:
    level_stands_first = match.group(2) is not None
    return level_stands_first and _WORK.match(match.string, match.end()) is not None


def _level(match: re.Match[str]) -> str:
    return (match.group(1) or match.group(2)).upper()
