"""MLflow traces: what was sent is what MLflow's own client reads, whatever the text, and a loss is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.console import CannotJudge
from tests.tracking.remote import running_server
from tracking import traces
from tracking.traces import SpanContent, TraceContent, TraceLog

ROOT = Path(__file__).parents[2]
EXPERIMENT = "traces"
START = datetime(2026, 11, 22, 10, 0, 0, 123457, tzinfo=UTC)
MESSAGES = [{"role": "system", "content": "You advise."}, {"role": "user", "content": "naïve\n{{ x }} 試験"}]
CONTENT = TraceContent(
    name="orders",
    spans=(
        SpanContent(
            "ingestion",
            START,
            START + timedelta(seconds=1.5),
            inputs={"messages": MESSAGES},
            outputs={"summary": "poll", "actions": ["a", "b"]},
            attributes={
                "plumbline.source": "model",
                "plumbline.latency_s": 1.5,
                "plumbline.rejected": [{"answer": "x"}],
            },
            tokens=(120, 40),
        ),
        SpanContent("quality", START, START + timedelta(seconds=2), error="no answer within 2 s"),
    ),
    start=START,
    end=START + timedelta(seconds=2.25),
    inputs={"id": "orders"},
    outputs={"status": "partial"},
    tags={"plumbline.approval": "pending", "plumbline.pipeline_id": "orders"},
    error="quality: no answer within 2 s",
)

needs_mlflow = pytest.mark.slow  # it is imported in two seconds and makes its first database in four


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One SQLite store for all tests here; each uses tags of its own."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('traces') / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture(scope="module")
def log(store: str) -> TraceLog:
    return TraceLog(EXPERIMENT)


@pytest.fixture(scope="module")
def client(store: str, log: TraceLog) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=store)


def tagged(**tags: str) -> TraceContent:
    return replace(CONTENT, tags={f"test.{key}": value for key, value in tags.items()})


# --- stored == sent --------------------------------------------------------------------------------------


@needs_mlflow
def test_mlflows_own_client_reads_every_span_with_its_times_inputs_outputs_and_status(
    log: TraceLog, client: Any
) -> None:
    trace = client.get_trace(log.write(CONTENT))
    root, ingestion, quality = trace.data.spans
    assert [span.name for span in trace.data.spans] == ["orders", "ingestion", "quality"]
    assert [span.parent_id for span in trace.data.spans] == [None, root.span_id, root.span_id]
    assert root.start_time_ns == quality.start_time_ns == ingestion.start_time_ns == 1795341600123457000
    assert [span.end_time_ns - span.start_time_ns for span in trace.data.spans] == [2250000000, 1500000000, 2000000000]
    assert [span.status.status_code for span in trace.data.spans] == ["ERROR", "OK", "ERROR"]
    assert quality.status.description == "no answer within 2 s"
    assert (root.inputs, root.outputs) == ({"id": "orders"}, {"status": "partial"})
    assert ingestion.inputs == {"messages": MESSAGES}
    assert ingestion.outputs == {"summary": "poll", "actions": ["a", "b"]}
    assert ingestion.attributes["plumbline.latency_s"] == 1.5
    assert ingestion.attributes["plumbline.rejected"] == [{"answer": "x"}]


@needs_mlflow
def test_the_trace_itself_has_its_name_tags_time_state_and_tokens(log: TraceLog, client: Any) -> None:
    info = client.get_trace(log.write(CONTENT)).info
    assert CONTENT.tags.items() <= info.tags.items()
    assert (info.tags["mlflow.traceName"], info.state, info.execution_duration) == ("orders", "ERROR", 2250)
    assert info.request_time == 1795341600123
    assert json.loads(info.request_preview) == {"id": "orders"}
    assert info.token_usage == {"input_tokens": 120, "output_tokens": 40, "total_tokens": 160}


@needs_mlflow
def test_a_trace_without_an_error_is_ok_and_may_have_no_spans(log: TraceLog, client: Any) -> None:
    trace = client.get_trace(log.write(replace(CONTENT, spans=(), error=None)))
    assert (trace.info.state, [span.status.status_code for span in trace.data.spans]) == ("OK", ["OK"])


@needs_mlflow
@pytest.mark.parametrize("text", ["\ud800 half a pair", "nul \0 inside", "x" * 100_000, "\x1b[31m red", "", "'\"`\\"])
def test_any_text_is_stored_in_names_tags_values_and_errors(log: TraceLog, client: Any, text: str) -> None:
    span = SpanContent("s", START, START, inputs={text: [text]}, outputs=text, attributes={"a": text}, error=text)
    trace_id = log.write(replace(CONTENT, name=text, spans=(span,), tags={"test.text": text}, inputs=text, error=text))
    stored = client.get_trace(trace_id)
    assert len(stored.data.spans) == 2
    assert len(stored.data.spans[1].outputs) <= 8000
    assert len(stored.info.tags["test.text"]) <= 4000
    assert len(stored.info.request_preview) <= 1000
    assert trace_id in [trace.trace_id for trace in log.find({"test.text": text})]


@needs_mlflow
def test_a_log_that_was_opened_in_one_thread_writes_in_another(log: TraceLog) -> None:
    written: list[str] = []
    worker = threading.Thread(target=lambda: written.extend(log.write(tagged(thread="t")) for _ in range(3)))
    worker.start()
    worker.join(timeout=60)
    assert {trace.trace_id for trace in log.find({"test.thread": "t"})} == set(written)
    assert len(written) == 3


@needs_mlflow
def test_many_are_written_in_batches_and_come_back_in_order_each_with_its_own_spans(
    log: TraceLog, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "_BATCH", 4)
    contents = [replace(CONTENT, name=f"n{number}", spans=CONTENT.spans[: number % 3]) for number in range(10)]
    written = log.write_all(contents)
    assert len(set(written)) == 10
    for trace_id, content in zip(written, contents, strict=True):
        spans = client.get_trace(trace_id).data.spans
        assert [span.name for span in spans] == [content.name, *(span.name for span in content.spans)]
    assert log.write_all([]) == []


@needs_mlflow
def test_a_trace_of_a_run_is_counted_there_and_has_its_scores(log: TraceLog, client: Any) -> None:
    assert log.count("0" * 32) == 0
    scored = replace(CONTENT, run_id="0" * 32, scores={"headline": (0.5, "x" * 9000), "mode_fit": (1.0, "nul \0")})
    trace_id, _ = log.write_all([scored, scored])
    log.write(CONTENT)
    assert log.count("0" * 32) == 2
    said = {one.name: one for one in client.get_trace(trace_id).info.assessments}
    assert {name: one.feedback.value for name, one in said.items()} == {"headline": 0.5, "mode_fit": 1.0}
    assert said["mode_fit"].rationale == "nul ?"
    assert {one.source.source_type for one in said.values()} == {"CODE"}
    stored = log.get(trace_id)
    assert stored is not None
    assert stored.assessments == ()  # nobody said them


@needs_mlflow
def test_lost_scores_are_noticed(log: TraceLog, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = traces._trace_info

    def without_scores(experiment: str, trace_id: str, content: TraceContent) -> Any:
        return kept(experiment, trace_id, replace(content, scores={}))

    monkeypatch.setattr(traces, "_trace_info", without_scores)
    with pytest.raises(CannotJudge, match=r"does not hold all of its scores$"):
        log.write(replace(CONTENT, scores={"headline": (0.5, "why")}))


@needs_mlflow
def test_what_the_store_lost_is_noticed(log: TraceLog, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = log._client.log_spans
    monkeypatch.setattr(log._client, "log_spans", lambda experiment, spans: kept(experiment, spans[:-1]))
    with pytest.raises(CannotJudge, match=r"^MLflow trace tr-[0-9a-f]{32} does not hold all of its spans and tags$"):
        log.write(CONTENT)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        traces._nanoseconds(datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is tested


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_is_kept_to_the_microsecond(at: datetime) -> None:
    since_us, rest = divmod(traces._nanoseconds(at), 1000)
    assert (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=since_us), rest) == (at, 0)


@given(st.text(), st.integers(1, 40))
def test_a_text_is_cut_to_its_limit_and_can_be_encoded(text: str, limit: int) -> None:
    stored = traces._sound(text, limit)
    assert len(stored) <= limit
    assert "\0" not in stored
    assert stored.encode("utf8").decode() == stored
    if len(text) <= limit and text.isprintable():
        assert stored == text


# --- finding ---------------------------------------------------------------------------------------------


@needs_mlflow
def test_find_reads_past_one_page_and_gives_each_trace_once_newest_first(
    log: TraceLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "_PAGE", 4)
    contents = [
        replace(tagged(page="p"), start=START + timedelta(hours=n), end=START + timedelta(hours=n)) for n in range(10)
    ]
    written = [log.write(content) for content in contents]
    found = log.find({"test.page": "p"})
    assert [trace.trace_id for trace in found] == written[::-1]
    assert found[0].at == datetime(2026, 11, 22, 19, 0, 0, 123000, tzinfo=UTC)


INJECTIONS = [
    "' OR '1'='1",
    "pending' OR tags.`test.say` != '",
    "x\\",
    '"',
    "`",
    "%",
    "_",
    "a b",
    "PLAIN",
    "plain",
    "é;--",
]


@needs_mlflow
def test_a_value_is_found_as_it_is_and_says_nothing_in_the_search(log: TraceLog) -> None:
    written = {value: log.write(tagged(say=value)) for value in INJECTIONS}
    for value, trace_id in written.items():
        assert [trace.trace_id for trace in log.find({"test.say": value})] == [trace_id]
    assert log.find({"test.say": "never written"}) == []


@needs_mlflow
@given(st.from_regex(traces._PLAIN, fullmatch=True))
def test_mlflow_reads_a_plain_value_back_from_the_search(value: str) -> None:
    from mlflow.utils.search_utils import SearchTraceUtils

    read = SearchTraceUtils.parse_search_filter_for_search_traces(traces._search({"test.say": value}))
    assert [(one["key"], one["comparator"], one["value"]) for one in read] == [("test.say", "=", value)]


@given(st.text())
def test_a_value_that_could_end_its_quotes_never_enters_the_search(value: str) -> None:
    search = traces._search({"k": value})
    assert search is None or (search == f"tags.`k` = '{value}'" and not set(value) & set("'\"`\\\0 "))


@needs_mlflow
def test_several_tags_must_all_fit(log: TraceLog) -> None:
    both = log.write(tagged(one="1", two="2"))
    log.write(tagged(one="1", two="3"))
    assert [trace.trace_id for trace in log.find({"test.one": "1", "test.two": "2"})] == [both]


@needs_mlflow
@pytest.mark.parametrize(
    "trace_id", ["tr-" + "0" * 32, "tr-1", "", "../../etc/passwd", "tr-" + "0" * 32 + "\n", "orders"]
)
def test_a_trace_that_is_not_there_is_none(log: TraceLog, trace_id: str) -> None:
    assert log.get(trace_id) is None


# --- what people say -------------------------------------------------------------------------------------


@needs_mlflow
def test_an_assessment_is_a_persons_feedback_with_name_and_reason(log: TraceLog, client: Any) -> None:
    trace_id = log.write(CONTENT)
    before = datetime.now(UTC) - timedelta(seconds=1)
    said = log.assess(trace_id, name="approval", value="approved", by="Ada Ünal", reason="disk\nwas 'ordered'")
    log.tag(trace_id, "plumbline.approval", "approved")
    info = client.get_trace(trace_id).info
    (feedback,) = info.assessments
    assert (feedback.name, feedback.feedback.value, feedback.rationale) == ("approval", "approved", said.reason)
    assert (feedback.source.source_type, feedback.source.source_id) == ("HUMAN", "Ada Ünal")
    assert info.tags["plumbline.approval"] == "approved"
    stored = log.get(trace_id)
    assert stored is not None
    assert stored.assessments == (said,)
    assert before < said.at < datetime.now(UTC) + timedelta(seconds=1)


@needs_mlflow
def test_only_what_people_said_and_nobody_replaced_counts(log: TraceLog) -> None:
    from mlflow.entities import AssessmentSource, Expectation, Feedback

    trace_id = log.write(CONTENT)
    judge, person = AssessmentSource("LLM_JUDGE", "m"), AssessmentSource("HUMAN", "Bo")
    first = log.assess(trace_id, name="approval", value="approved", by="Bo", reason="r")
    for other in (
        Feedback(name="approval", value="approved", source=judge),
        Expectation(name="approval", value="approved", source=person),
        Feedback(name="approval", value="rejected", source=person, overrides=first.assessment_id),
    ):
        log._client.log_assessment(trace_id, other)
    stored = log.get(trace_id)
    assert stored is not None
    assert [(said.by, said.value) for said in stored.assessments] == [("Bo", "rejected")]


@needs_mlflow
def test_a_withdrawn_assessment_is_gone(log: TraceLog) -> None:
    trace_id = log.write(CONTENT)
    log.withdraw(trace_id, log.assess(trace_id, name="approval", value="approved", by="Bo", reason="r"))
    stored = log.get(trace_id)
    assert stored is not None
    assert stored.assessments == ()


# --- a store that fails ----------------------------------------------------------------------------------


@needs_mlflow
@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////proc/x/y.db", "sqlite:////proc/x/y.db"),
        ("http://me:hunter2@127.0.0.1:9", "http://127.0.0.1:9"),
        ("postgresql://me:hunter2@127.0.0.1:9/db", "postgresql://127.0.0.1:9/db"),
        ("file:./somewhere", "file:./somewhere"),
    ],
)
def test_a_store_that_cannot_be_reached_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, shown: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(CannotJudge) as failed:
        TraceLog(EXPERIMENT)
    message = str(failed.value)
    assert message.startswith(f"MLflow at {shown} did not open the traces: ")
    assert "hunter2" not in message
    assert "\n" not in message


@needs_mlflow
def test_a_store_that_goes_away_between_two_traces_is_one_line(
    tmp_path: Path, log: TraceLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(log._client, "start_trace", gone)
    with pytest.raises(CannotJudge, match=r"did not take the trace: No space left on device$"):
        log.write(CONTENT)


def test_mlflow_is_only_loaded_when_a_store_is_opened() -> None:
    """It costs seconds, and most commands never open one."""
    program = "import tracking.traces, sys; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False).returncode == 0


# --- over MLflow's server, as its UI asks ----------------------------------------------------------------


@pytest.fixture
def server(store: str, log: TraceLog) -> Iterator[str]:
    with running_server(store) as base_url:
        yield base_url


@needs_mlflow
def test_a_trace_and_its_decision_go_through_a_server_and_are_there_for_its_ui(
    server: str, log: TraceLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    remote = TraceLog(EXPERIMENT)
    trace_id = remote.write(CONTENT)
    remote.assess(trace_id, name="approval", value="approved", by="Ada", reason="disk was ordered")
    remote.tag(trace_id, "plumbline.approval", "approved")
    with urllib.request.urlopen(f"{server}/api/3.0/mlflow/traces/{trace_id}", timeout=30) as answer:
        shown = json.load(answer)["trace"]["trace_info"]
    assert shown["tags"]["plumbline.approval"] == "approved"
    (said,) = shown["assessments"]
    assert (said["source"], said["rationale"]) == ({"source_type": "HUMAN", "source_id": "Ada"}, "disk was ordered")
    assert (said["assessment_name"], said["feedback"]["value"]) == ("approval", "approved")
    assert remote.get(trace_id) == log.get(trace_id)
    assert remote.get("tr-" + "0" * 32) is None
    assert trace_id in [trace.trace_id for trace in remote.find({"plumbline.approval": "approved"})]
