"""The data quality analyst's rules: the oracle's answer, the real cause, and no harm where facts show it."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
from hypothesis import given

from agents.facts.spec import PipelineSpec
from agents.labels.label import UNKNOWN
from agents.labels.policy import Policy
from agents.specialists.quality import QUALITY
from agents.specialists.quality.causes import causes
from agents.specialists.quality.oracle_rows import ROWS
from agents.specialists.rules import Permitted, permitted, rules_decision
from tests.agents.made_specs import POLICIES, POLICY, SPECS, STANDARD
from tests.agents.specialists.drawn import (
    cases,
    check_a_key_names_only_what_there_is,
    check_the_rules_agree_with_the_key,
    label_of,
)

EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row-{row.number}")
GOOD = {"completeness": 100, "consistency": 100}


def data(**metrics: Any) -> PipelineSpec:
    return PipelineSpec.model_validate({"id": "p", "source": {"type": "x"}, "quality_metrics": metrics})


def decided(policy: Policy = STANDARD, **metrics: Any) -> tuple[str, tuple[str, ...]]:
    """What the rules decide: handling and actions."""
    spec = data(**metrics)
    decision = rules_decision(QUALITY, spec, label_of(QUALITY, spec, policy))
    return decision.choice.id, decision.ids


def may(**metrics: Any) -> Permitted:
    spec = data(**metrics)
    return permitted(QUALITY, spec, label_of(QUALITY, spec))


# --- the oracle ------------------------------------------------------------------------------------------


@EACH_ROW
def test_the_rules_agree_with_the_oracle(row: Any) -> None:
    check_the_rules_agree_with_the_key(QUALITY, row)


@EACH_ROW
def test_each_key_names_actions_and_choices_that_there_are(row: Any) -> None:
    check_a_key_names_only_what_there_is(QUALITY, row)


@EACH_ROW
def test_what_is_permitted_is_a_part_of_the_catalogue_and_no_single_action(row: Any) -> None:
    counts = [len(case.may.actions) for case in cases(QUALITY, row)]
    assert min(counts) > 1
    assert fmean(counts) < 0.75 * len(QUALITY.catalogue)


@EACH_ROW
def test_where_a_metric_is_missing_the_rules_measure_it_whatever_else_is_known(row: Any) -> None:
    for case in cases(QUALITY, row):
        for name in ("completeness_percent", "consistency_percent"):
            metrics = case.spec.quality_metrics.model_copy(update={name: None})
            spec = case.spec.model_copy(update={"quality_metrics": metrics})
            label = label_of(QUALITY, spec)
            decision = rules_decision(QUALITY, spec, label)
            assert label.value == UNKNOWN
            assert "measure_missing" in decision.ids
            assert decision.choice.id == ("block" if label.at_least == "HIGH" else "measure_first")


@pytest.mark.parametrize(
    ("metrics", "handling", "actions"),
    [
        ({"completeness": 99, "consistency": 99}, "publish", "monitor"),
        ({"completeness": 99, "consistency": 99, "issues": 3}, "publish", "open_ticket monitor"),
        ({"completeness": 87, "consistency": 92}, "quarantine", "trace_cause quarantine_rows monitor"),
        ({"completeness": 79, "consistency": 92}, "quarantine", "backfill trace_cause quarantine_rows"),
        ({"completeness": 40, "consistency": 100}, "block", "stop_downstream backfill trace_cause"),
        ({**GOOD, "uniqueness": 98}, "block", "stop_downstream dedupe_on_key merge_on_key"),
        ({**GOOD, "freshness": "3 h", "freshness_sla": "2 h"}, "publish", "restart_load mark_stale trace_cause"),
        ({**GOOD, "freshness": "9 h", "freshness_sla": "2 h"}, "block", "restart_load mark_stale trace_cause"),
        ({"completeness": 99}, "measure_first", "measure_missing"),
        ({"completeness": 40}, "block", "stop_downstream measure_missing backfill"),
        ({"completeness": 40, "uniqueness": 90}, "block", "stop_downstream measure_missing dedupe_on_key"),
        ({}, "measure_first", "measure_missing"),
    ],
)
def test_what_the_rules_decide(metrics: dict[str, Any], handling: str, actions: str) -> None:
    assert decided(**metrics) == (handling, tuple(actions.split()))


def test_without_a_label_the_data_is_measured_first() -> None:
    decision = rules_decision(QUALITY, data(**GOOD), None)
    assert (decision.choice.id, decision.ids) == ("measure_first", ("measure_missing",))


# --- the cause -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize(
    ("completeness", "consistency", "about"),
    [
        (100, 35, "consistency_percent"),
        (35, 100, "completeness_percent"),
        (60, 61, "completeness_percent consistency_percent"),
    ],
)
def test_a_mean_is_about_what_is_bad_and_not_about_what_stands_first(
    policy: str, completeness: float, consistency: float, about: str
) -> None:
    label = label_of(QUALITY, data(completeness=completeness, consistency=consistency), POLICIES[policy])
    assert causes(label) == set(about.split())


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_complete_data_that_disagrees_is_not_backfilled(policy: str) -> None:
    handling, actions = decided(POLICIES[policy], completeness=100, consistency=35)
    assert handling == "block"
    assert actions == ("stop_downstream", "trace_cause", "quarantine_rows")
    assert "backfill" not in may(completeness=100, consistency=35).actions


@pytest.mark.parametrize("metrics", [{"completeness": 100, "consistency": 90}, {}, {"completeness": 96}])
def test_mild_and_unknown_severities_are_about_nothing(metrics: dict[str, Any]) -> None:
    assert causes(label_of(QUALITY, data(**metrics))) == set()


# --- what is ruled out -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "handlings"),
    [
        ({"completeness": 40, "consistency": 100}, "quarantine block"),
        ({"completeness": 40}, "quarantine block"),
        ({"completeness": 79, "consistency": 92}, "publish quarantine block"),
        ({"completeness": 97, "consistency": 99}, "publish quarantine"),
        ({**GOOD, "issues": 0}, "publish"),
        ({"completeness": 99}, "publish quarantine block measure_first"),
        ({**GOOD, "freshness": "3 h", "freshness_sla": "2 h"}, "publish block"),
        ({**GOOD, "freshness": "9 h", "freshness_sla": "2 h"}, "block"),
        (
            {"completeness": 90, "consistency": 100, "freshness": "3 h", "freshness_sla": "2 h"},
            "publish quarantine block",
        ),
    ],
)
def test_the_handling_that_facts_and_severity_permit(metrics: dict[str, Any], handlings: str) -> None:
    assert may(**metrics).choices == tuple(handlings.split())


@pytest.mark.parametrize(
    ("metrics", "refused"),
    [
        (GOOD, "stop_downstream delete_failing lower_thresholds backfill impute_missing"),
        ({"completeness": 40, "consistency": 100}, "monitor impute_missing delete_failing lower_thresholds"),
        ({**GOOD, "uniqueness": 99}, "impute_missing delete_failing rerun_checks lower_thresholds"),
        ({**GOOD, "uniqueness": 100}, "dedupe_on_key merge_on_key"),
        ({**GOOD, "freshness": "3 h", "freshness_sla": "2 h"}, "quarantine_rows lower_thresholds rerun_checks"),
        ({**GOOD, "freshness": "1 h", "freshness_sla": "2 h"}, "restart_load mark_stale"),
        ({**GOOD, "issues": 0}, "quarantine_rows trace_cause open_ticket"),
        ({"completeness": 82, "consistency": 84, "column_criticality": "critical"}, "impute_missing delete_failing"),
        ({"completeness": 97}, "delete_failing lower_thresholds"),
    ],
)
def test_what_does_harm_or_nothing_is_not_permitted(metrics: dict[str, Any], refused: str) -> None:
    assert set(refused.split()).isdisjoint(may(**metrics).actions)


@pytest.mark.parametrize(("name", "offered"), [("validity", False), ("freshness", False), ("completeness", True)])
def test_a_metric_may_be_measured_where_the_severity_needs_it(name: str, offered: bool) -> None:
    every = {**GOOD, "validity": 100, "uniqueness": 100, "freshness": "1 h", "freshness_sla": "2 h"}
    assert "measure_missing" not in may(**every).actions
    found = may(**{key: value for key, value in every.items() if key != name}).actions
    assert ("measure_missing" in found) is offered


@given(spec=SPECS, policy=POLICY)
def test_the_rules_always_have_a_reason_and_never_a_loss_that_cannot_be_undone(
    spec: PipelineSpec, policy: Policy
) -> None:
    label = label_of(QUALITY, spec, policy)
    may_be = permitted(QUALITY, spec, label)
    decision = rules_decision(QUALITY, spec, label)
    assert may_be.right
    assert set(decision.ids) <= set(may_be.right)
    assert all(QUALITY.actions_by_id[one].can_be_undone for one in decision.ids)
    if label.worst_known == "HIGH":
        assert "publish" not in may_be.choices
    if label.value == "LOW":
        assert "block" not in may_be.choices


def test_the_analyst_is_told_the_metrics_and_the_owners_words() -> None:
    spec = PipelineSpec.model_validate(
        {
            "id": "p",
            "source": {"type": "x", "volume": "1GB/day", "description": "The form was changed."},
            "quality_metrics": {"completeness": 40.0, "freshness": "2 h"},
        }
    )
    assert QUALITY.told(spec) == {
        "completeness_percent": 40,
        "freshness": "2 h",
        "description": "The form was changed.",
    }
