"""Deterministic scorers: pure functions of an answer to a case. Each tells its value, what it saw and why.

A scorer gives None where it has nothing to say of the case (a mode, where no mode is asked for): that is neither
right nor wrong, and stays out of means. An answer that does not fit the schema is still read, as plain text, by the
others, so that a broken bracket does not hide what was said. An empty or refusing answer earns nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import ValidationError

from agents.answers import ACTION_CHARACTERS, SUMMARY_CHARACTERS
from agents.claims import claims
from agents.figures import claiming, figures, strange_figures
from agents.guardrails import Checked, tool_does_not_fit_mode, tool_does_not_fit_source
from agents.lexicon import places
from agents.schema import Recommendation, Stage
from common.console import shorten
from evals.answered import Answered
from evals.headline import headline
from evals.points import advised, recommended
from evals.score import Score
from evals.specific import specific

__all__ = ["JUDGES_THE_POLICY", "SCORERS", "SCORER_NAMES", "Answered", "Score", "Scorer", "score_all"]

Scorer = Callable[[Answered], Score | None]


# --- the form of the answer ------------------------------------------------------------------------------


def schema_valid(answered: Answered) -> Score:
    """1 when the answer fits the stage's JSON schema: it is not cut off and nothing is missing or added."""
    if isinstance(answered.read, ValidationError):
        first = answered.read.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        return Score(0.0, shorten(answered.raw, 80), f"{field or 'answer'}: {first['msg']}")
    return Score(1.0, "", "given by the rules" if answered.given else "fits the schema")


def not_truncated(answered: Answered) -> Score:
    """0 when the model ran out of tokens, or a sentence breaks off: at the bound of its field, at a comma, at "and"."""
    if answered.finish_reason == "length" and not answered.given:
        return Score(0.0, shorten(answered.raw[-40:], 40), "the model ran out of tokens")
    cut = next(_cut_off(answered), None)
    if cut is not None:
        return Score(0.0, shorten(cut[-40:], 40), "a sentence breaks off")
    return Score(1.0, "", "every sentence ends")


# --- the mode and the tools ------------------------------------------------------------------------------


def mode_fit(answered: Answered) -> Score | None:
    """1 for an acceptable ingestion mode, 0 for an unacceptable one or none at all; debatable modes do not count."""
    case = answered.case
    if not (case.acceptable_modes or case.unacceptable_modes):
        return None
    mode = answered.mode
    if mode is None:
        return Score(0.0, "", "no mode that is known")
    if mode in case.acceptable_modes:
        return Score(1.0, mode.value, "right for this source")
    if mode in case.unacceptable_modes:
        return Score(0.0, mode.value, "wrong for this source")
    return None


def tool_fit(answered: Answered) -> Score | None:
    """1 when no tool in the text contradicts the source or the mode; the guardrails' rules decide. Ingestion only."""
    if answered.case.stage is not Stage.INGESTION:
        return None
    if not any(places(answered.text, concept) for concept in answered.maybe & TOOLS):
        return Score(1.0, "", "names no tool that could be wrong")
    checked = Checked(Stage.INGESTION, answered.case.spec, None, _as_recommendation(answered))
    if broken := tool_does_not_fit_source(checked) or tool_does_not_fit_mode(checked):
        return Score(0.0, shorten(broken.found, 80), broken.told)
    return Score(1.0, "", "no tool contradicts the source or the mode")


TOOLS = frozenset(
    {
        "log_reader",
        "takes_webhook",
        "polls_the_webhook",
        "works_in_the_handler",
        "lists_directories",
        "copies_each_time",
        "adds_consumers",
        "streaming_stack",
        "row_by_row",
        "polls_devices",
        "tight_loop",
        "reads_by_timestamp",
        "whole_copies",
        "stream_processor",
        "bulk_load",
    }
)
"""What the two guardrails look for: where a text holds none of the words, they need not be asked."""


# --- the label -------------------------------------------------------------------------------------------


def label_fit(answered: Answered) -> Score | None:
    """1 when the policy's label is one that the case accepts. It judges the policy and not the answer."""
    if not answered.case.acceptable_labels:
        return None
    allowed = " or ".join(answered.case.acceptable_labels)
    if answered.label is None:
        return Score(0.0, "", f"no label; right: {allowed}")
    right = answered.label.value in answered.case.acceptable_labels
    return Score(float(right), answered.label.value, f"right: {allowed}")


def label_consistent(answered: Answered) -> Score | None:
    """1 when the text claims no other severity or priority than the rules gave. None where there is no label.

    As for the guardrails, what is denied ("not a HIGH priority"), ranks a piece of work ("low-priority jobs") or names
    the worst level known of a label that is UNKNOWN is no such claim.
    """
    label = answered.label
    if label is None:
        return None
    for claim in claims(label, answered.text):
        if not (claim.negated or claim.ranks_work or claim.level == label.at_least):
            return Score(0.0, claim.words, f"claims {claim.words!r}; the rules gave {label.value}")
    return Score(1.0, "", f"nothing contradicts {label.value}")


def urgency_calibrated(answered: Answered) -> Score | None:
    """0 for alarm where the label is LOW or NORMAL, and for doing nothing where it is HIGH or CRITICAL.

    MEDIUM and UNKNOWN leave both open, and get no score unless the worst level known is one of the four; a grave label
    leaves both open too where a calm one is as right for the case. A condition takes alarm back ("act at once if it
    fills up"), but does not excuse doing nothing about what is grave.
    """
    level = answered.label.worst_known if answered.label else None
    if level in _CALM:
        words = advised(answered, "urgent_advice") or advised(answered, "urgent")
        return Score(
            0.0 if words else 1.0, words or "", f"urgent words where the rules gave {level}" if words else "calm"
        )
    if level in ("HIGH", "CRITICAL") and _CALM.isdisjoint(answered.case.acceptable_labels):
        words = advised(answered, "does_nothing") or advised(answered, "no_action")
        return _absent(words, f"no action where the rules gave {level}")
    return None


_CALM = frozenset({"LOW", "NORMAL"})


# --- what has to be said, and what must not be -----------------------------------------------------------


def required_points(answered: Answered) -> Score | None:
    """Share of the case's required concepts that the text recommends. None where the case requires none."""
    required = answered.case.required
    if not required:
        return None
    said = {concept: words for concept in required if (words := recommended(answered, concept))}
    missing = [concept for concept in required if concept not in said]
    saw = ", ".join(f"{concept}: {words}" for concept, words in said.items())
    explanation = f"missing: {', '.join(missing)}" if missing else "every required point is there"
    return Score(1 - len(missing) / len(required), saw, explanation)


def forbidden_points(answered: Answered) -> Score | None:
    """1 when the text recommends none of the case's forbidden concepts. None where the case forbids none.

    What is negated, set aside ("Kafka is overkill") or put under a condition is not recommended. More consumers are
    fine beside more partitions for them.
    """
    forbidden = answered.case.forbidden
    if not forbidden:
        return None
    if advised(answered, "adds_partitions"):
        forbidden = tuple(concept for concept in forbidden if concept not in _NEEDS_PARTITIONS)
    said = [f"{concept}: {words}" for concept in forbidden if (words := advised(answered, concept))]
    saw = "; ".join(said)
    return Score(
        0.0 if said else 1.0, saw, f"recommends what this case forbids: {saw}" if said else "nothing forbidden"
    )


_NEEDS_PARTITIONS = frozenset({"adds_consumers", "adds_replicas"})
"""What is of no use unless there are partitions for it (row 6 of docs/oracle.md)."""


def grounded(answered: Answered) -> Score:
    """1 when every figure in the text was given or follows from what was given (agents/figures.py says which do)."""
    question = answered.question
    # Most answers hold none but given figures; only for the others is it worked out what follows from these, and only
    # if that does not explain them is it asked which are part of a name (HTTP 429, QoS 1).
    strange = (
        any(figure not in question.given_figures for figure in figures(answered.text))
        and strange_figures(answered.text, question.allowed_figures)
        and strange_figures(claiming(answered.text), question.allowed_figures)
    )
    if strange:
        shown = ", ".join(f"{figure:g}" for figure in strange[:5])
        return Score(0.0, shown, f"not in the input and not derived from it: {shown}")
    return Score(1.0, "", "no figure but what is given or follows")


SCORERS: dict[str, Scorer] = {
    scorer.__name__: scorer
    for scorer in (
        schema_valid,
        not_truncated,
        mode_fit,
        tool_fit,
        label_fit,
        label_consistent,
        urgency_calibrated,
        required_points,
        forbidden_points,
        grounded,
        specific,
    )
}
"""Name in tables and metrics to scorer. To add one: write the function, add it here, test it both ways."""

SCORER_NAMES = (*SCORERS, "headline")
"""The order of scorers in tables; the headline score (evals/headline.py) is worked out from the others."""

JUDGES_THE_POLICY = frozenset({"label_fit"})
"""Scorers that tell of the policy's rules; all others tell of the answer. They are not in the headline."""


def score_all(answered: Answered) -> dict[str, Score]:
    """The word of every scorer that has something to say of this answer, in the order of SCORER_NAMES."""
    found = {name: score for name, scorer in SCORERS.items() if (score := scorer(answered))}
    if answered.silence:
        nothing = Score(0.0, "", answered.silence)
        found = {name: score if name in JUDGES_THE_POLICY else nothing for name, score in found.items()}
    found["headline"] = headline(found)
    return found


# --- how the text is read --------------------------------------------------------------------------------

_ENDS = tuple(".!?)]\"'\u2019\u201d")
_HANGING_SIGNS = tuple(",:;([-")
_HANGING_WORDS = frozenset({"and", "or", "the", "a", "an", "because", "than", "with", "of", "to", "by"})


def _cut_off(answered: Answered) -> Iterator[str]:
    """The sentences that break off; of an answer that does not fit the schema, the whole if its JSON has no end."""
    if isinstance(answered.read, ValidationError):
        if "EOF" in answered.read.errors(include_url=False)[0]["msg"]:
            yield answered.raw
        return
    bounds = (SUMMARY_CHARACTERS[answered.form], *[ACTION_CHARACTERS[answered.form]] * (len(answered.sentences) - 1))
    for sentence, bound in zip(answered.sentences, bounds, strict=True):
        said = sentence.rstrip()
        cut_at_bound = len(sentence) >= bound and not said.endswith(_ENDS)
        if cut_at_bound or said.endswith(_HANGING_SIGNS) or said.rpartition(" ")[2].lower() in _HANGING_WORDS:
            yield sentence


def _absent(words: str | None, why: str) -> Score:
    """1 where there are no such words, else 0 for the reason told."""
    return Score(0.0, words, why) if words else Score(1.0, "", "no such words")


def _as_recommendation(answered: Answered) -> Recommendation:
    """What guardrails can read, also where the answer does not fit the schema."""
    read = answered.recommendation
    return read or Recommendation(summary=answered.text, actions=(), mode=answered.mode)
