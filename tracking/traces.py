"""MLflow traces: what happened to one piece of work, span by span, and what people said about it.

A trace is written whole when its work is over, in three calls that each raise what goes wrong and the last of which
reads it back. MLflow's own fluent API exports in the background instead, and a trace it cannot store is a line in a
log: in a tight loop of 1000 it lost 149.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from common.console import CannotJudge
from tracking.store import experiment_id, reaching

if TYPE_CHECKING:
    from mlflow.entities import Feedback, Span, Trace, TraceInfo

TAG_CHARACTERS = 4000
"""Of a tag's value; MLflow's servers cut at 4096."""
BY_CHARACTERS = 250
"""Of a person's name: MLflow's column for the source of an assessment."""
REASON_CHARACTERS = 4000
"""Of a reason; the column is a text of 64 KB or more."""
_PREVIEW_CHARACTERS = 1000
"""MLflow's columns for a request and a response as its lists show them."""
_VALUE_CHARACTERS = 8000
"""Of one text inside a span: three messages and an answer fit a column of 64 KB."""
_BATCH = 25
"""Traces written at once: 1 MB where their texts are as long as they may be."""
_PAGE = 500
"""Traces asked for at once; MLflow's servers give no more."""

_TRACE_ID = re.compile(r"tr-[0-9a-f]{32}")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]{1,200}")
"""What may stand between quotes in MLflow's search language without saying anything in it."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SENT_ID = "mlflow.traceRequestId"


# --- what is written -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpanContent:
    """One step of the work."""

    name: str
    start: datetime
    end: datetime
    inputs: object = None
    outputs: object = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    error: str | None = None
    """Why the step failed; None when it did not."""
    tokens: tuple[int, int] | None = None
    """Prompt and output tokens, where both are known; MLflow's UI sums them over a trace."""


@dataclass(frozen=True)
class TraceContent:
    """Everything one trace holds: the work as a whole, and its steps in `spans`. Times are aware."""

    name: str
    spans: tuple[SpanContent, ...]
    start: datetime
    end: datetime
    inputs: object = None
    outputs: object = None
    tags: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    """Why the work failed; None when it did not."""
    run_id: str | None = None
    """The MLflow run it belongs to: the run's page then lists it."""
    scores: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    """What scorers said of it: name to value and explanation."""


# --- what is read ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Assessment:
    """What a person said about a trace."""

    assessment_id: str
    name: str
    value: object
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class StoredTrace:
    """A trace as the store holds it, without its spans."""

    trace_id: str
    name: str
    tags: Mapping[str, str]
    at: datetime
    """When its work began."""
    assessments: tuple[Assessment, ...]
    """Those of people that are still valid, the oldest first."""


class TraceLog:
    """The traces of one experiment. The store is opened once, which takes seconds; a trace then takes some 40 ms.

    It may be opened in one thread and used in another. Everything raises CannotJudge, in one line, when the store
    cannot be reached or does not do what it is asked.
    """

    def __init__(self, experiment: str) -> None:
        with reaching("open the traces") as uri:
            from mlflow.tracing.client import TracingClient
            from mlflow.tracking import MlflowClient

            self._experiment_id = experiment_id(MlflowClient(tracking_uri=uri), experiment)
            self._client = TracingClient(uri)

    def write(self, content: TraceContent) -> str:
        """Store one trace, read it back, and give its id."""
        return self.write_all([content])[0]

    def write_all(self, contents: Sequence[TraceContent]) -> list[str]:
        """Store traces, read them back, and give their ids, in order; a batch of them costs half of as many writes."""
        return [
            trace_id
            for start in range(0, len(contents), _BATCH)
            for trace_id in self._write_batch(contents[start : start + _BATCH])
        ]

    def _write_batch(self, contents: Sequence[TraceContent]) -> list[str]:
        numbers = [secrets.randbits(128) for _ in contents]
        ids = [f"tr-{number:032x}" for number in numbers]
        with reaching("take the trace"):
            for trace_id, content in zip(ids, contents, strict=True):
                self._client.start_trace(_trace_info(self._experiment_id, trace_id, content))
            spans = [_spans(*one) for one in zip(numbers, ids, contents, strict=True)]
            self._client.log_spans(self._experiment_id, [span for group in spans for span in group])
            kept = {
                trace.info.trace_id: trace for trace in self._client.store.batch_get_traces(ids, self._experiment_id)
            }
        for trace_id, content in zip(ids, contents, strict=True):
            _check_stored(trace_id, kept.get(trace_id), content)
        return ids

    def find(self, tags: Mapping[str, str]) -> list[StoredTrace]:
        """Every trace with all of these tags, the newest first."""
        wanted = {key: _sound(value, TAG_CHARACTERS) for key, value in tags.items()}
        with reaching("give the traces"):
            found = [_stored(info) for info in self._pages(_search(wanted))]
        # A trace that is written between two pages moves the others down: one may then come twice.
        unique = {trace.trace_id: trace for trace in found}
        return [trace for trace in unique.values() if wanted.items() <= trace.tags.items()]

    def count(self, run_id: str) -> int:
        """How many traces an MLflow run has."""
        with reaching("count the traces"):
            return len({info.trace_id for info in self._pages(f"attributes.run_id = '{run_id}'")})

    def get(self, trace_id: str) -> StoredTrace | None:
        """One trace by its id; None when there is none."""
        if not _TRACE_ID.fullmatch(trace_id):
            return None
        with reaching("give the trace"):
            from mlflow.exceptions import MlflowException

            try:
                return _stored(self._client.get_trace_info(trace_id))
            except MlflowException as error:
                if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
                    return None
                raise

    def assess(self, trace_id: str, *, name: str, value: str, by: str, reason: str) -> Assessment:
        """Write what a person said about a trace, as MLflow's own UI would."""
        with reaching("take the assessment"):
            from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback

            feedback = Feedback(
                name=name,
                value=value,
                source=AssessmentSource(AssessmentSourceType.HUMAN, _sound(by, BY_CHARACTERS)),
                rationale=_sound(reason, REASON_CHARACTERS),
            )
            return _assessment(self._client.log_assessment(trace_id, feedback))

    def withdraw(self, trace_id: str, assessment: Assessment) -> None:
        """Remove an assessment."""
        with reaching("withdraw the assessment"):
            self._client.delete_assessment(trace_id, assessment.assessment_id)

    def tag(self, trace_id: str, key: str, value: str) -> None:
        """Set one tag of a trace."""
        with reaching("take the tag"):
            self._client.set_trace_tag(trace_id, key, _sound(value, TAG_CHARACTERS))

    def _pages(self, search: str | None) -> Iterator[TraceInfo]:
        token = None
        while True:
            page = self._client.search_traces(
                locations=[self._experiment_id],
                filter_string=search,
                max_results=_PAGE,
                page_token=token,
                include_spans=False,
            )
            yield from (trace.info for trace in page)
            if not (token := page.token):
                return


def _check_stored(trace_id: str, stored: Trace | None, content: TraceContent) -> None:
    if (
        stored is None
        or len(stored.data.spans) != len(content.spans) + 1
        or not _tags(content).items() <= stored.info.tags.items()
    ):
        raise CannotJudge(f"MLflow trace {trace_id} does not hold all of its spans and tags")
    if len(stored.info.assessments) != len(content.scores):
        raise CannotJudge(f"MLflow trace {trace_id} does not hold all of its scores")


# --- to MLflow's types -----------------------------------------------------------------------------------


def _trace_info(experiment: str, trace_id: str, content: TraceContent) -> TraceInfo:
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    return TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment),
        request_time=_nanoseconds(content.start) // 1_000_000,
        execution_duration=(content.end - content.start) // timedelta(milliseconds=1),
        state=TraceState.ERROR if content.error else TraceState.OK,
        request_preview=_json(content.inputs)[:_PREVIEW_CHARACTERS],
        response_preview=_json(content.outputs)[:_PREVIEW_CHARACTERS],
        tags={"mlflow.traceName": _sound(content.name, _PREVIEW_CHARACTERS), **_tags(content)},
        trace_metadata={
            "mlflow.trace_schema.version": "3",
            **({"mlflow.sourceRun": content.run_id} if content.run_id else {}),
        },
        assessments=[_score(trace_id, name, *said) for name, said in content.scores.items()],
    )


def _score(trace_id: str, name: str, value: float, explanation: str) -> Feedback:
    from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback

    return Feedback(
        name=name,
        value=value,
        source=AssessmentSource(AssessmentSourceType.CODE, "plumbline"),
        rationale=_sound(explanation, REASON_CHARACTERS),
        trace_id=trace_id,
    )


def _tags(content: TraceContent) -> dict[str, str]:
    return {key: _sound(value, TAG_CHARACTERS) for key, value in content.tags.items()}


def _spans(number: int, trace_id: str, content: TraceContent) -> list[Span]:
    """The root span, which is the work as a whole, and one child for each step."""
    whole = SpanContent(content.name, content.start, content.end, content.inputs, content.outputs, error=content.error)
    root = _span(number, trace_id, whole, "CHAIN", None)
    return [root, *(_span(number, trace_id, step, "AGENT", root) for step in content.spans)]


def _span(number: int, trace_id: str, content: SpanContent, kind: str, parent: Span | None) -> Span:
    from mlflow.entities import Span
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

    def context(span_id: int) -> SpanContext:
        return SpanContext(number, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    return Span(
        ReadableSpan(
            _sound(content.name, _PREVIEW_CHARACTERS),
            context=context(secrets.randbits(63) + 1),  # 0 means "no span"
            parent=context(int(parent.span_id, 16)) if parent else None,
            attributes={key: _json(value) for key, value in _attributes(trace_id, content, kind).items()},
            start_time=_nanoseconds(content.start),
            end_time=_nanoseconds(content.end),
            status=Status(StatusCode.ERROR, _sound(content.error, _VALUE_CHARACTERS))
            if content.error
            else Status(StatusCode.OK),
            resource=Resource({"service.name": "plumbline"}),
        )
    )


def _attributes(trace_id: str, content: SpanContent, kind: str) -> dict[str, object]:
    """A span's attributes under the names that MLflow gives a meaning, and its own."""
    prompt, output = content.tokens or (None, None)
    tokens = {"input_tokens": prompt, "output_tokens": output, "total_tokens": sum(content.tokens or ())}
    return {
        **content.attributes,
        _SENT_ID: trace_id,
        "mlflow.spanType": kind,
        "mlflow.spanInputs": content.inputs,
        "mlflow.spanOutputs": content.outputs,
        **({"mlflow.chat.tokenUsage": tokens} if content.tokens else {}),
    }


def _nanoseconds(at: datetime) -> int:
    """Since 1970, exactly: as a float, a time of today is off by 200 ns."""
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _json(value: object) -> str:
    return json.dumps(_bounded(value), ensure_ascii=False, default=str)


def _bounded(value: object) -> object:
    """The same data with every text in it short enough and fit to be stored."""
    if isinstance(value, str):
        return _sound(value, _VALUE_CHARACTERS)
    if isinstance(value, Mapping):
        return {_sound(str(key), TAG_CHARACTERS): _bounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(inner) for inner in value]
    return value


def _sound(text: str, limit: int) -> str:
    """At most `limit` characters, without what databases refuse: half a surrogate pair, and NUL."""
    whole = text[: limit + 1].encode("utf8", "replace").decode().replace("\0", "?")
    return whole if len(whole) <= limit else whole[: limit - 1] + "…"


# --- from MLflow's types ---------------------------------------------------------------------------------


def _search(tags: Mapping[str, str]) -> str | None:
    """MLflow's search for these tags, as far as it can be said safely; what comes is compared again."""
    plain = {key: value for key, value in tags.items() if _PLAIN.fullmatch(value)}
    return " AND ".join(f"tags.`{key}` = '{value}'" for key, value in plain.items()) or None


def _stored(info: TraceInfo) -> StoredTrace:
    said = [_assessment(one) for one in info.assessments if _is_a_persons(one)]
    return StoredTrace(
        trace_id=info.trace_id,
        name=info.tags.get("mlflow.traceName", ""),
        tags=info.tags,
        at=_moment(info.request_time),
        assessments=tuple(sorted(said, key=lambda one: (one.at, one.assessment_id))),
    )


def _is_a_persons(assessment: Any) -> bool:
    """Whether this is feedback of a person that no later one has replaced."""
    human = assessment.source.source_type == "HUMAN"
    return human and assessment.feedback is not None and assessment.valid is not False


def _assessment(feedback: Feedback) -> Assessment:
    return Assessment(
        assessment_id=feedback.assessment_id,
        name=feedback.name,
        value=feedback.feedback.value,
        by=feedback.source.source_id,
        reason=feedback.rationale or "",
        at=_moment(feedback.create_time_ms),
    )


def _moment(since_1970_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=since_1970_ms)
