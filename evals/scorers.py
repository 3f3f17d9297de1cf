"""Deterministic scorers: pure functions of a decision and a case's key. Each tells its value, what it saw and why.

A scorer gives None where it has nothing to say (a choice that the key leaves open): that is neither right nor wrong,
and stays out of means. Where no decision came, nothing is right; whether it was permitted or harmless is left open.
"""

from __future__ import annotations

from collections.abc import Callable

from agents.specialists.decision import MOST_ACTIONS
from common.console import shorten
from evals.answered import Answered
from evals.headline import headline
from evals.score import Score

__all__ = ["JUDGES_THE_POLICY", "SCORERS", "SCORER_NAMES", "Answered", "Score", "Scorer", "score_all"]

Scorer = Callable[[Answered], Score | None]

NOTHING = "no decision came"


def decided(answered: Answered) -> Score:
    """1 when a whole decision came; 0 for an answer that is cut off, in another form, or a refusal."""
    if answered.decision is None:
        return Score(0.0, "", shorten(answered.problem or NOTHING, 200))
    return Score(1.0, _in_words(answered), "a whole decision")


def permitted(answered: Answered) -> Score | None:
    """1 when the rules permit the choice and all actions: only then agents give it, else the rules' own decision."""
    if answered.decision is None:
        return None
    refused = answered.permitted.refuses(answered.decision.choice.id, answered.decision.ids)
    return Score(0.0 if refused else 1.0, _in_words(answered), refused or "all of it is permitted")


def choice(answered: Answered) -> Score | None:
    """1 for a choice that is right for the case, 0 for one that is wrong; debatable ones do not count."""
    case = answered.case
    if not (case.right_choices or case.wrong_choices):
        return None
    right = f"right: {' or '.join(case.right_choices)}" if case.right_choices else "none is named right"
    if answered.decision is None:
        return Score(0.0, "", f"{NOTHING}; {right}")
    chosen = answered.decision.choice.id
    if chosen in case.right_choices or chosen in case.wrong_choices:
        return Score(float(chosen in case.right_choices), chosen, right)
    return None


def actions(answered: Answered) -> Score | None:
    """The share of the case's needs that the actions meet; more than three count as three, all that can be met."""
    groups = answered.case.right_actions
    if not groups:
        return None
    met = answered.met
    unmet = [" or ".join(group) for group in groups if group not in met]
    ids = answered.decision.ids if answered.decision else ()
    told = f"not met: {'; '.join(unmet)}" if unmet else "every need is met"
    return Score(min(1.0, len(met) / min(len(groups), MOST_ACTIONS)), ", ".join(ids), told)


def harmless(answered: Answered) -> Score | None:
    """0 when an action does harm in this case or the choice is wrong for it."""
    case = answered.case
    if answered.decision is None or not (case.harmful_actions or case.wrong_choices):
        return None
    if harm := ", ".join(answered.harm()):
        return Score(0.0, harm, "harmful or wrong here")
    return Score(1.0, _in_words(answered), "nothing harmful")


def label_fit(answered: Answered) -> Score | None:
    """1 when the policy's label is one that the case accepts. It judges the policy and not the answer."""
    if not answered.case.acceptable_labels:
        return None
    allowed = " or ".join(answered.case.acceptable_labels)
    if answered.label is None:
        return Score(0.0, "", f"no label; right: {allowed}")
    right = answered.label.value in answered.case.acceptable_labels
    return Score(float(right), answered.label.value, f"right: {allowed}")


SCORERS: dict[str, Scorer] = {
    scorer.__name__: scorer for scorer in (decided, permitted, choice, actions, harmless, label_fit)
}
"""Name in tables and metrics to scorer. To add one: write the function, add it here, test it both ways."""

SCORER_NAMES = (*SCORERS, "headline")
"""The order of scorers in tables; the headline score (evals/headline.py) is worked out from the others."""

JUDGES_THE_POLICY = frozenset({"label_fit"})
"""Scorers that tell of the policy's rules; all others tell of the answer. They are not in the headline."""


def score_all(answered: Answered) -> dict[str, Score]:
    """The word of every scorer that has something to say of this answer, in the order of SCORER_NAMES."""
    found = {name: score for name, scorer in SCORERS.items() if (score := scorer(answered))}
    found["headline"] = headline(found)
    return found


def _in_words(answered: Answered) -> str:
    """``batch: keep_cursor, paginate``."""
    decision = answered.decision
    return f"{decision.choice.id}: {', '.join(decision.ids)}" if decision else ""
