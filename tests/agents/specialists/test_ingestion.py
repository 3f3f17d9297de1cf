"""The ingestion specialist's rules: the oracle's answer from typed facts alone, and no harm where these show it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents.facts.source_kinds import flows, is_file_server, kind_of, need_s
from agents.facts.spec import PipelineSpec, Source, SourceKind
from agents.specialists.decision import MOST_ACTIONS, Decision
from agents.specialists.ingestion import INGESTION
from agents.specialists.ingestion.oracle_rows import CLOSED_LOG_WITHIN_SECONDS, ROWS
from agents.specialists.oracle import Difficulty, Key, OracleRow, spec_of
from agents.specialists.rules import Permitted, permitted, rules_decision
from tests.agents.made_specs import SPECS

EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row-{row.number}")
SEEDS = 30
MODES = set(INGESTION.choice.values)
ACTIONS = set(INGESTION.actions_by_id)
FREE = {"watch_schema", "dead_letter", "merge_by_key"}
"""Good practice for any source: nothing rules them out."""


class Drawn(NamedTuple):
    """One drawn case with what the rules make of it."""

    spec: PipelineSpec
    key: Key
    may: Permitted
    decision: Decision


def cases(row: OracleRow) -> Iterator[Drawn]:
    for difficulty in get_args(Difficulty):
        for seed in range(SEEDS):
            drawn = row.draw(random.Random(seed), difficulty)
            spec = spec_of("p", drawn.facts)
            yield Drawn(spec, drawn.key, may(spec), rules_decision(INGESTION, spec, None))


def pipeline(**source: Any) -> PipelineSpec:
    return PipelineSpec.model_validate({"id": "p", "source": {"type": "x", **source}})


def may(spec: PipelineSpec) -> Permitted:
    return permitted(INGESTION, spec, None)


def right(key: Key) -> set[str]:
    return {action for group in key.right for action in group}


# --- the oracle ------------------------------------------------------------------------------------------


@EACH_ROW
def test_nothing_that_the_key_calls_right_is_ruled_out(row: OracleRow) -> None:
    for case in cases(row):
        assert right(case.key) <= set(case.may.actions), case
        assert set(case.key.right_choices) <= set(case.may.choices), case


@EACH_ROW
def test_the_rules_meet_every_need_and_do_no_harm(row: OracleRow) -> None:
    for case in cases(row):
        chosen = set(case.decision.ids)
        assert all(chosen & set(group) for group in case.key.right), case
        assert not chosen & set(case.key.harmful), case
        assert case.decision.choice.id in case.key.right_choices, case


@EACH_ROW
def test_what_the_key_calls_harmful_is_not_permitted(row: OracleRow) -> None:
    for case in cases(row):
        assert not set(case.key.harmful) & set(case.may.actions), case


@EACH_ROW
def test_a_wrong_mode_is_permitted_only_where_the_facts_leave_it_open(row: OracleRow) -> None:
    """A webhook of an API is offered or denied in the description alone, which rules do not read."""
    for case in cases(row):
        assert set(case.key.wrong_choices) & set(case.may.choices) <= ({"push_receiver"} if row.number == 2 else set())


@EACH_ROW
def test_what_is_permitted_is_a_part_of_the_catalogue_and_no_single_action(row: OracleRow) -> None:
    counts = {len(case.may.actions) for case in cases(row)}
    assert min(counts) >= 6
    assert max(counts) <= 17


@EACH_ROW
def test_each_key_names_what_there_is_and_asks_for_no_more_than_a_decision_holds(row: OracleRow) -> None:
    assert 1 <= len(row.key.right) <= MOST_ACTIONS
    assert right(row.key) | set(row.key.harmful) <= ACTIONS
    assert not right(row.key) & set(row.key.harmful)
    assert {*row.key.right_choices, *row.key.wrong_choices} <= MODES
    assert not set(row.key.right_choices) & set(row.key.wrong_choices)


def test_a_closed_log_where_seconds_matter_is_polled_for_marks() -> None:
    key = CLOSED_LOG_WITHIN_SECONDS
    for need in ("10 s", "30 s"):
        spec = pipeline(kind="database", latency_need=need, deletes_matter=True, log_access=False, volume="5GB/day")
        decision = rules_decision(INGESTION, spec, None)
        assert decision.choice.id == "micro_batch"
        assert "find_deletes" in decision.ids
        assert right(key) <= set(may(spec).actions)
        assert not {*key.harmful, *key.wrong_choices} & {*may(spec).actions, *may(spec).choices}


REST_DAILY = {"type": "REST API", "volume": "500MB/day", "latency_need": "1 day"}
REST_MINUTES = {"type": "REST API", "frequency": "real-time", "latency_need": "5 min", "rate_limit": "9 calls/s"}
REST_SECONDS = {"type": "REST API", "latency_need": "5 s"}
KAFKA_SECONDS = {"type": "Kafka topic", "volume": "50GB/day", "latency_need": "5 s"}
KAFKA_LARGE = {"type": "Kafka topic", "volume": "200GB/day", "latency_need": "15 min"}
LOG_OPEN = {"type": "PostgreSQL", "latency_need": "30 s", "deletes_matter": True, "log_access": True}
LOG_CLOSED = {"type": "Oracle database", "frequency": "daily", "deletes_matter": True, "log_access": False}
HOURLY = {"type": "PostgreSQL", "latency_need": "1 h", "deletes_matter": False, "volume": "4GB/day"}
SMALL = {"type": "MySQL", "frequency": "daily", "volume": "5MB/day"}
FILES_DAILY = {"type": "S3 bucket", "frequency": "daily"}
FILES_SOON = {"type": "S3 bucket", "latency_need": "5 min"}
FILES_MANY = {"type": "S3 bucket", "latency_need": "5 min", "volume": "2M files/h"}
MQTT_SECONDS = {"type": "MQTT sensors", "latency_need": "5 s"}
MQTT_DAILY = {"type": "MQTT sensors", "latency_need": "1 day"}
WEBHOOK = {"type": "payment webhook"}
SAAS = {"type": "SaaS CRM", "latency_need": "30 min"}


@pytest.mark.parametrize(
    ("source", "mode", "actions"),
    [
        (REST_DAILY, "batch", "back_off keep_cursor follow_pages"),
        (REST_MINUTES, "micro_batch", "back_off keep_cursor merge_by_key"),
        (REST_SECONDS, "micro_batch", "ask_for_push back_off keep_cursor"),
        (KAFKA_SECONDS, "streaming", "commit_offsets dead_letter merge_by_key"),
        (KAFKA_LARGE, "micro_batch", "write_in_bulk arrange_files commit_offsets"),
        ({**KAFKA_LARGE, "latency_need": "30 s"}, "micro_batch", "write_in_bulk arrange_files commit_offsets"),
        ({**KAFKA_LARGE, "latency_need": "9 s"}, "streaming", "commit_offsets dead_letter merge_by_key"),
        ({"type": "Kafka", "frequency": "streaming"}, "streaming", "commit_offsets dead_letter merge_by_key"),
        ({"type": "Kafka"}, "micro_batch", "commit_offsets dead_letter merge_by_key"),
        ({"type": "Kafka", "frequency": "daily"}, "batch", "write_in_bulk arrange_files commit_offsets"),
        (LOG_OPEN, "cdc", "follow_log keep_log merge_by_key"),
        ({**LOG_OPEN, "latency_need": "1 day"}, "cdc", "follow_log keep_log merge_by_key"),
        ({**LOG_OPEN, "log_access": None}, "cdc", "follow_log keep_log merge_by_key"),
        ({**LOG_OPEN, "log_access": False}, "micro_batch", "find_deletes merge_by_key"),
        (LOG_CLOSED, "batch", "find_deletes merge_by_key"),
        ({**LOG_CLOSED, "log_access": None}, "batch", "find_deletes merge_by_key"),
        (HOURLY, "micro_batch", "keep_cursor allow_late merge_by_key"),
        (SMALL, "batch", "copy_whole"),
        ({**SMALL, "volume": "2GB/day"}, "batch", "keep_cursor allow_late merge_by_key"),
        (FILES_DAILY, "batch", "arrange_files track_files"),
        (FILES_SOON, "micro_batch", "take_notifications arrange_files track_files"),
        (FILES_MANY, "micro_batch", "take_notifications arrange_files track_files"),
        ({**FILES_MANY, "latency_need": "1 day"}, "micro_batch", "take_notifications arrange_files track_files"),
        ({**FILES_DAILY, "volume": "2K files/h"}, "batch", "arrange_files track_files"),
        (MQTT_SECONDS, "streaming", "buffer_at_edge allow_late merge_by_key"),
        (MQTT_DAILY, "batch", "write_in_bulk arrange_files buffer_at_edge"),
        (WEBHOOK, "push_receiver", "verify_signature ack_then_queue merge_by_key"),
        (SAAS, "micro_batch", "back_off watch_schema keep_cursor"),
        ({"type": "the old thing"}, "batch", "keep_cursor merge_by_key"),
        ({"type": "the old thing", "latency_need": "5 s"}, "streaming", "keep_cursor merge_by_key"),
    ],
)
def test_what_the_rules_decide(source: dict[str, Any], mode: str, actions: str) -> None:
    decision = rules_decision(INGESTION, pipeline(**source), None)
    assert (decision.choice.id, decision.ids) == (mode, tuple(actions.split()))


# --- what is ruled out -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "source", "unfit"),
    [
        (1, REST_DAILY, "streaming cdc push_receiver"),
        (2, REST_MINUTES, "batch streaming cdc"),
        (3, REST_SECONDS, "batch cdc"),
        (4, KAFKA_SECONDS, "batch cdc push_receiver"),
        (5, KAFKA_LARGE, "cdc push_receiver"),
        (7, LOG_OPEN, "batch push_receiver"),
        (8, HOURLY, "streaming push_receiver"),
        (9, SMALL, "cdc streaming push_receiver"),
        (10, LOG_CLOSED, "cdc streaming push_receiver"),
        (11, FILES_DAILY, "streaming cdc push_receiver"),
        (12, FILES_MANY, "batch cdc push_receiver"),
        (13, MQTT_SECONDS, "batch cdc push_receiver"),
        (14, MQTT_DAILY, "streaming cdc push_receiver"),
        (15, WEBHOOK, "batch micro_batch cdc"),
        (16, SAAS, "streaming cdc"),
    ],
)
def test_modes_that_a_row_of_the_oracle_rules_out(row: int, source: dict[str, Any], unfit: str) -> None:
    assert MODES - set(may(pipeline(**source)).choices) == set(unfit.split()), row


@pytest.mark.parametrize(
    ("source", "mode"),
    [
        ({"type": "the old thing"}, "cdc"),
        ({"type": "Kafka topic fed by PostgreSQL"}, "cdc"),
        ({"type": "REST API"}, "push_receiver"),
        ({"type": "REST API"}, "streaming"),
        ({"type": "REST API", "latency_need": "5 s"}, "push_receiver"),
        ({"type": "REST API", "latency_need": "30 s"}, "streaming"),
        ({"type": "websocket API", "latency_need": "5 min"}, "streaming"),
        ({"type": "REST API", "frequency": "streaming"}, "streaming"),
        ({"type": "REST API", "frequency": "streaming", "latency_need": "5 min"}, "streaming"),
        ({"type": "PostgreSQL"}, "cdc"),
        ({"type": "Kafka", "frequency": "streaming"}, "batch"),
        ({"type": "Kafka", "frequency": "real-time, for a daily report"}, "batch"),
        ({"type": "S3 bucket", "latency_need": "15 min"}, "batch"),
        ({"type": "Kafka", "latency_need": "59 min"}, "streaming"),
        ({"type": "Kafka", "kind": "database"}, "cdc"),
        ({"type": "MySQL", "frequency": "daily", "volume": "5MB/day", "deletes_matter": True}, "cdc"),
    ],
)
def test_a_mode_that_the_facts_leave_open_is_permitted(source: dict[str, Any], mode: str) -> None:
    assert mode in may(pipeline(**source)).choices


@pytest.mark.parametrize(
    ("source", "refused"),
    [
        (REST_DAILY, "stream_stack poll_tightly follow_log keep_log commit_offsets verify_signature arrange_files"),
        (REST_MINUTES, "stream_stack poll_tightly follow_log keep_log commit_offsets copy_whole"),
        (REST_SECONDS, "poll_tightly follow_log"),
        (KAFKA_SECONDS, "drop_late write_in_bulk copy_whole keep_cursor work_in_handler ask_for_push"),
        (KAFKA_LARGE, "insert_each drop_late"),
        (LOG_OPEN, "copy_whole keep_cursor find_deletes ask_for_push"),
        (LOG_CLOSED, "follow_log keep_log"),
        (HOURLY, "copy_whole stream_stack find_deletes poll_tightly"),
        (SMALL, "stream_stack follow_log keep_log allow_late"),
        (FILES_DAILY, "copy_whole stream_stack insert_each"),
        (FILES_SOON, "list_folders copy_whole"),
        (FILES_MANY, "list_folders"),
        (MQTT_SECONDS, "insert_each poll_tightly drop_late"),
        (MQTT_DAILY, "stream_stack poll_tightly insert_each"),
        (WEBHOOK, "work_in_handler poll_tightly drop_late back_off"),
        (SAAS, "follow_log keep_log stream_stack poll_tightly"),
    ],
)
def test_what_does_harm_or_has_no_use_is_not_permitted(source: dict[str, Any], refused: str) -> None:
    assert set(refused.split()).isdisjoint(may(pipeline(**source)).actions)


@pytest.mark.parametrize(
    ("source", "action"),
    [
        (FILES_DAILY, "list_folders"),
        ({"type": "S3 bucket", "latency_need": "15 min"}, "list_folders"),
        ({"type": "S3 bucket", "latency_need": "5 min", "volume": "20 files/h"}, "list_folders"),
        ({"type": "SFTP files", "latency_need": "5 min"}, "list_folders"),
        ({**HOURLY, "latency_need": "1 day"}, "copy_whole"),
        ({**HOURLY, "volume": "900MB/day"}, "copy_whole"),
        ({**LOG_OPEN, "deletes_matter": False, "latency_need": "1 h"}, "keep_cursor"),
        ({**LOG_OPEN, "log_access": None}, "keep_cursor"),
        (LOG_CLOSED, "copy_whole"),
        (KAFKA_SECONDS, "stream_stack"),
        ({**KAFKA_LARGE, "latency_need": "30 s"}, "write_in_bulk"),
        (REST_MINUTES, "verify_signature"),
        ({"type": "websocket API"}, "stream_stack"),
    ],
)
def test_what_may_be_right_is_permitted(source: dict[str, Any], action: str) -> None:
    assert action in may(pipeline(**source)).actions


def test_where_nothing_is_known_everything_is_offered() -> None:
    assert set(may(pipeline()).actions) == ACTIONS
    assert set(may(pipeline()).choices) == MODES


def test_each_action_has_a_reason_for_or_against_it_or_is_deliberately_free() -> None:
    assert {one.id for one in INGESTION.catalogue if not one.wrong_when} == FREE
    assert all(one.right_when or one.wrong_when for one in INGESTION.catalogue)


def test_the_catalogue_is_short_enough_for_one_letter_an_action() -> None:
    assert 24 <= len(INGESTION.catalogue) <= 26
    assert all(one.id.count("_") <= 2 for one in INGESTION.catalogue)


def test_each_action_answers_to_facts_that_a_source_may_have() -> None:
    assert all(one.facts and set(one.facts) <= Source.model_fields.keys() for one in INGESTION.catalogue)


@example(spec=pipeline(type="REST API", kind="webhook", latency_need="1 day"))
@given(spec=SPECS)
def test_the_rules_always_have_a_reason_and_never_a_loss_that_cannot_be_undone(spec: PipelineSpec) -> None:
    decision = rules_decision(INGESTION, spec, None)
    assert may(spec).refuses(decision.choice.id, decision.ids) is None
    assert decision.ids
    assert set(decision.ids) <= set(may(spec).right)
    assert all(INGESTION.actions_by_id[one].can_be_undone for one in decision.ids)


@given(spec=SPECS, words=st.text(max_size=200))
def test_the_description_is_told_and_decides_nothing(spec: PipelineSpec, words: str) -> None:
    told = spec.model_copy(update={"source": spec.source.model_copy(update={"description": words or None})})
    assert may(told) == may(spec)
    assert rules_decision(INGESTION, told, None) == rules_decision(INGESTION, spec, None)
    assert INGESTION.told(told).get("description", "") == words


def test_the_specialist_is_told_the_source_and_the_owners_words() -> None:
    spec = pipeline(type="carrier API", kind="rest_api", latency_need="300 s", description="There is no webhook.")
    assert INGESTION.told(spec) == {
        "type": "carrier API",
        "kind": "rest api",
        "latency_need": "5 min",
        "description": "There is no webhook.",
    }


# --- what is known of a source ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("REST API", "rest_api"),
        ("vendor GraphQL API", "rest_api"),
        ("Kafka", "kafka"),
        ("kafka_topic", "kafka"),
        ("PostgreSQL 16", "database"),
        ("SQL Server", "database"),
        ("Oracle database", "database"),
        ("S3 bucket", "object_storage"),
        ("s3://landing/orders", "object_storage"),
        ("SFTP files", "object_storage"),
        ("IoT sensors over MQTT", "mqtt"),
        ("payment webhook", "webhook"),
        ("SaaS CRM", "saas"),
        ("SaaS REST API", "saas"),
        ("webhook or REST API", None),
        ("Kafka topic fed by MySQL", None),
        ("files, no database", None),
        ("no API", None),
        ("streaming API", None),
        ("websocket", None),
        ("websocket API", None),
        ("gRPC API", None),
        ("Kinesis stream", None),
        ("Snowflake database", None),
        ("apiary", None),
        ("IoT sensors", None),
        ("", None),
    ],
)
def test_the_kind_of_a_source_by_plain_names_or_not_at_all(told: str, kind: str | None) -> None:
    assert kind_of(Source.model_construct(type=told)) == kind


def test_a_kind_that_is_told_goes_before_names() -> None:
    assert kind_of(Source.model_validate({"type": "Kafka", "kind": "database"})) == "database"


@pytest.mark.parametrize("name", list(SourceKind))
def test_each_kind_has_a_name_of_its_own(name: str) -> None:
    assert kind_of(Source(type={"rest_api": "API", "object_storage": "bucket"}.get(name, name))) == name


@pytest.mark.parametrize(
    ("told", "need"),
    [
        ("daily", 86400),
        ("nightly", 86400),
        ("weekly", 86400),
        ("hourly", 3600),
        ("every 5 minutes", 300),
        ("within minutes", 300),
        ("needed within 30 seconds", 30),
        ("needed within seconds", 9),
        ("real-time", 60),
        ("real-time, needed within seconds", 9),
        ("real-time, daily report", None),
        ("every 5 minutes, weekly", None),
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


@pytest.mark.parametrize(
    ("told", "does"), [("streaming", True), ("Continuous", True), ("no stream", False), ("daily", False), (None, False)]
)
def test_whether_data_flows_by_the_frequency(told: str | None, does: bool) -> None:
    assert flows(Source(type="stream of clicks", frequency=told)) is does


@pytest.mark.parametrize(("told", "is_one"), [("SFTP server", True), ("file share", True), ("S3 bucket", False)])
def test_a_file_server_by_its_type(told: str, is_one: bool) -> None:
    assert is_file_server(Source(type=told)) is is_one
