"""Four deterministic scorers: pure functions of a case, the facts its prompt gave, and the answer.

Each score carries what it saw and why. An answer that does not fit the schema is still read, as plain text, by the
other three, so that a broken bracket does not hide what was said; an empty answer earns nothing anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from agents.answers import AnswerForm, read_answer
from agents.claims import claims
from agents.figures import figures, given_figures, strange_figures
from agents.lexicon import mention, phrases
from agents.schema import Label, Recommendation, Strict
from console import shorten
from evals.case import Case


class Score(Strict):
    """What one scorer says of one answer."""

    value: float
    """0 (wrong) to 1 (right)."""
    saw: str
    """The evidence: the words or figures the value rests on."""
    explanation: str


@dataclass(frozen=True)
class Answered:
    """One case with the answer to it, ready for scoring."""

    case: Case
    label: Label | None
    """The label the policy gave, which the answer must not contradict."""
    raw: str
    """The model's words as they came."""
    form: AnswerForm = AnswerForm.STANDARD
    """The schema that was asked for."""

    @property
    def recommendation(self) -> Recommendation | None:
        """The answer as the stage's schema reads it; None when it does not fit."""
        try:
            return read_answer(self.raw, self.form, self.case.stage)
        except ValidationError:
            return None

    @property
    def text(self) -> str:
        """The sentences to read: the recommendation's, or the raw words where it does not fit the schema."""
        return parsed.text if (parsed := self.recommendation) else self.raw


Scorer = Callable[[Answered], Score]


def schema_valid(answered: Answered) -> Score:
    """1 when the answer fits the stage's JSON schema: it is not cut off and nothing is missing or added."""
    try:
        read_answer(answered.raw, answered.form, answered.case.stage)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        return Score(value=0.0, saw=shorten(answered.raw, 80), explanation=f"{field or 'answer'}: {first['msg']}")
    return Score(value=1.0, saw="", explanation="fits the schema")


def facts_consistent(answered: Answered) -> Score:
    """1 when every figure in the text was given or follows from what was given, and no other label is claimed.

    Follows: the rest to 100 of a percentage, used over total storage in percent, total minus used. 1 and 2 are
    free, since there are two actions to count; so are the figures in the words for a required concept (HTTP 429).
    """
    if not _WORD.search(answered.text):
        return _nothing_said()
    strange = strange_figures(answered.text, set(_known_figures(answered)))
    if strange:
        shown = ", ".join(f"{figure:g}" for figure in strange[:5])
        return Score(value=0.0, saw=shown, explanation=f"not in the input and not derived from it: {shown}")
    wrong = _other_label(answered)
    if wrong:
        claimed = answered.label.value if answered.label else "none"
        return Score(value=0.0, saw=wrong, explanation=f"claims {wrong!r}; the rules gave {claimed}")
    return Score(value=1.0, saw="", explanation="no figure or label contradicts the input")


def required_points(answered: Answered) -> Score:
    """Share of the case's required concepts that the text mentions; a right ingestion mode is one of them."""
    if not _WORD.search(answered.text):
        return _nothing_said()
    found = {concept: mention(answered.text, concept) for concept in answered.case.required}
    points: dict[str, str | None] = dict(found)
    if answered.case.acceptable_modes:
        mode = _mode(answered)
        points["mode"] = mode if mode in {str(one) for one in answered.case.acceptable_modes} else None
    missing = [concept for concept, words in points.items() if words is None]
    saw = ", ".join(f"{concept}: {words}" for concept, words in points.items() if words)
    explanation = f"missing: {', '.join(missing)}" if missing else "every required point is there"
    return Score(value=1 - len(missing) / len(points) if points else 1.0, saw=saw, explanation=explanation)


def forbidden_points(answered: Answered) -> Score:
    """1 when the text recommends none of the case's forbidden concepts and no unacceptable mode."""
    if not _WORD.search(answered.text):
        return _nothing_said()
    said = [f"{concept}: {words}" for concept in answered.case.forbidden if (words := mention(answered.text, concept))]
    mode = _mode(answered)
    if mode in {str(one) for one in answered.case.unacceptable_modes}:
        said.append(f"mode: {mode}")
    explanation = f"recommends what this case forbids: {'; '.join(said)}" if said else "nothing forbidden"
    return Score(value=0.0 if said else 1.0, saw="; ".join(said), explanation=explanation)


SCORERS: dict[str, Scorer] = {
    scorer.__name__: scorer for scorer in (schema_valid, facts_consistent, required_points, forbidden_points)
}
"""Name in tables and metrics to scorer. To add one: write the function, add it here, test it both ways."""


def score_all(answered: Answered) -> dict[str, Score]:
    """Every scorer's word on one answer."""
    return {name: scorer(answered) for name, scorer in SCORERS.items()}


_WORD = re.compile(r"\w")


def _nothing_said() -> Score:
    return Score(value=0.0, saw="", explanation="the answer is empty")


def _mode(answered: Answered) -> str | None:
    parsed = answered.recommendation
    return parsed.mode.value if parsed and parsed.mode else None


def _known_figures(answered: Answered) -> Iterator[float]:
    yield from given_figures(answered.case.stage, answered.case.spec, answered.label)
    for concept in answered.case.required:
        for phrase in phrases()[concept]:
            yield from figures(phrase)


def _other_label(answered: Answered) -> str | None:
    """A phrase such as "severity is HIGH" or "HIGH priority" that names another level than the rules gave."""
    if not answered.label:
        return None
    return next((claim.words for claim in claims(answered.label, answered.text)), None)
