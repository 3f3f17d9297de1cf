"""Near misses: two cases that are alike but for one fact, and that fact turns what is right.

A model that has learnt what such pipelines usually need gets one of the two wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agents.specialists.infrastructure.oracle_rows import SPARE_PARTITIONS, STAYS_BUSY, history
from agents.specialists.ingestion.oracle_rows import CLOSED_LOG_WITHIN_SECONDS
from agents.specialists.oracle import ASIDES, Drawn, Facts, Key, Options, one_of, options, pick
from agents.specialists.quality.oracle_rows import LATE, VERY_LATE
from evals.oracle_rows import BY_NUMBER


@dataclass(frozen=True)
class NearMiss:
    """Two rows that meet in all facts but one."""

    rows: tuple[int, int]
    fact: str
    """The field in which the two cases differ."""
    values: tuple[Sequence[Any], Sequence[Any]]
    """What it may be in the first and in the second case; None leaves it out."""
    facts: Options
    """What both have in common."""
    keys: tuple[Key | None, Key | None] = field(default=(None, None))
    """What is right, where that is not quite what the row says."""

    def draw(self, rng: random.Random, *, hard: bool) -> tuple[Drawn, Drawn]:
        """Both cases' facts; hard: among sentences that do not matter."""
        common = pick(rng, self.facts)
        if hard:
            common["description"] = " ".join(filter(None, (common.get("description"), one_of(rng, ASIDES))))
        first, second = (self._one(rng, common, at) for at in (0, 1))
        return first, second

    def _one(self, rng: random.Random, common: Facts, at: int) -> Drawn:
        value = one_of(rng, self.values[at])
        key = self.keys[at] or BY_NUMBER[self.rows[at]].key
        return Drawn(common if value is None else {**common, self.fact: value}, key)


def _shares(number: int, **changes: object) -> Options:
    """A row's facts, changed where both rows of a pair have to agree."""
    return {**BY_NUMBER[number].facts, **options(**changes)}


_CALM = options(cpu_percent=range(30, 50), memory_percent=range(35, 60), type="PostgreSQL | Kafka topic | S3 bucket")

PAIRS: tuple[NearMiss, ...] = (
    # --- ingestion
    NearMiss((4, 5), "latency_need", (("2 s", "5 s"), ("15 min", "30 min")), _shares(4, volume="40GB/day | 80GB/day")),
    NearMiss(
        (1, 2),
        "latency_need",
        (("1 day",), ("5 min", "10 min")),
        _shares(1, rate_limit="60 requests/min | 100 requests/min", description="There is no webhook."),
    ),
    NearMiss((2, 3), "latency_need", (("10 min",), ("2 s", "5 s")), _shares(2)),
    NearMiss(
        (7, 10),
        "log_access",
        ((True,), (False,)),
        _shares(7),
        keys=(None, CLOSED_LOG_WITHIN_SECONDS),
    ),
    NearMiss((11, 12), "latency_need", (("1 day",), ("3 min", "5 min")), _shares(11)),
    NearMiss((11, 12), "volume", (("5000 files/day",), ("2M files/h", "3M files/h")), _shares(11)),
    NearMiss((13, 14), "latency_need", (("2 s", "5 s"), ("1 day",)), _shares(13)),
    NearMiss(
        (15, 2),
        "kind",
        (("webhook",), ("rest_api",)),
        options(
            type="payment events | order events | delivery events",
            latency_need="5 min | 10 min",
            volume="1GB/day | 3GB/day",
            rate_limit="100 requests/min",
        ),
    ),
    # --- quality
    NearMiss(
        (17, 21), "uniqueness_percent", ((100,), (99.2, 99.9)), _shares(17, freshness="5 min", freshness_sla="1 h")
    ),
    NearMiss(
        (17, 22),
        "freshness",
        (("50 min", "58 min"), ("62 min", "80 min")),
        _shares(17, completeness_percent=100, consistency_percent=100, uniqueness_percent=100, freshness_sla="1 h"),
        keys=(None, LATE),
    ),
    NearMiss(
        (22, 22),
        "freshness",
        (("100 min", "115 min"), ("125 min", "150 min")),
        _shares(17, completeness_percent=100, consistency_percent=100, freshness_sla="1 h"),
        keys=(LATE, VERY_LATE),
    ),
    NearMiss(
        (17, 23),
        "consistency_percent",
        ((99, 100), (None,)),
        {name: values for name, values in _shares(17).items() if name != "consistency_percent"},
    ),
    NearMiss((18, 20), "completeness_percent", ((95, 96), (45, 50)), _shares(18, consistency_percent=(99, 100))),
    # --- infrastructure
    NearMiss(
        (33, 27), "oom_kills", ((0,), (1, 2)), _shares(33, cpu_percent=range(40, 56), memory_percent=range(79, 84))
    ),
    NearMiss(
        (28, 30),
        "storage_growth_gb_per_day",
        ((1200, 1600), (0,)),
        {**_CALM, **options(storage_used_gb=(820, 840), storage_total_gb=1000)},
    ),
    NearMiss(
        (29, 28),
        "storage_growth_gb_per_day",
        ((400, 600), (2200, 2600)),
        {**_CALM, **options(storage_used_gb=(640, 660), storage_total_gb=1000)},
    ),
    NearMiss(
        (30, 29),
        "storage_growth_gb_per_day",
        ((0, 2), (200, 300)),
        {**_CALM, **options(storage_used_gb=(840, 850), storage_total_gb=1000)},
    ),
    NearMiss((24, 26), "error_rate_percent", ((0,), (6, 9)), _shares(24)),
    NearMiss((25, 26), "error_rate_percent", ((0.6, 0.7), (8, 12)), _shares(25)),
    NearMiss(
        (6, 6),
        "partitions",
        ((8,), (32, 64)),
        {
            **_shares(6, replicas=8, consumer_lag=90000),
            "history": (history("consumer_lag", (20000, 36000, 54000, 71000), 5),),
        },
        keys=(None, SPARE_PARTITIONS),
    ),
    NearMiss(
        (31, 31),
        "history",
        (
            (history("cpu_percent", (50, *(69, 74) * 8), 5), history("cpu_percent", (50, *(68, 73) * 8), 5)),
            (history("cpu_percent", (50, *(74,) * 16), 5), history("cpu_percent", (50, *(73, 75) * 8), 5)),
        ),
        {**_CALM, **options(cpu_percent=74)},
        keys=(replace(BY_NUMBER[31].key, labels=("NORMAL",)), STAYS_BUSY),
    ),
)
