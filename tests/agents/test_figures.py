"""Which figures follow from what an agent was told, and which are invented."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.figures import figures, given_figures, invented_figures, strange_figures
from agents.policy import load_policy
from agents.requests import labels_for
from agents.schema import Stage
from agents.spec import PipelineSpec

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
