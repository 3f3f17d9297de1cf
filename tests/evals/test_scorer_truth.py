"""Are the scorers right? The right answer scores, chance scores by chance, and who only tries to score does not."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cache
from statistics import fmean, stdev
from typing import NamedTuple

import pytest

from agents.asking.requests import labels_for
from agents.asking.variant import load_prompt, prompt_names
from agents.labels.label import Label
from agents.labels.policy import load_policy
from agents.schema import IngestionMode, Stage
from evals.case import Case, curated_cases
from evals.generate import ROUND, ROWS, generate
from evals.reference import reference_answer, wrong_answer
from evals.scorers import JUDGES_THE_POLICY, Answered, required_points, score_all
from evals.specific import MOST_ASIDE, aside_phrases
from tests.evals.adversaries import (
    ATTACKS,
    REFUSALS,
    SILENT,
    Attack,
    answer,
    prompt_again,
    refusing,
    some_points,
    written,
)

STANDARD = load_policy("standard")
MARGIN = 0.05
"""How much more than chance an answer that only tries to score may get, on the mean."""

stages = pytest.mark.parametrize("stage", Stage)


class Asked(NamedTuple):
    """A case with its label and the right answer to it."""

    case: Case
    label: Label | None
    right: str


@cache
def asked(stage: Stage, count: int, seed: int) -> list[Asked]:
    return [asked_of(case) for case in generate(count, seed) if case.stage is stage]


@cache
def curated(stage: Stage) -> list[Asked]:
    return [asked_of(case) for case in curated_cases() if case.stage is stage]


def asked_of(case: Case) -> Asked:
    return Asked(case, labels_for(case.spec, STANDARD)[case.stage], written(reference_answer(case)))


def headline(one: Asked, raw: str) -> float:
    return score_all(Answered(one.case, one.label, raw))["headline"].value


@cache
def chance(stage: Stage, count: int, seed: int) -> float:
    """What the right answer to another case gets, over all pairs of cases."""
    ones = asked(stage, count, seed)
    return fmean(headline(one, other.right) for one in ones for other in ones if other is not one)


def mean_of(attack: Attack, ones: Sequence[Asked], tries: int) -> float:
    """The attack's mean headline, with the constant mode that serves it best."""
    ingestion = ones[0].case.stage is Stage.INGESTION
    modes: tuple[IngestionMode | None, ...] = tuple(IngestionMode) if ingestion else (None,)

    def mean(mode: IngestionMode | None) -> float:
        rng = random.Random(1)
        answers = ((one, answer(attack(one.case, one.label, rng), mode)) for one in ones for _ in range(tries))
        return fmean(headline(one, raw) for one, raw in answers)

    return max(map(mean, modes))


# --- right, by chance, wrong -----------------------------------------------------------------------------


@stages
def test_the_right_answer_scores_full_marks(stage: Stage) -> None:
    short_of_it = [one.case.id for one in asked(stage, ROUND, 7) if headline(one, one.right) < 1]
    assert short_of_it == []


@stages
def test_the_right_answer_is_right_for_every_scorer_that_applies(stage: Stage) -> None:
    for one in asked(stage, len(ROWS), 3):
        scores = score_all(Answered(one.case, one.label, one.right, finish_reason="stop"))
        wrong = {name: score for name, score in scores.items() if score.value < 1 and name not in JUDGES_THE_POLICY}
        assert wrong == {}, one.case.id


@stages
def test_the_trap_of_each_row_scores_nothing(stage: Stage) -> None:
    assert fmean(headline(one, written(wrong_answer(one.case))) for one in asked(stage, ROUND, 7)) <= 0.02


@stages
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_oracle_agent_reaches_99_percent_on_hundreds_of_cases(stage: Stage, seed: int) -> None:
    assert fmean(headline(one, one.right) for one in asked(stage, 480, seed)) >= 0.99


@stages
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_agent_reaches_its_chance_level(stage: Stage, seed: int) -> None:
    """It gives the right answer to a random other case; chance is worked out over all pairs.

    Four standard errors: a sound scorer fails this for 1 in 16,000 seeds.
    """
    ones, rng = asked(stage, 240, seed), random.Random(seed)
    draws = ((one, rng.choice([other for other in ones if other is not one])) for one in ones for _ in range(20))
    values = [headline(one, other.right) for one, other in draws]
    assert abs(fmean(values) - chance(stage, 240, seed)) <= 4 * stdev(values) / math.sqrt(len(values))


@stages
def test_chance_is_far_below_the_right_answer(stage: Stage) -> None:
    assert chance(stage, len(ROWS), 7) <= 0.15


# --- who only tries to score -----------------------------------------------------------------------------


@stages
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gets_no_more_than_chance(stage: Stage, name: str) -> None:
    assert mean_of(ATTACKS[name], asked(stage, len(ROWS), 7), tries=1) <= chance(stage, len(ROWS), 7) + MARGIN


@stages
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gets_no_more_than_chance_on_hundreds_of_cases(stage: Stage, name: str, seed: int) -> None:
    assert mean_of(ATTACKS[name], asked(stage, 240, seed), tries=5) <= chance(stage, 240, seed) + MARGIN


@stages
@pytest.mark.slow
@pytest.mark.parametrize("name", prompt_names())
def test_the_prompt_told_again_gets_no_more_than_chance(stage: Stage, name: str) -> None:
    attack = prompt_again(load_prompt(name))
    assert mean_of(attack, asked(stage, 240, 1), tries=1) <= chance(stage, 240, 1) + MARGIN


def worked_answers(stage: Stage) -> list[str]:
    """The answers of all worked examples that come with Plumbline, as a model that copies would write them."""
    prompts = map(load_prompt, prompt_names())
    return [written(example.answer) for prompt in prompts for example in prompt.stages[stage].examples]


@stages
def test_a_worked_example_copied_word_for_word_earns_nothing(stage: Stage) -> None:
    """Else a prompt would bring the right answers along, and who only copies would look as if it understood."""
    assert worked_answers(stage)
    for raw in worked_answers(stage):
        assert [one.case.id for one in (*curated(stage), *asked(stage, ROUND, 7)) if headline(one, raw) > 0] == []


@stages
def test_the_advice_of_a_worked_example_is_never_more_than_half_of_what_a_case_requires(stage: Stage) -> None:
    """Its own figures are what shuts a copy out; with those of the case put in their place it is not right either."""
    for raw in worked_answers(stage):
        for one in (*curated(stage), *asked(stage, ROUND, 7)):
            points = required_points(Answered(one.case, one.label, raw))
            assert points is None or points.value <= 0.5, f"{one.case.id}: {points.saw}"


@stages
@pytest.mark.parametrize("raw", SILENT)
def test_an_answer_that_says_nothing_earns_nothing_anywhere(stage: Stage, raw: str) -> None:
    for one in asked(stage, len(ROWS), 7):
        assert earned(one, raw) == {0.0}, one.case.id


@stages
@pytest.mark.parametrize("words", REFUSALS)
@pytest.mark.parametrize("fits", [True, False], ids=["in the schema", "in plain words"])
def test_a_refusal_earns_nothing_anywhere(stage: Stage, words: str, fits: bool) -> None:
    for one in asked(stage, len(ROWS), 7):
        assert earned(one, refusing(stage, words) if fits else words) == {0.0}, one.case.id


def earned(one: Asked, raw: str) -> set[float]:
    """The different scores of the answer; what judges the policy is not the answer's."""
    scores = score_all(Answered(one.case, one.label, raw))
    return {score.value for name, score in scores.items() if name not in JUDGES_THE_POLICY}


# --- can these tests fail? -------------------------------------------------------------------------------


def test_an_attack_that_knows_the_answer_is_noticed() -> None:
    def insider(case: Case, _label: Label | None, _rng: random.Random) -> tuple[str, str, str]:
        said = reference_answer(case)
        return said.summary, *said.actions  # type: ignore[return-value]

    assert mean_of(insider, asked(Stage.QUALITY, len(ROWS), 7), tries=1) > chance(Stage.QUALITY, len(ROWS), 7) + MARGIN


@stages
@pytest.mark.slow
@pytest.mark.parametrize("points", [2, 4, 6, 8])
def test_points_named_at_random_beside_a_fact_stay_bounded(stage: Stage, points: int) -> None:
    """A known weakness, bounded here: whole sentences that name a fact and a few points by chance are above chance.

    Four of the quality stage's points get 0.51 (750 tries: standard error 0.02), whatever few tries may show.
    """
    assert mean_of(some_points(points), asked(stage, 102, 7), tries=10) < 0.57


@stages
def test_no_right_answer_is_near_being_taken_for_a_list(stage: Stage) -> None:
    """The bound on phrases that a case does not ask for leaves room for advice that goes beyond the row."""
    most = max(len(aside_phrases(Answered(one.case, one.label, one.right))) for one in asked(stage, ROUND, 7))
    assert most < MOST_ASIDE[stage]
