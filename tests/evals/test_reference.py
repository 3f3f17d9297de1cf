"""Reference decisions are right by a case's own key, and wrong ones wrong; neither needs a row of the oracle table."""

from __future__ import annotations

from functools import cache

import pytest

from agents.specialists.decision import MOST_ACTIONS
from evals.case import Case, curated_cases
from evals.generate import ROUND, generate
from evals.reference import reference_decision, wrong_decision


@cache
def cases() -> list[Case]:
    return [*curated_cases(), *generate(3 * ROUND, 4)[::2]]


def test_a_reference_decision_makes_a_right_choice_and_meets_the_first_needs_without_harm() -> None:
    for case in cases():
        decision = reference_decision(case)
        assert decision.choice.id in case.right_choices, case.id
        assert all(set(decision.ids) & set(group) for group in case.right_actions[:MOST_ACTIONS]), case.id
        assert not set(decision.ids) & set(case.harmful_actions), case.id


def test_a_wrong_decision_meets_no_need_and_does_harm() -> None:
    for case in cases():
        decision = wrong_decision(case)
        assert decision.choice.id in (case.wrong_choices or (decision.choice.id,)), case.id
        assert not any(set(decision.ids) & set(group) for group in case.right_actions), case.id
        assert set(decision.ids) <= set(case.harmful_actions), case.id


def bare(**key: object) -> Case:
    cleared = dict.fromkeys(("right_choices", "wrong_choices", "right_actions", "harmful_actions"), ())
    case = next(one for one in cases() if one.stage == "quality")
    return case.model_copy(update={**cleared, "row": None, **key})


def test_what_a_key_leaves_open_is_filled_with_what_it_does_not_call_wrong() -> None:
    case = bare(wrong_choices=("publish",), harmful_actions=("stop_downstream",))
    decision = reference_decision(case)
    assert (decision.choice.id, decision.ids) == ("quarantine", ("measure_missing",))
    useless = wrong_decision(bare(right_actions=(("stop_downstream",),)))
    assert useless.ids == ("measure_missing",)


def test_where_nothing_is_wrong_there_is_no_wrong_decision() -> None:
    with pytest.raises(ValueError, match=r"its key calls nothing wrong$"):
        wrong_decision(bare())
