"""Reference answers: right by construction, in every generated and curated case; wrong ones fall into the trap."""

from __future__ import annotations

from functools import cache

import pytest

from agents.answers import AnswerForm, answer_model
from agents.asking.requests import labels_for
from agents.claims import claims
from agents.figures import figures
from agents.guardrails import violations
from agents.labels.label import Label
from agents.labels.policy import load_policy
from agents.lexicon import mention
from agents.schema import Recommendation, Stage
from evals.case import Case, curated_cases
from evals.generate import ROUND, generate
from evals.reference import reference_answer, wrong_answer

STANDARD = load_policy("standard")


@cache
def cases() -> list[Case]:
    return [*curated_cases(), *generate(3 * ROUND, 4)[::2]]


def label_of(case: Case) -> Label | None:
    return labels_for(case.spec, STANDARD)[case.stage]


def fits_the_form(case: Case, answer: Recommendation) -> bool:
    return bool(answer_model(AnswerForm.STANDARD, case.stage).model_validate(answer.model_dump(exclude_none=True)))


def test_a_reference_answer_fits_the_form_and_breaks_no_guardrail() -> None:
    for case in cases():
        answer = reference_answer(case)
        assert fits_the_form(case, answer), case.id
        assert violations(case.stage, case.spec, label_of(case), answer) == (), case.id


def test_a_reference_answer_makes_every_required_point_and_no_forbidden_one() -> None:
    for case in cases():
        answer = reference_answer(case)
        assert [concept for concept in case.required if not mention(answer.text, concept)] == [], case.id
        assert [concept for concept in case.forbidden if mention(answer.text, concept)] == [], case.id
        assert answer.mode in case.acceptable_modes or case.stage is not Stage.INGESTION, case.id


def test_a_reference_answer_names_a_fact_with_its_figure_and_contradicts_no_label() -> None:
    for case in cases():
        answer, label = reference_answer(case), label_of(case)
        told = answer.summary.partition(":")[0]
        assert [*figures(told)] or "kind" in told, case.id
        assert not label or [*claims(label, answer.text)] == [], case.id


def test_a_wrong_answer_is_as_well_formed_and_falls_into_the_trap() -> None:
    for case in cases():
        answer = wrong_answer(case)
        assert fits_the_form(case, answer), case.id
        assert [concept for concept in case.required if mention(answer.text, concept)] == [], case.id
        assert answer.mode not in case.acceptable_modes, case.id
        if case.forbidden or case.unacceptable_modes:
            trap = any(mention(answer.text, concept) for concept in case.forbidden)
            assert trap or answer.mode in case.unacceptable_modes, case.id


def test_the_answer_to_one_side_of_a_near_miss_is_not_right_for_the_other() -> None:
    by_id = {case.id: case for case in curated_cases()}
    for case in by_id.values():
        if case.pair is None:
            continue
        answer, other = reference_answer(case), by_id[case.pair]
        same_label = set(case.acceptable_labels) == set(other.acceptable_labels)
        right_mode = answer.mode in other.acceptable_modes or case.stage is not Stage.INGESTION
        all_points = all(mention(answer.text, concept) for concept in other.required)
        none_wrong = not any(mention(answer.text, concept) for concept in other.forbidden)
        assert not (same_label and right_mode and all_points and none_wrong), case.id


def test_a_case_of_ones_own_has_no_answer_that_we_know() -> None:
    own = curated_cases()[0].model_copy(update={"row": None})
    for known in (reference_answer, wrong_answer):
        with pytest.raises(ValueError, match="names no row of the oracle table"):
            known(own)
