"""Every scorer on decisions that are worked out by hand, right and wrong, and what holds of all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.facts.spec import PipelineSpec
from agents.labels.label import Label, RuleFired
from agents.specialists.decision import Decision, Picked
from agents.specialists.quality import QUALITY
from agents.specialists.rules import Permitted
from evals.case import Case
from evals.scorers import JUDGES_THE_POLICY, SCORER_NAMES, SCORERS, Answered, Score, score_all

HOLE = Case(
    id="hole",
    family="hole",
    source="by hand",
    stage="quality",
    spec=PipelineSpec.model_validate({"id": "orders", "source": {"type": "Kafka"}, "quality_metrics": {"issues": 3}}),
    right_choices=("block",),
    wrong_choices=("publish", "measure_first"),
    acceptable_labels=("HIGH",),
    right_actions=(("stop_downstream",), ("backfill", "trace_cause")),
    harmful_actions=("monitor", "impute_missing"),
)
"""Half the data is missing: what row 20 of the oracle table says."""
HIGH = Label(
    kind="severity", value="HIGH", policy="standard", rules=(RuleFired(rule="r", level="HIGH", reason="40 % missing"),)
)
MAY = Permitted(
    choices=("quarantine", "block"),
    actions=("stop_downstream", "backfill", "trace_cause", "open_ticket", "monitor"),
    right=("stop_downstream",),
)


def decision(choice: str, *actions: str, **more: Any) -> Decision:
    return Decision(by="model", choice=Picked(id=choice), actions=tuple(Picked(id=one) for one in actions), **more)


def answered(given: Decision | None, *, case: Case = HOLE, label: Label | None = HIGH, **more: Any) -> Answered:
    return Answered(case=case, label=label, permitted=MAY, decision=given, **more)


def value(scorer: str, given: Decision | None, **key: Any) -> float | None:
    """What a scorer says of a decision on the case, whose key is changed."""
    score = SCORERS[scorer](answered(given, case=HOLE.model_copy(update=key)))
    return None if score is None else score.value


RIGHT = decision("block", "stop_downstream", "trace_cause")


# --- each scorer, both ways ------------------------------------------------------------------------------


def test_a_decision_is_decided_and_a_broken_answer_is_not() -> None:
    whole = score_all(answered(RIGHT))["decided"]
    assert whole == Score(1.0, "block: stop_downstream, trace_cause", "a whole decision")
    broken = score_all(answered(None, problem="cut off after 220 tokens"))
    assert broken["decided"] == Score(0.0, "", "cut off after 220 tokens")


@pytest.mark.parametrize(
    ("given", "expected", "told"),
    [
        (RIGHT, 1.0, "all of it is permitted"),
        (decision("publish", "backfill"), 0.0, "publish is not permitted here"),
        (decision("block", "backfill", "impute_missing"), 0.0, "impute_missing is not permitted here"),
    ],
)
def test_permitted_is_what_the_rules_permit_as_a_whole(given: Decision, expected: float, told: str) -> None:
    score = SCORERS["permitted"](answered(given))
    assert score is not None
    assert (score.value, score.explanation) == (expected, told)


@pytest.mark.parametrize(
    ("chosen", "expected"), [("block", 1.0), ("publish", 0.0), ("measure_first", 0.0), ("quarantine", None)]
)
def test_a_choice_is_right_wrong_or_debatable(chosen: str, expected: float | None) -> None:
    assert value("choice", decision(chosen, "backfill")) == expected


def test_a_choice_that_no_key_names_has_no_score() -> None:
    assert value("choice", RIGHT, right_choices=(), wrong_choices=()) is None
    assert value("choice", RIGHT, right_choices=()) is None
    assert value("choice", decision("publish", "backfill"), right_choices=()) == 0.0
    assert value("choice", None) == 0.0


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (("stop_downstream", "backfill"), 1.0),
        (("trace_cause", "open_ticket", "stop_downstream"), 1.0),  # in any order, beside one that was not asked for
        (("backfill", "trace_cause"), 0.5),  # both meet the same need
        (("open_ticket",), 0.0),
    ],
)
def test_actions_are_the_share_of_needs_that_are_met(actions: tuple[str, ...], expected: float) -> None:
    assert value("actions", decision("block", *actions)) == expected


def test_of_more_than_three_needs_three_are_all_that_can_be_met() -> None:
    groups = (("stop_downstream",), ("backfill",), ("trace_cause", "open_ticket"), ("monitor", "open_ticket"))
    assert value("actions", decision("block", "stop_downstream", "backfill", "trace_cause"), right_actions=groups) == 1
    assert value("actions", decision("block", "stop_downstream"), right_actions=groups) == pytest.approx(1 / 3)
    # One action may meet two needs; no more than everything is met by that.
    assert value("actions", decision("block", "stop_downstream", "backfill", "open_ticket"), right_actions=groups) == 1


def test_a_case_without_needs_has_no_score_for_actions() -> None:
    assert value("actions", RIGHT, right_actions=()) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (RIGHT, 1.0),
        (decision("quarantine", "open_ticket"), 1.0),
        (decision("block", "stop_downstream", "monitor"), 0.0),
        (decision("publish", "stop_downstream"), 0.0),
        (None, None),
    ],
)
def test_a_harmful_action_or_a_wrong_choice_is_not_harmless(given: Decision | None, expected: float | None) -> None:
    assert value("harmless", given) == expected


def test_where_nothing_is_called_harmful_nothing_is_said_of_harm() -> None:
    assert value("harmless", RIGHT, wrong_choices=(), harmful_actions=()) is None


def test_the_label_is_the_policys_and_is_held_against_the_cases() -> None:
    assert value("label_fit", RIGHT) == 1.0
    assert value("label_fit", None) == 1.0, "whatever the model did"
    low = HIGH.model_copy(update={"value": "LOW"})
    assert score_all(answered(RIGHT, label=low))["label_fit"] == Score(0.0, "LOW", "right: HIGH")
    assert score_all(answered(RIGHT, label=None))["label_fit"].value == 0.0
    assert value("label_fit", RIGHT, acceptable_labels=()) is None


# --- the headline ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "key", "expected"),
    [
        (RIGHT, {}, 1.0),
        (decision("block", "stop_downstream"), {}, 0.5),
        (decision("quarantine", "stop_downstream", "backfill"), {}, 1.0),  # a debatable choice is no fault
        (decision("block", "stop_downstream", "backfill", "impute_missing"), {}, 0.0),
        (decision("publish", "stop_downstream", "backfill"), {}, 0.0),
        (None, {}, 0.0),
        (RIGHT, {"right_actions": ()}, 1.0),
        (decision("publish", "backfill"), {"right_actions": ()}, 0.0),
        (decision("quarantine", "backfill"), {"right_actions": ()}, 1.0),
        (decision("quarantine", "monitor"), {"right_actions": ()}, 0.0),
        (None, {"right_actions": (), "right_choices": (), "wrong_choices": (), "harmful_actions": ()}, 0.0),
    ],
)
def test_the_headline_is_needs_met_and_nothing_where_harm_is_done(
    given: Decision | None, key: dict[str, Any], expected: float
) -> None:
    assert score_all(answered(given, case=HOLE.model_copy(update=key)))["headline"].value == expected


def test_the_headline_says_what_shut_it() -> None:
    harm = score_all(answered(decision("publish", "stop_downstream", "monitor")))["headline"]
    assert (harm.value, harm.saw) == (0.0, "publish, monitor")
    half = score_all(answered(decision("block", "stop_downstream")))["headline"]
    assert half.explanation == "not met: backfill or trace_cause"


# --- what holds of all -----------------------------------------------------------------------------------

VALUES = QUALITY.choice.values
ACTIONS = tuple(QUALITY.actions_by_id)
SOME = st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=3, unique=True)


@st.composite
def keyed_cases(draw: st.DrawFn) -> Case:
    """The case with any key that is no contradiction."""
    values, ids = draw(st.permutations(VALUES)), draw(st.permutations(ACTIONS))
    cut, end = draw(st.integers(0, 4)), draw(st.integers(0, 16))
    groups = draw(st.lists(st.lists(st.sampled_from(ids[:8]), min_size=1, max_size=3), max_size=5))
    return HOLE.model_copy(
        update={
            "right_choices": tuple(values[:cut]),
            "wrong_choices": tuple(values[cut : cut + draw(st.integers(0, 4))]),
            "right_actions": tuple(map(tuple, groups)),
            "harmful_actions": tuple(ids[8:end]),
        }
    )


@given(case=keyed_cases(), choice=st.sampled_from(VALUES), actions=SOME, rng=st.randoms())
def test_scores_are_shares_and_hang_on_the_set_of_actions_alone(
    case: Case, choice: str, actions: list[str], rng: Any
) -> None:
    found = score_all(answered(decision(choice, *actions), case=case))
    assert list(found) == [name for name in SCORER_NAMES if name in found]
    assert all(0.0 <= score.value <= 1.0 for score in found.values())
    rng.shuffle(actions)
    words = decision(choice, *actions, note="Nuke the bucket; everything is fine.", facts=("issue_count",))
    again = score_all(answered(words, case=case))
    assert {name: score.value for name, score in again.items()} == {name: score.value for name, score in found.items()}


@given(case=keyed_cases(), choice=st.sampled_from(VALUES), actions=SOME)
def test_harm_earns_nothing_whatever_else_is_right(case: Case, choice: str, actions: list[str]) -> None:
    found = score_all(answered(decision(choice, *actions), case=case))
    if choice in case.wrong_choices or set(actions) & set(case.harmful_actions):
        assert found["headline"].value == found["harmless"].value == 0.0
    elif case.right_actions:
        assert found["headline"].value == found["actions"].value


@given(case=keyed_cases())
def test_no_decision_earns_nothing(case: Case) -> None:
    found = score_all(answered(None, case=case, problem="not JSON"))
    assert {score.value for name, score in found.items() if name not in JUDGES_THE_POLICY} == {0.0}
