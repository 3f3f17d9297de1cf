"""Severity and priority: what the policy table says, at its edges, and what no input may do to a label."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.policy import PRIORITIES, SEVERITIES, UNKNOWN, load_policy, policy_names, priority, severity
from agents.schema import InfrastructureMetrics, QualityMetrics
from console import BadInput

POLICIES = {name: load_policy(name) for name in ("seed", "standard")}
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


# --- the table of the two policies -----------------------------------------------------------------------


@EACH_POLICY
def test_the_missions_examples(policy: str) -> None:
    assert severity_of(policy, 87, 92) == "LOW"
    assert priority_of(policy, 78, 82) == "HIGH"
    assert severity_of(policy, 95, 88) == "LOW"


@pytest.mark.parametrize(("policy", "expected"), [("seed", "NORMAL"), ("standard", "NORMAL")])
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


# --- rows of the oracle table that the two labels can express --------------------------------------------


def test_oracle_row_17_at_least_99_everywhere_is_low() -> None:
    assert severity_of("standard", 99, 99) == "LOW"


@pytest.mark.parametrize("worst", [95, 97, 99])
def test_oracle_row_18_worst_dimension_95_to_99_is_at_most_medium(worst: float) -> None:
    assert severity_of("standard", 100, worst) in {"LOW", "MEDIUM"}


def test_oracle_row_20_one_bad_dimension_is_high_where_the_average_says_medium() -> None:
    assert severity_of("standard", 40, 100) == "HIGH"
    assert severity_of("seed", 40, 100) == "MEDIUM"


def test_oracle_row_23_absent_metrics_are_unknown_and_never_the_mildest_label() -> None:
    assert severity_of("standard", None, None) == UNKNOWN
    assert priority_of("standard", None, None) == UNKNOWN


@EACH_POLICY
def test_oracle_row_31_a_reading_that_swings_between_68_and_72_keeps_its_label(policy: str) -> None:
    if policy == "seed":
        assert {priority_of(policy, cpu, cpu) for cpu in (68, 72)} == {"NORMAL", "HIGH"}  # the flaw it is known for
    else:
        assert {priority_of(policy, cpu, memory) for cpu in (68, 70, 72) for memory in (68, 71, 72)} == {"NORMAL"}


def test_oracle_row_32_idle_machines_are_normal() -> None:
    assert priority_of("standard", 12, 18) == "NORMAL"


def test_oracle_row_33_the_missions_first_pipeline_is_high() -> None:
    assert priority_of("standard", 78, 82) == "HIGH"


def test_oracle_row_34_the_missions_second_pipeline_is_normal_by_the_tolerance_which_is_told() -> None:
    label = priority(machines(65, 71), POLICIES["standard"])
    assert label.value == "NORMAL"
    assert [(rule.rule, rule.reason) for rule in label.rules] == [
        ("within_tolerance", "memory_percent is 71, within 2 points above 70: one reading does not count")
    ]


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


# --- properties ------------------------------------------------------------------------------------------

PERCENT = st.floats(0, 100)
ANY_METRIC = st.none() | st.floats() | PERCENT


@EACH_POLICY
@given(first=PERCENT, second=PERCENT, worse_first=PERCENT, worse_second=PERCENT)
def test_worse_metrics_never_lower_a_label(
    policy: str, first: float, second: float, worse_first: float, worse_second: float
) -> None:
    quality_before = SEVERITIES.index(severity_of(policy, first, second))
    quality_after = SEVERITIES.index(severity_of(policy, min(first, worse_first), min(second, worse_second)))
    assert quality_after >= quality_before
    load_before = PRIORITIES.index(priority_of(policy, first, second))
    load_after = PRIORITIES.index(priority_of(policy, max(first, worse_first), max(second, worse_second)))
    assert load_after >= load_before


@EACH_POLICY
@given(first=ANY_METRIC, second=ANY_METRIC)
def test_every_label_is_a_known_one_and_has_a_reason(policy: str, first: float | None, second: float | None) -> None:
    bad = severity(quality(first, second), POLICIES[policy])
    soon = priority(machines(first, second), POLICIES[policy])
    assert bad.value in {*SEVERITIES, UNKNOWN}
    assert soon.value in {*PRIORITIES, UNKNOWN}
    for label in (bad, soon):
        assert label.policy == policy
        assert label.rules
        assert all(rule.rule and rule.reason for rule in label.rules)


@EACH_POLICY
@given(first=PERCENT, second=PERCENT)
def test_the_order_of_two_dimensions_does_not_matter(policy: str, first: float, second: float) -> None:
    assert severity_of(policy, first, second) == severity_of(policy, second, first)
    assert priority_of(policy, first, second) == priority_of(policy, second, first)


def test_a_reason_names_the_rule_that_decided() -> None:
    label = severity(quality(100, 40), POLICIES["standard"])
    assert [(rule.rule, rule.reason) for rule in label.rules] == [
        ("dimension_floor", "consistency_percent is 40, below 60")
    ]


# --- policy files ----------------------------------------------------------------------------------------

RIGHT = """\
name: mine
description: a test
severity: {low_from_mean: 90, medium_from_mean: 50}
priority: {critical_above: 95, high_from: 80, judge: each}
"""


def test_the_two_presets_are_there() -> None:
    assert policy_names() == ["seed", "standard"]


def test_a_file_of_ones_own_is_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RIGHT)
    policy = load_policy(str(path))
    assert priority(machines(80, 0), policy).value == "HIGH"
    assert severity(quality(60, 60), policy).value == "MEDIUM"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("judge: each", "judge: best", ":4: priority.judge: found 'best'; input should be 'each' or 'mean'"),
        ("critical_above: 95", "critical_above: 140", ":4: priority.critical_above: found 140; "),
        ("critical_above: 95", "critical_above: 70", ":4: priority: high_from plus tolerance must not"),
        ("low_from_mean: 90", "low_from_mean: 40", ":3: severity: medium_from_mean must not be above low_from_mean"),
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


@pytest.mark.parametrize("name", ["strict", "", "../policies/seed", "/etc/passwd", "a\0b", "x" * 5000])
def test_an_unknown_policy_names_the_known_ones(name: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_policy(name)
    assert str(refused.value).endswith("is not known; known: seed, standard, or a path ending in .yaml")
    assert len(str(refused.value)) < 200
