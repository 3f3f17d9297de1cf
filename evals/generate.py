"""Seeded cases from the rows of the oracle table (docs/oracle.md): the answer is known because we made the question.

A row fixes what decides the answer and leaves the rest (names, volumes, figures inside the row's range) to the
seed. Same seed and count, same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from agents.schema import IngestionMode, Stage
from agents.spec import InfrastructureMetrics, PipelineSpec, QualityMetrics, Source
from evals.case import Case

B, M, S, C, P = IngestionMode

_DOMAINS = (
    "orders",
    "billing",
    "inventory",
    "clickstream",
    "shipping",
    "claims",
    "ledger",
    "bookings",
    "meters",
)


@dataclass(frozen=True)
class OracleRow:
    """One row of the table, as far as the fields of a PipelineSpec can express it."""

    number: int
    source: str
    stage: Stage
    draw: Callable[[random.Random], Source | QualityMetrics | InfrastructureMetrics]
    acceptable: tuple[IngestionMode, ...] = ()
    unacceptable: tuple[IngestionMode, ...] = ()
    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


def _source(
    kinds: str, frequencies: str, volumes: str, description: str | None = None
) -> Callable[[random.Random], Source]:
    """A source drawn from alternatives written `a | b | c`."""

    def draw(rng: random.Random) -> Source:
        return Source(
            type=_pick(rng, kinds),
            frequency=_pick(rng, frequencies),
            volume=_pick(rng, volumes),
            description=description,
        )

    return draw


def _quality(
    completeness: tuple[int, int], consistency: tuple[int, int], issues: tuple[int, int]
) -> Callable[[random.Random], QualityMetrics]:
    """Quality metrics drawn from inclusive ranges."""

    def draw(rng: random.Random) -> QualityMetrics:
        return QualityMetrics(
            completeness_percent=rng.randint(*completeness),
            consistency_percent=rng.randint(*consistency),
            issue_count=rng.randint(*issues),
        )

    return draw


def _infrastructure(cpu: tuple[int, int], memory: tuple[int, int]) -> Callable[[random.Random], InfrastructureMetrics]:
    """CPU and memory drawn from inclusive ranges; storage and latency are unremarkable, as the rows say."""

    def draw(rng: random.Random) -> InfrastructureMetrics:
        total = rng.choice((500, 1000, 2000, 4000))
        return InfrastructureMetrics(
            cpu_percent=rng.randint(*cpu),
            memory_percent=rng.randint(*memory),
            storage_used_gb=round(total * rng.uniform(0.35, 0.5)),
            storage_total_gb=total,
            query_latency_ms=rng.randrange(120, 260, 10),
        )

    return draw


def _without_a_metric(rng: random.Random) -> QualityMetrics:
    value, issues = rng.randint(85, 99), rng.randint(0, 20)
    if rng.random() < 0.5:
        return QualityMetrics(completeness_percent=value, issue_count=issues)
    return QualityMetrics(consistency_percent=value, issue_count=issues)


_I, _Q, _X = Stage.INGESTION, Stage.QUALITY, Stage.INFRASTRUCTURE

ROWS = (
    OracleRow(
        1,
        "S1,S10",
        _I,
        _source("REST API | vendor REST API", "daily | once a day", "200MB/day | 0.5GB/day | 900MB/day"),
        (B,),
        (S, C),
        ("cursor", "pagination", "retry"),
        ("kafka", "stream_engine"),
    ),
    OracleRow(
        2,
        "S10,S12",
        _I,
        _source(
            "REST API | partner REST API",
            "every 5 minutes | every 10 minutes",
            "2GB/day | 10GB/day",
            "The API limits requests per minute; there is no webhook.",
        ),
        (M,),
        (C, B),
        ("rate_limit", "cursor", "dedupe"),
        ("cdc", "tight_polling"),
    ),
    OracleRow(
        4,
        "S3,S5,S24",
        _I,
        _source("Kafka | Kafka topic", "streaming, needed within seconds", "20GB/day | 50GB/day | 80GB/day"),
        (S,),
        (B,),
        ("consumer_group", "offsets", "dead_letter", "dedupe"),
        ("nightly_batch",),
    ),
    OracleRow(
        5,
        "S4,S5",
        _I,
        _source("Kafka | Kafka topic", "needed within 15 minutes | needed within 30 minutes", "200GB/day | 400GB/day"),
        (M,),
        (),
        ("batch_size", "compaction"),
        ("per_row_insert",),
    ),
    OracleRow(
        7,
        "S6,S7",
        _I,
        _source(
            "PostgreSQL | MySQL",
            "needed within 30 seconds",
            "5GB/day | 15GB/day",
            "An order database; the transaction log may be read, and deletes matter.",
        ),
        (C,),
        (B,),
        ("snapshot", "log_retention", "primary_key"),
        ("full_dump",),
    ),
    OracleRow(
        8,
        "S7",
        _I,
        _source(
            "PostgreSQL | SQL Server",
            "hourly",
            "1GB/day | 4GB/day",
            "Append-only table with an updated_at column and a read replica.",
        ),
        (M, B),
        (S,),
        ("overlap",),
        ("full_dump",),
    ),
    OracleRow(
        9,
        "S8",
        _I,
        _source("PostgreSQL | MySQL", "daily", "5MB/day | 12MB/day", "A lookup table of fewer than 100000 rows."),
        (B,),
        (C, S),
        ("overwrite", "idempotent"),
        ("kafka", "cdc"),
    ),
    OracleRow(
        10,
        "S7",
        _I,
        _source(
            "Oracle database | SQL Server",
            "daily",
            "2GB/day | 6GB/day",
            "Deletes matter; the transaction log may not be read.",
        ),
        (B,),
        (C,),
        ("deletes",),
        (),
    ),
    OracleRow(
        11,
        "S17",
        _I,
        _source("object storage | S3 bucket", "daily", "30GB/day | 60GB/day", "A few thousand files arrive each day."),
        (B,),
        (S,),
        ("manifest", "partitioning"),
        (),
    ),
    OracleRow(
        13,
        "S15,S16",
        _I,
        _source(
            "MQTT sensors | IoT sensors over MQTT",
            "needed within seconds",
            "8GB/day | 40GB/day",
            "Devices are on a network that loses packets.",
        ),
        (S,),
        (B,),
        ("qos", "edge_buffer", "out_of_order", "dedupe"),
        ("per_row_insert",),
    ),
    OracleRow(
        15,
        "S13",
        _I,
        _source(
            "webhook | payment webhook",
            "bursts of events",
            "1GB/day | 3GB/day",
            "The sender calls us and waits at most 10 seconds.",
        ),
        (P,),
        (B,),
        ("hmac", "fast_ack", "durable_queue", "idempotent"),
        ("sync_processing",),
    ),
    OracleRow(
        16,
        "S10",
        _I,
        _source(
            "SaaS CRM | SaaS help desk",
            "every 30 minutes | hourly",
            "500MB/day | 1GB/day",
            "A managed connector exists; API calls are counted.",
        ),
        (M,),
        (C, S),
        ("rate_limit", "schema_drift"),
        ("cdc",),
    ),
    OracleRow(17, "S21,S23", _Q, _quality((99, 100), (99, 100), (0, 1)), required=("monitor",), forbidden=("halt",)),
    OracleRow(18, "S20,S23", _Q, _quality((95, 98), (95, 99), (2, 8)), required=("monitor",), forbidden=("halt",)),
    OracleRow(
        20,
        "S23",
        _Q,
        _quality((25, 55), (97, 100), (40, 200)),
        required=("block_publish", "backfill"),
        forbidden=("no_action", "claims_good"),
    ),
    OracleRow(23, "our rule", _Q, _without_a_metric, required=("get_metric",), forbidden=("claims_good",)),
    OracleRow(
        32, "S30", _X, _infrastructure((8, 20), (10, 25)), required=("rightsize",), forbidden=("scale_up", "urgent")
    ),
    OracleRow(
        33,
        "example",
        _X,
        _infrastructure((74, 80), (78, 84)),
        required=("memory", "capacity"),
        forbidden=("no_action",),
    ),
    OracleRow(34, "example,S29", _X, _infrastructure((55, 66), (70, 72)), required=("monitor",), forbidden=("urgent",)),
)


def generate(count: int, seed: int) -> list[Case]:
    """`count` cases, row after row in turn, so that every row has its share."""
    return [_case(ROWS[index % len(ROWS)], index // len(ROWS), seed) for index in range(count)]


def _case(row: OracleRow, repeat: int, seed: int) -> Case:
    # Each case has its own stream, so that asking for more cases leaves the earlier ones as they were.
    rng = random.Random(f"{seed}/{row.number}/{repeat}")  # noqa: S311 - reproducible, not secret
    drawn = row.draw(rng)
    name = f"{rng.choice(_DOMAINS)}_{rng.randint(1, 999):03d}"
    source = drawn if isinstance(drawn, Source) else Source(type=rng.choice(("Kafka", "REST API", "PostgreSQL")))
    spec = PipelineSpec(
        id=name,
        source=source,
        quality_metrics=drawn if isinstance(drawn, QualityMetrics) else QualityMetrics(),
        infrastructure_metrics=drawn if isinstance(drawn, InfrastructureMetrics) else InfrastructureMetrics(),
    )
    return Case(
        id=f"r{row.number:02d}-{repeat:04d}",
        row=row.number,
        source=row.source,
        stage=row.stage,
        spec=spec,
        acceptable_modes=row.acceptable,
        unacceptable_modes=row.unacceptable,
        required=row.required,
        forbidden=row.forbidden,
    )


def _pick(rng: random.Random, alternatives: str) -> str:
    return rng.choice([one.strip() for one in alternatives.split("|")])
