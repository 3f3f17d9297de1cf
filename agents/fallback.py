"""What the rules themselves recommend, where the model's answer is late or may not be given.

A plain recommendation from the facts alone, as specific as they allow: the mode from the oracle table
(docs/oracle.md), the steps from the rules that gave the label. It fits the standard answer form, breaks no guardrail
and advises nothing that cannot be undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agents.facts.spec import InfrastructureMetrics, PipelineSpec, QualityMetrics, Source, SourceKind
from agents.facts.units import bytes_per_hour
from agents.labels.label import Label
from agents.lexicon import mention
from agents.schema import IngestionMode, Recommendation, Stage
from agents.specialists.ingestion.source_rules import (
    DAY_S,
    IDLE_BELOW_PERCENT,
    LARGE_BYTES_PER_H,
    POLLING_FROM_S,
    PULLED,
    SECONDS_MATTER_S,
    STREAMING_BELOW_S,
    has_many_files,
    has_no_spare_partition,
    is_small_table,
    kind_of,
    need_s,
    offers_webhook,
    unfit_modes,
)

B, M, S, C, P = IngestionMode


class Advice(NamedTuple):
    """A summary and two steps."""

    summary: str
    first: str
    second: str


def fallback(stage: Stage, spec: PipelineSpec, label: Label | None) -> Recommendation:
    """A plain recommendation from the facts and the label alone. It breaks no guardrail."""
    mode = None
    if stage is Stage.INGESTION:
        mode = ingestion_mode(spec.source)
        advice = _ingestion(spec.source, mode)
    elif stage is Stage.QUALITY:
        advice = _quality(spec.quality_metrics, label)
    else:
        advice = _infrastructure(spec, label)
    return Recommendation(summary=advice.summary, actions=(advice.first, advice.second), mode=mode)


# --- ingestion: the latency need, then what the source can do, then volume --------------------------------


def ingestion_mode(source: Source) -> IngestionMode:
    """The simplest mode that the facts allow; the preferred one of its kind unless the facts rule it out."""
    kind = kind_of(source)
    choose = _CHOICES[kind] if kind else _of_unknown
    unfit = unfit_modes(source)
    return next(mode for mode in (choose(source), M, B, S, P) if mode not in unfit)


def _of_database(source: Source) -> IngestionMode:
    """The log where deletes or seconds matter and it may be read; else a query as often as is needed."""
    if is_small_table(source) or source.log_access is False:
        return _pulled(source)
    if _below(source, SECONDS_MATTER_S) or (source.deletes_matter and source.log_access):
        return C
    return _pulled(source)


def _of_events(source: Source) -> IngestionMode:
    """A stream where seconds matter and the volume allows it; else larger batches."""
    volume = bytes_per_hour(source.volume)
    if volume is not None and volume > LARGE_BYTES_PER_H and not _below(source, POLLING_FROM_S):
        return M
    if _below(source, 2 * SECONDS_MATTER_S) or (need_s(source) is None and mention(source.frequency or "", "flows")):
        return S
    return B if _from(source, DAY_S) else M


def _of_files(source: Source) -> IngestionMode:
    """Notifications where there are too many files to list, however late they may be used."""
    return M if has_many_files(source) else _pulled(source)


def _of_webhook(_source: Source) -> IngestionMode:
    return P


def _of_api(source: Source) -> IngestionMode:
    return P if offers_webhook(source) and _below(source, STREAMING_BELOW_S) else _pulled(source)


def _of_unknown(source: Source) -> IngestionMode:
    return S if _below(source, SECONDS_MATTER_S) else _pulled(source)


def _pulled(source: Source) -> IngestionMode:
    """Minutes ask for micro-batches; a day, or nothing said, for the simplest mode."""
    need = need_s(source)
    return M if need is not None and need <= STREAMING_BELOW_S else B


_CHOICES: dict[SourceKind, Callable[[Source], IngestionMode]] = {
    SourceKind.REST_API: _of_api,
    SourceKind.SAAS: _of_api,
    SourceKind.DATABASE: _of_database,
    SourceKind.KAFKA: _of_events,
    SourceKind.MQTT: _of_events,
    SourceKind.OBJECT_STORAGE: _of_files,
    SourceKind.WEBHOOK: _of_webhook,
}

_API_STEPS = (
    "Keep a cursor, follow the pagination, and remove duplicates by primary key.",
    "Stay within the rate limit: back off on HTTP 429 and retry from the cursor.",
)
_TABLE_STEPS = (
    "Keep a cursor on a column that only grows, with an overlap window for late rows.",
    "Upsert on the primary key, so that a repeated run changes nothing.",
)
_FILE_STEPS = (
    "Load each file once: keep a manifest of loaded files, so that a rerun is idempotent.",
    "Partition the target by date and compact small files.",
)
_TOPIC_STEPS = (
    "Read with a consumer group, commit offsets after the write, and remove duplicates by key.",
    "Send unreadable messages to a dead letter queue and alert on lag.",
)
_DEVICE_STEPS = (
    "Use QoS 1 and a buffer at the edge, and bring the broker's messages to a durable queue.",
    "Order readings by event time with a watermark, and remove duplicates by device and time.",
)
_PUSH_STEPS = (
    "Verify the HMAC signature, put the event on a durable queue, and answer 2xx at once.",
    "Work off the queue asynchronously, idempotent by event id.",
)
_UNKNOWN_STEPS = (
    "State what kind of source it is and how old its data may be when it is used.",
    "Keep a cursor or an offset, retry failed reads, and make the load idempotent.",
)

_INGESTION: dict[tuple[SourceKind | None, IngestionMode], Advice] = {
    (SourceKind.REST_API, B): Advice("Pull the API on a schedule, only what is new.", *_API_STEPS),
    (SourceKind.REST_API, M): Advice("Poll the API every few minutes for what is new.", *_API_STEPS),
    (SourceKind.REST_API, P): Advice("Receive the API's webhook and put its events on a queue.", *_PUSH_STEPS),
    (SourceKind.SAAS, B): Advice("Pull on a schedule through a managed connector, only what is new.", *_API_STEPS),
    (SourceKind.SAAS, M): Advice(
        "Pull what is new every few minutes through a managed connector.",
        "Stay within the API quota: back off on HTTP 429 and resume from the cursor.",
        "Watch for schema drift and remove duplicates by primary key.",
    ),
    (SourceKind.SAAS, P): Advice("Receive the service's webhook and put its events on a queue.", *_PUSH_STEPS),
    (SourceKind.DATABASE, B): Advice("Query the table on a schedule, only what changed.", *_TABLE_STEPS),
    (SourceKind.DATABASE, M): Advice("Query what changed every few minutes, from a read replica.", *_TABLE_STEPS),
    (SourceKind.DATABASE, C): Advice(
        "Read the transaction log, so that changes and deletes arrive within seconds.",
        "Take a first snapshot, then follow the log; check that its retention outlasts an outage.",
        "Give each table a primary key or replica identity, and apply changes idempotently by it.",
    ),
    (SourceKind.KAFKA, B): Advice("Load the topic on a schedule from the offsets of the last run.", *_TOPIC_STEPS),
    (SourceKind.KAFKA, M): Advice(
        "Read the topic in micro-batches and write in larger batches.",
        "Commit offsets after each batch, and remove duplicates by key.",
        "Compact small files and alert on lag.",
    ),
    (SourceKind.KAFKA, S): Advice("Process the topic as a stream, event by event.", *_TOPIC_STEPS),
    (SourceKind.MQTT, B): Advice("Land the readings through a broker and load them on a schedule.", *_DEVICE_STEPS),
    (SourceKind.MQTT, M): Advice("Land the readings through a broker and load them in micro-batches.", *_DEVICE_STEPS),
    (SourceKind.MQTT, S): Advice("Stream the readings from an MQTT broker through a durable queue.", *_DEVICE_STEPS),
    (SourceKind.OBJECT_STORAGE, B): Advice("Load new files in bulk on a schedule.", *_FILE_STEPS),
    (SourceKind.OBJECT_STORAGE, M): Advice(
        "Load new files every few minutes as file notifications arrive.",
        "Take file notifications from an event queue and load each file once.",
        "Compact small files and partition the target by date.",
    ),
    (SourceKind.WEBHOOK, P): Advice("Receive the webhook and put its events on a queue.", *_PUSH_STEPS),
    (None, B): Advice("Load on a schedule: the simplest way that the facts allow.", *_UNKNOWN_STEPS),
    (None, M): Advice("Load what is new every few minutes.", *_UNKNOWN_STEPS),
    (None, S): Advice("Take the events as a stream, since seconds matter.", *_UNKNOWN_STEPS),
}

_TOO_FAST_FOR_POLLING = Advice(
    "Polling cannot meet this latency need; it is a stopgap until the source sends its events.",
    "Ask the owner for a webhook or a stream endpoint.",
    "Until then poll within the rate limit, keep a cursor, and remove duplicates by key.",
)
_SMALL_TABLE = Advice(
    "Copy the small table whole once a day.",
    "Write the copy beside the old one and swap them, so that a rerun is idempotent.",
    "Check the number of rows before the swap and keep the last good copy.",
)
_NO_LOG_BUT_DELETES = Advice(
    "Compare whole snapshots, since hard deletes are invisible to polling and the log is closed.",
    "Take a snapshot on a schedule and mark rows that are gone as deleted.",
    "Ask the owner for a soft delete column or for access to the log.",
)


def _ingestion(source: Source, mode: IngestionMode) -> Advice:
    kind = kind_of(source)
    if kind in PULLED and mode is M and _below(source, POLLING_FROM_S):
        return _TOO_FAST_FOR_POLLING
    if is_small_table(source):
        return _SMALL_TABLE
    if kind is SourceKind.DATABASE and source.deletes_matter and mode is not C:
        return _NO_LOG_BUT_DELETES if source.log_access is False else _DELETES
    return _INGESTION[kind, mode]


_DELETES = Advice(
    "Compare snapshots on a schedule until the log may be read, since polling alone misses deletes.",
    "Ask the owner for access to the log or for a soft delete column.",
    "Mark rows that are gone from the snapshot as deleted, by primary key.",
)


def _below(source: Source, limit_s: float) -> bool:
    need = need_s(source)
    return need is not None and need < limit_s


def _from(source: Source, limit_s: float) -> bool:
    need = need_s(source)
    return need is not None and need >= limit_s


# --- quality and infrastructure: the rules that gave the label ---------------------------------------------


def causes(label: Label) -> set[str]:
    """What each rule at the worst level known is about: the fact that stands first; the others are its evidence."""
    deciding = [rule for rule in label.rules if rule.level == label.worst_known and rule.facts]
    return {next(iter(rule.facts)) for rule in deciding}


def _quality(metrics: QualityMetrics, label: Label | None) -> Advice:
    if label is None or label.worst_known == "UNKNOWN":
        return _MEASURE_QUALITY
    if label.worst_known == "LOW":
        return _calm_quality(metrics)
    special, general = (_BAD, _MISSING_MUCH) if label.worst_known == "HIGH" else (_DOUBTFUL, _MISSING_SOME)
    about = causes(label)
    step = next((step for fact, step in special.items() if fact in about), general)
    return step._replace(second=_THEN_MEASURE) if label.value == "UNKNOWN" else step


def _calm_quality(metrics: QualityMetrics) -> Advice:
    issues = "Trace the open issues to their source." if metrics.issue_count else "Keep the checks as they are."
    return Advice("The data can be used as it is.", "Keep the data flowing and monitor its metrics.", issues)


_MEASURE_QUALITY = Advice(
    "How good the data is cannot be told, because a metric is missing.",
    "Measure the missing metric before judging the data.",
    "Treat the data as unchecked until it is measured.",
)
_THEN_MEASURE = "Then measure the missing metric, since things may be worse than is known."

_DUPLICATES = Advice(
    "Records with the same key make every total wrong.",
    "Hold back publishing and remove duplicates by key, keeping the newest record of each.",
    "Make the load an idempotent merge on the key, so that a rerun adds nothing.",
)

_MISSING_SOME = Advice(
    "Some records cannot be relied on; the rest can be used.",
    "Quarantine the failing rows and keep the rest flowing.",
    "Find the cause upstream and backfill what it left out.",
)
_MISSING_MUCH = Advice(
    "Too much is missing or wrong for the data to be used.",
    "Block publishing this data until it is repaired.",
    "Find the step upstream where it goes wrong, and backfill from the source.",
)

# In the order of what to look at first: stale data explains what is missing, and not the other way round.
_DOUBTFUL = {
    "uniqueness_percent": _DUPLICATES,
    "freshness": Advice(
        "The data is older than was promised.",
        "Check the scheduler and the upstream source for the delay.",
        "Tell users how old the data is, and backfill once it arrives again.",
    ),
}
_BAD = {
    "uniqueness_percent": _DUPLICATES,
    "freshness": Advice(
        "The data is far older than was promised and must not pass for current.",
        "Check the scheduler and the upstream source, and restart the load that stopped.",
        "Mark the data as stale, and backfill what did not arrive.",
    ),
}


def _infrastructure(spec: PipelineSpec, label: Label | None) -> Advice:
    if label is None or label.worst_known == "UNKNOWN":
        return _MEASURE_MACHINES
    if label.worst_known == "NORMAL":
        return _SHRINK if _is_idle(spec.infrastructure_metrics) else _WATCH
    about = causes(label)
    cause = next((fact for fact in _RELIEF if fact in about), None)
    step = _RELIEF[cause] if cause else _RELIEVE_THE_FULLEST
    if cause == "consumer_lag" and has_no_spare_partition(spec):
        step = _LAG_WITHOUT_PARTITIONS
    if cause == "cpu_percent" and any(rule.rule == "weak_signal" for rule in label.rules):
        step = _BUSY_BUT_CALM
    return step._replace(second=_THEN_MEASURE) if label.value == "UNKNOWN" else step


_MEASURE_MACHINES = Advice(
    "What the machines need cannot be told, because a metric is missing.",
    "Measure the missing metric before changing anything.",
    "Set up monitoring for CPU, memory, storage and latency.",
)
_WATCH = Advice(
    "No resource is scarce.",
    "Monitor the trend of CPU, memory, storage and latency.",
    "Leave the capacity as it is while the trend is flat.",
)
_SHRINK = Advice(
    "CPU and memory are nearly idle.",
    "Scale down slowly, one step at a time, while latency stays calm.",
    "Monitor the trend after each step before the next one.",
)
_RELIEVE_THE_FULLEST = Advice(
    "The fullest resource needs relief.",
    "Relieve the fullest resource first: move work off it or give it more room.",
    "Find what grew and tune it.",
)

# In the order of what harms first: failures, then what ends in a standstill, then slowness, then fullness.
_RELIEF = {
    "oom_kills": Advice(
        "Processes are killed for lack of memory.",
        "Raise the memory limit of what is being killed.",
        "Look for a leak: memory that grows while traffic does not.",
    ),
    "error_rate_percent": Advice(
        "Too many requests fail.",
        "Roll back the last change, or shed load until the errors stop.",
        "Page the owner and find the first error in the logs.",
    ),
    "storage_used_gb": Advice(
        "The storage is running full.",
        "Expand the storage before it is full.",
        "Compact small files, move old data to cheaper storage, and review the retention.",
    ),
    "query_latency_ms": Advice(
        "Queries are slower than was promised.",
        "Find the slowest queries and tune them: an index, a cache, less data read.",
        "Scale out if the slowness comes from load and not from single queries.",
    ),
    "consumer_lag": Advice(
        "Consumers fall behind.",
        "Make the handler faster: larger batches, fewer calls for each message.",
        "Add partitions, and consumers with them.",
    ),
    "memory_percent": Advice(
        "Memory is scarce.",
        "Give the process more memory or move work off this machine.",
        "Look for a leak: memory that grows while traffic does not.",
    ),
    "load_per_core": Advice(
        "Work waits for a CPU.",
        "Scale out, or spread the work over more time.",
        "Find the heaviest work and tune it.",
    ),
    "cpu_percent": Advice(
        "CPU is scarce.",
        "Find the heaviest work and tune it, or scale out where latency suffers.",
        "Check latency and errors: a busy CPU alone harms nobody.",
    ),
}
_BUSY_BUT_CALM = Advice(
    "The CPU is busy, but nobody waits for it.",
    "Watch CPU, latency and errors, and do not scale while they are calm.",
    "Find the heaviest work and move what can wait to a quieter time.",
)
_LAG_WITHOUT_PARTITIONS = _RELIEF["consumer_lag"]._replace(
    second="Increase the number of partitions first: further consumers would sit idle."
)


def _is_idle(metrics: InfrastructureMetrics) -> bool:
    cpu, memory = metrics.cpu_percent, metrics.memory_percent
    return cpu is not None and memory is not None and max(cpu, memory) < IDLE_BELOW_PERCENT
