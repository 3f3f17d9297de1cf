"""An answer ready for scoring, and what every answer to the same question shares."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache, cached_property

from pydantic import ValidationError

from agents.answers import AnswerForm, read_answer
from agents.asking.variant import Fact, facts_for
from agents.facts.spec import InfrastructureMetrics, QualityMetrics
from agents.fallback import causes
from agents.figures import FREE_FIGURES, figures, following_figures, told_figures
from agents.labels.label import Label
from agents.lexicon import flatten, phrases
from agents.schema import IngestionMode, Recommendation, Stage
from agents.specialists.ingestion.source_rules import kind_of
from common.console import shorten
from evals.case import Case

_NO_WORD = {sign: " " for sign in range(128) if not (chr(sign).isalnum() or chr(sign) == "_")}
_WORD = re.compile(r"\w+")


def words_of(flat: str) -> list[str]:
    """The words of a flattened text, in their order: `9.5 %` is 9 and 5. Plain ASCII has a way four times as fast."""
    return flat.translate(_NO_WORD).split() if flat.isascii() else _WORD.findall(flat)


@cache
def begins(concept: str) -> frozenset[str]:
    """How each phrase of a concept begins, up to the first part that may vary. Raises KeyError."""
    return frozenset(_begin(phrase) for phrase in phrases()[concept])


def _begin(phrase: str) -> str:
    return " ".join(words_of(flatten(phrase).partition("*")[0]))


@cache
def _figures_of(concept: str) -> tuple[float, ...]:
    """The figures in a concept's phrases."""
    return tuple(figure for phrase in phrases()[concept] for figure in figures(phrase))


@cache
def _concepts() -> dict[str, tuple[str, ...]]:
    """How phrases begin, each with the concepts that it may be for."""
    found: dict[str, tuple[str, ...]] = {}
    for concept in phrases():
        for begin in begins(concept):
            found[begin] = (*found.get(begin, ()), concept)
    return found


@cache
def _first_words() -> tuple[tuple[str, bool, str], ...]:
    """Of each beginning: its first word, whether more letters may follow that word, and the beginning."""
    written = {phrase for said in phrases().values() for phrase in said}
    begun = {
        (begin, begin + "*" == flatten(phrase)[: len(begin) + 1]) for phrase in written for begin in [_begin(phrase)]
    }
    return tuple(sorted((begin.split()[0], varies and " " not in begin, begin) for begin, varies in begun))


_KEPT_WORDS = 30_000


class _Beginnings(dict[str, tuple[str, ...]]):
    """Word of a text to the beginnings that it may be the first word of, worked out when it is first met.

    Most words begin none, and looking each word up is far quicker than looking for each phrase in the text.
    """

    def __missing__(self, word: str) -> tuple[str, ...]:
        if len(self) >= _KEPT_WORDS:  # a model that babbles must not fill the memory
            self.clear()
        fits = (
            begin for first, varies, begin in _first_words() if word == first or (varies and word.startswith(first))
        )
        found = self[word] = tuple(dict.fromkeys(fits))
        return found


_BEGINNINGS = _Beginnings()


def _union(found: dict[str, tuple[str, ...]], keys: set[str]) -> set[str]:
    """Everything that is found for the keys."""
    return set().union(*map(found.__getitem__, keys))


@dataclass(frozen=True)
class Question:
    """A case with the label that a policy gives it: worked out once, however many answers it gets."""

    case: Case
    label: Label | None

    @cached_property
    def facts(self) -> dict[str, Fact]:
        """What the agent was told."""
        return facts_for(self.case.stage, self.case.spec)

    @cached_property
    def given_figures(self) -> frozenset[float]:
        """The figures of the facts and what follows from them directly; without 1 and 2, which any text may count."""
        return frozenset(told_figures(self.facts, self.label)).difference(FREE_FIGURES)

    @cached_property
    def allowed_figures(self) -> set[float]:
        """Every figure that an answer may name: given, following from what was given (agents/figures.py), or part of
        the words for a required concept ("every 5 minutes")."""
        written = (figure for concept in self.case.required for figure in _figures_of(concept))
        following = following_figures(self.case.stage, self.case.spec, self.label)
        return {*FREE_FIGURES, *self.given_figures, *following, *written}

    @cached_property
    def named_by(self) -> tuple[str, ...]:
        """The concepts of the lexicon that name the source, or the metrics that are known; every metric of the stage
        where one is missing, since that is then what the advice is about."""
        if self.case.stage is Stage.INGESTION:
            kind = kind_of(self.case.spec.source)
            return (f"about_{kind}",) if kind else ()
        every = QualityMetrics if self.case.stage is Stage.QUALITY else InfrastructureMetrics
        unknown = self.label is not None and self.label.value == "UNKNOWN"
        names = every.model_fields if unknown else self.facts
        return tuple(concept for name in names if (concept := f"about_{name}") in phrases())

    @cached_property
    def decisive(self) -> frozenset[str]:
        """Of these, the metrics that the label is about: none where all is well, all where it is UNKNOWN."""
        if self.label is None or self.label.value == "UNKNOWN":
            return frozenset(self.named_by)
        if self.label.value in ("LOW", "NORMAL"):
            return frozenset()
        return frozenset(f"about_{name}" for name in causes(self.label))

    @cached_property
    def told_values(self) -> tuple[str, ...]:
        """The facts that are amounts with a unit, as they were told: `15 min`, `10 gb/day`."""
        return tuple(flatten(value) for value in self.facts.values() if isinstance(value, str) and value[:1].isdigit())

    @cached_property
    def type_words(self) -> frozenset[str]:
        """The words of the source's type, as its owner writes it; for ingestion only."""
        told = self.case.spec.source.type if self.case.stage is Stage.INGESTION else ""
        return frozenset(word for word in words_of(flatten(told)) if len(word) > 2)

    @cached_property
    def fact_words(self) -> frozenset[str]:
        """Every word of the facts and of the label with its reasons."""
        told = [*self.facts, *map(str, self.facts.values())]
        if self.label:
            told += [self.label.kind, self.label.value, *(rule.reason for rule in self.label.rules)]
        return frozenset(words_of(flatten(" ".join(told)).replace("_", " ")))


@dataclass(frozen=True)
class Answered:
    """One case with one answer to it."""

    case: Case
    label: Label | None
    """The label the policy gave, which the answer must not contradict."""
    raw: str
    """The model's words as they came."""
    form: AnswerForm = AnswerForm.STANDARD
    """The schema that was asked for."""
    finish_reason: str | None = None
    """Why the model stopped, as the endpoint tells it; `length`: its tokens were used up."""
    given: Recommendation | None = None
    """What the rules gave in the model's place; then this is what is scored."""

    # Worked out at once and once, since every scorer reads them.
    read: Recommendation | ValidationError = field(init=False, repr=False, compare=False)
    """The recommendation, or why the answer does not fit the stage's schema."""
    sentences: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Summary and actions; of an answer that does not fit the schema, the raw words without JSON's own keys."""
    text: str = field(init=False, repr=False, compare=False)
    """The sentences to read, one a line."""
    flat: str = field(init=False, repr=False, compare=False)
    """The text as concepts are looked for in it."""
    words: list[str] = field(init=False, repr=False, compare=False)
    """The words of the text in small letters, in their order."""
    distinct: set[str] = field(init=False, repr=False, compare=False)
    """The words, each once."""
    begun: set[str] = field(init=False, repr=False, compare=False)
    """How phrases of the lexicon begin, of those that may be in the text: all that are, and a few that are not."""
    maybe: set[str] = field(init=False, repr=False, compare=False)
    """The concepts of the lexicon that the text may hold; the others it does not."""

    def __post_init__(self) -> None:
        read = self.given or _read(self.raw, self.form, self.case.stage)
        sentences = _sentences(read) if isinstance(read, Recommendation) else (_KEY.sub("\n", self.raw),)
        text = "\n".join(sentences)
        flat = flatten(text)
        words = words_of(flat)
        distinct, spaced = set(words), " ".join(words)
        begun = {begin for begin in _union(_BEGINNINGS, distinct) if begin in spaced}
        maybe = _union(_concepts(), begun)
        # A frozen instance is filled through its dictionary.
        self.__dict__.update(
            read=read,
            sentences=sentences,
            text=text,
            flat=flat,
            words=words,
            distinct=distinct,
            begun=begun,
            maybe=maybe,
        )

    @property
    def question(self) -> Question:
        """What all answers to this case under this label share. Kept for the case and label objects themselves, so
        work through the answers of a case with the same two objects."""
        return _question(self.case, self.label)

    @property
    def recommendation(self) -> Recommendation | None:
        """The recommendation; None when the answer does not fit the schema."""
        return None if isinstance(self.read, ValidationError) else self.read

    @property
    def mode(self) -> IngestionMode | None:
        """The mode that is recommended; also read from JSON that is broken elsewhere."""
        if read := self.recommendation:
            return read.mode
        found = _MODE.search(self.raw)
        return IngestionMode(found[1]) if found else None

    @property
    def silence(self) -> str | None:
        """Why this is no answer at all: it is empty, holds placeholders only, or refuses. None when it is one."""
        if not any(map(str.isalpha, self.text)):
            return "the answer is empty"
        if len(self.words) < 20 and _PLACEHOLDERS.issuperset(self.words):
            return "the answer holds placeholders only"
        may_refuse = not _IN_REFUSALS.isdisjoint(self.distinct)
        if may_refuse and (refusal := _REFUSAL.search(self.flat)):
            return f"the answer refuses: {shorten(refusal.group(), 60)}"
        return None


def _sentences(advice: Recommendation) -> tuple[str, ...]:
    return (advice.summary, *advice.actions)


def _read(raw: str, form: AnswerForm, stage: Stage) -> Recommendation | ValidationError:
    try:
        return read_answer(raw, form, stage)
    except ValidationError as error:
        return error


_KEY = re.compile(r'"(?:summary|actions|mode|reasoning)"\s*:')
_MODE = re.compile(rf'"mode"\s*:\s*"({"|".join(IngestionMode)})"')
_PLACEHOLDER_WORDS = """
n a na nan nil none null undefined todo tbd fixme ok yes no true false string text placeholder lorem ipsum dolor sit
amet summary action actions first second mode unknown answer here your 1 2 batch micro_batch streaming cdc push_receiver
"""
_PLACEHOLDERS = frozenset(_PLACEHOLDER_WORDS.split())
_REFUSAL = re.compile(
    r"\bi(?: am|'m)? (?:cannot|can't|can not|could not|couldn't|will not|won't|unable to|not able to)"
    r" (?:\w+ )?(?:help|assist|answer|provide|comply|give|do|fulfil|fulfill|advise|recommend|respond|say|complete)\b"
    r"|\bas an ai\b|\b(?:ai|language) model\b|\bi(?: am|'m) sorry\b|\bsorry,? (?:but )?i\b|^\W*i refuse\b"
    r"|\b(?:unable|not able) to (?:help|assist|comply|answer)\b"
)
_IN_REFUSALS = frozenset({"i", "sorry", "unable", "able", "ai", "model", "refuse"})
"""One of these is in whatever _REFUSAL finds; looking words up is cheaper."""

_KEPT_QUESTIONS = 256
_QUESTIONS: dict[tuple[int, int], Question] = {}


def _question(case: Case, label: Label | None) -> Question:
    # By identity, since a case is costly to hash. A kept question holds both objects, so no other can get their ids.
    key = (id(case), id(label))
    found = _QUESTIONS.get(key)
    if found is None:
        if len(_QUESTIONS) >= _KEPT_QUESTIONS:
            _QUESTIONS.clear()
        found = _QUESTIONS[key] = Question(case, label)
    return found
