"""What may hold of a pipeline's source. The catalogue names these as reasons for and against its actions.

Each reads typed fields, never the description; what is not known rules nothing out. There is no label here: how data
comes in has no grade. Row numbers and S-numbers are those of docs/oracle.md.
"""

from __future__ import annotations

from agents.facts.source_kinds import DAY_S, HOUR_S, is_file_server, kind_of, need_s
from agents.facts.spec import PipelineSpec, SourceKind
from agents.facts.units import bytes_per_hour, rate
from agents.labels.label import Label
from agents.specialists.specialist import Predicate

POLLING_FROM_S = 10.0
"""Below this no polling of an API is sure to keep up (row 3; S12, S13; the figure is ours)."""
SECONDS_MATTER_S = 60.0
"""Below this the source has to send events or let its log be read (rows 4, 7 and 13; S5, S6; the figure is ours)."""
BULK_FROM_S = 120.0
"""From here on events may be collected before they are written: between rows 4 and 5 (ours)."""
MINUTES_MATTER_S = 15 * 60.0
"""Below this a batch is too late, and so is going through folders or copying whole tables (rows 2, 7 and 12)."""

TABLE_BYTES_PER_H = 25 * 1024**2 / 24
"""25 MB a day: a table of 100,000 rows of 250 bytes (row 9; S8; the size of a row is ours)."""
SMALL_BYTES_PER_H = 1024**3 / 24
"""1 GB a day: below this a daily pull from an API needs neither broker nor file maintenance (row 1; S1)."""
LARGE_BYTES_PER_H = 4.0 * 1024**3
"""4 GB an hour for a table: above this it is loaded in batches (row 5; S5)."""
MANY_FILES_PER_H = 1e6
"""Above this, going through folders does not keep up with the files (row 12; S17)."""

ASKED = (SourceKind.REST_API, SourceKind.SAAS)
"""Kinds that are asked for their data over HTTP."""
_TABLES = (SourceKind.DATABASE,)
_FILES = (SourceKind.OBJECT_STORAGE,)
_EVENTS = (SourceKind.KAFKA, SourceKind.MQTT)


# --- the kind of source ----------------------------------------------------------------------------------


def kind_unknown(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Nothing clear is known of the kind of source: what is good for any of them is all there is to say (ours)."""
    return kind_of(spec.source) is None


def asked(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """An API or a service that is asked for its data, within a limit of calls (rows 1, 2 and 16; S10, S12)."""
    return _is(spec, *ASKED)


def not_asked(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Known to be neither an API nor a service: nobody counts calls or splits answers into pages (ours)."""
    return _is_other_than(spec, *ASKED)


def comes_in_pieces(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Events or files: they come by themselves, and there is nothing to query, compare or copy whole (S14, S17)."""
    return _is_other_than(spec, *ASKED, *_TABLES)


def service(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Software as a service, whose fields its customers change (row 16; S10)."""
    return _is(spec, SourceKind.SAAS)


def calls_us(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """A webhook: the sender calls, waits some seconds, and cannot be asked (row 15; S13)."""
    return _is(spec, SourceKind.WEBHOOK)


def never_calls(spec: PipelineSpec, label: Label | None = None) -> bool:
    """No webhook by its kind, nor an API that might offer one to whom an hour is too long (rows 1, 4 and 7; S13)."""
    return _is_other_than(spec, SourceKind.WEBHOOK, *ASKED) or (asked(spec) and hour_will_do(spec, label))


def topic(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """A topic whose messages are read from an offset on (rows 4 and 5; S14)."""
    return _is(spec, SourceKind.KAFKA)


def no_broker(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Known to be neither a topic nor devices behind a broker: there are no offsets (S14, S16)."""
    return _is_other_than(spec, *_EVENTS)


def devices(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Devices that publish over a network that fails them at times (rows 13 and 14; S16)."""
    return _is(spec, SourceKind.MQTT)


def no_devices(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Known to be no devices: there is no edge to keep readings at (S16)."""
    return _is_other_than(spec, SourceKind.MQTT)


def files(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Files in a store (rows 11 and 12; S17)."""
    return _is(spec, *_FILES)


def no_files(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Known to be no files (S17)."""
    return _is_other_than(spec, *_FILES)


def sends_events(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Events, of which none may be lost without a trace: late or broken ones are put aside (S13, S15, S24)."""
    return _is(spec, SourceKind.WEBHOOK, *_EVENTS)


# --- how soon it is needed -------------------------------------------------------------------------------


def hour_will_do(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """The data may be an hour old or older: what runs all the time does not pay (rows 1, 8, 11 and 14; S1, S2)."""
    return _from(spec, HOUR_S)


def asked_too_fast(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """An API or a service whose data is needed faster than polling is sure to bring it (row 3; S12, S13)."""
    return asked(spec) and _below(spec, POLLING_FROM_S)


def asked_often(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """An API or a service that is asked several times an hour: answers overlap (rows 2 and 16; S10, S11)."""
    return asked(spec) and _below(spec, HOUR_S)


def asked_seldom(spec: PipelineSpec, label: Label | None = None) -> bool:
    """An API or a service not known to be asked often: an answer holds much, and comes in pages (row 1; S10)."""
    return asked(spec) and not asked_often(spec, label)


def asked_in_time(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """An API or a service whose data may be a minute old: asking is enough, and it sends no stream (row 2; S12)."""
    return asked(spec) and _from(spec, SECONDS_MATTER_S)


def small_pull(spec: PipelineSpec, label: Label | None = None) -> bool:
    """An API or a service that is asked once a day for little (row 1; S1)."""
    return asked(spec) and _from(spec, DAY_S) and _volume_below(spec, SMALL_BYTES_PER_H)


def seconds_matter(spec: PipelineSpec, label: Label | None = None) -> bool:
    """Needed within a minute, and not so much that it has to be written in bulk (rows 4 and 13; S5)."""
    return _below(spec, SECONDS_MATTER_S) and not _is_large(spec)


def bulk_will_do(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Events needed within minutes or later, or too many to be written one by one (rows 5 and 14; S4, S5)."""
    return _is(spec, *_EVENTS) and (_from(spec, BULK_FROM_S) or (_is_large(spec) and not _below(spec, POLLING_FROM_S)))


# --- tables ----------------------------------------------------------------------------------------------


def no_log(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Known to be no database, or its log may not be read (rows 10 and 16; S6, S7)."""
    return _is_other_than(spec, *_TABLES) or spec.source.log_access is False


def log_open(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """A database whose log may be read: it sends its changes already (row 7; S6)."""
    return _is(spec, *_TABLES) and spec.source.log_access is True


def log_shows_deletes(spec: PipelineSpec, label: Label | None = None) -> bool:
    """Deletes matter and the log may be read, which holds them all; a cursor misses them (row 7; S6, S7)."""
    return log_open(spec, label) and spec.source.deletes_matter is True


def small_table(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """A database that yields little, needed once a day: a whole copy is simplest (row 9; S8; the figure is ours).

    Not where deletes matter: then the little may be what changes in a large table.
    """
    little = _is(spec, *_TABLES) and _from(spec, DAY_S) and _volume_below(spec, TABLE_BYTES_PER_H)
    return little and not spec.source.deletes_matter


def log_followed(spec: PipelineSpec, label: Label | None = None) -> bool:
    """A database whose log is the way: seconds matter, or deletes do and the log is open (row 7; S6, S7)."""
    if not _is(spec, *_TABLES) or no_log(spec, label) or small_table(spec, label):
        return False
    return _below(spec, SECONDS_MATTER_S) or log_shows_deletes(spec, label)


def table_queried(spec: PipelineSpec, label: Label | None = None) -> bool:
    """A database that is asked for what changed, since no delete would be missed by that (row 8; S7)."""
    other_way = log_followed(spec, label) or small_table(spec, label)
    return _is(spec, *_TABLES) and not spec.source.deletes_matter and not other_way


def deletes_unseen(spec: PipelineSpec, label: Label | None = None) -> bool:
    """A database whose deletes matter, and whose log is not followed: queries never show them (row 10; S7)."""
    return _is(spec, *_TABLES) and spec.source.deletes_matter is True and not log_followed(spec, label)


def deletes_do_not_matter(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """A deleted record may stay downstream (row 8; S7)."""
    return spec.source.deletes_matter is False


def copy_too_slow(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """Needed too soon for whole copies: within minutes, or within the day and large (rows 7 and 8; S6, S7)."""
    large = not _volume_below(spec, SMALL_BYTES_PER_H) and bytes_per_hour(spec.source.volume) is not None
    return _below(spec, MINUTES_MATTER_S) or (large and _below(spec, DAY_S))


# --- files -----------------------------------------------------------------------------------------------


def many_files(spec: PipelineSpec, _label: Label | None = None) -> bool:
    """More files than going through folders keeps up with (row 12; S17)."""
    found = files_per_hour(spec)
    return found is not None and found > MANY_FILES_PER_H


def files_soon(spec: PipelineSpec, label: Label | None = None) -> bool:
    """Files needed within minutes (row 12; S17)."""
    return files(spec, label) and _below(spec, MINUTES_MATTER_S)


def folders_too_slow(spec: PipelineSpec, label: Label | None = None) -> bool:
    """Files needed within minutes, not told to be few, in a store that can do better than list (row 12; S17)."""
    return files_soon(spec, label) and files_per_hour(spec) is None and not is_file_server(spec.source)


# --- amounts and times -----------------------------------------------------------------------------------


def files_per_hour(spec: PipelineSpec) -> float | None:
    """How many files arrive; None where the volume does not count files."""
    found = rate(spec.source.volume) if spec.source.volume is not None else None
    return float(found.per_s * 3600) if found and found.what == "files" else None


def _is(spec: PipelineSpec, *kinds: SourceKind) -> bool:
    return kind_of(spec.source) in kinds


def _is_other_than(spec: PipelineSpec, *kinds: SourceKind) -> bool:
    kind = kind_of(spec.source)
    return kind is not None and kind not in kinds


def _below(spec: PipelineSpec, limit_s: float) -> bool:
    need = need_s(spec.source)
    return need is not None and need < limit_s


def _from(spec: PipelineSpec, limit_s: float) -> bool:
    need = need_s(spec.source)
    return need is not None and need >= limit_s


def _volume_below(spec: PipelineSpec, limit: float) -> bool:
    volume = bytes_per_hour(spec.source.volume)
    return volume is not None and volume < limit


def _is_large(spec: PipelineSpec) -> bool:
    volume = bytes_per_hour(spec.source.volume)
    return volume is not None and volume > LARGE_BYTES_PER_H


PREDICATES: dict[str, Predicate] = {
    predicate.__name__: predicate
    for predicate in (
        kind_unknown,
        asked,
        not_asked,
        comes_in_pieces,
        service,
        calls_us,
        never_calls,
        topic,
        no_broker,
        devices,
        no_devices,
        files,
        no_files,
        sends_events,
        hour_will_do,
        asked_too_fast,
        asked_often,
        asked_seldom,
        asked_in_time,
        small_pull,
        seconds_matter,
        bulk_will_do,
        no_log,
        log_open,
        log_shows_deletes,
        small_table,
        log_followed,
        table_queried,
        deletes_unseen,
        deletes_do_not_matter,
        copy_too_slow,
        many_files,
        files_soon,
        folders_too_slow,
    )
}
