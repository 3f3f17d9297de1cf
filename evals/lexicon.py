"""Which concepts a text mentions: a small synonym lexicon, with negation handled.

Covered: inflections by trailing `*`, hyphens, a negating word shortly before the phrase in the same sentence.
Not covered: irony, double negation, paraphrase outside the lexicon; a missed synonym counts against every variant
alike, so it lowers levels more than it changes comparisons.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, RootModel

from agents.files import load_yaml_model

LEXICON_PATH = Path(__file__).parent / "lexicon.yaml"

_NEGATION = re.compile(
    r"\b(?:not|no|never|avoid|avoiding|without|don't|doesn't|shouldn't|cannot|instead of|rather than|unnecessary)\b"
    r"(?:\W+\w+){0,4}\W*$"
)
# A broken answer is read as it came: there, a closing quote of JSON ends a sentence too.
_SENTENCE_END = re.compile(r'[.!?;\n]|"\s*[,:\]}]')


class Lexicon(RootModel[dict[str, Annotated[list[str], Field(min_length=1)]]]):
    """Concept to the phrases that express it."""


@cache
def phrases() -> dict[str, list[str]]:
    """The lexicon as written."""
    return load_yaml_model(LEXICON_PATH, Lexicon).root


@cache
def lexicon() -> dict[str, tuple[re.Pattern[str], ...]]:
    """The compiled lexicon."""
    return {concept: tuple(_pattern(phrase) for phrase in written) for concept, written in phrases().items()}


def mention(text: str, concept: str) -> str | None:
    """The first words in `text` that express `concept` without negating it; None when there are none.

    Raises KeyError for a concept the lexicon does not hold.
    """
    flat = _flatten(text)
    found = [match for pattern in lexicon()[concept] for match in pattern.finditer(flat)]
    for match in sorted(found, key=lambda one: one.start()):
        if not _negated(flat, match.start()):
            return match.group()
    return None


def _negated(text: str, at: int) -> bool:
    sentence = _SENTENCE_END.split(text[:at])[-1]
    return bool(_NEGATION.search(sentence))


def _pattern(phrase: str) -> re.Pattern[str]:
    words = [re.escape(word).replace(r"\*", r"\w*") for word in _flatten(phrase).split()]
    return re.compile(r"(?<!\w)" + r"\s+".join(words) + r"(?!\w)")


def _flatten(text: str) -> str:
    return text.lower().replace("-", " ").replace("\u2019", "'")
