"""Whether advice is about this pipeline: neither filler that fits any, nor a list of keywords, nor the facts again."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from agents.figures import figures
from agents.guardrails import CIRCLES
from agents.lexicon import occurrences
from agents.schema import Stage
from common.console import shorten
from evals.answered import Answered, begins
from evals.generate import ROWS
from evals.score import Score

ADVICE: dict[Stage, tuple[str, ...]] = {
    stage: tuple(dict.fromkeys(concept for row in ROWS if row.stage is stage for concept in row.key.required))
    for stage in Stage
}
"""What some row of the oracle table requires: what a list of keywords would be made of."""

MOST_ASIDE = {Stage.INGESTION: 10, Stage.QUALITY: 3, Stage.INFRASTRUCTURE: 3}
"""How many phrases for concepts that the case does not require an answer may hold before it is a list of keywords.

Our figures: above what the reference answers hold (tests/evals/test_scorer_truth.py), below what fits in three
sentences that leave nothing out. One constant answer that relieves every resource at once still earns 0.40 of the
infrastructure cases (0.58 with 4 in place of 3, 0 with 2, which would be at the edge of right answers). Fewer points,
named at random in whole sentences that also tell a fact, pass: three or four of the ten of the quality stage are right
nearly every other time.
"""
LEAST_OWN_WORDS = 4
"""Fewer different words than this beside the facts' own and small words, and an answer only tells the facts again."""
LEAST_SMALL_WORDS = 0.2
"""Share of small words (the, of, to) below which a text of a dozen words or more is no sentence but a list.

Our figure: the reference answers have 0.26 and more, as do sentences of a model of 0.1 billion parameters; lists of the
lexicon's phrases mostly less.
"""
MOST_COMMAS = 6
"""More than this in one sentence, and it is a list. Our figure: the reference answers have at most 3."""


MOST_PLATITUDES = 3
"""More different ones than this (lexicon.yaml lists them), and an answer is filler. Our figure."""


def specific(answered: Answered) -> Score:
    """1 when the advice is about this pipeline: it names the source, what the label is about, or a figure of the facts.

    0 for filler that fits any pipeline, a list of keywords (too many phrases that this case does not ask for, or no
    sentences at all), a model that goes in circles, and an answer that only tells the facts again.
    """
    if (
        fault := _in_circles(answered)
        or _in_keywords(answered)
        or _in_the_facts_words(answered)
        or _in_platitudes(answered)
    ):
        return Score(0.0, *fault)
    if (named := _named(answered)) is None:
        return Score(0.0, "", "names neither the source, nor what the label is about, nor a figure of this pipeline")
    return Score(1.0, named, "names what is particular to this pipeline")


Fault = tuple[str, str]
"""What was seen, and what is wrong with it."""


def _in_circles(answered: Answered) -> Fault | None:
    """A run of three words that stands as often as CIRCLES says, or the same action twice."""
    actions = answered.sentences[1:]
    if len(actions) > 1 and len({action.strip(" .").lower() for action in actions}) < len(actions):
        return shorten(actions[0], 80), "the actions are the same"
    spoken = answered.words
    if len(spoken) - 2 - len(set(zip(spoken, spoken[1:], spoken[2:], strict=False))) < CIRCLES - 1:
        return None
    counted = Counter(zip(spoken, spoken[1:], spoken[2:], strict=False))
    runs = (" ".join(run) for run, times in counted.items() if times >= CIRCLES)
    return next(((run, "goes in circles") for run in runs), None)


def _in_keywords(answered: Answered) -> Fault | None:
    """A list of keywords: a single word for an action, more advice than the case asks for, hardly a small word."""
    if single := next((action for action in answered.sentences[1:] if _is_one_word(action)), None):
        return single, "an action is a single word"
    most = MOST_ASIDE[answered.case.stage]
    said = answered.begun & _vocabulary(answered.case.stage)
    if len(said) > most and len(aside := aside_phrases(answered)) > most:
        return ", ".join(aside), f"a list of keywords: {len(aside)} that this case does not ask for"
    if listed := next((one for one in answered.sentences if one.count(",") + one.count(";") > MOST_COMMAS), None):
        return shorten(listed, 80), "a list of keywords: one sentence holds more than six commas"
    spoken = answered.words
    small = sum(map(_SMALL.__contains__, spoken))
    if len(spoken) >= 12 and small < LEAST_SMALL_WORDS * len(spoken):
        return shorten(answered.text, 80), f"a list of keywords: {small} small words among {len(spoken)}"
    return None


def _is_one_word(action: str) -> bool:
    """A single word, a number before it aside: `1. resume`. Scripts that set no spaces are left alone."""
    return len(action) < 40 and action.isascii() and sum(any(map(str.isalpha, word)) for word in action.split()) < 2


def _in_the_facts_words(answered: Answered) -> Fault | None:
    """The facts or the prompt told again: hardly a word of its own, or pairs as they stand in the prompt."""
    own = own_words(answered)
    if len(own) < LEAST_OWN_WORDS:
        return " ".join(sorted(own)), "tells the facts again and advises nothing"
    quotes = '"' in answered.text or "<" in answered.text
    if quotes and answered.recommendation and (pair := _PAIR.search(answered.text)):
        return pair.group(), "repeats the prompt's facts as they stand there"
    return None


_PAIR = re.compile(r'</?facts>|"\w+"\s*:')


def _in_platitudes(answered: Answered) -> Fault | None:
    """Filler: what is true of every pipeline."""
    found = answered.begun & begins("platitudes")
    if len(found) <= MOST_PLATITUDES:
        return None
    return ", ".join(sorted(found)), "filler that fits any pipeline"


def aside_phrases(answered: Answered) -> list[str]:
    """The phrases for advice that the text holds and that express nothing that the case requires."""
    asked = {one for concept in answered.case.required for one in answered.begun & begins(concept)}
    said = answered.begun & _vocabulary(answered.case.stage)
    return sorted(one for one in said if not any(one in other or other in one for other in asked))


def own_words(answered: Answered) -> set[str]:
    """The words of the text that are neither small words nor the facts' own."""
    return answered.distinct - _SMALL - answered.question.fact_words


def _named(answered: Answered) -> str | None:
    """What the text names that is particular to this pipeline.

    A figure or a fact as it was told; of the source, its type or kind; of metrics, one that the label is about, or
    any two: one metric alone may stand in filler.
    """
    question = answered.question
    if told := next((value for value in question.told_values if value in answered.flat), None):
        return told
    if (figure := next((one for one in figures(answered.text) if one in question.given_figures), None)) is not None:
        return f"{figure:g}"
    found = [(concept, words) for concept in question.named_by if (words := _first(answered, concept))]
    if answered.case.stage is Stage.INGESTION:
        typed = (word for word in answered.words if word in question.type_words)
        return found[0][1] if found else next(typed, None)
    decisive = [words for concept, words in found if concept in question.decisive]
    return decisive[0] if decisive else ", ".join(words for _, words in found[:2]) if len(found) > 1 else None


def _first(answered: Answered, concept: str) -> str | None:
    """Words of the text for a concept, negated or not."""
    if concept not in answered.maybe:
        return None
    return next((place.group() for place in occurrences(answered.text, concept)), None)


@cache
def _vocabulary(stage: Stage) -> frozenset[str]:
    """How the phrases for the stage's advice begin; "deleted" is no second one beside "delete"."""
    every = {begin for concept in ADVICE[stage] for begin in begins(concept)}
    return frozenset(one for one in every if not any(one != other and one.startswith(other) for other in every))


_SMALL_WORDS = """
a i am an as at be by do go he if in is it me my no of on or so to up us we s t
the and are was were for with from that this than then but not its has have had will would can could should must may
also very too more most all any per into onto over under above below between about which what when where who how there
here they them their you your our out off been being does did
after before each every one two next now first while until again once only down
"""
_SMALL = frozenset(_SMALL_WORDS.split())
