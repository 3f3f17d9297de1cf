"""Approvals: what becomes a trace, what waits, and that a person decides once, whatever is typed or raced."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from agents.asking.endpoint.reply import ErrorClass
from agents.facts.spec import PipelineSpec
from agents.labels.label import Label, RuleFired
from agents.reports import approvals
from agents.reports.approvals import Approval, Review, TraceMode, decide, everything, pending, trace_of, wants_trace
from agents.reports.report import PipelineReport, StageReport
from agents.specialists.decision import Decision, Picked, Reading
from agents.specialists.registry import stages
from common.console import BadInput, CannotJudge
from tracking.traces import Assessment, TraceContent, TraceLog

ROOT = Path(__file__).parents[3]
START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
SPEC = PipelineSpec.model_validate(
    {"id": "orders", "source": {"type": "REST API"}, "infrastructure_metrics": {"cpu_usage": 95}}
)
BLOCK = Decision(by="rules", choice=Picked(id="block"), actions=(Picked(id="stop_downstream"), Picked(id="backfill")))
BATCH = Decision(
    by="model",
    choice=Picked(id="batch", probability=0.8312),
    actions=(Picked(id="keep_cursor", probability=0.407),),
    facts=("frequency",),
    reading=Reading(way="write", source="after the mask"),
)
WRONG = BATCH.model_copy(update={"choice": Picked(id="publish", probability=0.5)})
STAGES = (
    StageReport(
        stage="ingestion",
        status="completed",
        decision=BATCH,
        told=("mode batch: a day is soon enough",),
        rules=BATCH.model_copy(update={"by": "rules"}),
        prompt_tokens=120,
        output_tokens=40,
        latency_s=1.25,
    ),
    StageReport(
        stage="quality",
        status="completed",
        decision=BLOCK,
        rules=BLOCK,
        because="not_permitted",
        model=WRONG,
        problem="publish is not permitted here",
        prompt_tokens=200,
        output_tokens=None,
        latency_s=2.0,
    ),
    StageReport(
        stage="infrastructure",
        status="failed",
        error="the endpoint answered HTTP 500",
        error_class=ErrorClass.SERVER_ERROR,
    ),
)
PRIORITY = Label(
    kind="priority",
    value="CRITICAL",
    policy="standard",
    rules=(RuleFired(rule="cpu", level="CRITICAL", reason="cpu_percent 95 is above 85"),),
)
CONDITION = {"model": "m", "simulated": True, "prompt": "write v1", "policy": "standard", "revision": None}


def report(pipeline_id: str = "orders", **changes: Any) -> PipelineReport:
    fields: dict[str, Any] = {
        "pipeline_id": pipeline_id,
        "start_time": START,
        "end_time": START + timedelta(seconds=3),
        "status": "partial",
        "labels": {"priority": PRIORITY},
        "stages": STAGES,
        "requires_approval": True,
        "approval_reasons": ("priority CRITICAL", "quality: backfill spends much"),
        "error": "infrastructure: the endpoint answered HTTP 500",
    }
    return PipelineReport(**(fields | changes))


def content(pipeline_id: str = "orders", **changes: Any) -> TraceContent:
    messages = {stage: [{"role": "user", "content": f"about {stage}"}] for stage in stages()}
    return trace_of(report(pipeline_id, **changes), SPEC, messages, CONDITION)


# --- a pipeline as a trace -------------------------------------------------------------------------------


def test_a_trace_holds_the_facts_the_labels_with_their_reasons_and_the_error() -> None:
    trace = content()
    assert trace.inputs == SPEC.model_dump(mode="json", exclude_none=True)
    outputs = json.loads(json.dumps(trace.outputs))
    assert outputs["labels"]["priority"]["value"] == "CRITICAL"
    assert outputs["labels"]["priority"]["reasons"] == ["cpu_percent 95 is above 85"]
    assert (outputs["labels"].keys(), outputs["status"]) == ({"priority"}, "partial")
    assert (trace.name, trace.error) == ("orders", "infrastructure: the endpoint answered HTTP 500")


def test_each_stage_is_a_span_from_the_pipelines_start_for_as_long_as_its_answers_took() -> None:
    ingestion, quality, infrastructure = content().spans
    assert {span.start for span in content().spans} == {START}
    assert [(span.end - START).total_seconds() for span in (ingestion, quality, infrastructure)] == [1.25, 2.0, 3.0]
    assert ingestion.inputs == {"messages": [{"role": "user", "content": "about ingestion"}]}
    assert ingestion.outputs == BATCH.model_dump(mode="json", exclude_none=True)
    assert (ingestion.error, infrastructure.error) == (None, "the endpoint answered HTTP 500")
    assert infrastructure.outputs is None
    assert (ingestion.tokens, quality.tokens, infrastructure.tokens) == ((120, 40), None, None)


def test_a_span_tells_what_the_rules_say_what_the_model_decided_instead_and_how_it_failed() -> None:
    ingestion, quality, infrastructure = (json.loads(json.dumps(dict(span.attributes))) for span in content().spans)
    assert ingestion["plumbline.latency_s"] == 1.25
    assert ingestion["plumbline.rules"]["choice"]["id"] == "batch"
    assert ingestion["plumbline.told"] == ["mode batch: a day is soon enough"]
    assert (quality["plumbline.because"], quality["plumbline.problem"]) == (
        "not_permitted",
        "publish is not permitted here",
    )
    assert quality["plumbline.model"]["choice"] == {"id": "publish", "probability": 0.5}
    assert infrastructure["plumbline.error_class"] == "server_error"


def test_the_tags_say_what_waits_why_and_under_which_condition() -> None:
    assert content().tags == {
        "plumbline.pipeline_id": "orders",
        "plumbline.approval": "pending",
        "plumbline.asks": "ingestion: batch 0.83, keep_cursor 0.41 (model); "
        "quality: block, stop_downstream, backfill (rules)",
        "plumbline.reasons": "priority CRITICAL; quality: backfill spends much",
        "plumbline.status": "partial",
        "plumbline.priority": "CRITICAL",
        "plumbline.model": "m",
        "plumbline.simulated": "true",
        "plumbline.prompt": "write v1",
        "plumbline.policy": "standard",
    }


def test_what_needs_nobody_does_not_wait() -> None:
    assert content(requires_approval=False, approval_reasons=()).tags["plumbline.approval"] == "not_needed"


def test_a_condition_cannot_say_that_nobody_is_needed() -> None:
    said = {"approval": "approved", "pipeline_id": "another"}
    assert trace_of(report(), SPEC, {}, CONDITION | said).tags == content().tags


def test_a_refused_pipeline_is_a_trace_without_spans() -> None:
    refused = report(status="invalid", stages=(), labels={}, requires_approval=False, where="f.yaml:3")
    trace = trace_of(refused, None, {}, CONDITION)
    assert (trace.spans, trace.inputs) == ((), {"where": "f.yaml:3"})
    assert "plumbline.priority" not in trace.tags


@pytest.mark.parametrize(
    ("status", "needs_person", "mode", "batch", "wanted"),
    [
        ("completed", False, "auto", False, True),
        ("invalid", False, "auto", False, True),
        ("completed", False, "auto", True, False),
        ("completed", True, "auto", True, True),
        ("partial", False, "auto", True, True),
        ("failed", False, "auto", True, True),
        ("invalid", False, "auto", True, False),
        ("completed", False, "all", True, True),
        ("invalid", False, "all", True, True),
        ("failed", True, "none", False, False),
    ],
)
def test_which_pipelines_become_traces(status: str, needs_person: bool, mode: str, batch: bool, wanted: bool) -> None:
    assert wants_trace(report(status=status, requires_approval=needs_person), TraceMode(mode), batch) is wanted


# --- without a store -------------------------------------------------------------------------------------


def test_where_nothing_was_ever_run_nothing_waits_and_no_store_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none' / 'mlflow.db'}")
    assert (pending(), everything()) == ([], [])
    with pytest.raises(BadInput, match=r"^'orders' is not known; nothing waits for a person$"):
        decide("orders", Approval.APPROVED, by="Ada", reason="r")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blank", ["", "  ", "\n\t", "\x1b", "\u200b", "\u202e \0"])
@pytest.mark.parametrize("option", ["by", "reason"])
def test_a_decision_without_a_person_or_a_reason_is_refused(blank: str, option: str) -> None:
    said = {"by": "Ada", "reason": "disk was ordered"} | {option: blank}
    with pytest.raises(BadInput, match=f"^--{option}: is blank; who decides, and why, is kept with every decision$"):
        decide("orders", Approval.APPROVED, **said)


@pytest.mark.parametrize(("option", "most"), [("by", 250), ("reason", 1000)])
def test_an_endless_name_or_reason_is_refused(option: str, most: int) -> None:
    said = {"by": "Ada", "reason": "disk was ordered"} | {option: "x" * (most + 1)}
    with pytest.raises(BadInput, match=f"^--{option}: has {most + 1} characters; allowed: at most {most}$"):
        decide("orders", Approval.APPROVED, **said)


# --- deciding --------------------------------------------------------------------------------------------

needs_mlflow = pytest.mark.slow  # it is imported in two seconds and makes its first database in four


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One SQLite store for all tests here; each uses an experiment of its own."""
    path = tmp_path_factory.mktemp("approvals") / "mlflow.db"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        yield path


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local store writes and reads back in a tenth of a second."""
    monkeypatch.setattr(approvals, "_PAUSE_S", 0.2)


@pytest.fixture
def experiment(store: Path, request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def log(experiment: str) -> TraceLog:
    return TraceLog(experiment)


def approve(given: str, experiment: str, *, by: str = "Ada", reason: str = "disk was ordered") -> Review:
    return decide(given, Approval.APPROVED, by=by, reason=reason, experiment=experiment)


@needs_mlflow
def test_what_waits_is_listed_until_it_is_decided_and_then_tells_who_when_and_why(
    log: TraceLog, experiment: str
) -> None:
    log.write(content("calm", requires_approval=False))
    first, second = log.write(content("orders")), log.write(content("stock"))
    waits = pending(experiment)
    assert {review.trace_id for review in waits} == {first, second}
    assert {(review.pipeline_id, review.simulated, review.decision, review.since) for review in waits} == {
        ("orders", True, None, START),
        ("stock", True, None, START),
    }
    assert waits[0].asks.startswith("ingestion: batch 0.83, keep_cursor 0.41 (model); ")
    assert waits[0].reasons == "priority CRITICAL; quality: backfill spends much"
    decided = decide("orders", Approval.REJECTED, by=" Ada \n Ünal", reason="no\nnever", experiment=experiment)
    assert (decided.trace_id, decided.decision, decided.by, decided.reason) == (
        first,
        "rejected",
        "Ada Ünal",
        "no\nnever",
    )
    assert decided.at is not None
    assert abs(datetime.now(UTC) - decided.at) < timedelta(minutes=5)
    assert [review.trace_id for review in pending(experiment)] == [second]
    assert {review.pipeline_id: review.decision for review in everything(experiment)} == {
        "orders": Approval.REJECTED,
        "stock": None,
    }


@needs_mlflow
def test_a_decision_is_a_persons_assessment_on_the_trace_and_its_tag_follows(
    log: TraceLog, experiment: str, store: Path
) -> None:
    from mlflow.tracking import MlflowClient

    trace_id = log.write(content())
    approve(trace_id, experiment)
    info = MlflowClient(tracking_uri=f"sqlite:///{store}").get_trace(trace_id).info
    (said,) = info.assessments
    assert (said.name, said.feedback.value, said.rationale) == ("approval", "approved", "disk was ordered")
    assert (said.source.source_type, said.source.source_id) == ("HUMAN", "Ada")
    assert info.tags["plumbline.approval"] == "approved"


@needs_mlflow
@pytest.mark.parametrize("by_pipeline", [False, True])
def test_nothing_is_decided_twice(log: TraceLog, experiment: str, by_pipeline: bool) -> None:
    trace_id = log.write(content())
    given = "orders" if by_pipeline else trace_id
    approve(given, experiment)
    with pytest.raises(BadInput) as refused:
        decide(given, Approval.REJECTED, by="Bo", reason="changed my mind", experiment=experiment)
    told = rf"orders \({trace_id}\) was approved by Ada at 20\S+ \S+ \(disk was ordered\); nothing is decided twice"
    assert re.fullmatch(told, str(refused.value))
    (review,) = everything(experiment)
    assert (review.decision, review.by) == ("approved", "Ada")


@needs_mlflow
def test_a_pipelines_new_run_waits_again_and_its_id_means_what_waits(log: TraceLog, experiment: str) -> None:
    log.write(content())
    approve("orders", experiment)
    again = log.write(content())
    assert approve("orders", experiment, by="Bo").trace_id == again


@needs_mlflow
def test_an_id_that_waits_twice_is_refused_with_both_traces_named(log: TraceLog, experiment: str) -> None:
    both = [log.write(content()), log.write(content())]
    with pytest.raises(BadInput, match=r"^pipeline 'orders' waits 2 times; give one of tr-") as refused:
        approve("orders", experiment)
    assert all(trace_id in str(refused.value) for trace_id in both)
    assert len(pending(experiment)) == 2


@needs_mlflow
def test_an_unknown_id_is_refused_with_what_waits_named(log: TraceLog, experiment: str) -> None:
    traces = [log.write(content(f"p{n}")) for n in range(7)]
    with pytest.raises(BadInput, match=r"^'nobody' is not known; what waits: tr-.* \(p\d\).* and 2 more$") as refused:
        approve("nobody", experiment)
    assert sum(trace_id in str(refused.value) for trace_id in traces) == 5
    assert len(pending(experiment)) == 7


@needs_mlflow
def test_what_needs_no_decision_cannot_be_decided(log: TraceLog, experiment: str) -> None:
    trace_id = log.write(content(requires_approval=False))
    for given in (trace_id, "orders"):
        with pytest.raises(BadInput, match="needs no decision: nothing about it was critical"):
            approve(given, experiment)


@needs_mlflow
@pytest.mark.parametrize(
    "hostile", ["x' OR '1'='1", "x` = 'pending", "../../etc/passwd", "tr-", "%", "\x1b[2J\x1b[31mred", "[bold]x[/bold]"]
)
def test_a_hostile_id_is_only_ever_compared(log: TraceLog, experiment: str, hostile: str) -> None:
    other, mine = log.write(content()), log.write(content(hostile))
    with pytest.raises(BadInput, match="is not known") as refused:
        approve(f"{hostile}-", experiment)
    assert "\x1b" not in str(refused.value)
    assert approve(hostile, experiment).trace_id == mine
    assert [review.trace_id for review in pending(experiment)] == [other]


@needs_mlflow
def test_a_reason_is_kept_word_for_word_without_control_characters(log: TraceLog, experiment: str) -> None:
    log.write(content())
    said = 'it\'s "fine"; DROP TABLE traces;-- <b>&amp;</b> 試験 ${HOME}'
    decided = approve("orders", experiment, reason=f"\x1b]0;{said}\x07", by="A\x1b[2Jda\u202e")
    assert decided.reason == f"]0;{said}"
    assert decided.by == "A [2Jda"


@needs_mlflow
def test_a_decision_whose_tag_was_never_written_counts_all_the_same(
    log: TraceLog, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may be killed between the two."""
    log.write(content())
    with monkeypatch.context() as broken:
        broken.setattr(TraceLog, "tag", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            approve("orders", experiment)
    assert pending(experiment) == []
    with pytest.raises(BadInput, match="was approved by Ada"):
        approve("orders", experiment, by="Bo")


@needs_mlflow
def test_a_decision_made_in_mlflows_ui_counts_and_other_feedback_does_not(log: TraceLog, experiment: str) -> None:
    trace_id = log.write(content())
    log.assess(trace_id, name="approval", value="maybe", by="Bo", reason="r")
    log.assess(trace_id, name="helpful", value="approved", by="Bo", reason="r")
    assert len(pending(experiment)) == 1
    log.assess(trace_id, name="approval", value="rejected", by="Bo", reason="in the browser")
    assert pending(experiment) == []
    with pytest.raises(BadInput, match=r"was rejected by Bo .* \(in the browser\)"):
        approve("orders", experiment)


@needs_mlflow
def test_whoever_finds_anothers_decision_beside_his_own_withdraws(
    log: TraceLog, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server nothing locks: Bo's decision arrives after Ada saw that none was there."""
    trace_id = log.write(content())
    assess = TraceLog.assess

    def after_bo(self: TraceLog, trace_id: str, *, name: str, value: str, by: str, reason: str) -> Assessment:
        assess(self, trace_id, name=name, value="rejected", by="Bo", reason="would drop a table")
        return assess(self, trace_id, name=name, value=value, by=by, reason=reason)

    with monkeypatch.context() as raced:
        raced.setattr(TraceLog, "assess", after_bo)
        with pytest.raises(BadInput, match=r"^orders .* was rejected by Bo at .* \(would drop a table\); nothing is"):
            approve("orders", experiment)
    stored = log.get(trace_id)
    assert stored is not None
    assert [(said.by, said.value) for said in stored.assessments] == [("Bo", "rejected")]


@needs_mlflow
def test_whoever_meets_others_at_every_try_gives_up_and_nothing_is_decided(
    log: TraceLog, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(content())
    assess, withdraw, others = TraceLog.assess, TraceLog.withdraw, list[Assessment]()

    def meets(self: TraceLog, trace_id: str, **said: Any) -> Assessment:
        others.append(assess(self, trace_id, **said | {"by": "Bo"}))
        return assess(self, trace_id, **said)

    def both_withdraw(self: TraceLog, trace_id: str, mine: Assessment) -> None:
        withdraw(self, trace_id, mine)
        withdraw(self, trace_id, others[-1])

    with monkeypatch.context() as raced:
        raced.setattr(TraceLog, "assess", meets)
        raced.setattr(TraceLog, "withdraw", both_withdraw)
        with pytest.raises(BadInput, match=r"^others decided on 'orders' at the same moments, .* withdrawn 4 times; "):
            approve("orders", experiment)
    assert len(others) == 4
    assert approve("orders", experiment).by == "Ada"


def racing(experiment: str, people: int) -> list[str]:
    """What each of so many people is told when they decide at the same moment, in threads."""
    told: list[str] = []
    ready = threading.Barrier(people)

    def person(number: int) -> None:
        ready.wait()
        try:
            told.append(f"decided {approve('orders', experiment, by=f'person {number}').by}")
        except BadInput as error:
            told.append(f"refused {error}")

    threads = [threading.Thread(target=person, args=(number,)) for number in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return told


@needs_mlflow
def test_of_people_who_decide_at_the_same_moment_one_is_heard(log: TraceLog, experiment: str) -> None:
    log.write(content())
    told = sorted(racing(experiment, 6))
    assert [one.partition(" ")[0] for one in told] == ["decided"] + ["refused"] * 5
    (review,) = everything(experiment)
    assert told[0] == f"decided {review.by}"
    assert all(f"was approved by {review.by} at" in one for one in told[1:])


@needs_mlflow
def test_without_a_lock_as_on_a_server_never_more_than_one_is_heard(
    log: TraceLog, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "database_path", lambda: None)
    for _ in range(5):
        trace_id = log.write(content())
        told = racing(experiment, 4)
        heard = [one for one in told if one.startswith("decided")]
        stored = log.get(trace_id)
        assert stored is not None
        assert len(told) == 4
        assert len(heard) == len(stored.assessments) <= 1
        if not heard:
            approve(trace_id, experiment)


@needs_mlflow
def test_of_two_processes_one_is_heard(log: TraceLog, experiment: str) -> None:
    log.write(content())
    program = (
        "import sys; from agents.reports.approvals import *; from common.console import BadInput\n"
        "try: decide('orders', Approval.APPROVED, by=sys.argv[1], reason='r', experiment=sys.argv[2])\n"
        "except BadInput as error: sys.exit(2)"
    )
    argv = [sys.executable, "-c", program]
    running = [subprocess.Popen([*argv, name, experiment], cwd=ROOT) for name in ("Ada", "Bo")]
    assert sorted(process.wait(timeout=120) for process in running) == [0, 2]
    (review,) = everything(experiment)
    stored = log.get(review.trace_id)
    assert stored is not None
    assert len(stored.assessments) == 1


@needs_mlflow
def test_a_decision_that_hangs_holds_up_the_next_one_for_a_while_only(
    log: TraceLog, experiment: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(content())
    monkeypatch.setattr(approvals, "_LOCK_TIMEOUT_S", 0.1)
    with (
        FileLock(store.with_name("mlflow.db.approvals.lock")),
        pytest.raises(CannotJudge, match=r"^another decision is still being written after 0\.1 s"),
    ):
        approve("orders", experiment)
    assert approve("orders", experiment).decision == "approved"


@needs_mlflow
def test_more_than_a_page_of_what_waits_is_listed(log: TraceLog, experiment: str) -> None:
    """MLflow gives a hundred unless it is asked for more."""
    written = {log.write(content(f"p{n}", stages=STAGES[:1])) for n in range(130)}
    assert {review.trace_id for review in pending(experiment)} == written
    assert len({review.pipeline_id for review in everything(experiment)}) == 130
