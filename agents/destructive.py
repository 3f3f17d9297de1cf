"""What cannot be undone: advice that a person has to approve, whatever the labels are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from agents.lexicon import around, mention, places, whole_sentence
from agents.schema import Recommendation

_WITHIN_WORDS = 5
"""How far from its verb the thing that is destroyed may stand: "delete all of the old partitions"."""
_LOOKS_BACK_CHARACTERS = 60
_NOT_DONE = re.compile(
    r"(?:\b(?:(?:do|does|must|should|may|can|could|would|will|need) not|cannot|never|avoid(?:ing)?|without|instead of"
    r"|rather than)|\b\w{2,6}n't)[^\S\n]+(?:(?!only|merely|simply)(?:\w+ly|ever|yet|hard|first)[^\S\n]+)?$"
)
"""A negation counts only right before its verb: "Without delay, delete", "Do not wait: drop" and "data not used" are
none."""
_NOUN_BEFORE = re.compile(r"\b(?:soft|capture|captures|propagate|replicate|oom)[^\S\n]+$")
_ARTICLE_BEFORE = re.compile(r"\b(?:a|an|the)[^\S\n]+$")
_DONE_TO = re.compile(r"\w+[^\S\n]+(?:of|from)\b")
_NEXT_STEP = re.compile(r"\b(?:and|then)\b")
_DELETE_EVENT = re.compile(r"deletes? events?\b")
_ORDERED = re.compile(r"(?:^|[.!?;:,(\n]|\b(?:and|or|then|to|also|please|should|must|can|could|will|may|now))\s*$")
_IT = re.compile(r"\w+ (?:it|them|these|those|this)\b")


def destructive(recommendation: Recommendation) -> str | None:
    """The words that advise what cannot be undone; None when there are none.

    Deleting, dropping, truncating, emptying, expiring, purging, stopping or killing counts when it is done to data or
    machines; so do overwriting data, resetting offsets, rebuilding from scratch, a forced failover, and a shorter
    retention, which deletes too. Removing duplicates does not count, nor does overwriting in a sentence that says the
    load may be rerun, nor what is negated right before its verb. A condition ("if the disk fills") does not help: a
    person decides then. An approval too many is cheaper than one too few.
    """
    text = recommendation.text
    return next(chain(_by_itself(text), _done(text), _overwritten(text), _suffered(text)), None)


def _by_itself(text: str) -> Iterator[str]:
    return (place.group() for place in _meant(text, "destroys"))


def _done(text: str) -> Iterator[str]:
    """A verb with what it destroys after it."""
    for verb in _meant(text, "destroying_verb"):
        before, words = _before(verb), _clause(verb)
        if _is_noun(before, words):
            continue
        if _IT.match(words) and not words.startswith("remov"):
            if not mention(whole_sentence(verb), "kept_all_the_same"):
                yield words
        elif places(words, "destroyed_thing") and not mention(_NEXT_STEP.split(words)[0], "kept_all_the_same"):
            yield words


def _is_noun(before: str, words: str) -> bool:
    """Whether the word is a thing and no order: "a soft delete", "the drop", but "a purge of old data" is an order."""
    if _ARTICLE_BEFORE.search(before):
        return not _DONE_TO.match(words)
    return bool(_NOUN_BEFORE.search(before) or (_DELETE_EVENT.match(words) and not _ORDERED.search(before)))


def _overwritten(text: str) -> Iterator[str]:
    for verb in _meant(text, "overwriting_verb"):
        words = _clause(verb)
        if (_IT.match(words) or places(words, "destroyed_thing")) and not mention(whole_sentence(verb), "repeatable"):
            yield words


def _suffered(text: str) -> Iterator[str]:
    """What is destroyed, and then the verb: "old partitions can be dropped"."""
    for verb in _meant(text, "destroyed_passively"):
        words = " ".join(around(verb)[0].split()[-_WITHIN_WORDS:])
        if places(words, "destroyed_thing") and not mention(words, "kept_all_the_same"):
            yield f"{words} {verb.group()}"


def _meant(text: str, concept: str) -> Iterator[re.Match[str]]:
    """Every place that expresses a concept, but for a negation right before it."""
    return (place for place in places(text, concept) if not _NOT_DONE.search(_before(place)))


def _before(place: re.Match[str]) -> str:
    return place.string[max(0, place.start() - _LOOKS_BACK_CHARACTERS) : place.start()]


def _clause(verb: re.Match[str]) -> str:
    """The verb and the few words after it, to the next stop."""
    clause = re.split(r"[.!?;\n]", verb.string[verb.start() :], maxsplit=1)[0]
    return " ".join(clause.split()[: _WITHIN_WORDS + 1])
