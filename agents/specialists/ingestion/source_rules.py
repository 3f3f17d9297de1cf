"""What the facts about a source rule out: which ingestion modes do not fit it, and why.

The rows are those of docs/oracle.md. What the table leaves open is left open here: an empty answer means that nothing
is known against a mode, not that it is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from agents.facts.spec import PipelineSpec, Source, SourceKind
from agents.facts.units import bytes_per_hour, rate, seconds
from agents.lexicon import mention
from agents.schema import IngestionMode

BATCH_FROM_S = 15 * 60.0
"""Data needed sooner than this is too soon for batch: minutes matter (rows 2, 4, 7, 13)."""
STREAMING_BELOW_S = 3600.0
"""Data needed no sooner than this does not pay for streaming (rows 1, 8, 11, 14)."""
DAY_S = 86400.0
SECONDS_MATTER_S = 60.0
"""Below this, seconds matter and the source has to send events or let its log be read (rows 4, 7, 13)."""
POLLING_FROM_S = 10.0
"""Below this no polling of an API keeps up (row 3)."""

SMALL_BYTES_PER_H = 1024**3 / 24
"""1 GB a day: below this a daily API pull needs no broker (row 1)."""
LARGE_BYTES_PER_H = 4.0 * 1024**3
"""4 GB an hour per table: above this a sink is loaded in batches (row 5)."""
MANY_FILES_PER_H = 1e6
"""Above this, listing directories does not keep up with the files (row 12)."""

IDLE_BELOW_PERCENT = 30.0
"""CPU and memory both below this are nearly idle: row 32 has 12 and 18, the line is ours."""

PULLED = (SourceKind.REST_API, SourceKind.SAAS)
"""Kinds that are asked for their data over HTTP."""

_WORDS_FOR_KIND = {kind: f"source_{kind}" for kind in SourceKind}

_WORDS_FOR_NEED_S = {
    "often_each_second": 9.0,
    # "Real time" may mean seconds or minutes (row 2); a minute rules out what is wrong for both.
    "often_each_minute": 60.0,
    "often_hourly": 3600.0,
    "often_daily": DAY_S,
}
_DURATION = re.compile(r"\d[\d.,]*\s*[a-z]+", re.IGNORECASE)


@lru_cache(maxsize=1024)
def kind_of(source: Source) -> SourceKind | None:
    """What kind of source it is: as told, else by the plain words of its type; None where these are not clear."""
    if source.kind is not None:
        return source.kind
    named = {kind for kind, concept in _WORDS_FOR_KIND.items() if mention(source.type, concept)}
    if SourceKind.SAAS in named:
        named.discard(SourceKind.REST_API)  # software as a service is read through its API
    unclear = len(named) != 1 or mention(source.type, "source_other")
    return None if unclear else named.pop()


@lru_cache(maxsize=1024)
def need_s(source: Source) -> float | None:
    """How old data may be when it is used, in seconds: as told, else by the words of the frequency.

    None where neither says so, or where the words pull both ways ("real-time, daily report").
    """
    if source.latency_need is not None:
        return seconds(source.latency_need)
    told = [*_needs_in_words(source.frequency or "")]
    if not told or min(told) < STREAMING_BELOW_S <= max(told):
        return None
    return min(told)


def offers_webhook(source: Source) -> bool:
    """Whether the source's words say that it calls us; "there is no webhook" says that it does not."""
    return bool(mention(_words(source), "webhook_offered"))


@lru_cache(maxsize=1024)
def sends_a_stream(source: Source) -> bool:
    """Whether the source's words speak of a stream, a socket or calls of its own, or of data that flows."""
    return bool(mention(f"{_words(source)}\n{source.frequency or ''}", "streams_itself")) or offers_webhook(source)


@lru_cache(maxsize=1024)
def denies_webhook(source: Source) -> bool:
    """Whether this is an API whose words say that there is no webhook."""
    return kind_of(source) in PULLED and "webhook" in _words(source).lower() and not offers_webhook(source)


@lru_cache(maxsize=1024)
def is_small_table(source: Source) -> bool:
    """A small table of a database that is needed once a day (row 9)."""
    return (
        kind_of(source) is SourceKind.DATABASE
        and bool(mention(source.description or "", "small_table"))
        and _at_least(need_s(source), DAY_S)
    )


@lru_cache(maxsize=1024)
def is_small_pull(source: Source) -> bool:
    """An API that is asked once a day for little (row 1)."""
    volume = bytes_per_hour(source.volume)
    return (
        kind_of(source) in PULLED
        and volume is not None
        and volume < SMALL_BYTES_PER_H
        and _at_least(need_s(source), DAY_S)
    )


@lru_cache(maxsize=1024)
def has_many_files(source: Source) -> bool:
    """More files than listing directories keeps up with (row 12)."""
    found = rate(source.volume) if source.volume is not None else None
    return found is not None and found.what == "files" and found.per_s * 3600 > MANY_FILES_PER_H


@lru_cache(maxsize=1024)
def has_files_within_minutes(source: Source) -> bool:
    """Files of an object store that are needed within minutes (row 12).

    Not where the files are told to be few, nor where they lie on a server that can only be listed.
    """
    counted = source.volume is not None and rate(source.volume).what == "files"
    need = need_s(source)
    soon = kind_of(source) is SourceKind.OBJECT_STORAGE and need is not None and need < BATCH_FROM_S
    return soon and not counted and not mention(_words(source), "lists_only")


@lru_cache(maxsize=1024)
def only_grows(source: Source) -> bool:
    """A table needed more often than daily where a query finds what is new (row 8): append-only, or `updated_at`."""
    need = need_s(source)
    often = kind_of(source) is SourceKind.DATABASE and need is not None and need < DAY_S
    told = source.description or ""
    return often and not source.deletes_matter and bool(mention(told, "finds_changes")) and not is_small_table(source)


def has_no_spare_partition(spec: PipelineSpec) -> bool:
    """As many consumers as partitions: one more would sit idle (row 6)."""
    partitions, replicas = spec.source.partitions, spec.infrastructure_metrics.replicas
    return partitions is not None and replicas is not None and replicas >= partitions


def unfit_modes(source: Source) -> dict[IngestionMode, str]:
    """The modes that the facts rule out, each with the reason."""
    found: dict[IngestionMode, str] = {}
    for rules_out in (_by_need, _by_push, _by_stream, _by_log, _by_table):
        for mode, why in rules_out(source):
            found.setdefault(mode, why)
    return found


_Ruled = Iterator[tuple[IngestionMode, str]]


def _by_need(source: Source) -> _Ruled:
    need = need_s(source)
    if need is not None and need < BATCH_FROM_S:
        yield IngestionMode.BATCH, "the data is needed sooner than a batch brings it"
    if _at_least(need, STREAMING_BELOW_S):
        yield IngestionMode.STREAMING, "data that may be an hour old or older does not pay for streaming"


def _by_push(source: Source) -> _Ruled:
    """A webhook calls us and cannot be asked; nothing else calls us unless it says so."""
    kind = kind_of(source)
    if kind is SourceKind.WEBHOOK:
        for mode in (IngestionMode.BATCH, IngestionMode.MICRO_BATCH):
            yield mode, "a webhook calls us and cannot be pulled from"
    elif kind in PULLED:
        pulled_is_enough = _at_least(need_s(source), STREAMING_BELOW_S) and not offers_webhook(source)
        if denies_webhook(source) or pulled_is_enough:
            yield IngestionMode.PUSH_RECEIVER, "this source is pulled and does not call us"
    elif kind is not None:
        yield IngestionMode.PUSH_RECEIVER, "only a webhook calls us; this source does not"


def _by_stream(source: Source) -> _Ruled:
    """What is asked for its data sends no stream (rows 2 and 16).

    Below ten seconds this stays open: there a stream endpoint is what the owner has to be asked for (row 3).
    """
    need = need_s(source)
    too_fast_to_ask = need is not None and need < POLLING_FROM_S
    if kind_of(source) in PULLED and not too_fast_to_ask and not sends_a_stream(source):
        yield IngestionMode.STREAMING, "this source is asked for its data and sends no stream"


def _by_log(source: Source) -> _Ruled:
    kind = kind_of(source)
    if kind is not None and kind is not SourceKind.DATABASE:
        yield IngestionMode.CDC, "change data capture reads a database's log, and this source is no database"
    elif source.log_access is False:
        yield IngestionMode.CDC, "the transaction log may not be read"


def _by_table(source: Source) -> _Ruled:
    if is_small_table(source):
        for mode in (IngestionMode.CDC, IngestionMode.STREAMING):
            yield mode, "a small table needed once a day is best copied whole"


def _needs_in_words(frequency: str) -> Iterator[float]:
    for found in _DURATION.findall(frequency):
        try:
            yield seconds(found)
        except ValueError:
            continue  # "3 times" is no duration
    for concept, need in _WORDS_FOR_NEED_S.items():
        if mention(frequency, concept):
            yield need


def _words(source: Source) -> str:
    return f"{source.type}\n{source.description or ''}"


def _at_least(need: float | None, least_s: float) -> bool:
    return need is not None and need >= least_s
