"""Are the scorers right? Right decisions score, traps score nothing, and chance scores little."""

from __future__ import annotations

import random
from functools import cache
from statistics import fmean

import pytest

from agents.labels.policy import load_policy
from agents.specialists.decision import Decision, Picked
from agents.specialists.registry import specialist_of, stages
from agents.specialists.rules import permitted
from evals.case import Case, curated_cases
from evals.generate import ROUND, generate
from evals.labels import case_labels
from evals.reference import reference_decision, wrong_decision
from evals.sample import Sample
from evals.scorers import JUDGES_THE_POLICY, score_all
from evals.scoring import answered

STANDARD = load_policy("standard")
every_stage = pytest.mark.parametrize("stage", stages())


@cache
def cases(stage: str) -> list[Case]:
    return [case for case in (*curated_cases(), *generate(ROUND, 7)) if case.stage == stage]


def scores(case: Case, decision: Decision) -> dict[str, float]:
    sample = Sample(index=0, variant="v", case_id=case.id, repeat=0, request="", decision=decision)
    found = score_all(answered(case, sample, case_labels(case, STANDARD)))
    return {name: score.value for name, score in found.items() if name not in JUDGES_THE_POLICY}


def headline(case: Case, choice: str, actions: list[str]) -> float:
    picked = tuple(Picked(id=action) for action in actions)
    return scores(case, Decision(by="model", choice=Picked(id=choice), actions=picked))["headline"]


@every_stage
def test_the_right_decision_is_right_for_every_scorer(stage: str) -> None:
    for case in cases(stage):
        found = scores(case, reference_decision(case))
        assert {name: value for name, value in found.items() if name != "permitted"} == dict.fromkeys(
            ("decided", "choice", "actions", "harmless", "headline"), 1.0
        ), case.id


@every_stage
def test_the_trap_of_each_case_scores_nothing(stage: str) -> None:
    for case in cases(stage):
        found = scores(case, wrong_decision(case))
        assert (found["actions"], found["harmless"], found["headline"]) == (0.0, 0.0, 0.0), case.id


@pytest.mark.slow
@every_stage
def test_the_right_decision_of_another_family_is_mostly_not_right_here(stage: str) -> None:
    found = [
        scores(case, reference_decision(other))["headline"]
        for case in cases(stage)
        for other in cases(stage)
        if other.family != case.family
    ]
    assert fmean(found) < 0.4


@every_stage
def test_picks_by_chance_score_little_even_among_what_is_permitted(stage: str) -> None:
    rng, found, free = random.Random(1), list[float](), list[float]()
    specialist = specialist_of(stage)
    for case in cases(stage):
        may = permitted(specialist, case.spec, case_labels(case, STANDARD)[stage])
        for _ in range(20):
            actions = rng.sample(may.actions, min(2, len(may.actions)))
            found.append(headline(case, rng.choice(may.choices), actions))
            actions = rng.sample([*specialist.actions_by_id], 2)
            free.append(headline(case, rng.choice(specialist.choice.values), actions))
    assert fmean(free) < 0.2
    assert fmean(found) < 0.5


# --- by hand ---------------------------------------------------------------------------------------------

CURATED = {case.id: case for case in curated_cases()}


@pytest.mark.parametrize(
    ("case_id", "choice", "actions"),
    [
        ("cpu-queue-01", "act_now", ["scale_out", "tune_queries"]),
        ("machines-idle-01", "plan", ["shrink_slowly"]),
        ("cpu-busy-calm-01", "watch", ["watch_trend"]),
        ("quality-good-01", "publish", ["monitor"]),
        ("quality-hole-01", "block", ["stop_downstream", "backfill"]),
        ("quality-late-01", "block", ["restart_load", "mark_stale"]),
        ("quality-unmeasured-01", "measure_first", ["measure_missing"]),
        ("memory-killed-01", "act_now", ["add_memory", "find_leak"]),
        ("disk-hours-01", "act_now", ["expand_storage"]),
        ("kafka-lag-01", "plan", ["add_partitions"]),
        ("errors-spike-01", "act_now", ["roll_back", "page_owner"]),
    ],
)
def test_what_an_engineer_would_decide_gets_full_marks(case_id: str, choice: str, actions: list[str]) -> None:
    assert headline(CURATED[case_id], choice, actions) == 1.0


@pytest.mark.parametrize(
    ("case_id", "choice", "actions"),
    [
        ("quality-keys-01", "publish", ["dedupe_on_key", "merge_on_key"]),
        ("quality-keys-01", "block", ["dedupe_on_key", "merge_on_key", "delete_failing"]),
        ("quality-hole-01", "block", ["stop_downstream", "impute_missing"]),
        ("quality-good-01", "block", ["monitor"]),
        ("errors-spike-01", "act_now", ["mute_alert", "roll_back", "page_owner"]),
        ("errors-spike-01", "watch", ["roll_back", "page_owner"]),
        ("machines-idle-01", "plan", ["shrink_slowly", "scale_out"]),
        ("kafka-lag-01", "plan", ["add_consumers", "add_partitions"]),
        ("memory-killed-01", "act_now", ["restart_all", "add_memory", "find_leak"]),
    ],
)
def test_what_does_harm_earns_nothing_beside_whatever_is_right(case_id: str, choice: str, actions: list[str]) -> None:
    assert headline(CURATED[case_id], choice, actions) == 0.0
