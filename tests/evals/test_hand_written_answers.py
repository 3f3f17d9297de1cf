"""Answers as engineers and small models write them, to curated cases: does the headline say what a reader would say?"""

from __future__ import annotations

import json

import pytest

from agents.labels.policy import load_policy
from evals.case import curated_cases
from evals.labels import case_labels
from evals.scorers import SCORERS, Answered, score_all

STANDARD = load_policy("standard")
CASES = {case.id: case for case in curated_cases()}


def answered(case_id: str, *sentences: str, mode: str | None = None) -> Answered:
    summary, *actions = sentences
    document = {"summary": summary, "actions": actions} | ({"mode": mode} if mode else {})
    case = CASES[case_id]
    return Answered(case, case_labels(case, STANDARD)[case.stage], json.dumps(document), finish_reason="stop")


def headline(case_id: str, *sentences: str, mode: str | None = None) -> float:
    return score_all(answered(case_id, *sentences, mode=mode))["headline"].value


@pytest.mark.parametrize(
    ("case_id", "sentences"),
    [
        (
            "cpu-queue-01",
            (
                "Load per core of 2.6 is too high.",
                "Increase the number of replicas to 6.",
                "Check the slowest requests.",
            ),
        ),
        ("cpu-queue-01", ("CPU 78 % makes requests wait.", "Increase CPU capacity of the nodes.", "See what is slow.")),
        ("machines-idle-01", ("CPU 12 % is low.", "Reduce replicas from 6 to 5.", "Go on until 2 are left.")),
        ("machines-idle-01", ("CPU 12 % is low.", "Remove one replica at a time.", "Keep watching the latency.")),
        (
            "cpu-busy-calm-01",
            ("CPU is at 92 %, yet nothing waits.", "No immediate action is needed.", "Watch the load per core."),
        ),
        ("quality-good-01", ("Completeness is 99.9 %.", "Go on as now.", "Set an alert on the critical columns.")),
        (
            "quality-hole-01",
            ("Completeness of 40 % is far too low.", "Don't publish this data.", "Re-load the missing rows."),
        ),
        ("quality-late-01", ("Data is 5 h old.", "Check whether the ingestion job failed.", "Start it again.")),
        ("quality-unmeasured-01", ("Completeness is not known.", "Run the completeness check.", "Wait for it.")),
        ("memory-killed-01", ("Memory is at 94 %.", "Increase the RAM of the process.", "Then find the memory leak.")),
        (
            "disk-hours-01",
            ("The disk fills soon.", "Increase storage capacity now.", "Find what writes 1200 GB a day."),
        ),
        (
            "kafka-lag-01",
            ("The lag of 180000 grows.", "Add partitions to the topic.", "Then add more consumers for them."),
        ),
    ],
)
def test_good_advice_in_other_words_gets_full_marks(case_id: str, sentences: tuple[str, ...]) -> None:
    assert headline(case_id, *sentences) == 1.0


def test_an_api_that_is_too_slow_may_be_told_in_many_ways() -> None:
    said = ("60 requests a minute can't deliver data in 2 s.", "Ask the exchange for a WebSocket feed.", "Wait for it.")
    assert headline("rest-seconds-01", *said, mode="streaming") == 1.0


@pytest.mark.parametrize(
    "said",
    [
        ("Lag is 180000 on 12 partitions.", "Increase the number of replicas to 13.", "Then see what happens."),
        ("Lag is 180000 on 12 partitions.", "Add a worker now to take load off.", "Find the heaviest part of it."),
    ],
)
def test_more_replicas_do_not_help_where_each_partition_has_its_consumer(said: tuple[str, ...]) -> None:
    assert headline("kafka-lag-01", *said) == 0.0


def test_to_name_lag_and_partitions_is_not_to_do_something_about_them() -> None:
    said = ("Lag is 180000 with 12 partitions.", "Review the lag often.", "Check the number of partitions.")
    assert headline("kafka-lag-01", *said) == 0.5


@pytest.mark.parametrize(
    "said",
    [
        ("Nothing is scarce.", "Monitor the trend of CPU and memory.", "Shrink what sits idle."),
        ("Memory is at 82.", "Add a worker to take load off the CPU.", "Find the heaviest part and tune it."),
    ],
)
def test_to_name_memory_is_not_to_relieve_it(said: tuple[str, ...]) -> None:
    assert headline("memory-high-01", "Memory at 82 is high.", "Optimize the memory of jobs.", "See which grew.") == 1.0
    assert headline("memory-high-01", *said) <= 0.5


def test_any_word_about_sources_is_not_a_look_at_what_is_late() -> None:
    assert headline("quality-late-01", "Data is 5 h old.", "Add more data to it.", "Improve sources by checks.") == 0.0


def test_to_monitor_the_trend_is_no_answer_to_a_swing() -> None:
    said = ("CPU and memory are within limits.", "Monitor the trend of CPU and memory.", "Shrink what sits idle.")
    assert headline("cpu-swing-01", *said) == 0.0
    told = ("CPU goes up and down around 70.", "Judge by an average over several readings.", "Leave what is idle.")
    assert headline("cpu-swing-01", *told) == 1.0


@pytest.mark.parametrize("mode", ["cdc", "push_receiver"])
def test_a_mode_that_a_topic_cannot_serve_is_wrong_however_good_the_words(mode: str) -> None:
    said = ("The Kafka topic is read within 2 s.", "Use a consumer group with offsets.", "Dedupe and keep a DLQ of it.")
    assert headline("kafka-seconds-01", *said, mode="streaming") == 1.0
    assert headline("kafka-seconds-01", *said, mode=mode) == 0.0


@pytest.mark.parametrize("mode", ["batch", "streaming", "cdc", "push_receiver"])
def test_no_constant_mode_seems_right(mode: str) -> None:
    """What is debatable does not count, so a mode must be wrong where the source cannot serve it."""
    ingestion = [case_id for case_id, case in CASES.items() if case.acceptable_modes]
    scores = [SCORERS["mode_fit"](answered(case_id, "It.", "Do.", "So.", mode=mode)) for case_id in ingestion]
    judged = [score.value for score in scores if score]
    assert sum(judged) / len(judged) < 0.5
    assert len(judged) > len(ingestion) / 2


@pytest.mark.parametrize(
    "said",
    [
        "Never start without a snapshot; then follow the WAL.",
        "Don't forget the snapshot; then follow the WAL.",
        "Do not skip the snapshot; then follow the WAL.",
        "Read not only the WAL but a snapshot too.",
    ],
)
def test_what_is_denied_twice_is_said(said: str) -> None:
    around = ("PostgreSQL has its log open: use CDC.", said, "Set the replica identity by primary key.")
    assert headline("db-log-seconds-01", *around, mode="cdc") == 1.0


def test_a_point_that_is_denied_once_is_not_made() -> None:
    around = ("PostgreSQL has its log open: use CDC.", "Skip the snapshot; follow the WAL.", "Set the primary key.")
    assert headline("db-log-seconds-01", *around, mode="cdc") == pytest.approx(2 / 3)


def test_a_nightly_check_beside_a_stream_is_no_nightly_batch() -> None:
    first = "Use a consumer group, commit offsets, deduplicate and send bad events to a DLQ."
    said = ("The Kafka topic is read within 2 s.", first, "Reconcile the totals with a nightly check.")
    assert headline("kafka-seconds-01", *said, mode="streaming") == 1.0
