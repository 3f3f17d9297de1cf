"""Which figures follow from what an agent was told, and which are invented."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.asking.requests import labels_for
from agents.facts.spec import PipelineSpec
from agents.fallback import fallback
from agents.figures import figures, given_figures, invented_figures, strange_figures
from agents.guardrails import violations
from agents.labels.policy import load_policy
from agents.schema import Recommendation, Stage

STANDARD = load_policy("standard")
I, Q, X = Stage  # noqa: E741


def pipeline(**parts: dict[str, Any]) -> PipelineSpec:
    return PipelineSpec.model_validate({"id": "pipeline_077", "source": {"type": "x"}, **parts})


def invented(stage: Stage, spec: PipelineSpec, text: str) -> list[float]:
    return invented_figures(text, stage, spec, labels_for(spec, STANDARD)[stage])


SOURCE = pipeline(
    source={"type": "REST API", "volume": "10GB/day", "latency_need": "15 min", "rate_limit": "6K calls/h"}
)
QUALITY = pipeline(quality_metrics={"completeness": 87, "consistency": 92, "freshness": "6 h", "freshness_sla": "2 h"})
MACHINES = pipeline(
    infrastructure_metrics={
        "cpu": 78,
        "memory": 82.5,
        "storage_used": 820,
        "storage_total": 1000,
        "storage_growth_gb_per_day": 60,
        "query_latency": 750,
        "latency_slo_ms": 500,
        "error_rate": 0.5,
        "availability_slo_percent": 99.9,
        "replicas": 3,
    }
)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1,000 GB, 45.5 % and 3.", [1000, 45.5, 3]),
        ("S3, p95, EC2, 5xx, v2.1, pipeline_077", []),
        ("5-10 min", [5, 10]),
        ("", []),
        ("٣ nodes", [3]),
    ],
)
def test_figures_in_a_text(text: str, read: list[float]) -> None:
    assert list(figures(text)) == read


@pytest.mark.parametrize(
    ("stage", "spec", "text"),
    [
        (I, SOURCE, "10 GB a day within 15 min, at most 6000 calls an hour."),
        (I, SOURCE, "That is 900 s or 900,000 ms."),
        (I, SOURCE, "That is 100 calls a minute and 427 MB an hour."),
        (I, SOURCE, "Back off on HTTP 429, 503 or status code 418, and retry up to 5 times."),
        (I, SOURCE, "Check HMAC-SHA-256, QoS 0, UTF-8 and ISO 8601; answer 200."),
        (Q, QUALITY, "13 % are missing and 8 % disagree; 100 % is the aim and 0 gaps."),
        (Q, QUALITY, "The data is 6 h old, 4 h more than the 2 h promised, 3 times as much."),
        (Q, QUALITY, "The mean of both is 89.5."),
        (X, MACHINES, "82 % of the disk is used, 180 GB are left, which is 3 days or 72 hours."),
        (X, MACHINES, "Latency is 1.5 times the SLO, 250 ms above 500."),
        (X, MACHINES, "The error budget of 0.1 % burns at 5 times its rate."),
        (X, MACHINES, "Scale out from 3 to 4 replicas; memory is at 82.5 %, or 83."),
        (X, MACHINES, "Do these 2 things, 1 at a time."),
    ],
)
def test_what_follows_from_the_facts_is_not_invented(stage: Stage, spec: PipelineSpec, text: str) -> None:
    assert invented(stage, spec, text) == []


@pytest.mark.parametrize(
    ("stage", "spec", "text", "strange"),
    [
        (I, SOURCE, "Poll every 3 minutes.", [3]),
        (I, SOURCE, "Retry 50 times.", [50]),
        (I, SOURCE, "Read 77 GB.", [77]),
        (I, SOURCE, "CPU is at 78 %.", [78]),
        (Q, QUALITY, "14 % are missing.", [14]),
        (Q, QUALITY, "The data is 9 h old.", [9]),
        (X, MACHINES, "Add 7 nodes with 64 GB.", [7, 64]),
        (X, MACHINES, "The disk is full in 9 days.", [9]),
        (X, MACHINES, "1,001 GB in total.", [1001]),
        (X, MACHINES, "Use 8-12 replicas.", [8, 12]),
    ],
)
def test_what_nobody_gave_is_invented(stage: Stage, spec: PipelineSpec, text: str, strange: list[float]) -> None:
    assert invented(stage, spec, text) == strange


def test_a_promise_of_nothing_has_no_multiple() -> None:
    spec = pipeline(quality_metrics={"completeness": 87, "consistency": 92, "freshness": "6 h", "freshness_sla": "0 s"})
    assert invented(Q, spec, "The data is 6 h old.") == []
    still = pipeline(infrastructure_metrics={"storage_used": 1, "storage_total": 9, "storage_growth_gb_per_day": 0})
    assert invented(X, still, "8 GB are left.") == []


def test_a_fact_that_is_yes_or_no_gives_no_figure_but_the_free_ones() -> None:
    spec = pipeline(source={"type": "PostgreSQL", "deletes_matter": True, "log_access": False})
    assert set(given_figures(I, spec, None)) <= {0.0, 1.0, 2.0}


@given(facts=st.fixed_dictionaries({name: st.integers(0, 100) for name in ("cpu", "memory", "error_rate")}))
def test_the_facts_and_the_rest_to_100_are_never_strange(facts: dict[str, int]) -> None:
    known = {*given_figures(X, pipeline(infrastructure_metrics=facts), None)}
    for value in facts.values():
        assert strange_figures(f"It is {value} %, or {value}.0 %; {100 - value} % are left.", known) == []


@given(value=st.integers(3, 97), other=st.integers(3, 97))
def test_a_figure_that_is_neither_is_strange(value: int, other: int) -> None:
    known = {*given_figures(X, pipeline(infrastructure_metrics={"cpu": value}), None)}
    assert strange_figures(f"CPU is at {other} %.", known) == ([] if other in (value, 100 - value) else [other])


# --- extreme facts -----------------------------------------------------------------------------------------

DIGITS = "9" * 400


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        (I, {"source": {"type": "x", "description": f"key {DIGITS}"}}),
        (X, {"infrastructure_metrics": {"storage_used": 1, "storage_total": 9, "storage_growth_gb_per_day": 1e-320}}),
        (X, {"infrastructure_metrics": {"query_latency": 1e300, "latency_slo_ms": 1e-20}}),
    ],
)
def test_a_fact_beyond_all_bounds_is_near_to_no_figure_and_ends_nothing(stage: Stage, parts: dict[str, Any]) -> None:
    assert invented(stage, pipeline(**parts), "There are 77 of them.") == [77]


def test_a_figure_too_long_to_read_is_known_only_where_it_was_given() -> None:
    assert invented(I, pipeline(source={"type": "x", "description": f"key {DIGITS}"}), f"Use key {DIGITS}.") == []
    assert invented(I, SOURCE, f"Use key {DIGITS}.") == [float("inf")]


EXTREME = st.none() | st.sampled_from([0, 1e-320, 1e-20, 1, 77.7, 1e15, 1e300, 1.7e308])
ABOVE_ZERO = st.none() | st.sampled_from([1e-320, 1e-20, 1, 500, 1e300, 1.7e308])
SHARE = st.none() | st.sampled_from([0, 1e-320, 50, 99.99999999999999, 100])
COUNT = st.none() | st.sampled_from([0, 1, 10**15])
LENGTH = st.none() | st.sampled_from(["0 s", "0.000001 ms", "900000 weeks", "1 h"])
FACTS = {
    "source": st.fixed_dictionaries(
        {
            "type": st.sampled_from(["REST API", "S3 bucket", "Kafka", "PostgreSQL", DIGITS[:200]]),
            "volume": st.none() | st.sampled_from(["900000 PB/s", "0 B/week", "900000M files/s"]),
            "latency_need": LENGTH,
            "frequency": st.none() | st.sampled_from(["every 999999999999999 weeks", "every 0 s", DIGITS[:200]]),
            "partitions": st.none() | st.sampled_from([1, 10**9]),
            "description": st.none() | st.just(f"key {DIGITS}"),
        }
    ),
    "quality_metrics": st.fixed_dictionaries(
        {
            "completeness": SHARE,
            "consistency": SHARE,
            "uniqueness": SHARE,
            "freshness": LENGTH,
            "freshness_sla": LENGTH,
            "issues": COUNT,
        }
    ),
    "infrastructure_metrics": st.fixed_dictionaries(
        {
            "cpu": SHARE,
            "memory": SHARE,
            "storage_total": ABOVE_ZERO,
            "storage_growth_gb_per_day": EXTREME,
            "query_latency": EXTREME,
            "latency_slo_ms": ABOVE_ZERO,
            "availability_slo_percent": st.none() | st.sampled_from([1e-320, 50, 99.99999999999999]),
            "error_rate": SHARE,
            "load_per_core": EXTREME,
            "oom_kills": COUNT,
            "consumer_lag": COUNT,
            "replicas": st.none() | st.sampled_from([1, 10**9]),
        }
    ),
}


@given(parts=st.fixed_dictionaries(FACTS), share=st.none() | st.sampled_from([0.0, 0.5, 1.0]))
def test_no_facts_however_extreme_end_the_guardrails_or_the_rules_own_advice(
    parts: dict[str, Any], share: float | None
) -> None:
    total = parts["infrastructure_metrics"]["storage_total"]
    if total is not None and share is not None:
        parts["infrastructure_metrics"]["storage_used"] = total * share
    spec = pipeline(**parts)
    says = Recommendation(summary="There are 77 of them.", actions=(f"Use {DIGITS}.", "Use 1e300."))
    for stage, label in labels_for(spec, STANDARD).items():
        assert violations(stage, spec, label, says)
        assert violations(stage, spec, label, fallback(stage, spec, label)) == ()
