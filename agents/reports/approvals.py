"""A person decides on what is critical: which pipelines become traces, what waits, and who decided what and why.

A pipeline that needs a decision is a trace with the tag ``plumbline.approval: pending``. The decision itself is a
person's assessment on that trace, which MLflow's own UI shows; the tag only follows it, so that what waits is found
fast.

Nothing is decided twice. Where the store is a local file, decisions are made one at a time under a lock beside it. On
a server each decision is written and then read back: whoever finds another one beside his own withdraws and, if nobody
has decided after a pause, tries again. So of two people at the same moment at most one is heard. The gap that remains:
a process that is killed between writing and reading back can leave two decisions on the trace, of which the older
counts everywhere here; and a database whose replicas answer late can hide one from the other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from filelock import FileLock, Timeout

from agents.facts.spec import PipelineSpec
from agents.labels.label import Label
from agents.reports.report import PipelineReport, StageReport
from agents.specialists.decision import Decision, Picked
from common.console import BadInput, CannotJudge, printable, shorten
from tracking.store import database_path, has_store
from tracking.traces import BY_CHARACTERS, Assessment, SpanContent, StoredTrace, TraceContent, TraceLog

EXPERIMENT = "plumbline-agents"
"""The MLflow experiment of the traces."""
ASSESSMENT = "approval"
"""The name of the assessment that is a decision."""

REASON_CHARACTERS = 1000
"""Of a person's reason: enough for a paragraph, and it stays readable in a list."""

_PREFIX = "plumbline."
_APPROVAL = _PREFIX + "approval"
_PIPELINE = _PREFIX + "pipeline_id"
_REASONS = _PREFIX + "reasons"
_ASKS = _PREFIX + "asks"
_SIMULATED = _PREFIX + "simulated"

_LOCK_TIMEOUT_S = 30.0
_TRIES = 4
_PAUSE_S = 2.0
"""At most, between two tries; over HTTP writing and reading back took 0.3 to 1 s on a busy machine."""
_LISTED = 5
"""How many of what is known a message names."""


class TraceMode(StrEnum):
    """Which pipelines become traces."""

    AUTO = "auto"
    """Every one in a small run; in a batch what failed or needs a person."""
    ALL = "all"
    NONE = "none"


class Approval(StrEnum):
    """How it stands with a pipeline: the value of its tag."""

    NOT_NEEDED = "not_needed"
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    REPLACED = "replaced"
    """The pipeline was asked again, and what came then waits in this one's place."""


DECISIONS = (Approval.APPROVED, Approval.REJECTED)
_NOTHING_TO_DECIDE = (None, Approval.NOT_NEEDED, Approval.REPLACED)


@dataclass(frozen=True)
class Review:
    """One pipeline that needs a decision, or has it."""

    trace_id: str
    pipeline_id: str
    asks: str
    """What is to be approved: each stage's choice and actions with their probabilities."""
    reasons: str
    """Why a person has to decide."""
    since: datetime
    simulated: bool
    """No model made the decisions."""
    decision: Approval | None
    by: str | None = None
    reason: str | None = None
    at: datetime | None = None


# --- what is written -------------------------------------------------------------------------------------


def wants_trace(report: PipelineReport, mode: TraceMode, batch: bool) -> bool:
    """Whether a pipeline becomes a trace. A trace costs some 40 ms, so a batch keeps to what someone will look at.

    An input that was refused is no failure of an agent: in a batch its row in the output is all there is of it.
    """
    if mode is not TraceMode.AUTO:
        return mode is TraceMode.ALL
    return not batch or report.requires_approval or report.status in {"partial", "failed"}


def trace_of(
    report: PipelineReport,
    spec: PipelineSpec | None,
    requests: Mapping[str, Sequence[Mapping[str, Any]]],
    condition: Mapping[str, object],
) -> TraceContent:
    """One pipeline as a trace: its facts, its labels with their reasons, and a span for each stage.

    spec: None where the input was refused. requests: the messages of each stage's first request. condition: what every
    output stands under (model, prompt, policy, simulated, ...); each becomes a tag.
    """
    return TraceContent(
        name=report.pipeline_id,
        spans=tuple(_span(stage, report, requests.get(stage.stage, ())) for stage in report.stages),
        start=report.start_time,
        end=report.end_time,
        inputs=spec.model_dump(mode="json", exclude_none=True) if spec else {"where": report.where},
        outputs=_outcome(report),
        tags={**{_PREFIX + key: _tag(value) for key, value in condition.items() if value is not None}, **_tags(report)},
        error=report.error,
    )


def _tags(report: PipelineReport) -> dict[str, str]:
    asks = "; ".join(f"{stage.stage}: {in_short(stage.decision)}" for stage in report.stages if stage.decision)
    return {
        _PIPELINE: report.pipeline_id,
        _APPROVAL: Approval.PENDING if report.requires_approval else Approval.NOT_NEEDED,
        _ASKS: asks,
        _REASONS: "; ".join(report.approval_reasons),
        _PREFIX + "status": report.status,
        **{_PREFIX + kind: label.value for kind, label in report.labels.items()},
    }


def in_short(decision: Decision) -> str:
    """``block 0.83, dedupe 0.41, backfill (rules)``."""
    picked = ", ".join(_picked(one) for one in (decision.choice, *decision.actions))
    return f"{picked} ({decision.by})"


def _picked(one: Picked) -> str:
    return one.id if one.probability is None else f"{one.id} {one.probability:.2f}"


def _tag(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _outcome(report: PipelineReport) -> dict[str, object]:
    return {
        "status": report.status,
        "labels": {kind: _label(label) for kind, label in report.labels.items()},
        "requires_approval": report.requires_approval,
        "approval_reasons": list(report.approval_reasons),
        "error": report.error,
    }


def _label(label: Label) -> dict[str, object]:
    reasons = [rule.reason for rule in label.rules]
    return {"value": label.value, "at_least": label.at_least, "policy": label.policy, "reasons": reasons}


def _span(stage: StageReport, report: PipelineReport, messages: Sequence[Mapping[str, Any]]) -> SpanContent:
    # All stages are asked at once. Of one that got no answer only the pipeline's end is known.
    ended = report.end_time
    if stage.latency_s is not None:
        ended = report.start_time + timedelta(seconds=stage.latency_s)
    details = stage.model_dump(mode="json", exclude={"stage", "status", "decision"}, exclude_none=True)
    return SpanContent(
        name=stage.stage,
        start=report.start_time,
        end=ended,
        inputs={"messages": list(messages)},
        outputs=stage.decision.model_dump(mode="json", exclude_none=True) if stage.decision else None,
        attributes={_PREFIX + key: value for key, value in details.items()},
        error=stage.error if stage.status == "failed" else None,
        tokens=_tokens(stage),
    )


def _tokens(stage: StageReport) -> tuple[int, int] | None:
    if stage.prompt_tokens is None or stage.output_tokens is None:
        return None
    return stage.prompt_tokens, stage.output_tokens


# --- what waits ------------------------------------------------------------------------------------------


def pending(experiment: str = EXPERIMENT) -> list[Review]:
    """What waits for a person, the newest first. Raises CannotJudge."""
    return [review for review in _reviews(experiment, Approval.PENDING) if review.decision is None]


def everything(experiment: str = EXPERIMENT) -> list[Review]:
    """What waits for a person and what was decided, the newest first. Raises CannotJudge."""
    found = _reviews(experiment, Approval.PENDING, *DECISIONS)
    return sorted(found, key=lambda review: review.since, reverse=True)


def _reviews(experiment: str, *values: Approval) -> list[Review]:
    if not has_store():
        return []
    log = TraceLog(experiment)
    # By trace, since one that is decided between two searches is found by both.
    found = {trace.trace_id: trace for value in values for trace in log.find({_APPROVAL: value})}
    return [_review(trace) for trace in found.values()]


def _review(trace: StoredTrace) -> Review:
    decisions = _decisions(trace)
    first = decisions[0] if decisions else None
    return Review(
        trace_id=trace.trace_id,
        pipeline_id=trace.tags.get(_PIPELINE, ""),
        asks=trace.tags.get(_ASKS, ""),
        reasons=trace.tags.get(_REASONS, ""),
        since=trace.at,
        simulated=trace.tags.get(_SIMULATED) == "true",
        decision=Approval(str(first.value)) if first else None,
        by=first.by if first else None,
        reason=first.reason if first else None,
        at=first.at if first else None,
    )


def _decisions(trace: StoredTrace) -> list[Assessment]:
    """The decisions on a trace, the oldest first; there should be one at most."""
    return [said for said in trace.assessments if said.name == ASSESSMENT and said.value in DECISIONS]


def waiting_traces(log: TraceLog, *, simulated_only: bool) -> dict[str, list[str]]:
    """The traces that wait for a person, by pipeline. Raises CannotJudge.

    simulated_only: for a run on the simulator, which takes the place of no model's decision.
    """
    found: dict[str, list[str]] = {}
    for trace in log.find({_APPROVAL: Approval.PENDING}):
        if simulated_only and trace.tags.get(_SIMULATED) != "true":
            continue
        found.setdefault(trace.tags.get(_PIPELINE, ""), []).append(trace.trace_id)
    return found


# --- deciding --------------------------------------------------------------------------------------------


def replace(log: TraceLog, trace_id: str) -> None:
    """Take a pipeline that was asked again off the list of what waits; a decision already made stays as it is."""
    with _one_at_a_time():
        trace = log.get(trace_id)
        if trace and trace.tags.get(_APPROVAL) == Approval.PENDING and not _decisions(trace):
            log.tag(trace_id, _APPROVAL, Approval.REPLACED)


def decide(given: str, decision: Approval, *, by: str, reason: str, experiment: str = EXPERIMENT) -> Review:
    """Approve or reject what waits under an id: a trace's, or a pipeline's where exactly one of its traces waits.

    Raises BadInput when nothing or more than one thing waits under it, when it is decided already, or when nobody or
    no reason is named; CannotJudge when the store cannot be reached.
    """
    by = _said("--by", " ".join(printable(by).split()), BY_CHARACTERS)
    reason = _said("--reason", printable(reason).strip(), REASON_CHARACTERS)
    if not has_store():
        raise _unknown(given, [])
    log = TraceLog(experiment)
    with _one_at_a_time():
        for _ in range(_TRIES):
            trace_id = _waiting(log, given).trace_id
            mine = log.assess(trace_id, name=ASSESSMENT, value=decision.value, by=by, reason=reason)
            if [one.assessment_id for one in _decisions(_read(log, trace_id))] == [mine.assessment_id]:
                log.tag(trace_id, _APPROVAL, decision)
                return _review(_read(log, trace_id))
            log.withdraw(trace_id, mine)
            time.sleep(random.uniform(0, _PAUSE_S))  # noqa: S311 - only so that two do not meet again
    raise BadInput(
        f"others decided on {shorten(given, 80)!r} at the same moments, so your decision was withdrawn {_TRIES} times; "
        "see `python -m agents approvals list --all`, and decide again if it still waits"
    )


def _said(option: str, text: str, most: int) -> str:
    if not text:
        raise BadInput(f"{option}: is blank; who decides, and why, is kept with every decision")
    if len(text) > most:
        raise BadInput(f"{option}: has {len(text)} characters; allowed: at most {most}")
    return text


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    database = database_path()
    if database is None:
        yield
        return
    path = database.with_name(f"{database.name}.approvals.lock")
    try:
        lock = FileLock(path).acquire(timeout=_LOCK_TIMEOUT_S)
    except Timeout:
        raise CannotJudge(f"another decision is still being written after {_LOCK_TIMEOUT_S:g} s ({path})") from None
    with lock:
        yield


def _read(log: TraceLog, trace_id: str) -> StoredTrace:
    trace = log.get(trace_id)
    if trace is None:
        raise CannotJudge(f"trace {trace_id} was deleted while it was decided on")
    return trace


def _waiting(log: TraceLog, given: str) -> Review:
    """The one thing that waits under an id. Raises BadInput."""
    by_id = log.get(given)
    found = [by_id] if by_id else log.find({_PIPELINE: given})
    known = [_review(trace) for trace in found if trace.tags.get(_APPROVAL) not in _NOTHING_TO_DECIDE]
    waiting = [review for review in known if review.decision is None]
    if len(waiting) == 1:
        return waiting[0]
    if waiting:
        raise BadInput(f"pipeline {shorten(given, 80)!r} waits {len(waiting)} times; give one of {_named(waiting)}")
    if known:
        raise BadInput(_told_decided(known[0]))
    if any(trace.tags.get(_APPROVAL) == Approval.REPLACED for trace in found):
        raise BadInput(f"{shorten(given, 80)!r} needs no decision: the pipeline was asked again, see `approvals list`")
    if found:
        raise BadInput(f"{shorten(given, 80)!r} needs no decision: nothing about it was critical")
    raise _unknown(given, [_review(trace) for trace in log.find({_APPROVAL: Approval.PENDING})])


def _told_decided(review: Review) -> str:
    return shorten(
        f"{review.pipeline_id} ({review.trace_id}) was {review.decision} by {review.by} at {moment(review.at)} "
        f"({review.reason}); nothing is decided twice",
        500,
    )


def _unknown(given: str, reviews: Sequence[Review]) -> BadInput:
    waiting = [review for review in reviews if review.decision is None]
    known = f"what waits: {_named(waiting)}" if waiting else "nothing waits for a person"
    return BadInput(f"{shorten(given, 80)!r} is not known; {known}")


def _named(reviews: Sequence[Review]) -> str:
    more = f" and {len(reviews) - _LISTED} more" if len(reviews) > _LISTED else ""
    return ", ".join(f"{one.trace_id} ({shorten(one.pipeline_id, 60)})" for one in reviews[:_LISTED]) + more


def moment(at: datetime | None) -> str:
    """A time for people, in their own zone."""
    return at.astimezone().isoformat(" ", "seconds") if at else ""
