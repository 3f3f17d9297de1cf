"""The choice of the ingestion specialist: how data moves. The need decides first, then what the source can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agents.facts.source_kinds import DAY_S, HOUR_S, flows, kind_of, need_s
from agents.facts.spec import PipelineSpec, SourceKind
from agents.labels.label import Label
from agents.specialists.ingestion.predicates import (
    BULK_FROM_S,
    MINUTES_MATTER_S,
    SECONDS_MATTER_S,
    asked_in_time,
    bulk_will_do,
    calls_us,
    hour_will_do,
    log_followed,
    many_files,
    never_calls,
    no_log,
    small_table,
)
from agents.specialists.specialist import Choice, Option


def ruled_out(spec: PipelineSpec, _label: Label | None = None) -> dict[str, str]:
    """Modes that the facts rule out, with the reason; what the table of docs/oracle.md leaves open stays open."""
    return dict(_ruled_out(spec))


def preferred(spec: PipelineSpec, _label: Label | None = None) -> str:
    """The simplest mode that the facts allow; the usual one of its kind unless the facts rule it out."""
    kind = kind_of(spec.source)
    usual = _USUAL[kind](spec) if kind else _of_unknown(spec)
    unfit = ruled_out(spec)
    return next(mode for mode in (usual, "micro_batch", "batch", "streaming", "push_receiver") if mode not in unfit)


def _ruled_out(spec: PipelineSpec) -> Iterator[tuple[str, str]]:
    need = need_s(spec.source)
    if calls_us(spec):
        yield "batch", "a webhook calls us and cannot be pulled from"
        yield "micro_batch", "a webhook calls us and cannot be pulled from"
    elif need is not None and need < MINUTES_MATTER_S:
        yield "batch", "the data is needed sooner than a batch brings it"
    if hour_will_do(spec):
        yield "streaming", "data that may be an hour old or older does not pay for streaming"
    elif asked_in_time(spec) and not flows(spec.source):
        yield "streaming", "this source is asked for its data and sends no stream"
    if spec.source.log_access is False:
        yield "cdc", "the transaction log may not be read"
    elif no_log(spec):
        yield "cdc", "change data capture reads a database's log, and this source is no database"
    elif small_table(spec):
        yield "cdc", "a small table needed once a day is best copied whole"
    if never_calls(spec):
        yield "push_receiver", "this source does not call us"


def _of_table(spec: PipelineSpec) -> str:
    return "cdc" if log_followed(spec) else _pulled(spec)


def _of_events(spec: PipelineSpec) -> str:
    """A stream where seconds matter and the volume allows it; else larger batches."""
    need = need_s(spec.source)
    if need is None:
        return "streaming" if flows(spec.source) and not bulk_will_do(spec) else "micro_batch"
    if need < BULK_FROM_S:
        return "micro_batch" if bulk_will_do(spec) else "streaming"
    return "batch" if need >= DAY_S else "micro_batch"


def _of_files(spec: PipelineSpec) -> str:
    """Notifications where there are too many files to list, however late they may be used."""
    return "micro_batch" if many_files(spec) else _pulled(spec)


def _of_webhook(_spec: PipelineSpec) -> str:
    return "push_receiver"


def _of_unknown(spec: PipelineSpec) -> str:
    need = need_s(spec.source)
    return "streaming" if need is not None and need < SECONDS_MATTER_S else _pulled(spec)


def _pulled(spec: PipelineSpec) -> str:
    """Minutes ask for micro-batches; a day, or nothing said, for the simplest mode."""
    need = need_s(spec.source)
    return "micro_batch" if need is not None and need <= HOUR_S else "batch"


_USUAL: dict[SourceKind, Callable[[PipelineSpec], str]] = {
    SourceKind.REST_API: _pulled,
    SourceKind.SAAS: _pulled,
    SourceKind.DATABASE: _of_table,
    SourceKind.KAFKA: _of_events,
    SourceKind.MQTT: _of_events,
    SourceKind.OBJECT_STORAGE: _of_files,
    SourceKind.WEBHOOK: _of_webhook,
}

MODES = Choice(
    name="mode",
    asks="How should the data move from its source?",
    options=(
        Option(value="batch", means="load on a schedule, an hour or more apart"),
        Option(value="micro_batch", means="load what is new every few minutes"),
        Option(value="streaming", means="process each event as it arrives"),
        Option(value="cdc", means="follow the changes in a database's log"),
        Option(value="push_receiver", means="offer an endpoint that the source calls"),
    ),
    ruled_out=ruled_out,
    preferred=preferred,
)
