"""Pipelines for tests of what must hold for all of them: any facts that a file may state, with any policy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from agents.facts.spec import PipelineSpec, SourceKind
from agents.labels.policy import load_policy, policy_names

POLICIES = {name: load_policy(name) for name in policy_names()}
STANDARD = POLICIES["standard"]

_PERCENT = st.none() | st.integers(0, 100) | st.floats(0, 100)
_DURATION = st.none() | st.sampled_from(["1 ms", "5 s", "59 s", "1 min", "15 min", "1 h", "4 h", "1 day", "3 weeks"])
_RATE = st.none() | st.sampled_from(
    ["1 B/week", "900MB/day", "10GB/day", "4 GB/h", "5 PB/s", "2M files/h", "1K events/s"]
)
_SOURCES = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["REST API", "Kafka topic", "PostgreSQL", "S3 bucket", "MQTT sensors", "payment webhook", "SaaS CRM", "x"]
        ),
        "kind": st.none() | st.sampled_from(SourceKind),
        "volume": _RATE,
        "frequency": st.none() | st.sampled_from(["daily", "real-time", "every 5 minutes", "within seconds", "bursts"]),
        "latency_need": _DURATION,
        "deletes_matter": st.none() | st.booleans(),
        "log_access": st.none() | st.booleans(),
        "rate_limit": st.none() | st.sampled_from(["100 requests/min", "9 calls/s"]),
        "partitions": st.none() | st.integers(1, 30),
        "description": st.none() | st.sampled_from(["A lookup table.", "There is no webhook.", "Deletes matter."]),
    }
)
_QUALITY = st.fixed_dictionaries(
    {
        "completeness": _PERCENT,
        "consistency": _PERCENT,
        "validity": _PERCENT,
        "uniqueness": _PERCENT,
        "freshness": _DURATION,
        "freshness_sla": _DURATION,
        "column_criticality": st.none() | st.sampled_from(["normal", "critical"]),
        "issues": st.none() | st.integers(0, 50),
    }
)
_READING = {
    "cpu": _PERCENT,
    "memory": _PERCENT,
    "storage_used": st.none() | st.integers(0, 100),
    "query_latency": st.none() | st.floats(0, 2000),
    "error_rate": _PERCENT,
    "load_per_core": st.none() | st.floats(0, 5),
    "consumer_lag": st.none() | st.integers(0, 10**6),
}


def _history(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [{**one, "at": start + number * timedelta(minutes=5)} for number, one in enumerate(readings)]


_MACHINES = st.fixed_dictionaries(
    {
        **_READING,
        "storage_total": st.none() | st.integers(100, 120),
        "storage_growth_gb_per_day": st.none() | st.floats(-100, 100),
        "latency_slo_ms": st.none() | st.floats(1, 2000),
        "availability_slo_percent": st.none() | st.floats(90, 99.99),
        "oom_kills": st.none() | st.integers(0, 3),
        "replicas": st.none() | st.integers(1, 30),
        "min_replicas": st.none() | st.integers(1, 5),
        "history": st.lists(st.fixed_dictionaries(_READING), max_size=8).map(_history),
    }
)
POLICY = st.sampled_from(sorted(POLICIES)).map(POLICIES.__getitem__)
SPECS = st.builds(
    lambda source, quality, machines: PipelineSpec.model_validate(
        {"id": "p", "source": source, "quality_metrics": quality, "infrastructure_metrics": machines}
    ),
    _SOURCES,
    _QUALITY,
    _MACHINES,
)
"""Nearly every field absent, at its edges or between them."""
