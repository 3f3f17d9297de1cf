"""Typed facts in the owner's short fields: what kind of source it is, and how soon its data is needed.

Only `type` and `frequency` are read, by tables of product names and of words for times. The description is never read
here: what only it says is for a model to find.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from agents.facts.spec import Source, SourceKind
from agents.facts.units import seconds

HOUR_S = 3600.0
DAY_S = 86400.0

_NAMES: dict[SourceKind, str] = {
    SourceKind.REST_API: "rest, api, apis, graphql, odata, http endpoint",
    SourceKind.KAFKA: "kafka, redpanda",
    SourceKind.DATABASE: (
        "database, oltp, postgres, postgresql, mysql, mariadb, oracle, sql server, sqlserver, mssql, db2, mongodb, "
        "cockroachdb"
    ),
    SourceKind.OBJECT_STORAGE: (
        "s3, gcs, minio, object storage, object store, blob storage, bucket, buckets, sftp, ftps, ftp, file, files"
    ),
    SourceKind.MQTT: "mqtt",
    SourceKind.WEBHOOK: "webhook, webhooks",
    SourceKind.SAAS: "saas, crm, salesforce, hubspot, zendesk, help desk",
}
"""Product and type names of each kind."""
_OTHER = (
    "websocket, websockets, web socket, web sockets, server sent events, sse, streaming api, streaming endpoint, "
    "stream api, firehose, grpc, kinesis, pubsub, pub sub, event hub, event hubs, rabbitmq, nats, pulsar, warehouse, "
    "lakehouse, snowflake, bigquery, redshift"
)
"""Names of what no kind describes; beside a kind's name they make it unclear."""
_FILE_SERVERS = "sftp, ftps, ftp, nfs, file server, file share, network drive"
_DENIALS = "no, not, never, without"
_FLOWS = "stream, streams, streaming, streamed, continuous, continuously, constant, constantly"

_NEEDS_S: dict[str, float] = {
    "every second, each second, within seconds, within a second, sub second, milliseconds": 9.0,
    # "Real time" may mean seconds or minutes; a minute rules out what is wrong for both.
    "every minute, each minute, real time, realtime, live": 60.0,
    "within minutes, every few minutes": 300.0,
    "hourly, every hour, once an hour, each hour": HOUR_S,
    "daily, every day, once a day, each day, nightly, every night, each night, weekly, every week, once a week, "
    "monthly, every month, once a month": DAY_S,
}
"""Words for how often or how fresh, and what they come to: at most a day, since longer changes nothing."""
_DURATION = re.compile(r"\d[\d.,]*\s*[a-z]+")


def kind_of(source: Source) -> SourceKind | None:
    """What kind of source it is: as told, else by the names in its type; None where these are not clear."""
    return source.kind if source.kind is not None else _named_kind(source.type)


def need_s(source: Source) -> float | None:
    """How old data may be when it is used, in seconds: as told, else by the words of the frequency.

    None where neither says so, or where the words pull both ways ("real-time, daily report").
    """
    if source.latency_need is not None:
        return seconds(source.latency_need)
    return _need_in_words(source.frequency) if source.frequency else None


def flows(source: Source) -> bool:
    """Whether the frequency says that the data comes as a stream."""
    return source.frequency is not None and _names(source.frequency, _FLOWS) and not _names(source.frequency, _DENIALS)


def is_file_server(source: Source) -> bool:
    """Whether the type names a server whose files can only be listed."""
    return _names(source.type, _FILE_SERVERS)


@lru_cache(maxsize=1024)
def _named_kind(told: str) -> SourceKind | None:
    named = {kind for kind, names in _NAMES.items() if _names(told, names)}
    if SourceKind.SAAS in named:
        named.discard(SourceKind.REST_API)  # software as a service is read through its API
    unclear = len(named) != 1 or _names(told, _OTHER) or _names(told, _DENIALS)
    return None if unclear else named.pop()


@lru_cache(maxsize=1024)
def _need_in_words(told: str) -> float | None:
    needs = [] if _names(told, _DENIALS) else [*_needs(told)]
    if not needs or min(needs) < HOUR_S <= max(needs):
        return None
    return min(needs)


def _needs(told: str) -> Iterator[float]:
    for found in _DURATION.findall(told.lower()):
        try:
            yield seconds(found)
        except ValueError:
            continue  # "3 times" is no duration
    for words, need in _NEEDS_S.items():
        if _names(told, words):
            yield need


def _names(told: str, names: str) -> bool:
    """Whether one of the names stands in what was told, as whole words."""
    return _pattern(names).search(re.sub(r"[-_/]", " ", told.lower())) is not None


@lru_cache(maxsize=32)
def _pattern(names: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(name) for name in names.split(', '))})(?!\w)")
