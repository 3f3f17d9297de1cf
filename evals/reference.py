"""Answers known to be right or wrong: what proves the scorers, and what stands in for a model in simulations.

`reference_answer` is the oracle agent. It knows the row that a case was made from, names the facts that decide and
says what the row asks for, within the standard answer form. `wrong_answer` is as fluent and falls into the row's trap.
"""

from __future__ import annotations

from typing import NamedTuple

from agents.answers import SUMMARY_CHARACTERS, AnswerForm
from agents.asking.variant import Fact, facts_for
from agents.schema import IngestionMode, Recommendation, Stage
from evals.case import Case

B, M, S, C, P = IngestionMode


class Advice(NamedTuple):
    """What is said about a row."""

    facts: tuple[str, ...]
    """The facts that decide, the first two that the case holds are told."""
    summary: str
    first: str
    second: str


def reference_answer(case: Case) -> Recommendation:
    """A right answer to a case of the oracle table. Raises ValueError for a case that names no row."""
    advice = _twist(case) or _RIGHT[_row(case)]
    mode = case.acceptable_modes[0] if case.acceptable_modes else None
    return Recommendation(
        summary=_summary(case, advice.facts, advice.summary), actions=(advice.first, advice.second), mode=mode
    )


def wrong_answer(case: Case) -> Recommendation:
    """A fluent answer that falls into the row's trap: the wrong mode, a forbidden point, nothing that is required.

    Raises ValueError for a case that names no row.
    """
    advice = _wrong_twist(case) or _WRONG[_row(case)]
    mode = None
    if case.stage is Stage.INGESTION:
        wrong = case.unacceptable_modes or tuple(mode for mode in _TRAPS if mode not in case.acceptable_modes)
        mode = wrong[0]
    return Recommendation(
        summary=_summary(case, advice.facts, advice.summary), actions=(advice.first, advice.second), mode=mode
    )


_TRAPS = (B, C)


def _row(case: Case) -> int:
    if case.row is None:
        raise ValueError(f"case {case.id!r} names no row of the oracle table, so its answer is not known")
    return case.row


def _summary(case: Case, names: tuple[str, ...], said: str) -> str:
    """The deciding facts by name and figure, as many of the first two as there is room for, and what follows."""
    facts = facts_for(case.stage, case.spec)
    told = [_told(name, facts[name]) for name in names if name in facts]
    for count in (2, 1):
        text = f"{_upper(', '.join(told[:count]))}: {said}"
        if told and len(text) <= SUMMARY_CHARACTERS[AnswerForm.STANDARD]:
            return text
    return _upper(said)


def _told(name: str, value: Fact) -> str:
    """``cpu_percent`` 92 as ``CPU 92 %``."""
    for ending, unit in _UNITS.items():
        if name.endswith(ending):
            return f"{_words(name.removesuffix(ending))} {value} {unit}"
    return f"{_words(name)} {value}"


_UNITS = {"_percent": "%", "_gb_per_day": "GB/day", "_gb": "GB", "_ms": "ms"}


def _words(name: str) -> str:
    return " ".join({"cpu": "CPU", "slo": "SLO", "sla": "SLA", "oom": "OOM"}.get(one, one) for one in name.split("_"))


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _twist(case: Case) -> Advice | None:
    """What is right where a case of the row asks for something else than the others do."""
    if case.row == 6 and "adds_consumers" in case.required:
        return _SPARE_PARTITIONS
    if case.row == 10 and case.acceptable_modes == (M,):
        return _CLOSED_LOG_IN_SECONDS
    if case.row == 31 and "scale_out_or_tune" in case.required:
        return _REALLY_HIGH
    return None


def _wrong_twist(case: Case) -> Advice | None:
    if case.row == 6 and "adds_consumers" in case.required:
        return _RIGHT_WITHOUT_SPARE
    if case.row == 31 and "scale_out_or_tune" in case.required:
        return _NOTHING_TO_DO
    return None


_API = ("latency_need", "rate_limit", "volume")
_PLAIN_SOURCE = ("latency_need", "volume", "kind")

_RIGHT: dict[int, Advice] = {
    1: Advice(
        _PLAIN_SOURCE,
        "pull what is new from the API once a day.",
        "Keep a cursor on the last change and follow the pagination to the last page.",
        "Retry a failed page with backoff, and go on from the cursor.",
    ),
    2: Advice(
        _API,
        "poll the API every few minutes for what is new.",
        "Stay within the rate limit: spread the calls, and back off when one is refused.",
        "Keep a cursor with a small overlap, and remove duplicates by primary key.",
    ),
    3: Advice(
        _API,
        "polling cannot meet this; it is no more than a stopgap.",
        "Ask the owner for a webhook or a stream endpoint that sends each change.",
        "Until then poll within the rate limit and tell users how old the data is.",
    ),
    4: Advice(
        _PLAIN_SOURCE,
        "process the topic as a stream, event by event.",
        "Read with a consumer group, commit offsets after the write, and remove duplicates by key.",
        "Send unreadable messages to a dead letter queue and alert on lag.",
    ),
    5: Advice(
        _PLAIN_SOURCE,
        "read the topic in micro-batches and load larger files.",
        "Set the batch size by time and volume, so that each write is one large file.",
        "Run a compaction of small files, and commit offsets after each write.",
    ),
    6: Advice(
        ("consumer_lag", "replicas"),
        "the consumers fall behind, and each partition has its consumer already.",
        "Make the handler faster first: fewer calls for each message, larger batches.",
        "Then increase the number of partitions; the lag shows whether that is enough.",
    ),
    7: Advice(
        _PLAIN_SOURCE,
        "read the transaction log, so that changes and deletes arrive in time.",
        "Take a first snapshot, then follow the log; its retention has to outlast an outage.",
        "Give each table a primary key, and apply changes by it.",
    ),
    8: Advice(
        _PLAIN_SOURCE,
        "query what was added since the last run, from a read replica.",
        "Keep a watermark on updated_at with an overlap window for late rows.",
        "Upsert by primary key, so that rows read twice change nothing.",
    ),
    9: Advice(
        _PLAIN_SOURCE,
        "copy the small table whole once a day.",
        "Overwrite the target in one step: load beside it and swap.",
        "That is idempotent: a rerun leaves the same table.",
    ),
    10: Advice(
        _PLAIN_SOURCE,
        "compare whole snapshots, since polling never sees hard deletes.",
        "Take a snapshot each night and mark rows that are gone as deleted.",
        "Ask the administrators for a soft delete column to make the comparison cheaper.",
    ),
    11: Advice(
        _PLAIN_SOURCE,
        "load the new files in bulk once a day.",
        "Keep a manifest of loaded files, so that a file sent again is not loaded again.",
        "Use partitioning by date for the target, so that a day can be reloaded.",
    ),
    12: Advice(
        _PLAIN_SOURCE,
        "load new files every few minutes as they are announced.",
        "Take file notifications from an event queue and load each file once.",
        "Run a compaction of small files in the target every hour.",
    ),
    13: Advice(
        _PLAIN_SOURCE,
        "stream the readings through an MQTT broker, at least once.",
        "Use QoS 1, with a buffer at the edge for times without a network.",
        "Handle out-of-order readings by event time, and remove duplicates by device and time.",
    ),
    14: Advice(
        _PLAIN_SOURCE,
        "land the readings and load them once a day, at the lowest cost.",
        "Let the broker write files to object storage, and run the report on these.",
        "Start the job for the report and stop it afterwards: idle machines cost money too.",
    ),
    15: Advice(
        ("latency_need", "volume", "kind"),
        "receive the calls, queue them, and work them off behind the receiver.",
        "Verify the HMAC signature, put the event on a durable queue, and answer 2xx at once.",
        "Let workers process the queue, idempotent by event id.",
    ),
    16: Advice(
        _API,
        "pull what is new through the managed connector a few times an hour.",
        "Stay within the API quota: read by cursor, and back off when calls run short.",
        "Handle schema drift: take new fields over, and alert when one disappears.",
    ),
    17: Advice(
        ("completeness_percent", "consistency_percent"),
        "the data can be used as it is.",
        "Keep the data flowing and monitor these metrics.",
        "Keep the checks as they are, with an alert on a drop.",
    ),
    18: Advice(
        ("completeness_percent", "consistency_percent"),
        "a small share of values fails, in columns that are not critical.",
        "Keep the data flowing and monitor the worse dimension.",
        "Open a ticket for the open issues and trace them to their source.",
    ),
    19: Advice(
        ("completeness_percent", "consistency_percent"),
        "usable, with a share of rows that fails.",
        "Quarantine the failing rows and keep the rest flowing.",
        "Find the cause upstream, and reload what was left out.",
    ),
    20: Advice(
        ("completeness_percent", "consistency_percent"),
        "one dimension is far too low, whatever their mean says.",
        "Block publishing until the missing part is repaired.",
        "Find the step upstream that loses it, then backfill from the source.",
    ),
    21: Advice(
        ("uniqueness_percent", "issue_count"),
        "keys stand twice, so every total is wrong.",
        "Deduplicate on the key, keeping the newest record, before the data is used again.",
        "Make the load an idempotent merge on the key, so that a rerun adds nothing.",
    ),
    22: Advice(
        ("freshness", "freshness_sla"),
        "the data is older than was promised.",
        "Check the scheduler and the upstream source, and restart the load that stopped.",
        "Tell users how old the data is until it arrives again.",
    ),
    23: Advice(
        ("completeness_percent", "consistency_percent"),
        "the other metric is missing, so the quality cannot be told.",
        "Measure the missing metric before anyone relies on the data.",
        "Find out why its check did not run, and alert when it does not.",
    ),
    24: Advice(
        ("cpu_percent", "load_per_core"),
        "the CPU is busy, but nothing waits for it and nobody suffers.",
        "Monitor CPU, latency and errors, and leave the capacity as it is.",
        "Find the heaviest work and move what can wait to a quieter time.",
    ),
    25: Advice(
        ("cpu_percent", "load_per_core", "query_latency_ms"),
        "work waits for a CPU, and users notice.",
        "Scale out today, until the load per core is below one again.",
        "Find the heaviest queries and tune them.",
    ),
    26: Advice(
        ("error_rate_percent", "availability_slo_percent"),
        "requests fail at a rate that cannot wait.",
        "Page the owner now, and roll back the last change.",
        "If errors go on, shed load until they stop; then look for the first one in the logs.",
    ),
    27: Advice(
        ("memory_percent", "oom_kills"),
        "processes are killed for lack of memory.",
        "Raise the memory limit of what is being killed now.",
        "Look for a leak: memory that grows while traffic does not.",
    ),
    28: Advice(
        ("storage_growth_gb_per_day", "storage_used_gb"),
        "the disk is full within hours.",
        "Expand the storage now, before it is full.",
        "Compact small files and move old data to cheaper storage.",
    ),
    29: Advice(
        ("storage_growth_gb_per_day", "storage_used_gb"),
        "the disk is full within a day.",
        "Plan more space today: expand the storage before the night.",
        "Review retention, and find what makes it grow.",
    ),
    30: Advice(
        ("storage_used_gb", "storage_growth_gb_per_day"),
        "the disk is rather full but does not fill.",
        "Monitor its growth, and leave the storage as it is.",
        "Set an alert on the time until it is full instead of on the share used.",
    ),
    31: Advice(
        ("cpu_percent", "memory_percent"),
        "the CPU swings around its threshold without a trend.",
        "Judge by several readings in a row, and change nothing for a single one.",
        "Monitor whether the average of the swing moves.",
    ),
    32: Advice(
        ("cpu_percent", "memory_percent", "replicas"),
        "the machines are nearly idle.",
        "Rightsize slowly: scale down by one step, and wait to see that latency stays calm.",
        "Monitor the trend after each of the steps before you take the next one.",
    ),
    33: Advice(
        ("memory_percent", "cpu_percent"),
        "memory is the fullest resource.",
        "Give the process more memory, or move work off this machine.",
        "Plan capacity for the CPU too, and tune the heaviest queries.",
    ),
    34: Advice(
        ("memory_percent", "cpu_percent"),
        "memory is just at its threshold.",
        "Monitor the next readings; by the standard policy one within the tolerance does not count.",
        "Look for what grew lately, and leave the capacity as it is.",
    ),
}
_SPARE_PARTITIONS = Advice(
    ("consumer_lag", "replicas"),
    "the consumers fall behind, and there are partitions for more of them.",
    "Add more consumers to the group, up to the number of partitions.",
    "See whether the lag shrinks, and make the handler faster if it does not.",
)
_CLOSED_LOG_IN_SECONDS = Advice(
    _PLAIN_SOURCE,
    "query for changes often, with a mark on rows that are gone.",
    "Ask for a soft delete column, since a query never sees hard deletes.",
    "Compare keys each night to find deletes that were missed.",
)
_REALLY_HIGH = Advice(
    ("cpu_percent", "memory_percent"),
    "the CPU stays above its threshold, reading after reading.",
    "Find the heaviest work and tune it.",
    "Scale out where latency suffers.",
)

_WRONG: dict[int, Advice] = {
    1: Advice(
        _PLAIN_SOURCE,
        "build a modern event platform around it.",
        "Deploy Kafka and let Flink read the data event by event.",
        "Scale the platform as more teams join.",
    ),
    2: Advice(
        _PLAIN_SOURCE,
        "get each change as it happens.",
        "Set up CDC with Debezium on the provider's side.",
        "Poll continuously where that is not possible.",
    ),
    3: Advice(
        _PLAIN_SOURCE,
        "a tight schedule is all that is needed.",
        "Poll every second and load what comes.",
        "Add a second worker if it is slow.",
    ),
    4: Advice(
        _PLAIN_SOURCE,
        "a nightly batch is the simplest way.",
        "Load the topic once a day into the warehouse.",
        "Run it again when it fails.",
    ),
    5: Advice(
        _PLAIN_SOURCE,
        "write each event as it comes.",
        "Insert row by row into the table.",
        "Use a faster disk when the inserts are slow.",
    ),
    6: Advice(
        ("replicas",),
        "there is too little hardware behind the topic.",
        "Add more consumers to the group.",
        "Double them again when that does not help.",
    ),
    7: Advice(
        _PLAIN_SOURCE,
        "the simplest way is a whole copy.",
        "Make a full dump of the database every night.",
        "Load the dump into the warehouse in the morning.",
    ),
    8: Advice(
        _PLAIN_SOURCE,
        "the table is followed event by event.",
        "Make a full dump at each start, and publish its rows.",
        "Let a stream engine join them.",
    ),
    9: Advice(
        _PLAIN_SOURCE,
        "each change of the table should be seen at once.",
        "Set up CDC with Debezium into Kafka.",
        "Join the topic with the large tables.",
    ),
    10: Advice(
        _PLAIN_SOURCE,
        "follow the table change by change.",
        "Install Debezium and read the binlog.",
        "Query for new rows by timestamp where that is not possible.",
    ),
    11: Advice(
        _PLAIN_SOURCE,
        "each file should be read the moment it lands.",
        "Run a stream job that watches the bucket all day.",
        "Use a larger cluster when many come together.",
    ),
    12: Advice(
        _PLAIN_SOURCE,
        "a simple job is enough.",
        "List all files in the bucket once a night.",
        "Copy what is there into the warehouse.",
    ),
    13: Advice(
        _PLAIN_SOURCE,
        "collect the readings once a night.",
        "Poll each device and insert each reading directly into the database.",
        "Run it again for devices that do not answer.",
    ),
    14: Advice(
        _PLAIN_SOURCE,
        "the readings should be processed as they come.",
        "Keep an always-on Flink job for them.",
        "Let it write each result at once.",
    ),
    15: Advice(
        ("volume", "kind"),
        "collect the events on a schedule.",
        "Poll the webhook every minute for new events.",
        "Process inside the handler, so that nothing has to be stored.",
    ),
    16: Advice(
        _PLAIN_SOURCE,
        "each change should be seen as it happens.",
        "Enable change data capture and read the binlog.",
        "Write the events to the warehouse one by one.",
    ),
    17: Advice(
        ("completeness_percent", "consistency_percent"),
        "the data does not reach perfection.",
        "Halt the pipeline until every value is there.",
        "Let a committee release it again.",
    ),
    18: Advice(
        ("completeness_percent", "consistency_percent"),
        "values are missing, which cannot be accepted.",
        "Stop publishing at once and halt the pipeline.",
        "Let a committee release it again.",
    ),
    19: Advice(
        ("completeness_percent", "consistency_percent"),
        "the data cannot be used.",
        "Halt the pipeline and shut down its jobs.",
        "Let a committee release it again.",
    ),
    20: Advice(
        ("completeness_percent", "consistency_percent"),
        "the mean of both is fair, so the quality is good.",
        "No action is needed.",
        "Look at the dashboard again next month.",
    ),
    21: Advice(
        ("completeness_percent", "consistency_percent"),
        "a few values need care.",
        "Impute the values in doubt with the mean value of the column.",
        "Look at the dashboard again next month.",
    ),
    22: Advice(
        ("completeness_percent", "consistency_percent"),
        "every value is there, so the quality is good.",
        "No action is needed.",
        "Look at the dashboard again next month.",
    ),
    23: Advice(
        ("completeness_percent", "consistency_percent"),
        "the quality is good.",
        "No action is needed.",
        "Look at the dashboard again next month.",
    ),
    24: Advice(
        ("cpu_percent",),
        "this is an emergency.",
        "Scale up immediately and add nodes.",
        "Upgrade the machines to a larger instance type.",
    ),
    25: Advice(
        ("cpu_percent",),
        "the CPU has room to spare.",
        "Scale down by one replica to save money.",
        "Look at the dashboard again next month.",
    ),
    26: Advice(
        ("cpu_percent", "error_rate_percent"),
        "the machines are calm.",
        "No action is needed: just monitor the errors.",
        "Look at the dashboard again next month.",
    ),
    27: Advice(
        ("cpu_percent", "memory_percent"),
        "the processes are too slow.",
        "Increase the CPU and add more cores.",
        "Look at the dashboard again next month.",
    ),
    28: Advice(
        ("storage_used_gb", "storage_total_gb"),
        "there is room left.",
        "No action is needed.",
        "Look at the dashboard again next month.",
    ),
    29: Advice(
        ("storage_used_gb", "storage_total_gb"),
        "there is plenty of room left.",
        "No action is needed.",
        "Look at the dashboard again next month.",
    ),
    30: Advice(
        ("storage_used_gb", "storage_total_gb"),
        "this is an emergency.",
        "Buy a larger disk immediately.",
        "Call everyone in until it is mounted.",
    ),
    31: Advice(
        ("cpu_percent",),
        "this is an emergency that comes and goes.",
        "Raise an urgent incident at each peak.",
        "Close it at each low.",
    ),
    32: Advice(
        ("cpu_percent", "memory_percent"),
        "be ready for growth.",
        "Scale up and add nodes immediately.",
        "Upgrade the machines to a larger instance type.",
    ),
    33: Advice(
        ("storage_used_gb", "cpu_percent"),
        "everything has room.",
        "No action is needed.",
        "Look at the dashboard again next month.",
    ),
    34: Advice(
        ("memory_percent", "cpu_percent"),
        "this is an emergency.",
        "Buy larger machines immediately.",
        "Call everyone in until they run.",
    ),
}
_RIGHT_WITHOUT_SPARE = Advice(
    ("replicas",),
    "no further machine can help here.",
    "Leave the group as it is.",
    "Rewrite the handler in another language.",
)
_NOTHING_TO_DO = Advice(
    ("cpu_percent", "memory_percent"),
    "this is a swing that passes.",
    "No action is needed.",
    "Look at the dashboard again next month.",
)
