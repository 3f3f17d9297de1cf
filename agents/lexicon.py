"""Which concepts a text mentions: a small synonym lexicon, with negation handled.

Covered: inflections by trailing `*`, hyphens, a negating word shortly before the phrase in the same sentence.
Not covered: irony, double negation, paraphrase outside the lexicon; a missed synonym counts against every variant
alike, so it lowers levels more than it changes comparisons.

Scorers read with `mention`. Guardrails read with `advised`, which asks for more before it says that something is
recommended: also "Kafka is overkill here", "cheaper than Kafka" and "scale out if the CPU rises" do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, RootModel

from common.located import load_yaml_model

LEXICON_PATH = Path(__file__).parent / "lexicon.yaml"

_NEGATION = re.compile(
    r"\b(?:not|no|never|avoid|avoiding|without|don't|doesn't|shouldn't|cannot|instead of|rather than|unnecessary)\b"
    r"(?:\W+\w+){0,4}\W*$"
)
# A broken answer is read as it came: there, a closing quote of JSON ends a sentence too.
_ENDS = ".!?;\n"
_SENTENCE_END = re.compile(rf'[{_ENDS}]|"\s*[,:\]}}]')

# Words before a phrase that set it aside.
_SET_ASIDE_BEFORE = re.compile(
    r"\b(?:nothing|nor|neither|non|hardly|stop|before|than|small for|away from|rules? out"
    r"|(?:switch|move|migrat\w*) from|isn't|aren't|won't|wouldn't|can't|needn't|mustn't)\b(?:\W+\w+){0,3}\W*$"
    r"|\b(?:replac\w*|drop|remove|retire|skip)\b(?:\W+(?!with\b|by\b|and\b)\w+){0,2}\W*$"
    r"|\b(?:prefer|choose|favou?r)\w*\b.*\bover\b(?:\W+\w+){0,2}\W*$"
)
# Words after it, in its own clause, that say it does not do.
_SET_ASIDE_AFTER = re.compile(
    r"^(?:\W+\w+){0,5}?\W+(?:not|no|never|cannot|can't|isn't|aren't|doesn't|don't|won't|wouldn't|unnecessary|overkill"
    r"|wasteful|pointless|useless|wrong|(?:sits?|stays?|stands?|are|be|them) idle"
    r"|miss(?:es)?|los(?:e|es)|fails?|breaks?|wastes?|risk(?:s|y)?|hides?"
    r"|costs? (?:more|too)|too (?:slow|costly|expensive|much|late|heavy))\b"
)
_CLAUSE_END = re.compile(
    r"[,:()]|\b(?:because|since|so|which|that|with|while|but|to avoid|to prevent|and (?:do|don't|never|avoid))\b"
)
_CONDITION = re.compile(r"\b(?:if|unless|when|whenever|in case|should the)\b")


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
    return next((place.group() for place in places(text, concept) if not _negated(place)), None)


def advised(text: str, concept: str) -> str | None:
    """The first words in `text` that recommend `concept` outright: neither negated nor set aside nor on a condition.

    Raises KeyError for a concept the lexicon does not hold.
    """
    return next((match.group() for match in advising(text, concept, conditional=True)), None)


def advising(text: str, concept: str, *, conditional: bool) -> Iterator[re.Match[str]]:
    """Every place in the flattened text that recommends `concept`.

    conditional: whether a phrase in a sentence with a condition ("if", "when") is left out.
    """
    for place in places(text, concept):
        before, after = around(place)
        if conditional and _CONDITION.search(before + " " + after):
            continue
        if not (_NEGATION.search(before) or _set_aside(before, after)):
            yield place


def places(text: str, concept: str) -> list[re.Match[str]]:
    """Every place in the flattened text that expresses `concept`, negated or not, in the text's order.

    Raises KeyError for a concept the lexicon does not hold.
    """
    return sorted(occurrences(text, concept), key=lambda one: one.start())


def occurrences(text: str, concept: str) -> Iterator[re.Match[str]]:
    """The same places one by one, in the lexicon's order: for whoever needs only one of them.

    Raises KeyError for a concept the lexicon does not hold.
    """
    flat = flatten(text)
    for word, pattern in _by_word(concept):
        if word in flat:
            yield from pattern.finditer(flat)


def whole_sentence(place: re.Match[str]) -> str:
    """The sentence that a place stands in."""
    before, after = around(place)
    return before + place.group() + after


def around(place: re.Match[str]) -> tuple[str, str]:
    """What stands before and after a place in its own sentence."""
    return _before(place), _after(place)


# Where there is no quote, looking for each sign says what the pattern says, and is far quicker.
def _before(place: re.Match[str]) -> str:
    text = place.string[: place.start()]
    return _SENTENCE_END.split(text)[-1] if '"' in text else text[1 + max(map(text.rfind, _ENDS)) :]


def _after(place: re.Match[str]) -> str:
    text = place.string[place.end() :]
    if '"' in text:
        return _SENTENCE_END.split(text, 1)[0]
    return text[: min((at for at in map(text.find, _ENDS) if at >= 0), default=len(text))]


def _set_aside(before: str, after: str) -> bool:
    clause = _CLAUSE_END.split(after)[0]
    return bool(_SET_ASIDE_BEFORE.search(before) or _SET_ASIDE_AFTER.search(clause))


def _negated(place: re.Match[str]) -> bool:
    return bool(_NEGATION.search(_before(place)))


@cache
def _by_word(concept: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Each phrase with its longest word: most texts hold none of them, and looking for a word is cheap."""
    words = (max(flatten(phrase).replace("*", "").split(), key=len) for phrase in phrases()[concept])
    return tuple(zip(words, lexicon()[concept], strict=True))


def _pattern(phrase: str) -> re.Pattern[str]:
    """The phrase as whole words. That no word reaches in from the left is asked after the first letters: a pattern
    that begins with letters is searched for several times as fast as one that begins with a condition."""
    first, *more = flatten(phrase).split()
    head = re.escape(first.partition("*")[0])
    tail = r"\w*" if "*" in first else ""
    rest = [re.escape(word).replace(r"\*", r"\w*") for word in more]
    return re.compile(r"\s+".join([rf"{head}(?<!\w{head}){tail}", *rest]) + r"(?!\w)")


@lru_cache(maxsize=64)
def flatten(text: str) -> str:
    """The text as phrases are looked for in it: small letters, hyphens as spaces."""
    return text.lower().replace("-", " ").replace("\u2019", "'")
