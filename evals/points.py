"""Whether a text makes a point: says a concept of the lexicon as something to do.

Like the guardrails' `advised` this reads negation before and after the phrase, but it is easier to please: a condition
is fine ("back off when the API answers 429"), and so is a negation that is over before the phrase begins ("avoid
duplicates by a primary key") or that is itself denied ("never start without a snapshot").
"""

from __future__ import annotations

import re

from agents.lexicon import advised as lexicon_advised
from agents.lexicon import around, occurrences
from evals.answered import Answered

_NEGATED_BEFORE = re.compile(
    r"(?:\b(?:not|no|nor|neither|never|nothing|hardly|cannot|unnecessary|without|avoid|avoiding|skip|skipping|stop|drop"
    r"|ignore|forget|(?:instead|rid|lieu) of|(?:rather|better|more) than)|n't\b)"
    r"(?:[^\w,:()]+(?!(?:but|by|with|via|through|so|then|until|before|as|when|only|just)\b)\w+)?"
    r"(?:[^\w,:()]+(?!(?:but|by|with|via|through|using|use|so|then|until|unless|before|as|when)\b)\w+){0,3}"
    r"[^\w,:()]*$"
)
_DENIED_TWICE = re.compile(
    r"\b(?:do not|don't|never|not) (?:(?:forget|skip|ignore|miss|omit)\b|(?:\w+ ){1,2}without\b)|\bnot only\b"
)
_DISMISSED_AFTER = re.compile(
    r"^\W+(?:(?!(?:that|which|who|where|when|if|and|or|because|since|so|with|but|to|for)\b)\w+\W+){0,3}?"
    r"(?:(?:is|are|was|seems?|would be|will be|be) (?:\w+ )?(?:not|unnecessary|overkill|wasteful|pointless|useless"
    r"|wrong|irrelevant|superfluous|out of the question|too (?:slow|costly|expensive|much|complex|heavy))"
    r"|(?:isn't|aren't|won't|wouldn't|doesn't|don't|can't|cannot|would not|will not|does not|do not) "
    r"(?:be |make |really )?(?:help|work|needed|need|necessary|required|worth|fit|apply|useful|sense|matter|pay)"
    r"|(?:makes?|made) no sense|not (?:needed|necessary|required|worth|useful|recommended))\b"
)


_SIGN_WORDS = """
not no nor neither never nothing hardly cannot unnecessary without avoid avoiding skip skipping stop drop ignore forget
instead rid lieu than t overkill wasteful pointless useless wrong irrelevant superfluous question too sense
"""
_SIGNS = frozenset(_SIGN_WORDS.split())
"""One of these words is in whatever the two patterns find; most answers hold none, and need not be asked further."""


def recommended(answered: Answered, concept: str) -> str | None:
    """Words of the answer that make the point; None when there are none."""
    if concept not in answered.maybe:
        return None
    plain = _SIGNS.isdisjoint(answered.distinct)
    for place in occurrences(answered.text, concept):
        if plain or not _set_aside(place):
            return place.group()
    return None


def advised(answered: Answered, concept: str) -> str | None:
    """The first words that recommend the concept outright, as guardrails read: a condition sets it aside too."""
    return lexicon_advised(answered.text, concept) if concept in answered.maybe else None


def _set_aside(place: re.Match[str]) -> bool:
    before, after = around(place)
    before = _DENIED_TWICE.sub(" ", before)
    return bool(_NEGATED_BEFORE.search(before) or _DISMISSED_AFTER.search(after))
