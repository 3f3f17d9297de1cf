"""Row 6 and rows 24 to 34 of the oracle table: how soon the machines need someone, and for what."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from agents.facts.spec import Reading
from agents.specialists.oracle import Drawn, Key, Options, OracleRow, one_of, options, tenths

_STAGE = "infrastructure"
_NEWEST = datetime(2026, 3, 2, tzinfo=UTC)

_SOURCE = options(type="PostgreSQL | Kafka topic | REST API | S3 bucket | MQTT sensors")
_NEEDLESS = ("mute_alert", "restart_all", "page_owner", "shed_load")
"""What does harm where nothing presses: it takes service from users, sleep from people, or eyes from the machines."""
_TOO_MUCH = ("scale_out", "grow_cpu", *_NEEDLESS)
"""The same, and machines that nobody needs."""
SPARE_PARTITIONS = Key(
    ("plan", "act_now"),
    ("watch",),
    ("HIGH",),
    (("add_consumers", "scale_out"),),
    ("add_partitions", "restart_all", "mute_alert", "shrink_slowly", "halve_replicas"),
)
"""The near miss of row 6: the lag grows, and most partitions share a consumer."""
STAYS_BUSY = Key(
    ("plan", "act_now"),
    (),
    ("HIGH",),
    (("scale_out", "tune_heaviest", "tune_queries", "grow_cpu"),),
    ("shrink_slowly", "halve_replicas", "mute_alert"),
)
"""The near miss of row 31: CPU stays above the threshold that it might swing around."""
_EASY_GOING = options(cpu_percent=range(25, 50), memory_percent=range(30, 60))
_CALM = options(
    storage_used_gb=(180, 240, 310, 420),
    storage_total_gb=1000,
    query_latency_ms=range(120, 240, 10),
    latency_slo_ms=300,
    error_rate_percent=0,
    load_per_core=tenths(0.2, 0.8),
    oom_kills=0,
)
"""Whatever does not decide: room on the disk, quick, without errors or a queue."""


def _calm_but(*names: str) -> Options:
    """The calm figures without those that a row sets itself."""
    return {name: values for name, values in _CALM.items() if name not in names}


@lru_cache(maxsize=4096)
def history(name: str, values: tuple[float, ...], minutes: int) -> tuple[Reading, ...]:
    """Earlier readings of one metric, so many minutes apart. Kept: many cases share one."""
    return tuple(
        Reading.model_validate({"at": _NEWEST - (len(values) - number) * timedelta(minutes=minutes), name: value})
        for number, value in enumerate(values)
    )


def _growing_lag(rng: random.Random, drawn: Drawn) -> Drawn:
    """A lag that grew in each of the last readings; as many consumers as partitions."""
    lag: int = drawn.facts["consumer_lag"]
    earlier = tuple(lag * share // 100 for share in one_of(rng, ((20, 35, 60, 80), (50, 62, 75, 88))))
    facts = drawn.facts | {"replicas": drawn.facts["partitions"], "history": history("consumer_lag", earlier, 5)}
    return replace(drawn, facts=facts)


def _failing(rng: random.Random, drawn: Drawn) -> Drawn:
    """Errors over a whole hour that burn the budget 14.4 times too fast; where errors spike that is not needed."""
    errors: float = drawn.facts["error_rate_percent"]
    if errors > _SPIKE_PERCENT:
        return drawn
    burning = {"availability_slo_percent": 99.9, "history": history("error_rate_percent", (errors,) * 12, 5)}
    return replace(drawn, facts=drawn.facts | burning)


_SPIKE_PERCENT = 5.0  # the policy's own; the oracle says no more than "spike"


def _full_memory(_rng: random.Random, drawn: Drawn) -> Drawn:
    """Memory has been as full for a quarter of an hour."""
    memory = drawn.facts["memory_percent"]
    earlier = history("memory_percent", (memory, memory - 1, memory) * 5, 1)
    return replace(drawn, facts=drawn.facts | {"history": earlier})


def _filling(_rng: random.Random, drawn: Drawn) -> Drawn:
    """Used space and a growth that fills the rest in the hours picked; never later than that by rounding."""
    facts = {name: value for name, value in drawn.facts.items() if name not in ("_used_percent", "_full_in_h")}
    total: int = facts["storage_total_gb"]
    used = total * drawn.facts["_used_percent"] // 100
    growth = -(-(total - used) * 24 // drawn.facts["_full_in_h"])
    return replace(drawn, facts=facts | {"storage_used_gb": used, "storage_growth_gb_per_day": growth})


def _swinging(rng: random.Random, drawn: Drawn) -> Drawn:
    """CPU around 70, each reading on the other side, after a start that gave the label."""
    low, high = drawn.facts["_swing"]
    start, label = one_of(rng, (((50,), "NORMAL"), ((80, 80, 80), "HIGH")))
    facts = {name: value for name, value in drawn.facts.items() if name != "_swing"}
    series = (*start, *(low, high) * 8)
    swung = facts | {"cpu_percent": low, "history": history("cpu_percent", series, 5)}
    return Drawn(swung, replace(drawn.key, labels=(label,)))


def _idle_for_days(_rng: random.Random, drawn: Drawn) -> Drawn:
    """A fortnight of the same."""
    cpu = drawn.facts["cpu_percent"]
    return replace(drawn, facts=drawn.facts | {"history": history("cpu_percent", (cpu,) * 14, 24 * 60)})


ROWS = (
    OracleRow(
        6,
        "S14",
        _STAGE,
        Key(
            ("plan", "act_now"),
            ("watch",),
            ("HIGH",),
            (("speed_up_handler", "add_partitions"),),
            ("add_consumers", "scale_out", "restart_all", "mute_alert", "shrink_slowly", "halve_replicas"),
        ),
        {
            **_EASY_GOING,
            **options(
                type="Kafka | Kafka topic",
                kind="kafka",
                partitions=(4, 6, 8, 12),
                consumer_lag=range(20000, 400000, 5000),
            ),
        },
        noise=_CALM,
        edge=options(consumer_lag=range(400, 2000, 100)),
        plain=("The lag of {consumer_lag} messages grows, and each of the {partitions} partitions has its consumer.",),
        lures=("More consumers have always helped before.", "Pods are cheap here.", "CPU is far from its limit."),
        finish=_growing_lag,
    ),
    OracleRow(
        24,
        "S25,S27",
        _STAGE,
        Key(("watch",), ("act_now",), ("NORMAL", "HIGH"), (("watch_trend",),), _TOO_MUCH),
        {**_SOURCE, **_CALM, **options(cpu_percent=range(90, 95), memory_percent=range(35, 60))},
        edge=options(cpu_percent=(96, 97, 99), query_latency_ms=(280, 290), load_per_core=(0.9, 0.95)),
        plain=("The CPU is busy and nobody waits for it: no queue, no errors, and latency within its SLO.",),
        lures=("The chart is red.", "A larger machine could be had today.", "The night job runs at the same time."),
    ),
    OracleRow(
        25,
        "S27,S28,S29",
        _STAGE,
        Key(
            ("plan", "act_now"),
            ("watch",),
            ("HIGH",),
            (("scale_out", "tune_heaviest", "tune_queries", "grow_cpu"),),
            ("shrink_slowly", "halve_replicas", "mute_alert"),
        ),
        {
            **_SOURCE,
            **options(
                cpu_percent=range(76, 81),
                memory_percent=range(40, 60),
                load_per_core=tenths(2.2, 3.5),
                query_latency_ms=range(380, 620, 20),
                latency_slo_ms=250,
                error_rate_percent=(0.6, 0.7),
                availability_slo_percent=99.9,
                replicas=(3, 4, 6),
            ),
        },
        noise=options(storage_used_gb=(240, 410), storage_total_gb=1000, oom_kills=0),
        edge=options(load_per_core=(2.1,), query_latency_ms=(255, 260), cpu_percent=(75, 76)),
        plain=("Work waits for a CPU, latency is above its SLO of {latency_slo_ms} ms, and users notice.",),
        lures=("The budget for machines was cut.", "At night the machines are idle.", "One replica is new."),
    ),
    OracleRow(
        26,
        "S28",
        _STAGE,
        Key(
            ("act_now",),
            ("watch", "plan"),
            ("CRITICAL",),
            (("page_owner",), ("roll_back", "shed_load")),
            ("mute_alert", "restart_all", "shrink_slowly", "halve_replicas"),
        ),
        {**_SOURCE, **_EASY_GOING, **options(error_rate_percent=(1.6, 2.5, 4, 6, 9, 14))},
        easy=options(error_rate_percent=(12, 18, 25)),
        noise=_calm_but("error_rate_percent"),
        edge=options(error_rate_percent=(1.44, 1.5, 5.1)),
        plain=("{error_rate_percent} % of the requests fail since this morning's release.",),
        lures=("CPU and memory are calm.", "It may pass by itself.", "The owner is in a meeting."),
        finish=_failing,
    ),
    OracleRow(
        27,
        "S27,S33",
        _STAGE,
        Key(
            ("act_now",),
            ("watch",),
            ("CRITICAL",),
            (("add_memory",), ("find_leak",)),
            ("grow_cpu", "mute_alert", "restart_all", "shrink_slowly", "halve_replicas"),
        ),
        {**_SOURCE, **options(cpu_percent=range(25, 50), memory_percent=range(91, 97), oom_kills=range(1, 7))},
        noise=_calm_but("oom_kills"),
        edge=options(memory_percent=(88, 89), oom_kills=1),
        plain=("{oom_kills} processes were killed for lack of memory within the hour.",),
        lures=("Traffic is as always.", "The new release has a larger cache.", "Each kill is followed by a restart."),
        finish=_full_memory,
    ),
    OracleRow(
        28,
        "S27",
        _STAGE,
        Key(
            ("act_now",),
            ("watch", "plan"),
            ("CRITICAL",),
            (("expand_storage", "compact_data", "cut_retention"),),
            ("mute_alert", "restart_all"),
        ),
        {
            **_SOURCE,
            **_EASY_GOING,
            **options(
                storage_total_gb=(500, 1000, 2000, 4000),
                _used_percent=range(81, 85),
                _full_in_h=(1.5, 2, 3),
            ),
        },
        noise=_calm_but("storage_used_gb"),
        edge=options(_full_in_h=(3.5, 3.9)),
        plain=("The disk fills by {storage_growth_gb_per_day:g} GB a day and is full within hours.",),
        lures=("CPU and memory are calm.", "A sixth of the disk is free.", "The disk was enlarged last year."),
        finish=_filling,
    ),
    OracleRow(
        29,
        "S27",
        _STAGE,
        Key(
            ("plan", "act_now"),
            ("watch",),
            ("HIGH",),
            (("expand_storage", "compact_data", "cut_retention"),),
            ("delete_old_data", "mute_alert", "restart_all"),
        ),
        {
            **_SOURCE,
            **_EASY_GOING,
            **options(
                storage_total_gb=(500, 1000, 2000, 4000), _used_percent=range(63, 68), _full_in_h=(10, 12, 16, 20)
            ),
        },
        noise=_calm_but("storage_used_gb"),
        edge=options(_full_in_h=(5, 23)),
        plain=("At {storage_growth_gb_per_day:g} GB a day the disk is full within a day.",),
        lures=("About a third of the disk is free.", "CPU and memory are calm.", "The month's end always writes more."),
        finish=_filling,
    ),
    OracleRow(
        30,
        "S27",
        _STAGE,
        Key(
            ("watch",),
            ("act_now",),
            ("NORMAL",),
            (("watch_trend",),),
            ("delete_old_data", "cut_retention", *_NEEDLESS),
        ),
        {
            **_SOURCE,
            **_EASY_GOING,
            **options(storage_used_gb=(845, 850, 860), storage_total_gb=1000, storage_growth_gb_per_day=0),
        },
        noise=_CALM,
        edge=options(storage_used_gb=(890, 900), storage_growth_gb_per_day=(0.5, 1, -2)),
        plain=("The disk has been as full as this for weeks.",),
        lures=("The chart is orange.", "A larger disk is on offer.", "So little free space looks bad."),
    ),
    OracleRow(
        31,
        "S29,S30,S31,S32",
        _STAGE,
        Key(("watch", "plan"), ("act_now",), (), (("average_readings",),), _NEEDLESS),
        {
            **_SOURCE,
            **options(memory_percent=range(35, 60), _swing=((68, 72), (69, 72), (68, 71))),
        },
        noise=_CALM,
        edge=options(_swing=((69, 73), (68, 74), (67, 73))),
        plain=("CPU goes up and down around 70 from reading to reading.",),
        lures=("Each peak sends a message.", "Someone has muted the alert.", "The average has not moved."),
        finish=_swinging,
    ),
    OracleRow(
        32,
        "S30",
        _STAGE,
        Key(("plan", "watch"), ("act_now",), ("NORMAL",), (("shrink_slowly",),), ("add_memory", *_TOO_MUCH)),
        {
            **_SOURCE,
            **options(
                cpu_percent=range(8, 21),
                memory_percent=range(10, 26),
                replicas=(4, 6, 8),
                min_replicas=2,
            ),
        },
        noise=_CALM,
        edge=options(cpu_percent=range(18, 21), memory_percent=range(23, 26), replicas=3),
        plain=("{replicas} replicas have been nearly idle for two weeks; {min_replicas} are enough.",),
        lures=("A sale is planned for next year.", "The machines are paid for anyway.", "One user finds it slow."),
        finish=_idle_for_days,
    ),
    OracleRow(
        33,
        "example",
        _STAGE,
        Key(
            ("plan", "act_now"),
            (),
            ("HIGH",),
            (("add_memory", "find_leak", "tune_heaviest"), ("add_memory", "scale_out", "tune_heaviest")),
            ("shrink_slowly", "halve_replicas", "mute_alert"),
        ),
        {
            **_SOURCE,
            **options(cpu_percent=range(75, 81), memory_percent=range(79, 85)),
            **options(storage_used_gb=(420, 450), storage_total_gb=1000, query_latency_ms=range(220, 260, 10)),
        },
        noise=_CALM,
        edge=options(cpu_percent=74, memory_percent=(78, 84)),
        plain=("Memory is the fullest resource, and CPU is not far behind.",),
        lures=("The disk is half empty.", "No alert has fired yet.", "Users have not complained."),
    ),
    OracleRow(
        34,
        "example,S29",
        _STAGE,
        Key(
            ("watch", "plan"),
            ("act_now",),
            ("NORMAL", "HIGH"),
            (("watch_trend", "average_readings"),),
            _NEEDLESS,
        ),
        {
            **_SOURCE,
            **options(cpu_percent=range(55, 67), memory_percent=(70, 71)),
            **options(storage_used_gb=(700, 780), storage_total_gb=2000, query_latency_ms=range(160, 210, 10)),
        },
        noise={**_CALM, **options(storage_used_gb=(700, 780), storage_total_gb=2000)},
        edge=options(memory_percent=72, cpu_percent=66),
        plain=("Memory is a hair above 70, once.",),
        lures=("The chart has just turned yellow.", "A strict policy would page.", "Another cluster ran full."),
    ),
)
