"""Whether a prompt variant renders at all, tried before the first call of a run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from agents.asking.question import question_for
from agents.asking.requests import chat_bodies
from agents.asking.variant import PromptVariant
from agents.asking.ways.label_question import content_free, label_questions
from agents.facts.spec import PipelineSpec
from agents.labels.label import UNKNOWN, Label, RuleFired
from agents.specialists.registry import specialists
from agents.specialists.specialist import Specialist

BARE = PipelineSpec.model_validate({"id": "bare", "source": {"type": "a source"}})
"""A pipeline of which nothing is known but its source."""

_READING = {
    "cpu_percent": 78,
    "memory_percent": 82,
    "storage_used_gb": 450,
    "query_latency_ms": 250,
    "error_rate_percent": 0.5,
    "load_per_core": 1.5,
    "consumer_lag": 1200,
}
FULL = PipelineSpec.model_validate(
    {
        "id": "full",
        "source": {
            "type": "PostgreSQL",
            "kind": "database",
            "volume": "10 GB/day",
            "frequency": "hourly",
            "latency_need": "15 min",
            "deletes_matter": True,
            "log_access": False,
            "rate_limit": "100 requests/min",
            "partitions": 12,
            "description": "An order database with a read replica.",
        },
        "quality_metrics": {
            "completeness_percent": 87,
            "consistency_percent": 92,
            "validity_percent": 99.5,
            "uniqueness_percent": 99.9,
            "freshness": "2 h",
            "freshness_sla": "1 h",
            "column_criticality": "critical",
            "issue_count": 15,
        },
        "infrastructure_metrics": {
            **_READING,
            "storage_total_gb": 1000,
            "storage_growth_gb_per_day": 12,
            "latency_slo_ms": 300,
            "availability_slo_percent": 99.9,
            "oom_kills": 1,
            "replicas": 4,
            "min_replicas": 2,
            "history": [{**_READING, "at": f"2026-01-01T{hour:02}:00:00Z"} for hour in (0, 12)],
        },
        "policy": "standard",
    }
)
"""A pipeline of which everything is known."""


def check_renders(variant: PromptVariant) -> None:
    """Render every stage on a bare and on a full pipeline, with each label it can get. Raises BadInput.

    For runs of unknown length, so that a template's error is told before the first call. Not tried is what a template
    does only for one rule's name or for some words of a pipeline.
    """
    for specialist in specialists():
        for spec, label in product((BARE, FULL), possible_labels(specialist)):
            question = question_for(variant, specialist.name, spec, label)
            chat_bodies(variant, question, "")
            if variant.reads:
                for asked in label_questions(variant, question)[: 1 if variant.prior else 0]:
                    content_free(variant, question, asked)


def possible_labels(specialist: Specialist) -> Iterator[Label | None]:
    """Every level and UNKNOWN, each without and with the facts that decided it; None where there is no label."""
    rule = specialist.label
    if rule is None:
        yield None
        return
    for value, names in product((*rule.levels, UNKNOWN), ((), tuple(specialist.told(FULL)))):
        at_least = rule.levels[-1] if value == UNKNOWN and names else None
        level = at_least or value
        about = [{name: 0} for name in names] or [{}]
        rules = tuple(RuleFired(rule="check", level=level, reason="checking", facts={**facts}) for facts in about)
        yield Label(kind=rule.kind, value=value, policy="check", rules=rules, at_least=at_least)
