"""Severity and priority: what the policies say at their edges, what no input may do, and how a policy is changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agents.facts.spec import InfrastructureMetrics, PipelineSpec, QualityMetrics
from agents.labels.label import UNKNOWN, Label
from agents.labels.policy import (
    BLOCKS,
    Policy,
    load_policy,
    policy_for,
    policy_names,
    with_settings,
)
from agents.specialists.infrastructure.priority import PRIORITIES, priority
from agents.specialists.quality.severity import SEVERITIES, severity
from agents.specialists.registry import labels_for
from common.console import BadInput

POLICIES = {name: load_policy(name) for name in ("adaptive", "seed", "standard")}
STANDARD = POLICIES["standard"]
START = datetime(2026, 1, 1, tzinfo=UTC)
EACH_POLICY = pytest.mark.parametrize("policy", POLICIES)


def quality(completeness: float | None, consistency: float | None) -> QualityMetrics:
    """Unchecked, so that impossible values reach the rules too."""
    return QualityMetrics.model_construct(completeness_percent=completeness, consistency_percent=consistency)


def machines(cpu: float | None, memory: float | None) -> InfrastructureMetrics:
    return InfrastructureMetrics.model_construct(cpu_percent=cpu, memory_percent=memory)


def severity_of(policy: str, completeness: float | None, consistency: float | None) -> str:
    return severity(quality(completeness, consistency), POLICIES[policy]).value


def priority_of(policy: str, cpu: float | None, memory: float | None) -> str:
    return priority(machines(cpu, memory), POLICIES[policy]).value


def judged(policy: Policy = STANDARD, /, **metrics: Any) -> Label:
    """Priority of machines whose CPU and memory are calm unless told otherwise."""
    return priority(InfrastructureMetrics(**{"cpu": 30, "memory": 40, **metrics}), policy)


def every(minutes: float, readings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A history of readings so many minutes apart."""
    return [{"at": START + number * timedelta(minutes=minutes), **one} for number, one in enumerate(readings)]


def of_series(name: str, series: Sequence[float], policy: Policy = STANDARD, /, **metrics: Any) -> Label:
    """Priority after a series of readings of one metric, five minutes apart, the last one the newest."""
    history = every(5, [{name: value} for value in series[:-1]])
    return judged(policy, **{name: series[-1]}, history=history, **metrics)


def prefixes(name: str, series: Sequence[float], policy: Policy = STANDARD, /, **metrics: Any) -> list[str]:
    """The labels as the series grows reading by reading."""
    return [of_series(name, series[:end], policy, **metrics).value for end in range(1, len(series) + 1)]


def changes(labels: Sequence[str]) -> int:
    return sum(before != after for before, after in pairwise(labels))


def reasons(label: Label) -> list[str]:
    return [rule.reason for rule in label.rules]


# --- the table of the policies -----------------------------------------------------------------------


@EACH_POLICY
def test_the_missions_examples(policy: str) -> None:
    assert severity_of(policy, 87, 92) == "LOW"
    assert priority_of(policy, 78, 82) == "HIGH"
    assert severity_of(policy, 95, 88) == "LOW"


@pytest.mark.parametrize(("policy", "expected"), [("seed", "NORMAL"), ("standard", "NORMAL"), ("adaptive", "NORMAL")])
def test_65_and_71_are_normal_by_mean_and_by_tolerance(policy: str, expected: str) -> None:
    assert priority_of(policy, 65, 71) == expected


@pytest.mark.parametrize(
    ("completeness", "consistency", "seed", "standard"),
    [
        (100, 100, "LOW", "LOW"),
        (85, 85, "LOW", "LOW"),
        (84.99, 84.99, "MEDIUM", "MEDIUM"),
        (85, 84.98, "MEDIUM", "MEDIUM"),
        (90, 80, "LOW", "LOW"),
        (100, 79.99, "LOW", "MEDIUM"),
        (79.99, 100, "LOW", "MEDIUM"),
        (100, 60, "MEDIUM", "MEDIUM"),
        (100, 59.99, "MEDIUM", "HIGH"),
        (59.99, 100, "MEDIUM", "HIGH"),
        (70, 70, "MEDIUM", "MEDIUM"),
        (70, 69.98, "HIGH", "HIGH"),
        (0, 0, "HIGH", "HIGH"),
    ],
)
def test_severity_at_the_edges(completeness: float, consistency: float, seed: str, standard: str) -> None:
    assert severity_of("seed", completeness, consistency) == seed
    assert severity_of("standard", completeness, consistency) == standard


@pytest.mark.parametrize(
    ("cpu", "memory", "seed", "standard"),
    [
        (0, 0, "NORMAL", "NORMAL"),
        (69.99, 69.99, "NORMAL", "NORMAL"),
        (70, 70, "HIGH", "NORMAL"),
        (72, 72, "HIGH", "NORMAL"),
        (72.01, 0, "NORMAL", "HIGH"),
        (0, 72.01, "NORMAL", "HIGH"),
        (85, 85, "HIGH", "HIGH"),
        (85, 0, "NORMAL", "HIGH"),
        (85.01, 0, "CRITICAL", "CRITICAL"),
        (0, 85.01, "CRITICAL", "CRITICAL"),
        (100, 100, "CRITICAL", "CRITICAL"),
    ],
)
def test_priority_at_the_edges(cpu: float, memory: float, seed: str, standard: str) -> None:
    assert priority_of("seed", cpu, memory) == seed
    assert priority_of("standard", cpu, memory) == standard


# --- what cannot be known --------------------------------------------------------------------------------


@EACH_POLICY
@pytest.mark.parametrize(
    ("first", "second", "rule", "reason"),
    [
        (None, 90, "missing_metric", "{0} is missing"),
        (90, None, "missing_metric", "{1} is missing"),
        (140, 90, "impossible_metric", "{0} is 140, outside 0 to 100"),
        (90, -3, "impossible_metric", "{1} is -3, outside 0 to 100"),
        (float("nan"), 90, "impossible_metric", "{0} is nan, outside 0 to 100"),
        (90, float("inf"), "impossible_metric", "{1} is inf, outside 0 to 100"),
    ],
)
def test_a_missing_or_impossible_metric_is_unknown_with_the_reason(
    policy: str, first: float | None, second: float | None, rule: str, reason: str
) -> None:
    names = {
        "severity": ("completeness_percent", "consistency_percent"),
        "priority": ("cpu_percent", "memory_percent"),
    }
    labels = [
        severity(quality(first, second), POLICIES[policy]),
        priority(machines(first, second), POLICIES[policy]),
    ]
    for label in labels:
        assert label.value == UNKNOWN
        assert (label.rules[0].rule, label.rules[0].reason) == (rule, reason.format(*names[label.kind]))


def test_unknown_still_tells_what_the_known_metric_says() -> None:
    label = priority(machines(None, 95), POLICIES["standard"])
    assert label.value == UNKNOWN
    assert "memory_percent is 95, above 85: CRITICAL by itself" in [rule.reason for rule in label.rules]


# --- history: levels begin and end late ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([91], "CRITICAL"),
        ([50, 91], "NORMAL"),
        ([50, 91, 91], "NORMAL"),
        ([50, 91, 91, 91], "CRITICAL"),
        ([50, 91, 91, 71, 91, 91], "NORMAL"),
        ([50, 80, 91, 91], "HIGH"),
        ([91, 91], "CRITICAL"),
        ([91, 50], "NORMAL"),
        ([80, 91], "HIGH"),
        ([91, 91, 50], "NORMAL"),
        ([91, 91, 91, 50, 50, 50, 50], "CRITICAL"),
        ([91, 91, 91, 50, 50, 50, 50, 50], "NORMAL"),
        ([91, 91, 91, 82, 82, 82, 82, 82], "CRITICAL"),
        ([91, 91, 91, 81.9, 81.9, 81.9, 81.9, 81.9], "HIGH"),
        ([80, 80, 80, 67, 67, 67, 67, 67], "HIGH"),
        ([80, 80, 80, 66.9, 66.9, 66.9, 66.9, 66.9], "NORMAL"),
        ([50, 72, 72, 72], "NORMAL"),
        ([50, 72.1, 72.1, 72.1], "HIGH"),
    ],
)
@pytest.mark.parametrize("name", ["cpu", "memory"])
def test_a_level_begins_after_three_readings_and_ends_after_five(name: str, series: list[float], expected: str) -> None:
    assert of_series(name, series).value == expected


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([300], "HIGH"),
        ([250], "NORMAL"),
        ([100, 300], "NORMAL"),
        ([100, 300, 300, 300], "HIGH"),
        ([300, 300, 300, 242.5, 242.5, 242.5, 242.5, 242.5], "HIGH"),
        ([300, 300, 300, 242, 242, 242, 242, 242], "NORMAL"),
    ],
)
def test_latency_is_damped_in_percent_of_its_slo(series: list[float], expected: str) -> None:
    assert of_series("query_latency", series, latency_slo_ms=250).value == expected


def test_reasons_say_what_is_pending_and_what_is_held() -> None:
    assert reasons(of_series("cpu", [50, 91]))[-1] == (
        "cpu_percent is 91, above 85, in 1 of 3 readings needed: not yet"
    )
    assert reasons(of_series("cpu", [91, 91, 91, 60, 81])) == [
        "held: cpu_percent is 81, CRITICAL until 5 readings in a row are below 82 (2 so far)"
    ]
    assert reasons(of_series("query_latency", [100, 300], latency_slo_ms=250)) == [
        "query_latency_ms is 300, above its SLO of 250, in 1 of 3 readings needed: not yet"
    ]


def test_readings_that_lack_the_metric_are_passed_over() -> None:
    history = every(5, [{"cpu": 50}, {"memory": 40}, {"cpu": 91}, {}, {"cpu": 91}])
    assert judged(cpu=91, history=history).value == "CRITICAL"


def test_without_damping_the_newest_reading_decides() -> None:
    undamped = with_settings(STANDARD, ["priority.damping=null"])
    assert of_series("cpu", [50, 91], undamped).value == "CRITICAL"
    assert of_series("cpu", [91, 50], POLICIES["seed"]).value == "NORMAL"


THRESHOLDS = st.sampled_from([70.0, 72.0, 85.0])
FOR_READINGS = 3


def windows(name: str, series: Sequence[float], length: int) -> list[str]:
    """The labels of a history that is always cut to its last readings, as the series goes on."""
    return [of_series(name, series[end - length : end]).value for end in range(length, len(series) + 1)]


@given(
    middle=THRESHOLDS,
    offsets=st.lists(st.floats(-2, 2), min_size=1, max_size=25),
    name=st.sampled_from(["cpu", "memory"]),
)
def test_swinging_by_two_around_a_threshold_changes_the_label_at_most_once(
    middle: float, offsets: list[float], name: str
) -> None:
    """And once more while there are too few readings for a level to begin: the first one may have been a spike."""
    labels = prefixes(name, [middle + offset for offset in offsets])
    assert changes(labels[:FOR_READINGS]) <= 1
    assert changes(labels[FOR_READINGS - 1 :]) <= 1


@given(
    middle=THRESHOLDS,
    length=st.integers(FOR_READINGS + 1, 15),
    name=st.sampled_from(["cpu", "memory"]),
    data=st.data(),
)
def test_a_window_that_slides_over_a_swing_does_not_change_the_label(
    middle: float, length: int, name: str, data: st.DataObject
) -> None:
    """Of any swing that comes again while the window still knows the last one, above the threshold or below."""
    swing = data.draw(st.lists(st.floats(-2, 2), min_size=1, max_size=length - FOR_READINGS + 1))
    series = [middle + offset for offset in swing] * 40
    assert changes(windows(name, series[: 2 * length], length)) == 0


@given(
    limit=st.sampled_from([72.0, 85.0]),
    length=st.integers(FOR_READINGS, 15),
    offsets=st.lists(st.floats(-2, 2), min_size=16, max_size=30),
)
def test_spikes_shorter_than_a_level_needs_never_change_the_label_of_a_sliding_window(
    limit: float, length: int, offsets: list[float]
) -> None:
    broken_off = [min(one, 0) if number % FOR_READINGS == 0 else one for number, one in enumerate(offsets)]
    series = [limit + one for one in broken_off]
    assert changes(windows("cpu", series, length)) == 0


@pytest.mark.parametrize("swing", [[71, 73], [84, 86], [73, 71, 71], [86, 86, 84]])
def test_a_history_of_the_last_twelve_readings_does_not_flap(swing: list[float]) -> None:
    assert changes(windows("cpu", swing * 20, 12)) == 0


@given(value=st.floats(0, 100), length=st.integers(1, 25), name=st.sampled_from(["cpu", "memory"]))
@pytest.mark.parametrize("policy", ["seed", "standard"])
def test_a_constant_history_of_any_length_gives_one_label(policy: str, value: float, length: int, name: str) -> None:
    assert len(set(prefixes(name, [value] * length, POLICIES[policy]))) == 1


@given(value=st.floats(0, 100), length=st.integers(1, 30))
def test_adaptive_changes_a_constant_historys_label_only_when_it_comes_to_know_it(value: float, length: int) -> None:
    """Until there are 20 earlier readings the fixed threshold holds; then what is usual here is no alarm."""
    labels = prefixes("cpu", [value] * length, POLICIES["adaptive"])
    assert len(set(labels[:20])) == 1
    assert len(set(labels[20:])) <= 1


# --- adaptive thresholds ---------------------------------------------------------------------------------


def test_adaptive_takes_what_is_usual_for_this_pipeline_for_normal() -> None:
    usual = [72, 74, 76, 74] * 6
    assert of_series("cpu", [*usual, 75]).value == "HIGH"
    assert of_series("cpu", [*usual, 75], POLICIES["adaptive"]).value == "NORMAL"


def test_adaptive_takes_what_is_unusual_for_this_pipeline_for_high() -> None:
    quiet = [20.0] * 30
    assert of_series("cpu", [*quiet, 65, 65, 65]).value == "NORMAL"
    label = of_series("cpu", [*quiet, 65, 65, 65], POLICIES["adaptive"])
    assert label.value == "HIGH"
    assert reasons(label) == [
        "cpu_percent is 65, above 62 "
        "(own threshold: the 0.9 quantile of 32 earlier readings at or below 70 is 20, kept within 60 to 80)"
    ]


def test_adaptive_is_not_moved_by_outliers() -> None:
    with_outliers = [*([62.0] * 60), 100.0, 0.0, 100.0, 66, 66, 66]
    label = of_series("memory", with_outliers, POLICIES["adaptive"])
    assert label.value == "HIGH"
    assert "the 0.9 quantile of 63 earlier readings at or below 70 is 62)" in reasons(label)[0]


@pytest.mark.parametrize("calm", [[50.0] * 30, [50.0] * 20, [60.0, 69.0] * 20])
def test_under_adaptive_an_incident_does_not_become_normal_by_lasting(calm: list[float]) -> None:
    for lasting in (3, 4, 10, 50, 150, 300):
        assert of_series("cpu", [*calm, *[79.0] * lasting], POLICIES["adaptive"]).value == "HIGH"


def test_under_adaptive_a_pipeline_that_always_runs_high_is_not_called_for_ever() -> None:
    labels = prefixes("cpu", [74.0, 75.0, 76.0] * 20, POLICIES["adaptive"])
    assert (set(labels[:20]), set(labels[21:])) == ({"HIGH"}, {"NORMAL"})
    assert of_series("cpu", [*([74, 75, 76] * 10), 79, 79, 79], POLICIES["adaptive"]).value == "HIGH"


def test_under_adaptive_readings_of_which_only_some_are_high_leave_the_threshold_fixed() -> None:
    """Ten calm readings and an incident: too few to know what is usual, and too many to take high for it."""
    label = of_series("cpu", [50.0] * 10 + [79.0] * 60, POLICIES["adaptive"])
    assert reasons(label) == [
        "cpu_percent is 79, above 72 "
        "(fixed threshold: of 69 earlier readings 10 are at or below 70, and 20 are needed for its own)"
    ]


def test_adaptive_keeps_critical_where_it_is() -> None:
    assert of_series("cpu", [90.0] * 40, POLICIES["adaptive"]).value == "CRITICAL"


def test_adaptive_with_a_short_history_says_that_the_threshold_is_fixed() -> None:
    label = of_series("cpu", [80.0] * 5, POLICIES["adaptive"])
    assert reasons(label) == [
        "cpu_percent is 80, above 72 "
        "(fixed threshold: of 4 earlier readings 0 are at or below 70, and 20 are needed for its own)"
    ]


# --- storage, errors, lag --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "growth", "expected"),
    [
        (970, None, "NORMAL"),
        (970.1, None, "CRITICAL"),
        (970.1, -5, "CRITICAL"),
        (900, 600, "CRITICAL"),
        (900, 599, "HIGH"),
        (900, 100, "HIGH"),
        (900, 99, "NORMAL"),
        (0, 6000, "CRITICAL"),
    ],
)
def test_a_disk_is_judged_by_when_it_is_full(used: float, growth: float | None, expected: str) -> None:
    label = judged(storage_used=used, storage_total=1000, storage_growth_gb_per_day=growth)
    assert label.value == expected


def test_of_two_forecasts_the_sooner_counts() -> None:
    fast = every(60, [{"storage_used": used} for used in (600, 700, 800)])
    slow = every(60, [{"storage_used": used} for used in (897, 898, 899)])
    storage = {"storage_used": 900, "storage_total": 1000}
    assert judged(**storage, storage_growth_gb_per_day=1, history=fast).value == "CRITICAL"
    assert judged(**storage, storage_growth_gb_per_day=1000, history=slow).value == "CRITICAL"
    assert judged(**storage, storage_growth_gb_per_day=1, history=slow).value == "NORMAL"


def filling(flat_h: int, gb_per_h: float, fill_h: int) -> tuple[float, list[dict[str, Any]]]:
    """Storage that was flat at 500 GB for hours and then fills: what is used now, and the hourly history before."""
    used = [500.0] * flat_h + [500 + gb_per_h * hour for hour in range(1, fill_h + 1)]
    return used[-1], every(60, [{"storage_used": one} for one in used[:-1]])


@pytest.mark.parametrize("flat_h", [0, 10, 336])
def test_a_fresh_fill_is_seen_however_long_the_storage_was_flat(flat_h: int) -> None:
    used, history = filling(flat_h, 45, 7)
    label = judged(storage_used=used, storage_total=1000, history=history)
    assert (label.value, [rule.rule for rule in label.rules]) == ("HIGH", ["disk_forecast"])
    assert reasons(label)[0].startswith("storage is full in 4.11 h, ")


def test_a_forecast_says_over_which_window_it_was_made() -> None:
    used, history = filling(336, 45, 7)
    (recent,) = reasons(judged(storage_used=used, storage_total=1000, history=history))
    assert recent.endswith("at a growth of 1080 GB per day by the line through its last 6 h")
    daily = every(24 * 60, [{"storage_used": used} for used in (500, 650, 800)])
    (whole,) = reasons(judged(storage_used=950, storage_total=1000, history=daily))
    assert whole == "storage is full in 8 h, within 24 h, at a growth of 150 GB per day by the line through its history"


def test_a_slow_fill_that_paused_within_the_last_hours_is_still_told_by_the_whole_history() -> None:
    paused = every(60, [{"storage_used": used} for used in (*range(400, 900, 25), *[900] * 6)])
    (reason,) = reasons(judged(storage_used=900, storage_total=1000, history=paused))
    assert reason.endswith("by the line through its history")


@given(jitter=st.lists(st.floats(-1, 1), min_size=3, max_size=40), minutes=st.sampled_from([60, 24 * 60]))
def test_a_flat_disk_stays_normal_whatever_the_window(jitter: list[float], minutes: float) -> None:
    *earlier, newest = [850 + one for one in jitter]
    history = every(minutes, [{"storage_used": used} for used in earlier])
    assert judged(storage_used=newest, storage_total=1000, history=history).value == "NORMAL"


def test_two_readings_are_too_few_for_a_forecast_and_one_has_no_spacing() -> None:
    storage = {"storage_used": 900, "storage_total": 1000}
    assert judged(**storage, history=every(60, [{"storage_used": 500}])).value == "NORMAL"
    assert judged(**storage, history=every(60, [{"storage_used": 500}, {"cpu": 30}])).value == "NORMAL"
    assert judged(**storage, history=every(60, [{"storage_used": 500}, {"storage_used": 700}])).value == "CRITICAL"


def test_the_newest_reading_follows_the_last_one_by_the_median_spacing() -> None:
    """Minutes, minutes, a gap of a day, minutes: the newest comes minutes after the last, not a third of a day."""
    minutes = [0, 10, 20, 24 * 60, 24 * 60 + 10]
    history = [{"at": START + timedelta(minutes=at), "error_rate": 0.6} for at in minutes]
    assert reasons(judged(error_rate=0.6, availability_slo_percent=99.9, history=history)) == [
        "the error budget burns 6 times too fast over 30 min and 6 times over 360 min, at least 6"
    ]
    steps = [{"at": one["at"], "storage_used": 100 + number * 10} for number, one in enumerate(history)]
    whole_history = with_settings(STANDARD, ["priority.disk.over_h=0.1"])
    label = judged(whole_history, storage_used=151, storage_total=160, history=steps)
    assert label.value == "HIGH"  # by hand: least squares over 0, 10, 20, 1440, 1450, 1460 min


@pytest.mark.parametrize(
    ("error_rates", "expected"),
    [
        ([1.44] * 13, "CRITICAL"),
        ([1.43] * 13, "HIGH"),
        ([0] * 72 + [1.44], "NORMAL"),
        ([0] * 61 + [1.44] * 12, "CRITICAL"),
        ([0] * 63 + [1.44] * 10, "NORMAL"),
        ([1.44] * 72 + [0], "HIGH"),
        ([1.44] * 66 + [0] * 7, "NORMAL"),
        ([0.6] * 73, "HIGH"),
        ([0.59] * 73, "NORMAL"),
    ],
)
def test_a_burn_counts_when_both_windows_agree(error_rates: list[float], expected: str) -> None:
    """Five minutes apart; the SLO leaves an error budget of 0.1 %."""
    assert of_series("error_rate", error_rates, availability_slo_percent=99.9).value == expected


@pytest.mark.parametrize(("error_rate", "expected"), [(0.59, "NORMAL"), (0.6, "HIGH"), (4, "HIGH")])
def test_a_single_readings_burn_is_high_and_says_that_the_long_window_is_unknown(
    error_rate: float, expected: str
) -> None:
    for history in ([], every(5, [{"error_rate": error_rate}] * 3)):
        label = judged(error_rate=error_rate, availability_slo_percent=99.9, history=history)
        assert label.value == expected
        if expected == "HIGH":
            assert reasons(label)[0].endswith("over 360 min it is unknown")


def test_a_window_that_holds_no_earlier_reading_is_not_measured() -> None:
    daily = every(24 * 60, [{"error_rate": 0}] * 3)
    label = judged(error_rate=1.5, availability_slo_percent=99.9, history=daily)
    assert (label.value, reasons(label)) == (
        "HIGH",
        ["the error budget burns 15 times too fast in this reading, at least 6; over 360 min it is unknown"],
    )


@pytest.mark.parametrize(("minutes", "expected"), [(60, "NORMAL"), (90, "NORMAL"), (359, "HIGH"), (361, "HIGH")])
def test_readings_hours_apart_still_measure_the_longer_window(minutes: float, expected: str) -> None:
    """15 times too fast now and calm before: over six hours 2.5 times, 3.75 times, 7.5 times, unknown."""
    calm = every(minutes, [{"error_rate": 0}] * 8)
    assert judged(error_rate=1.5, availability_slo_percent=99.9, history=calm).value == expected


def test_one_reading_that_burns_by_itself_is_at_most_high_and_the_second_is_critical() -> None:
    """200 times too fast, and calm before: over an hour that is 15 times, of which one reading makes all."""
    calm = [0.0] * 12
    assert of_series("error_rate", [*calm, 2.0], availability_slo_percent=99.99).value == "HIGH"
    assert of_series("error_rate", [*calm, 2.0, 2.0], availability_slo_percent=99.99).value == "CRITICAL"


@given(
    minutes=st.sampled_from([1, 5, 29, 30, 59, 61, 180, 24 * 60]),
    count=st.integers(1, 80),
    newest=st.floats(0, 5),
    slo=st.sampled_from([99.0, 99.9, 99.99]),
)
def test_a_calm_history_never_makes_a_burn_worse_than_no_history(
    minutes: float, count: int, newest: float, slo: float
) -> None:
    calm = every(minutes, [{"error_rate": 0}] * count)
    with_history, alone = (
        judged(error_rate=newest, availability_slo_percent=slo, history=history) for history in (calm, [])
    )
    assert rank(with_history) <= rank(alone)


@pytest.mark.parametrize(("slo", "error_rate"), [(99.9, 1.44), (99.99, 0.144), (99.95, 0.72), (99.5, 7.2), (99, 14.4)])
def test_a_burn_at_the_threshold_counts_whatever_the_slo(slo: float, error_rate: float) -> None:
    """100 - 99.99 is not 0.01 in binary."""
    calm_spike = with_settings(STANDARD, ["priority.error_rate=null"])
    label = of_series("error_rate", [error_rate] * 13, calm_spike, availability_slo_percent=slo)
    assert label.value == "CRITICAL"


@pytest.mark.parametrize(
    ("lags", "expected"),
    [
        ([10], "NORMAL"),
        ([10, 20, 30], "NORMAL"),
        ([10, 20, 30, 40], "HIGH"),
        ([90, 10, 20, 30, 40], "HIGH"),
        ([10, 20, 30, 30], "NORMAL"),
        ([10, 20, 30, 40, 35], "NORMAL"),
    ],
)
def test_a_lag_that_grows_in_each_of_three_steps_is_high(lags: list[int], expected: str) -> None:
    assert of_series("consumer_lag", lags).value == expected


def test_each_rule_tells_the_facts_it_went_by() -> None:
    label = judged(storage_used=990, storage_total=1000, cpu=91, error_rate=6)
    assert {rule.rule: rule.facts for rule in label.rules} == {
        "above_critical": {"cpu_percent": 91},
        "disk_full": {"storage_used_gb": 990, "storage_total_gb": 1000},
        "error_spike": {"error_rate_percent": 6},
    }


@pytest.mark.parametrize("metrics", [{"freshness": "2 days"}, {"freshness_sla": "1 h"}], ids=["no SLA", "no age"])
def test_freshness_without_its_sla_is_not_judged_and_not_unknown(metrics: dict[str, str]) -> None:
    assert severity(QualityMetrics(completeness=99, consistency=99, **metrics), STANDARD).value == "LOW"  # type: ignore[arg-type]


# --- properties ------------------------------------------------------------------------------------------

PERCENT = st.floats(0, 100)
ANY_METRIC = st.none() | st.floats() | PERCENT
AMOUNT = st.floats(0, 1e6)

WORSE_WHEN_HIGHER: dict[str, st.SearchStrategy[Any]] = {
    "cpu_percent": PERCENT,
    "memory_percent": PERCENT,
    "query_latency_ms": AMOUNT,
    "error_rate_percent": PERCENT,
    "load_per_core": st.floats(0, 10),
    "storage_growth_gb_per_day": st.floats(-1e4, 1e4),
    "oom_kills": st.integers(0, 5),
}
FIXED = {
    "latency_slo_ms": 250.0,
    "availability_slo_percent": 99.9,
    "storage_used_gb": 500.0,
    "storage_total_gb": 1000.0,
}


def rank(label: Label) -> int:
    """How bad a label is, an UNKNOWN one by what is known."""
    levels = (*SEVERITIES, UNKNOWN) if label.kind == "severity" else (*PRIORITIES, UNKNOWN)
    return -1 if label.worst_known == UNKNOWN else levels.index(label.worst_known)


@EACH_POLICY
@given(data=st.data())
def test_worse_machines_never_lower_a_priority(policy: str, data: st.DataObject) -> None:
    known = data.draw(st.sets(st.sampled_from(sorted(WORSE_WHEN_HIGHER))))
    metrics = {name: data.draw(WORSE_WHEN_HIGHER[name], name) for name in sorted(known)}
    worse = {name: max(value, data.draw(WORSE_WHEN_HIGHER[name], name)) for name, value in metrics.items()}
    before = priority(InfrastructureMetrics.model_validate({**metrics, **FIXED}), POLICIES[policy])
    after = priority(InfrastructureMetrics.model_validate({**worse, **FIXED}), POLICIES[policy])
    assert rank(after) >= rank(before)


@EACH_POLICY
@given(data=st.data())
def test_worse_data_never_lowers_a_severity(policy: str, data: st.DataObject) -> None:
    names = data.draw(st.sets(st.sampled_from(["completeness", "consistency", "validity", "uniqueness"])))
    hours = st.integers(1, 100)
    age, worse_age = sorted((data.draw(hours), data.draw(hours)))
    fixed = {"freshness_sla": "10 h", "column_criticality": data.draw(st.sampled_from(["normal", "critical", None]))}
    metrics = {name: data.draw(PERCENT, name) for name in sorted(names)}
    worse = {name: min(value, data.draw(PERCENT, name)) for name, value in metrics.items()}
    before = severity(QualityMetrics(**metrics, **fixed, freshness=f"{age} h"), POLICIES[policy])  # type: ignore[arg-type]
    after = severity(QualityMetrics(**worse, **fixed, freshness=f"{worse_age} h"), POLICIES[policy])  # type: ignore[arg-type]
    assert rank(after) >= rank(before)


@pytest.mark.parametrize("name", ["cpu_percent", "memory_percent", "query_latency_ms"])
@pytest.mark.parametrize("policy", ["seed", "standard"])
@given(data=st.data())
def test_a_history_that_is_worse_reading_by_reading_never_lowers_a_priority(
    policy: str, name: str, data: st.DataObject
) -> None:
    around = st.sampled_from([50.0, 67.0, 70.0, 72.0, 82.0, 85.0, 90.0]) | PERCENT
    series = data.draw(st.lists(around, min_size=1, max_size=15))
    worse = [max(value, data.draw(around)) for value in series]
    before, after = (
        of_series(name.removesuffix("_percent").removesuffix("_ms"), one, POLICIES[policy], latency_slo_ms=80)
        for one in (series, worse)
    )
    assert rank(after) >= rank(before)


@given(history=st.lists(PERCENT, min_size=1, max_size=30), newest=PERCENT, worse=PERCENT)
def test_under_adaptive_a_worse_newest_reading_never_lowers_a_priority(
    history: list[float], newest: float, worse: float
) -> None:
    """A worse history may: it teaches that high is usual here. The newest reading moves no threshold."""
    before, after = (
        of_series("cpu", [*history, value], POLICIES["adaptive"]) for value in (newest, max(newest, worse))
    )
    assert rank(after) >= rank(before)


@EACH_POLICY
@given(data=st.data())
def test_knowing_less_makes_a_label_unknown_or_keeps_it_from_getting_worse(policy: str, data: st.DataObject) -> None:
    """But for weak signals, where what is not known cannot speak against a high CPU."""
    cautious = POLICIES[policy]
    if cautious.priority.cpu.weak_signal:
        cautious = with_settings(cautious, ["priority.cpu.weak_signal=null"])
    metrics = {name: data.draw(values, name) for name, values in WORSE_WHEN_HIGHER.items()}
    gone = data.draw(st.sampled_from(sorted(metrics)))
    before = priority(InfrastructureMetrics.model_validate({**metrics, **FIXED}), cautious)
    after = priority(InfrastructureMetrics.model_validate({**metrics, gone: None, **FIXED}), cautious)
    assert rank(after) <= rank(before)
    assert (after.value == UNKNOWN) == (gone in {"cpu_percent", "memory_percent"})


@EACH_POLICY
@given(first=ANY_METRIC, second=ANY_METRIC, third=ANY_METRIC)
def test_every_label_is_a_known_one_and_has_a_reason(
    policy: str, first: float | None, second: float | None, third: float | None
) -> None:
    names = [field for field in InfrastructureMetrics.model_fields if field != "history"]
    unchecked = InfrastructureMetrics.model_construct(
        **dict.fromkeys(names, third) | {"cpu_percent": first, "memory_percent": second}
    )
    bad = severity(quality(first, second), POLICIES[policy])
    for label in (bad, priority(machines(first, second), POLICIES[policy]), priority(unchecked, POLICIES[policy])):
        assert label.value in {*(SEVERITIES if label.kind == "severity" else PRIORITIES), UNKNOWN}
        assert label.policy == policy
        assert label.rules
        assert all(rule.rule and rule.reason for rule in label.rules)


@EACH_POLICY
@given(data=st.data())
def test_no_metrics_that_a_file_may_hold_break_a_rule(policy: str, data: st.DataObject) -> None:
    huge = st.floats(0, allow_infinity=False) | st.sampled_from([0.0, 5e-324, 1.7e308])
    times = data.draw(st.lists(st.datetimes(), unique=True, max_size=6).map(sorted))
    metrics = InfrastructureMetrics.model_validate(
        {
            "cpu": 10,
            "memory": 10,
            "storage_used": 0.0,
            "storage_total": data.draw(st.floats(0, exclude_min=True, allow_infinity=False)),
            "storage_growth_gb_per_day": data.draw(st.floats(allow_nan=False, allow_infinity=False)),
            "query_latency": data.draw(huge),
            "latency_slo_ms": data.draw(st.floats(0, exclude_min=True, allow_infinity=False)),
            "error_rate": data.draw(PERCENT),
            "availability_slo_percent": data.draw(st.floats(0, 100, exclude_min=True, exclude_max=True)),
            "history": [
                {
                    "at": at,
                    "storage_used": data.draw(huge),
                    "error_rate": data.draw(PERCENT),
                    "query_latency": data.draw(huge),
                }
                for at in times
            ],
        }
    )
    assert priority(metrics, POLICIES[policy]).value in PRIORITIES


@EACH_POLICY
@given(first=PERCENT, second=PERCENT)
def test_the_order_of_two_dimensions_does_not_matter(policy: str, first: float, second: float) -> None:
    assert severity_of(policy, first, second) == severity_of(policy, second, first)
    assert priority_of(policy, first, second) == priority_of(policy, second, first)


@given(age=st.integers(1, 10_000), sla=st.integers(1, 10_000), unit=st.sampled_from(["s", "min", "h"]))
def test_the_same_times_in_other_units_give_the_same_label(age: int, sla: int, unit: str) -> None:
    finer, times = {"s": ("ms", 1000), "min": ("s", 60), "h": ("min", 60)}[unit]
    coarse = QualityMetrics(completeness=99, consistency=99, freshness=f"{age} {unit}", freshness_sla=f"{sla} {unit}")
    fine = QualityMetrics(
        completeness=99, consistency=99, freshness=f"{age * times} {finer}", freshness_sla=f"{sla * times} {finer}"
    )
    assert severity(coarse, STANDARD) == severity(fine, STANDARD)


OWN_POLICIES: list[Any] = [None, "seed", "adaptive", {"priority.cpu.high": 50}, {"priority": {"cpu": {"high": 60}}}, {}]


@given(order=st.permutations(range(12)), cpu=st.lists(PERCENT, min_size=12, max_size=12))
def test_the_order_of_pipelines_changes_no_label(order: list[int], cpu: list[float]) -> None:
    specs = [
        PipelineSpec.model_validate(
            {
                "id": f"p{number}",
                "source": {"type": "x"},
                "infrastructure_metrics": {"cpu": cpu[number], "memory": 50},
                "policy": OWN_POLICIES[number % len(OWN_POLICIES)],
            }
        )
        for number in range(12)
    ]
    in_order = [labels_for(spec, STANDARD) for spec in specs]
    shuffled = {number: labels_for(specs[number], STANDARD) for number in order}
    assert [shuffled[number] for number in range(12)] == in_order


def test_a_reason_names_the_rule_that_decided() -> None:
    label = severity(quality(100, 40), POLICIES["standard"])
    assert [(rule.rule, rule.reason) for rule in label.rules] == [
        ("dimension_floor", "consistency_percent is 40, below 60")
    ]


def test_an_unknown_label_tells_the_worst_that_is_known_but_never_calm() -> None:
    assert judged(cpu=None, memory=95).at_least == "CRITICAL"
    assert judged(cpu=None, memory=75).at_least == "HIGH"
    assert judged(cpu=None, memory=71).at_least is None
    assert judged(cpu=None, memory=20).at_least is None
    assert severity(quality(None, 50), STANDARD).at_least == "HIGH"


# --- policy files ----------------------------------------------------------------------------------------

RIGHT = """\
name: mine
description: a test
severity: {mean: {low: 90, medium: 50}}
priority: {cpu: {critical: 95, high: 80}, memory: {critical: 95}}
"""


def test_the_presets_are_there() -> None:
    assert policy_names() == ["adaptive", "seed", "standard"]


def test_a_file_of_ones_own_is_a_policy_whose_other_rules_are_off(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RIGHT)
    policy = load_policy(str(path))
    assert judged(policy, cpu=80).value == "HIGH"
    assert judged(policy, cpu=79, memory=94, storage_used=999, storage_total=1000, oom_kills=3).value == "NORMAL"
    assert severity(quality(60, 60), policy).value == "MEDIUM"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("high: 80", "hihg: 80", ":4: unknown key 'priority.cpu.hihg'; allowed: critical, high, tolerance, weak_"),
        ("critical: 95, high", "critical: 140, high", ":4: priority.cpu.critical: found 140; "),
        ("critical: 95, high", "critical: 70, high", ":4: priority.cpu: high (80) plus tolerance (0) must not be "),
        ("low: 90", "low: 40", ":3: severity.mean: medium (50) must not be above low (40)"),
        ("description: a test", "describe: a test", ":1: description: is missing; unknown key 'describe'; "),
        ("name: mine", "name: [", ":3: is not YAML: did not find expected"),
        (RIGHT, "a word", ":1: entry: found 'a word'; allowed: a mapping of name, description, severity, priority"),
    ],
)  # fmt: skip
def test_a_wrong_policy_file_gets_one_line_with_file_line_and_field(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RIGHT.replace(old, new))
    with pytest.raises(BadInput) as refused:
        load_policy(str(path))
    assert str(refused.value).startswith(f"{path}{message}")
    assert "\n" not in str(refused.value)


SHORT = """\
name: mine
description: a test
base: standard
priority:
  cpu: {high: 60}
  damping: null
"""


def test_a_file_that_names_a_base_starts_from_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHORT)
    changed = with_settings(STANDARD, ["priority.cpu.high=60", "priority.damping=null"])
    assert load_policy(str(path)) == changed.model_copy(update={"name": "mine", "description": "a test"})


def test_a_base_may_have_a_base_and_null_is_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHORT.replace("base: standard", "base: adaptive"))
    assert load_policy(str(path)).priority.adaptive == POLICIES["adaptive"].priority.adaptive
    path.write_text(RIGHT + "base: null\n")
    assert load_policy(str(path)).priority.disk is None


def test_adaptive_is_standard_but_for_its_own_rule() -> None:
    adaptive = POLICIES["adaptive"]
    assert adaptive.severity == STANDARD.severity
    assert adaptive.priority.model_copy(update={"adaptive": None}) == STANDARD.priority


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base: standard", "base: stadnard", ":3: base: found 'stadnard'; allowed: adaptive, seed, standard"),
        ("base: standard", "base: ../policies/seed", ":3: base: found '../policies/seed'; allowed: adaptive, "),
        ("base: standard", "base: mine.yaml", ":3: base: found 'mine.yaml'; allowed: adaptive, seed, standard"),
        ("base: standard", "base: [standard]", ":3: base: found ['standard']; "),
        ("base: standard", 'base: "a\\e[2J"', ":3: base: found "),
        ("high: 60", "hihg: 60", ":5: unknown key 'priority.cpu.hihg'; allowed: critical, high, tolerance, weak_"),
        ("high: 60", "high: 84", ":5: priority.cpu: high (84) plus tolerance (2) must not be above critical (85)"),
        ("cpu: {high: 60}", "cpu: null", ":5: priority.cpu: found None; allowed: a mapping of critical, high, "),
        ("cpu: {high: 60}", "cpu: 3", ":5: priority.cpu: found 3; allowed: a mapping of critical, high, "),
        ("name: mine\n", "", ":1: name: is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_on_a_base_is_told_with_its_own_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHORT.replace(old, new))
    with pytest.raises(BadInput) as refused:
        load_policy(str(path))
    assert str(refused.value).startswith(f"{path}{message}")
    assert str(refused.value).isprintable()
    assert "; severity" not in str(refused.value)


@pytest.mark.parametrize("name", ["strict", "", "../policies/seed", "/etc/passwd", "a\0b", "x" * 5000])
def test_an_unknown_policy_names_the_known_ones(name: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_policy(name)
    assert str(refused.value).endswith("is not known; known: adaptive, seed, standard, or a path ending in .yaml")
    assert len(str(refused.value)) < 200


# --- changes on the command line -------------------------------------------------------------------------


def test_a_setting_changes_one_number_and_the_policys_name_tells() -> None:
    changed = with_settings(STANDARD, ["priority.cpu.high=75", "priority.cpu.critical=90.5"])
    assert changed.name == "standard (changed: priority.cpu.critical=90.5, priority.cpu.high=75)"
    assert (changed.priority.cpu.high, changed.priority.cpu.critical) == (75, 90.5)
    assert changed.priority.memory == STANDARD.priority.memory
    assert STANDARD.priority.cpu.high == 70
    assert judged(changed, cpu=76).policy == changed.name


def test_the_name_tells_what_really_changed_under_the_keys_that_set_takes() -> None:
    off = with_settings(STANDARD, ["priority.disk=null", "priority.cpu.high=70", "priority.cpu.tolerance=0"])
    assert off.name == "standard (changed: priority.cpu.tolerance=0, priority.disk=null)"
    on = with_settings(POLICIES["seed"], ["severity.floors.medium=80", "severity.floors.high=60"])
    assert on.name == "seed (changed: severity.floors.medium=80, severity.floors.high=60)"


def test_a_change_on_a_change_tells_both() -> None:
    run = with_settings(STANDARD, ["priority.memory.high=60"])
    assert policy_for(own({"priority.cpu.high": 75}), run).name == (
        "standard (changed: priority.memory.high=60) (changed: priority.cpu.high=75)"
    )


@given(first=st.integers(20, 59), second=st.integers(20, 59))
def test_a_name_too_long_to_tell_all_is_cut_and_still_tells_two_policies_apart(first: int, second: int) -> None:
    many = [f"priority.{one}.{number}" for one in ("cpu", "memory") for number in ("critical=90", "tolerance=1")]
    many += ["priority.load_per_core.high=3", "priority.disk.high_within_h=48", "priority.error_rate.critical=4"]
    one, other = (with_settings(STANDARD, [*many, f"severity.floors.high={high}"]) for high in (first, second))
    assert (one.name == other.name) == (first == second)
    assert one.name.startswith("standard (changed: severity.floors.high=")
    assert len(one.name) <= 200
    assert len(with_settings(one, ["priority.cpu.high=50"]).name) <= 200
    assert with_settings(one, ["priority.cpu.high=50"]).name != one.name


def test_a_setting_that_changes_nothing_leaves_the_policy_as_it_is() -> None:
    assert with_settings(STANDARD, []) == STANDARD
    assert with_settings(STANDARD, ["priority.cpu.high=70", " priority.cpu.critical = 85 "]) == STANDARD


def test_of_a_setting_given_twice_the_last_holds() -> None:
    assert with_settings(STANDARD, ["priority.cpu.high=60", "priority.cpu.high=65"]).priority.cpu.high == 65


def test_a_rule_is_switched_off_by_null_and_on_by_all_its_numbers() -> None:
    off = with_settings(STANDARD, ["priority.disk=null"])
    assert judged(off, storage_used=990, storage_total=1000).value == "NORMAL"
    assert with_settings(POLICIES["seed"], ["severity.floors.medium=80", "severity.floors.high=60"]).severity.floors
    with pytest.raises(BadInput, match=r"^--set severity\.floors\.high: is missing$"):
        with_settings(POLICIES["seed"], ["severity.floors.medium=80"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("priority.cpu.hihg=75", "priority.cpu.hihg: unknown; allowed in priority.cpu: critical, high, tolerance"),
        ("priority.cpux.high=75", "priority.cpux.high: unknown; allowed in priority: cpu, memory, mean, "),
        ("priority.cpu.high.x=75", "priority.cpu.high.x: unknown; allowed in priority.cpu: critical, "),
        ("cpu=75", "cpu: unknown; allowed: severity, priority"),
        ("name=mine", "name: unknown; allowed: severity, priority"),
        ("=75", ": unknown; allowed: severity, priority"),
        ("priority.cpu.high", "priority.cpu.high: allowed: KEY=VALUE, such as priority.cpu.high=75"),
        ("priority.cpu.high=high", "priority.cpu.high: found 'high'; input should be a valid number"),
        ("priority.cpu.high=true", "priority.cpu.high: found True; input should be a valid number"),
        ("priority.cpu.high=.nan", "priority.cpu.high: found nan; input should be "),
        ("priority.cpu.high=140", "priority.cpu.high: found 140; input should be less than or equal to 100"),
        ("priority.cpu.high=[1, 2]", "priority.cpu.high: found [1, 2]; allowed: a single value"),
        ("priority.cpu.high={a: 1}", "priority.cpu.high: found {'a': 1}; allowed: a single value"),
        ("priority.cpu.high=2026-01-01", "priority.cpu.high: found datetime.date(2026, 1, 1); allowed: a single value"),
        ("priority.cpu.high=!!python/object:os.system {}", "priority.cpu.high: found '!!python/object:os.system {}'; "),
        ("priority.cpu.high=!!bool x", "priority.cpu.high: found '!!bool x'; input should be a valid number"),
        ("priority.cpu.high=!!int ''", "priority.cpu.high: found \"!!int ''\"; input should be a valid number"),
        ("priority.cpu.high=[!!timestamp x]", "priority.cpu.high: found '[!!timestamp x]'; input should be a valid"),
        ("priority.cpu.high=" + "[" * 100_000, "priority.cpu.high=[[[["),
        ("priority.cpu=75", "priority.cpu: found 75; allowed: a mapping of critical, high, tolerance, weak_signal"),
        ("priority.cpu=null", "priority.cpu: found None; allowed: a mapping of "),
        ("priority.damping.for_readings=2.5", "priority.damping.for_readings: found 2.5; input should be a valid int"),
        ("priority.cpu.high=84", "priority.cpu: high (84) plus tolerance (2) must not be above critical (85)"),
        ("severity.floors.high=81", "severity.floors: high (81) must not be above medium (80)"),
        ("severity.mean.medium=86", "severity.mean: medium (86) must not be above low (85)"),
        ("severity.critical_floors.medium=79", "severity.critical_floors: high (80) must not be above medium (79)"),
        ("severity.critical_floors.high=50", "severity: critical_floors must not be below floors"),
        ("severity.freshness.high=0.5", "severity.freshness: medium (1) must not be above high (0.5)"),
        ("priority.disk.critical_within_h=25", "priority.disk: critical_within_h (25) must not be above high_within_h"),
        ("priority.error_budget.high.rate=15", "priority.error_budget: high.rate (15) must not be above critical.rate"),
        ("priority.error_budget.high.short_min=360", "priority.error_budget.high: short_min (360) must be below long"),
        ("priority.latency.high_percent_of_slo=2", "priority: damping.margin (3) must be below every threshold (2), "),
        ("priority.mean.high=86", "priority: mean.high (86) must not be above critical (85)"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_with_its_name_and_what_is_allowed(setting: str, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        with_settings(STANDARD, [setting])
    assert str(refused.value).startswith(f"--set {message}")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


TAGS = st.sampled_from(["bool", "int", "float", "timestamp", "binary", "null", "set", "omap", "pairs", "seq", "map"])


@given(tag=TAGS, text=st.text("0123456789-:.+eEx_TZ ~[]{}'\"x,", max_size=12), inside=st.booleans())
def test_whatever_is_set_gives_a_policy_or_one_line(tag: str, text: str, inside: bool) -> None:
    for value in (text, f"!!{tag} {text}", f"[!!{tag} {text}]" if inside else f"{{!!{tag} {text}: 1}}"):
        try:
            with_settings(STANDARD, [f"priority.cpu.high={value}"])
        except BadInput as refused:
            message = str(refused)
        else:
            continue
        assert message.startswith("--set priority")
        assert "\n" not in message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("priority.adaptive.highest=84", "priority: adaptive.highest (84) plus cpu.tolerance (2) must not be "),
        ("priority.adaptive.lowest=81", "priority.adaptive: lowest (81) must not be above highest (80)"),
        ("priority.memory.high=null", "priority: adaptive needs memory.high, which holds while the history is short"),
    ],
)  # fmt: skip
def test_adaptive_thresholds_must_fit_the_fixed_ones(setting: str, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        with_settings(POLICIES["adaptive"], [setting])
    assert str(refused.value).startswith(f"--set {message}")


NUMBERS = {
    "priority.cpu.high": st.floats(20, 80),
    "priority.cpu.tolerance": st.floats(0, 5),
    "priority.memory.critical": st.integers(80, 100),
    "priority.damping.for_readings": st.integers(1, 1000),
    "priority.disk.high_within_h": st.floats(4, 1e9),
    "priority.mean": st.none(),
    "severity.floors.medium": st.floats(80, 95),
    "severity.uniqueness": st.none(),
}


@given(data=st.data())
def test_a_changed_policy_can_be_written_and_read_back(data: st.DataObject) -> None:
    keys = data.draw(st.sets(st.sampled_from(sorted(NUMBERS))))
    values = {key: data.draw(NUMBERS[key], key) for key in sorted(keys)}
    changed = with_settings(STANDARD, [f"{key}={yaml_scalar(value)}" for key, value in values.items()])
    assert Policy.model_validate(yaml.safe_load(yaml.safe_dump(changed.model_dump()))) == changed
    for key, value in values.items():
        found: Any = changed
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value


def yaml_scalar(value: object) -> str:
    return yaml.safe_dump(value).removesuffix("...\n").strip()


def test_every_preset_has_only_numbers_that_can_be_set() -> None:
    """What `--set` knows is what the files hold."""
    for policy in POLICIES.values():
        for key in BLOCKS:
            block: Any = policy
            for part in key.split("."):
                block = getattr(block, part, None)
            for name, value in (block.model_dump() if block else {}).items():
                if isinstance(value, int | float):
                    assert with_settings(policy, [f"{key}.{name}={value}"]) == policy


# --- a pipeline's own policy -----------------------------------------------------------------------------


def own(policy: object) -> PipelineSpec:
    return PipelineSpec.model_validate({"id": "p", "source": {"type": "x"}, "policy": policy})


def test_a_pipeline_without_a_policy_gets_the_runs() -> None:
    assert policy_for(own(None), STANDARD) is STANDARD


def test_a_pipelines_preset_holds_instead_of_the_runs() -> None:
    assert policy_for(own("seed"), STANDARD) == POLICIES["seed"]


@pytest.mark.parametrize(
    "changes",
    [
        {"priority.cpu.high": 75, "priority.disk": None},
        {"priority": {"cpu": {"high": 75}, "disk": None}},
        {"priority": {"cpu.high": 75}, "priority.disk": None},
    ],
    ids=["dotted", "nested", "both"],
)
def test_a_pipelines_changes_apply_to_the_runs_policy(changes: dict[str, Any]) -> None:
    run = with_settings(STANDARD, ["priority.memory.high=60"])
    policy = policy_for(own(changes), run)
    assert (policy.priority.cpu.high, policy.priority.memory.high, policy.priority.disk) == (75, 60, None)
    assert policy.name == (
        "standard (changed: priority.memory.high=60) (changed: priority.cpu.high=75, priority.disk=null)"
    )


def test_a_pipelines_policy_decides_its_labels() -> None:
    spec = own({"priority.cpu.high": 50}).model_copy(
        update={"infrastructure_metrics": InfrastructureMetrics(cpu=60, memory=20)}
    )
    label = labels_for(spec, STANDARD)["infrastructure"]
    assert label
    assert (label.value, label.policy) == ("HIGH", "standard (changed: priority.cpu.high=50)")


def test_the_same_changes_are_worked_out_once() -> None:
    first, second = (policy_for(own({"priority.cpu.high": 74}), STANDARD) for _ in range(2))
    assert first is second


def test_one_is_not_taken_for_true_when_changes_are_remembered() -> None:
    assert policy_for(own({"priority.load_per_core.high": 1}), STANDARD).priority.load_per_core
    with pytest.raises(BadInput, match="found True"):
        policy_for(own({"priority.load_per_core.high": True}), STANDARD)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("harsh", "policy: found 'harsh'; allowed: adaptive, seed, standard, or changes such as priority.cpu.high: 75"),
        (
            "agents/labels/policies/seed.yaml",
            "policy: found 'agents/labels/policies/seed.yaml'; allowed: adaptive, seed, ",
        ),
        ("../policies/seed", "policy: found '../policies/seed'; allowed: "),
        ({"priority.cpu.hihg": 75}, "policy.priority.cpu.hihg: unknown; allowed in priority.cpu: critical, high, "),
        ({"priority": {"cpu": {"hihg": 75}}}, "policy.priority.cpu.hihg: unknown; allowed in priority.cpu: "),
        ({"priority": {1: 75}}, "policy.priority.1: unknown; allowed in priority: cpu, memory, "),
        ({"priority.cpu.high": "75"}, "policy.priority.cpu.high: found '75'; input should be a valid number"),
        ({"priority.cpu.high": [75]}, "policy.priority.cpu.high: found [75]; allowed: a single value"),
        ({"priority.cpu.high": {"high": 75}}, "policy.priority.cpu.high: found {'high': 75}; allowed: a single value"),
        ({"priority.cpu.high": float("inf")}, "policy.priority.cpu.high: found inf; input should be "),
        ({"priority": 3}, "policy.priority: found 3; allowed: a mapping of cpu, memory, "),
        ({"name": "calm"}, "policy.name: unknown; allowed: severity, priority, approval"),
        ({"priority.cpu.high": 84}, "policy.priority.cpu: high (84) plus tolerance (2) must not be above critical"),
        ({"x\x1b[31m" * 10_000: 1}, "policy.x [31mx [31m"),
    ],
)
def test_a_pipelines_wrong_policy_is_refused_with_its_field(policy: object, message: str) -> None:
    asked = own(None).model_copy(update={"policy": policy})  # unchecked: a file's would be refused earlier
    for _ in range(2):  # a refusal is not remembered as something else
        with pytest.raises(BadInput) as refused:
            policy_for(asked, STANDARD)
        assert str(refused.value).startswith(message)
        assert len(str(refused.value)) < 300
        assert "\x1b" not in str(refused.value)


def test_a_deeply_nested_policy_is_refused_and_does_not_overflow() -> None:
    deep: dict[str, Any] = {}
    for _ in range(10_000):
        deep = {"cpu": deep}
    spec = own(None).model_copy(update={"policy": {"priority": deep}})
    with pytest.raises(BadInput, match=r"^policy\.priority\.cpu\.cpu: unknown"):
        policy_for(spec, STANDARD)


@given(
    changes=st.dictionaries(
        st.text() | st.sampled_from([*BLOCKS, "priority.cpu.high", "priority"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        ),
        max_size=4,
    )
)
def test_whatever_a_pipeline_asks_for_gives_a_policy_or_one_line(changes: dict[str, Any]) -> None:
    spec = own(None).model_copy(update={"policy": changes})
    try:
        policy = policy_for(spec, STANDARD)
    except BadInput as refused:
        message = str(refused)
    else:
        assert isinstance(policy, Policy)
        return
    assert "\n" not in message
    assert message.startswith("policy.")
