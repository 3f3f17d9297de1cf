"""Figures in a text, and which of them follow from what an agent was told.

Two circles. `given_figures` is what stands in the facts or follows from them directly: scorers go by it.
`settled_figures` adds what a careful reader accepts as well (the same amount in other units, a ratio of two facts,
an HTTP status): guardrails go by it, since a guardrail that refuses good advice is worse than none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from agents.asking.variant import Fact, facts_for
from agents.facts.spec import InfrastructureMetrics, PipelineSpec, QualityMetrics
from agents.facts.units import rate, seconds
from agents.labels.label import Label
from agents.schema import Stage

# A figure starts neither inside a word (S3, 2xx) nor inside another number.
# What stands before it is asked after its first digit: a search for a digit is quicker than one for a condition.
_FIGURE = re.compile(r"\d(?<![\w.,]\d)\d*(?:,\d{3})*(?:\.\d+)?(?![\d]|xx)")

# Numbers that are part of a name or a setting of the advice itself, and claim nothing about the facts.
_NAMED = re.compile(
    r"\b(?:sha|utf|iso|rfc|tls|oauth|http|status|code|qos|spark|flink|airflow|python|step)\b[\s/#:-]*(?:code\s+)?\d[\d.]*\b"
    r"|(?<![\d.,])(?:[1-9]|10)\s+(?:times|attempts|retries|tries)\b",
    re.IGNORECASE,
)

_DIGIT = re.compile(r"\d")

FREE_FIGURES = (1.0, 2.0)
"""Any text may count its two actions."""
_STATUS_CODES = (200.0, 202.0, 204.0, 408.0, 429.0, 500.0, 502.0, 503.0, 504.0)
_ENDS_OF_A_SCALE = (0.0, 100.0)

CPU_TARGET_PERCENT = 60.0
"""Where replicas settle when a recommendation scales out to a CPU target (row 25 of docs/oracle.md, our own figure)."""

_LENGTHS_S = (0.001, 1.0, 60.0, 3600.0, 86400.0)
_BYTES = tuple(1024.0**power for power in range(1, 5))


def figures(text: str) -> Iterator[float]:
    """Every number in a text, thousands separators read: ``1,000 GB`` is 1000."""
    for match in _FIGURE.finditer(text):
        yield float(match.group().replace(",", ""))


def strange_figures(text: str, known: set[float]) -> list[float]:
    """The figures in a text that are not among the known ones, in their order."""
    return [figure for figure in figures(text) if not _among(figure, known)]


def invented_figures(text: str, stage: Stage, spec: PipelineSpec, label: Label | None) -> list[float]:
    """The figures in a text that nobody gave and that settle nothing by themselves.

    Free besides `settled_figures`: numbers in names (SHA-256, QoS 1, HTTP 429) and up to ten tries, which is a
    setting and no claim. Any other count that was not given, three nodes say, is invented.
    """
    claimed = claiming(text)
    return strange_figures(claimed, {*settled_figures(stage, spec, label)}) if _FIGURE.search(claimed) else []


def claiming(text: str) -> str:
    """The text without the numbers that are part of a name or a setting of the advice itself; empty where no figure
    is in it at all."""
    return _NAMED.sub(" ", text) if _DIGIT.search(text) else ""


def given_figures(stage: Stage, spec: PipelineSpec, label: Label | None) -> Iterator[float]:
    """The facts' figures and what follows from them: the rest to 100 of a percentage, used over total storage in
    percent, total minus used, and the figures in the label's reasons. 1 and 2 are free: there are two actions."""
    yield from FREE_FIGURES
    yield from told_figures(facts_for(stage, spec), label)


def told_figures(facts: dict[str, Fact], label: Label | None) -> Iterator[float]:
    """`given_figures` without the free ones, from facts that are at hand (agents.prompt.facts_for)."""
    for value in facts.values():
        yield from _read(value)
    for name, value in facts.items():
        if name.endswith("_percent"):
            yield 100 - float(value)
    used, total = facts.get("storage_used_gb"), facts.get("storage_total_gb")
    if isinstance(used, int | float) and isinstance(total, int | float):
        yield from (total - used, 100 * used / total, 100 - 100 * used / total)
    if label:
        for rule in label.rules:
            yield from figures(rule.reason)


def settled_figures(stage: Stage, spec: PipelineSpec, label: Label | None) -> Iterator[float]:
    """`given_figures`, what the rules went by, other units, ratios of two facts, status codes, 0 and 100."""
    yield from given_figures(stage, spec, label)
    yield from following_figures(stage, spec, label)


def following_figures(stage: Stage, spec: PipelineSpec, label: Label | None) -> Iterator[float]:
    """What `settled_figures` adds to `given_figures`."""
    yield from (*_ENDS_OF_A_SCALE, *_STATUS_CODES)
    for rule in label.rules if label else ():
        for value in rule.facts.values():
            yield from _read(value)
    if stage is Stage.INGESTION:
        yield from _in_other_lengths([spec.source.latency_need])
        yield from _in_other_rates([spec.source.volume, spec.source.rate_limit])
    elif stage is Stage.QUALITY:
        yield from _of_quality(spec.quality_metrics)
    else:
        yield from _of_machines(spec.infrastructure_metrics)


def _read(value: Fact) -> Iterator[float]:
    """The figures of one fact."""
    yield from figures(value) if isinstance(value, str) else (float(value),)


def _of_quality(metrics: QualityMetrics) -> Iterator[float]:
    """The mean of completeness and consistency, the age of the data over its SLA, and by how much it is late."""
    if metrics.completeness_percent is not None and metrics.consistency_percent is not None:
        yield (metrics.completeness_percent + metrics.consistency_percent) / 2
    age, promised = metrics.freshness, metrics.freshness_sla
    yield from _in_other_lengths([age, promised])
    if age is not None and promised is not None:
        times, late_s = _ratio(seconds(age), seconds(promised)) or (1.0, seconds(age))
        yield times
        yield from _at_least_one(late_s / length for length in _LENGTHS_S)


def _of_machines(metrics: InfrastructureMetrics) -> Iterator[float]:
    """Days and hours until the storage is full, latency over its SLO, error budget spent, replicas to scale to."""
    used, total, growth = metrics.storage_used_gb, metrics.storage_total_gb, metrics.storage_growth_gb_per_day
    if used is not None and total is not None and growth is not None and growth > 0:
        yield from ((total - used) / growth, 24 * (total - used) / growth)
    if metrics.query_latency_ms is not None and metrics.latency_slo_ms is not None:
        yield from _ratio(metrics.query_latency_ms, metrics.latency_slo_ms)
    if metrics.error_rate_percent is not None and metrics.availability_slo_percent is not None:
        yield from _ratio(metrics.error_rate_percent, 100 - metrics.availability_slo_percent)
    if metrics.replicas is not None:
        yield from (metrics.replicas - 1.0, metrics.replicas + 1.0)
        if metrics.cpu_percent is not None:
            yield float(math.ceil(metrics.replicas * metrics.cpu_percent / CPU_TARGET_PERCENT))


def _ratio(value: float, limit: float) -> tuple[float, ...]:
    # A promise of zero (freshness 0 s) has no multiple.
    return (value / limit, abs(value - limit)) if limit else ()


def _in_other_lengths(durations: Iterable[str | None]) -> Iterator[float]:
    for told in durations:
        if told is not None:
            yield from _at_least_one(seconds(told) / length for length in _LENGTHS_S)


def _in_other_rates(rates: Iterable[str | None]) -> Iterator[float]:
    for told in rates:
        if told is None:
            continue
        found = rate(told)
        for length in _LENGTHS_S[1:]:
            per_period = float(found.per_s) * length
            units = _BYTES if found.what == "B" else (1.0, 1e3, 1e6)
            yield from _at_least_one(per_period / unit for unit in units)


def _at_least_one(values: Iterable[float]) -> Iterator[float]:
    # Below one, the half a unit that rounding is allowed would let any small number pass.
    return (round(value, 6) for value in values if value >= 1)


def _among(figure: float, known: set[float]) -> bool:
    # A derived share may be told rounded to a whole number: 45.3 % as 45 %. Infinite is what 400 digits read as, or a
    # fact divided by next to nothing: it is near to no figure, and to itself alone.
    return figure in known or any(abs(figure - one) <= (1e-9 if float(one).is_integer() else 0.5) for one in known)
