"""What the rules recommend by themselves: the oracle's answer, inside the bounds, and never against a guardrail."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents.answers import AnswerForm, answer_model
from agents.asking.requests import labels_for
from agents.destructive import destructive
from agents.facts.spec import PipelineSpec, Source, SourceKind
from agents.fallback import fallback
from agents.guardrails import violations
from agents.labels.label import Label, RuleFired
from agents.labels.policy import load_policy, policy_names
from agents.lexicon import mention
from agents.schema import Recommendation, Stage
from agents.specialists.ingestion.source_rules import kind_of, need_s
from evals.generate import ROWS, generate

POLICIES = {name: load_policy(name) for name in policy_names()}
STANDARD = POLICIES["standard"]
I, Q, X = Stage  # noqa: E741


def recommend(stage: Stage, **parts: dict[str, Any]) -> Recommendation:
    spec = PipelineSpec.model_validate({"id": "p", "source": {"type": "x"}, **parts})
    return fallback(stage, spec, labels_for(spec, STANDARD)[stage])


# --- the oracle ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "source", "mode", "concepts"),
    [
        (1, {"type": "REST API", "latency_need": "1 day", "volume": "500MB/day"}, "batch",
         "cursor pagination retry"),
        (2, {"type": "REST API", "latency_need": "5 min", "rate_limit": "9 calls/s"}, "micro_batch",
         "rate_limit cursor dedupe"),
        (3, {"type": "REST API", "latency_need": "5 s", "description": "no webhook"}, "micro_batch",
         "rate_limit cursor"),
        (4, {"type": "Kafka", "latency_need": "5 s", "volume": "50GB/day"}, "streaming",
         "consumer_group offsets dead_letter dedupe"),
        (5, {"type": "Kafka", "latency_need": "15 min", "volume": "400GB/day"}, "micro_batch",
         "batch_size compaction"),
        (5, {"type": "Kafka", "latency_need": "30 s", "volume": "400GB/day"}, "micro_batch",
         "batch_size compaction"),
        (7, {"type": "MySQL", "latency_need": "30 s", "deletes_matter": True, "log_access": True}, "cdc",
         "snapshot log_retention primary_key"),
        (8, {"type": "MySQL", "latency_need": "1 h", "deletes_matter": False}, "micro_batch", "overlap"),
        (9, {"type": "MySQL", "frequency": "daily", "description": "A lookup table."}, "batch",
         "overwrite idempotent"),
        (10, {"type": "MySQL", "frequency": "daily", "deletes_matter": True, "log_access": False}, "batch",
         "deletes snapshot"),
        (11, {"type": "S3 bucket", "frequency": "daily"}, "batch", "manifest partitioning"),
        (12, {"type": "S3 bucket", "latency_need": "5 min", "volume": "2M files/h"}, "micro_batch", "compaction"),
        (12, {"type": "S3 bucket", "volume": "2M files/h"}, "micro_batch", "compaction notified"),
        (12, {"type": "S3 bucket", "latency_need": "1 day", "volume": "2M files/h"}, "micro_batch", "notified"),
        (11, {"type": "S3 bucket", "latency_need": "1 day", "volume": "2K files/h"}, "batch", "manifest"),
        (13, {"type": "MQTT sensors", "latency_need": "5 s"}, "streaming", "qos edge_buffer out_of_order dedupe"),
        (14, {"type": "MQTT sensors", "latency_need": "1 day"}, "batch", "edge_buffer"),
        (15, {"type": "payment webhook"}, "push_receiver", "hmac fast_ack durable_queue idempotent"),
        (16, {"type": "SaaS CRM", "latency_need": "30 min"}, "micro_batch", "rate_limit schema_drift"),
    ],
)  # fmt: skip
def test_the_oracles_mode_and_what_must_be_said(row: int, source: dict[str, Any], mode: str, concepts: str) -> None:
    recommendation = recommend(I, source=source)
    assert recommendation.mode == mode, row
    assert [concept for concept in concepts.split() if not mention(recommendation.text, concept)] == [], row


@pytest.mark.parametrize(
    ("metrics", "concepts"),
    [
        ({"completeness": 99, "consistency": 99}, "monitor"),
        ({"completeness": 79, "consistency": 92}, "dead_letter"),
        ({"completeness": 40, "consistency": 100}, "block_publish backfill"),
        ({"completeness": 100, "consistency": 100, "uniqueness": 98}, "dedupe idempotent"),
        ({"completeness": 99}, "get_metric"),
        ({"completeness": 40}, "block_publish get_metric"),
    ],
)
def test_quality(metrics: dict[str, Any], concepts: str) -> None:
    text = recommend(Q, quality_metrics=metrics).text
    assert [concept for concept in concepts.split() if not mention(text, concept)] == []


def test_stale_data_sends_us_to_the_scheduler_and_not_to_the_rows() -> None:
    stale = {"completeness": 100, "consistency": 100, "freshness_sla": "2 h"}
    for age in ("3 h", "9 h"):
        text = recommend(Q, quality_metrics={**stale, "freshness": age}).text
        assert "scheduler" in text
        assert not mention(text, "dead_letter")


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"cpu": 12, "memory": 18}, "Scale down slowly"),
        ({"cpu": 50, "memory": 50}, "Monitor the trend"),
        ({"cpu": 78, "memory": 50}, "CPU is scarce"),
        ({"cpu": 78, "memory": 82}, "Memory is scarce"),
        ({"cpu": 40, "memory": 93, "oom_kills": 3}, "Raise the memory limit"),
        ({"cpu": 40, "memory": 40, "storage_used": 98, "storage_total": 100}, "Expand the storage"),
        ({"cpu": 40, "memory": 40, "query_latency": 900, "latency_slo_ms": 500}, "slowest queries"),
        ({"cpu": 40, "memory": 40, "error_rate": 20}, "Roll back"),
        ({"cpu": 40}, "Measure the missing metric"),
        ({"memory": 93, "oom_kills": 3}, "Raise the memory limit"),
        (
            {
                "cpu": 92, "memory": 40, "query_latency": 90, "latency_slo_ms": 500,
                "error_rate": 0, "load_per_core": 0.4, "oom_kills": 0,
            },
            "nobody waits for it",
        ),
    ],
)  # fmt: skip
def test_infrastructure(metrics: dict[str, Any], words: str) -> None:
    assert words in recommend(X, infrastructure_metrics=metrics).text


def test_high_cpu_alone_is_watched_and_not_scaled() -> None:
    calm = {"query_latency": 90, "latency_slo_ms": 500, "error_rate": 0, "load_per_core": 0.4, "oom_kills": 0}
    text = recommend(X, infrastructure_metrics={"cpu": 92, "memory": 40, **calm}).text
    assert mention(text, "monitor")
    assert not mention(text, "grows_machines")
    assert "scarce" not in text


def test_lag_asks_for_more_consumers_only_where_there_are_partitions_for_them() -> None:
    label = Label(
        kind="priority",
        value="HIGH",
        policy="p",
        rules=(RuleFired(rule="lag", level="HIGH", reason="lag grows", facts={"consumer_lag": 900}),),
    )
    for replicas, words in ((3, "and consumers with them"), (12, "further consumers would sit idle")):
        spec = PipelineSpec.model_validate(
            {"id": "p", "source": {"type": "Kafka", "partitions": 12}, "infrastructure_metrics": {"replicas": replicas}}
        )
        assert words in fallback(X, spec, label).text
        assert violations(X, spec, label, fallback(X, spec, label)) == ()


def test_what_is_missing_is_asked_for_also_where_the_worst_is_known() -> None:
    recommendation = recommend(X, infrastructure_metrics={"memory": 93, "oom_kills": 3})
    assert "measure the missing metric" in recommendation.actions[1]


@pytest.mark.parametrize("stage", [Q, X])
def test_a_stage_without_a_label_is_told_to_measure(stage: Stage) -> None:
    spec = PipelineSpec.model_validate({"id": "p", "source": {"type": "x"}})
    assert "Measure the missing metric" in fallback(stage, spec, None).text


def test_every_generated_case_gets_an_acceptable_mode_and_no_forbidden_point() -> None:
    for case in generate(6 * len(ROWS), 3):
        recommendation = fallback(case.stage, case.spec, labels_for(case.spec, STANDARD)[case.stage])
        assert recommendation.mode not in case.unacceptable_modes, case.id
        assert [concept for concept in case.forbidden if mention(recommendation.text, concept)] == [], case.id


# --- what no input may change ----------------------------------------------------------------------------

PERCENT = st.none() | st.integers(0, 100) | st.floats(0, 100)
DURATION = st.none() | st.sampled_from(["1 ms", "5 s", "59 s", "1 min", "15 min", "1 h", "4 h", "1 day", "3 weeks"])
RATE = st.none() | st.sampled_from(
    ["1 B/week", "900MB/day", "10GB/day", "4 GB/h", "5 PB/s", "2M files/h", "1K events/s"]
)
TYPES = st.sampled_from(
    ["REST API", "Kafka topic", "PostgreSQL", "S3 bucket", "MQTT sensors", "payment webhook", "SaaS CRM", "SFTP files",
     "websocket API", "MySQL webhook", "x"]
)  # fmt: skip
WORDS = st.none() | st.sampled_from(
    ["daily", "hourly", "real-time", "streaming", "every 5 minutes", "within seconds", "weekly, real-time", "3 times"]
)
DESCRIPTIONS = st.none() | st.sampled_from(
    [
        "A lookup table.",
        "There is no webhook.",
        "A webhook is offered.",
        "Deletes matter.",
        "A reference table of 9 rows.",
        "Append-only with updated_at.",
        "It has a websocket.",
    ]
)
SOURCES = st.fixed_dictionaries(
    {
        "type": TYPES,
        "kind": st.none() | st.sampled_from(SourceKind),
        "volume": RATE,
        "frequency": WORDS,
        "latency_need": DURATION,
        "deletes_matter": st.none() | st.booleans(),
        "log_access": st.none() | st.booleans(),
        "partitions": st.none() | st.integers(1, 30),
        "description": DESCRIPTIONS,
    }
)
QUALITIES = st.fixed_dictionaries(
    {
        "completeness": PERCENT,
        "consistency": PERCENT,
        "validity": PERCENT,
        "uniqueness": PERCENT,
        "freshness": DURATION,
        "freshness_sla": DURATION,
        "column_criticality": st.none() | st.sampled_from(["normal", "critical"]),
        "issues": st.none() | st.integers(0, 50),
    }
)
MACHINES = st.fixed_dictionaries(
    {
        "cpu": PERCENT,
        "memory": PERCENT,
        "storage_used": st.none() | st.integers(0, 100),
        "storage_total": st.none() | st.integers(100, 120),
        "storage_growth_gb_per_day": st.none() | st.floats(-100, 100),
        "query_latency": st.none() | st.floats(0, 2000),
        "latency_slo_ms": st.none() | st.floats(1, 2000),
        "availability_slo_percent": st.none() | st.floats(90, 99.99),
        "error_rate": PERCENT,
        "load_per_core": st.none() | st.floats(0, 5),
        "oom_kills": st.none() | st.integers(0, 3),
        "consumer_lag": st.none() | st.integers(0, 10**6),
        "replicas": st.none() | st.integers(1, 30),
    }
)


@example(
    source={"type": "REST API", "kind": "webhook", "description": "There is no webhook."},
    quality={},
    machines={},
    policy="standard",
)
@given(source=SOURCES, quality=QUALITIES, machines=MACHINES, policy=st.sampled_from(sorted(POLICIES)))
def test_the_rules_own_advice_breaks_no_rule_fits_the_form_and_destroys_nothing(
    source: dict[str, Any], quality: dict[str, Any], machines: dict[str, Any], policy: str
) -> None:
    spec = PipelineSpec.model_validate(
        {"id": "p", "source": source, "quality_metrics": quality, "infrastructure_metrics": machines}
    )
    labels = labels_for(spec, POLICIES[policy])
    for stage in Stage:
        recommendation = fallback(stage, spec, labels[stage])
        assert violations(stage, spec, labels[stage], recommendation) == ()
        assert destructive(recommendation) is None
        form = answer_model(AnswerForm.STANDARD, stage)
        form.model_validate(recommendation.model_dump(exclude_none=True))


# --- what is known of a source ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("REST API", "rest_api"),
        ("vendor GraphQL API", "rest_api"),
        ("Kafka", "kafka"),
        ("PostgreSQL 16", "database"),
        ("SQL Server", "database"),
        ("Oracle database", "database"),
        ("S3 bucket", "object_storage"),
        ("SFTP files", "object_storage"),
        ("IoT sensors over MQTT", "mqtt"),
        ("payment webhook", "webhook"),
        ("SaaS CRM", "saas"),
        ("SaaS REST API", "saas"),
        ("webhook or REST API", None),
        ("Kafka topic fed by MySQL", None),
        ("streaming API", None),
        ("apiary", None),
        ("IoT sensors", None),
        ("", None),
    ],
)
def test_the_kind_of_a_source_by_plain_words_or_not_at_all(told: str, kind: str | None) -> None:
    assert kind_of(Source.model_construct(type=told)) == kind


@pytest.mark.parametrize(
    ("told", "need"),
    [
        ("daily", 86400),
        ("nightly", 86400),
        ("hourly", 3600),
        ("every 5 minutes", 300),
        ("needed within 30 seconds", 30),
        ("needed within seconds", 9),
        ("real-time", 60),
        ("real-time, needed within seconds", 9),
        ("real-time, daily report", None),
        ("not daily", None),
        ("3 times", None),
        ("bursts of events", None),
        (None, None),
    ],
)
def test_how_soon_data_is_needed_by_plain_words_or_not_at_all(told: str | None, need: float | None) -> None:
    assert need_s(Source(type="x", frequency=told)) == need


def test_a_need_told_as_a_time_goes_before_words() -> None:
    assert need_s(Source(type="x", frequency="daily", latency_need="5 s")) == 5
