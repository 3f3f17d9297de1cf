"""The infrastructure specialist's rules: the oracle's answer, the real cause, and no harm where facts show it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.facts.spec import PipelineSpec
from agents.labels.label import UNKNOWN
from agents.labels.policy import Policy
from agents.specialists.infrastructure import INFRASTRUCTURE
from agents.specialists.infrastructure.causes import causes
from agents.specialists.infrastructure.oracle_rows import ROWS, SPARE_PARTITIONS, STAYS_BUSY
from agents.specialists.infrastructure.predicates import swings
from agents.specialists.oracle import Key
from agents.specialists.rules import Permitted, permitted, rules_decision
from tests.agents.made_specs import POLICIES, POLICY, SPECS, STANDARD
from tests.agents.specialists.drawn import (
    cases,
    check_a_key_names_only_what_there_is,
    check_the_rules_agree_with_the_key,
    label_of,
)

EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row-{row.number}")
CALM = {"query_latency": 90, "latency_slo_ms": 500, "error_rate": 0, "load_per_core": 0.4, "oom_kills": 0}
START = datetime(2026, 1, 1, tzinfo=UTC)


def every_5_min(name: str, values: Sequence[float]) -> list[dict[str, Any]]:
    return [{"at": START + number * timedelta(minutes=5), name: value} for number, value in enumerate(values)]


def lag_of(partitions: int | None, replicas: int | None) -> PipelineSpec:
    """A consumer lag that grows."""
    lag = every_5_min("consumer_lag", (100, 200, 300, 400))
    return machines(partitions, consumer_lag=500, replicas=replicas, history=lag)


def machines(partitions: int | None = None, /, **metrics: Any) -> PipelineSpec:
    """CPU and memory are calm unless told otherwise; None leaves one out."""
    told = {name: value for name, value in {"cpu": 40, "memory": 40, **metrics}.items() if value is not None}
    source = {"type": "x", "partitions": partitions}
    return PipelineSpec.model_validate({"id": "p", "source": source, "infrastructure_metrics": told})


def decided(spec: PipelineSpec, policy: Policy = STANDARD) -> tuple[str, tuple[str, ...]]:
    """What the rules decide: urgency and actions."""
    decision = rules_decision(INFRASTRUCTURE, spec, label_of(INFRASTRUCTURE, spec, policy))
    return decision.choice.id, decision.ids


def may(spec: PipelineSpec) -> Permitted:
    return permitted(INFRASTRUCTURE, spec, label_of(INFRASTRUCTURE, spec))


# --- the oracle ------------------------------------------------------------------------------------------


@EACH_ROW
def test_the_rules_agree_with_the_oracle(row: Any) -> None:
    check_the_rules_agree_with_the_key(INFRASTRUCTURE, row)


@EACH_ROW
def test_each_key_names_actions_and_choices_that_there_are(row: Any) -> None:
    check_a_key_names_only_what_there_is(INFRASTRUCTURE, row)


@pytest.mark.parametrize("side", ["spare partitions", "stays busy"])
def test_the_rules_agree_with_the_near_misses(side: str) -> None:
    sides: dict[str, tuple[Key, PipelineSpec]] = {
        "spare partitions": (SPARE_PARTITIONS, lag_of(64, 8)),
        "stays busy": (STAYS_BUSY, machines(cpu=74, history=every_5_min("cpu", (50, *(74,) * 16)))),
    }
    key, spec = sides[side]
    urgency, actions = decided(spec)
    assert (label_of(INFRASTRUCTURE, spec).value,) == key.labels
    assert urgency not in key.wrong_choices
    assert not set(actions) & set(key.harmful)
    assert all(set(group) & set(actions) for group in key.right)
    assert {action for group in key.right for action in group} <= set(may(spec).actions)


@EACH_ROW
def test_what_is_permitted_is_a_part_of_the_catalogue_and_no_single_action(row: Any) -> None:
    counts = [len(case.may.actions) for case in cases(INFRASTRUCTURE, row)]
    assert min(counts) > 1
    assert fmean(counts) < 0.6 * len(INFRASTRUCTURE.catalogue)


@EACH_ROW
def test_where_a_metric_is_missing_the_rules_measure_it_whatever_else_is_known(row: Any) -> None:
    for case in cases(INFRASTRUCTURE, row):
        for name in ("cpu_percent", "memory_percent"):
            metrics = case.spec.infrastructure_metrics.model_copy(update={name: None})
            spec = case.spec.model_copy(update={"infrastructure_metrics": metrics})
            label = label_of(INFRASTRUCTURE, spec)
            decision = rules_decision(INFRASTRUCTURE, spec, label)
            assert label.value == UNKNOWN
            assert "measure_missing" in decision.ids
            assert decision.choice.id == {"CRITICAL": "act_now"}.get(label.worst_known, decision.choice.id)
            assert decision.choice.id != "watch" or label.worst_known == "HIGH"


DISK = {"storage_total": 1000}
SLOW = {"query_latency": 900, "latency_slo_ms": 500}


@pytest.mark.parametrize(
    ("metrics", "urgency", "actions"),
    [
        ({"cpu": 12, "memory": 18}, "plan", "shrink_slowly watch_trend"),
        ({"cpu": 12, "memory": 18, "replicas": 2, "min_replicas": 2}, "watch", "watch_trend"),
        ({"cpu": 50, "memory": 50}, "watch", "watch_trend"),
        ({"cpu": 78, "memory": 50}, "plan", "scale_out tune_heaviest"),
        ({"cpu": 78, "memory": 82}, "plan", "add_memory find_leak scale_out"),
        ({"memory": 93, "oom_kills": 3}, "act_now", "add_memory find_leak tune_heaviest"),
        ({**DISK, "storage_used": 980}, "act_now", "expand_storage compact_data"),
        ({**DISK, "storage_used": 650, "storage_growth_gb_per_day": 400}, "plan", "expand_storage compact_data"),
        ({**DISK, "storage_used": 850, "storage_growth_gb_per_day": 0}, "watch", "watch_trend"),
        (SLOW, "plan", "tune_queries scale_out"),
        ({**SLOW, "load_per_core": 3}, "plan", "tune_queries scale_out tune_heaviest"),
        ({"error_rate": 20}, "act_now", "roll_back page_owner shed_load"),
        ({"memory": None}, "plan", "measure_missing"),
        ({"cpu": None, "memory": 93, "oom_kills": 3}, "act_now", "add_memory measure_missing find_leak"),
        ({"cpu": None, "error_rate": 20}, "act_now", "roll_back measure_missing page_owner"),
        ({"memory": 71}, "watch", "average_readings watch_trend"),
        ({"cpu": 92, **CALM}, "watch", "watch_trend"),
    ],
)
def test_what_the_rules_decide(metrics: dict[str, Any], urgency: str, actions: str) -> None:
    assert decided(machines(**metrics)) == (urgency, tuple(actions.split()))


def test_without_a_label_the_machines_are_measured() -> None:
    decision = rules_decision(INFRASTRUCTURE, machines(), None)
    assert (decision.choice.id, decision.ids) == ("plan", ("measure_missing",))


# --- the cause -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cpu", "memory", "about"), [(60, 84, "memory_percent"), (84, 60, "cpu_percent")])
def test_a_mean_is_about_the_fuller_and_not_about_what_stands_first(cpu: float, memory: float, about: str) -> None:
    label = label_of(INFRASTRUCTURE, machines(cpu=cpu, memory=memory), POLICIES["seed"])
    assert [rule.rule for rule in label.rules] == ["mean_from_high"]
    assert causes(label) == {about}


def test_what_a_rule_only_compares_with_is_no_cause() -> None:
    label = label_of(INFRASTRUCTURE, machines(memory=93, oom_kills=1, **SLOW))
    assert causes(label) == {"memory_percent", "oom_kills"}
    assert causes(label_of(INFRASTRUCTURE, machines(cpu=92, **CALM))) == {"cpu_percent"}
    assert causes(label_of(INFRASTRUCTURE, machines(memory=71))) == set()


# --- what is ruled out -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "urgencies"),
    [
        ({}, "watch plan"),
        ({"cpu": 78}, "watch plan act_now"),
        ({"error_rate": 20}, "act_now"),
        (SLOW, "plan act_now"),
        ({"cpu": 92, **CALM}, "watch plan"),
        ({"cpu": 92}, "act_now"),
        ({"cpu": None}, "watch plan act_now"),
        ({"cpu": None, "error_rate": 20}, "act_now"),
    ],
)
def test_the_urgency_that_facts_and_priority_permit(metrics: dict[str, Any], urgencies: str) -> None:
    assert may(machines(**metrics)).choices == tuple(urgencies.split())


@pytest.mark.parametrize(
    ("metrics", "refused"),
    [
        ({}, "roll_back page_owner shed_load scale_out grow_cpu restart_all delete_old_data cut_retention"),
        ({"cpu": 92, **CALM}, "scale_out grow_cpu page_owner roll_back mute_alert shrink_slowly"),
        ({"cpu": 78, "load_per_core": 3}, "shrink_slowly halve_replicas add_memory mute_alert"),
        ({"error_rate": 20}, "watch_trend average_readings mute_alert"),
        ({"memory": 93, "oom_kills": 2}, "grow_cpu restart_all watch_trend halve_replicas"),
        ({**DISK, "storage_used": 980}, "scale_out grow_cpu restart_all watch_trend"),
        ({**DISK, "storage_used": 650, "storage_growth_gb_per_day": 400}, "delete_old_data"),
        ({**DISK, "storage_used": 850, "storage_growth_gb_per_day": 0}, "expand_storage delete_old_data cut_retention"),
        ({"cpu": 12, "memory": 18, "replicas": 1}, "shrink_slowly halve_replicas"),
        ({"cpu": None}, "shrink_slowly halve_replicas mute_alert delete_old_data"),
        ({"query_latency": 90, "latency_slo_ms": 500}, "tune_queries"),
    ],
)
def test_what_does_harm_or_nothing_is_not_permitted(metrics: dict[str, Any], refused: str) -> None:
    assert set(refused.split()).isdisjoint(may(machines(**metrics)).actions)


@pytest.mark.parametrize(
    ("partitions", "replicas", "decision", "refused"),
    [
        (12, 12, "speed_up_handler add_partitions", "add_consumers scale_out"),
        (12, 14, "speed_up_handler add_partitions", "add_consumers scale_out"),
        (12, 3, "speed_up_handler add_consumers", "add_partitions"),
        (None, 3, "speed_up_handler", "restart_all"),
        (12, None, "speed_up_handler", "restart_all"),
    ],
)
def test_lag_asks_for_more_consumers_only_where_there_are_partitions_for_them(
    partitions: int | None, replicas: int | None, decision: str, refused: str
) -> None:
    spec = lag_of(partitions, replicas)
    assert decided(spec) == ("plan", tuple(decision.split()))
    assert set(refused.split()).isdisjoint(may(spec).actions)


def test_where_no_lag_is_known_nothing_is_done_about_consumers() -> None:
    assert {"speed_up_handler", "add_partitions", "add_consumers"}.isdisjoint(may(machines(12, replicas=3)).actions)


@pytest.mark.parametrize("errors", [0.7, 9])
def test_errors_alone_ask_for_the_last_change_to_be_undone(errors: float) -> None:
    assert decided(machines(error_rate=errors, availability_slo_percent=99.9))[1][0] == "roll_back"


def test_errors_beside_a_queue_are_met_with_capacity_until_they_are_critical() -> None:
    queue = {"cpu": 78, "load_per_core": 2.6, **SLOW, "availability_slo_percent": 99.9}
    assert decided(machines(error_rate=0.7, **queue))[1] == ("tune_queries", "scale_out", "tune_heaviest")
    assert decided(machines(error_rate=9, **queue))[1] == ("roll_back", "page_owner", "shed_load")
    assert {"roll_back", "shed_load"} <= set(may(machines(error_rate=0.7, **queue)).actions)


def test_a_release_that_only_words_tell_of_may_be_rolled_back_wherever_something_presses() -> None:
    for metrics in ({"cpu": 78}, SLOW, {"memory": 93, "oom_kills": 1}, {**DISK, "storage_used": 980}, {"cpu": None}):
        assert "roll_back" in may(machines(**metrics)).actions, metrics


# --- swings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "newest", "expected"),
    [
        ((68, 72) * 8, 68, True),
        ((69, 74) * 3, 69, True),
        ((50, 68, 72, 68, 72, 68, 72), 68, True),
        ((74,) * 16, 74, False),
        ((73, 75) * 8, 74, False),
        ((60, 63, 66, 69, 72), 75, False),
        ((30, 40) * 8, 30, False),
        ((68, 72, 68), 72, False),
    ],
)
def test_readings_swing_when_most_steps_turn_back_by_more_than_jitter(
    values: tuple[float, ...], newest: float, expected: bool
) -> None:
    spec = machines(cpu=newest, history=every_5_min("cpu", values))
    assert swings(spec, None) is expected


def test_a_swing_is_judged_by_several_readings_and_a_level_that_stays_is_not() -> None:
    swinging = machines(cpu=74, memory=51, history=every_5_min("cpu", (50, *(69, 74) * 8)))
    staying = machines(cpu=74, memory=51, history=every_5_min("cpu", (50, *(74,) * 16)))
    assert decided(swinging) == ("watch", ("average_readings", "watch_trend"))
    assert decided(staying) == ("plan", ("scale_out", "tune_heaviest"))
    assert "average_readings" not in may(staying).actions


def test_a_swing_that_holds_an_old_label_is_no_reason_to_hurry() -> None:
    spec = machines(cpu=68, history=every_5_min("cpu", (80, 80, 80, *(68, 72) * 8)))
    assert label_of(INFRASTRUCTURE, spec).value == "HIGH"
    assert "act_now" not in may(spec).choices
    assert "average_readings" in decided(spec)[1]


# --- any pipeline ----------------------------------------------------------------------------------------


@given(spec=SPECS, policy=POLICY)
def test_the_rules_always_have_a_reason_and_never_give_data_away(spec: PipelineSpec, policy: Policy) -> None:
    label = label_of(INFRASTRUCTURE, spec, policy)
    may_be = permitted(INFRASTRUCTURE, spec, label)
    decision = rules_decision(INFRASTRUCTURE, spec, label)
    assert may_be.right
    assert set(decision.ids) <= set(may_be.right)
    assert {"cut_retention", "delete_old_data"}.isdisjoint(decision.ids)
    if label.worst_known == "CRITICAL":
        assert "watch" not in may_be.choices
        assert decision.choice.id == "act_now"
    if label.value == "NORMAL":
        assert "act_now" not in may_be.choices
    if label.worst_known in ("HIGH", "CRITICAL"):
        assert {"shrink_slowly", "halve_replicas", "mute_alert"}.isdisjoint(may_be.actions)


@given(values=st.lists(st.floats(0, 100), max_size=12), newest=st.floats(0, 100))
def test_readings_before_the_newest_eight_do_not_make_a_swing(values: list[float], newest: float) -> None:
    def of(readings: Sequence[float]) -> bool:
        return swings(machines(cpu=newest, history=every_5_min("cpu", readings)), None)

    assert of(values) == of(values[-8:])


# --- what it is told -------------------------------------------------------------------------------------


def test_the_specialist_is_told_metrics_series_and_the_owners_words() -> None:
    spec = PipelineSpec.model_validate(
        {
            "id": "p",
            "source": {"type": "x", "description": "Debug traces are on.", "partitions": 8},
            "infrastructure_metrics": {"cpu": 72.0, "history": every_5_min("cpu", (68.0, 72.5))},
        }
    )
    assert INFRASTRUCTURE.told(spec) == {
        "cpu_percent": 72,
        "cpu_percent_history": [68, 72.5],
        "history_span": "2 readings over 5 min",
        "description": "Debug traces are on.",
    }


def test_partitions_are_told_where_they_matter() -> None:
    assert INFRASTRUCTURE.told(lag_of(12, 12))["partitions"] == 12


def test_a_series_that_swings_and_one_that_stays_are_told_apart() -> None:
    swinging = machines(cpu=74, history=every_5_min("cpu", (50, *(69, 74) * 8)))
    staying = machines(cpu=74, history=every_5_min("cpu", (50, *(74,) * 16)))
    assert INFRASTRUCTURE.told(swinging) != INFRASTRUCTURE.told(staying)
