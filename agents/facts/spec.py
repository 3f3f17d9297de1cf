"""What a pipeline file may say. Only an id and a source type are needed; whatever is left out is unknown.

Unknown is None, never zero and never a hundred. Amounts are kept in one canonical spelling (units.py), so that
the same pipeline in other units is the same pipeline.
"""

from __future__ import annotations

import reprlib
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from agents.facts.units import canonical_duration, canonical_rate
from common.strict import Name, NonNegative, Percent, Strict, Text

Volume = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(canonical_rate)]
"""An amount per time in its canonical spelling: ``10 GB/day``."""
Duration = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(canonical_duration)]
"""A time in its canonical spelling: ``15 min``."""
Count = Annotated[int, Field(ge=0, le=10**15)]
Machines = Annotated[int, Field(ge=1, le=10**9)]

MOST_READINGS = 10_000


def _utc(moment: datetime) -> datetime:
    """A moment without a zone is taken as UTC."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999 in UTC") from None


Moment = Annotated[datetime, Field(strict=False), AfterValidator(_utc)]


def _policy(value: object) -> object:
    """A preset's name or plain changes: what is written into a row must be what a policy can be made of."""
    if value is None or isinstance(value, str) or (isinstance(value, dict) and _is_plain(value, 4)):
        return value
    raise ValueError(
        f"found {reprlib.repr(value)}; allowed: a preset's name, or changes such as {{priority.cpu.high: 75}}"
    )


def _is_plain(value: object, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_is_plain(one, depth - 1) for pair in value.items() for one in pair)
    if isinstance(value, str):
        return len(value) <= 200 and not any("\ud800" <= char <= "\udfff" for char in value)
    return value is None or isinstance(value, bool | int | float)


def _also(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class SourceKind(StrEnum):
    """What can be done with a source; ``type`` is its name in the owner's words."""

    REST_API = "rest_api"
    KAFKA = "kafka"
    DATABASE = "database"
    OBJECT_STORAGE = "object_storage"
    MQTT = "mqtt"
    WEBHOOK = "webhook"
    SAAS = "saas"


class Source(Strict):
    """Where the data comes from."""

    type: Name
    """Kind of source, in the owner's words: ``REST API``, ``Kafka``, ``PostgreSQL``."""
    kind: Annotated[SourceKind, Field(strict=False)] | None = None
    """What rules go by; when absent they go by the plain words of `type`, where these are clear."""
    volume: Volume | None = None
    frequency: Name | None = None
    """How often or how fresh, in words: ``daily``, ``real-time``."""
    latency_need: Duration | None = None
    """How old data may be when it is used: ``10 s``, ``15 min``, ``1 day``."""
    deletes_matter: bool | None = None
    """Whether a deleted record must disappear downstream too."""
    log_access: bool | None = None
    """Databases: whether the transaction log may be read."""
    rate_limit: Volume | None = None
    """The most the source answers: ``100 requests/min``."""
    partitions: Machines | None = None
    """Kafka: more consumers than this sit idle."""
    description: Text | None = None
    """Anything else that decides the mode."""


class QualityMetrics(Strict):
    """What data quality checks measured."""

    completeness_percent: Percent | None = Field(None, validation_alias=_also("completeness_percent", "completeness"))
    """Share of required values present, 0 to 100."""
    consistency_percent: Percent | None = Field(None, validation_alias=_also("consistency_percent", "consistency"))
    """Share of records that agree with each other and with their rules, 0 to 100."""
    validity_percent: Percent | None = Field(None, validation_alias=_also("validity_percent", "validity"))
    """Share of values that have the right form and range, 0 to 100."""
    uniqueness_percent: Percent | None = Field(None, validation_alias=_also("uniqueness_percent", "uniqueness"))
    """Share of records whose key no other record has, 0 to 100."""
    freshness: Duration | None = None
    """Age of the newest data."""
    freshness_sla: Duration | None = None
    """The age that was promised not to be exceeded."""
    column_criticality: Literal["normal", "critical"] | None = None
    """Whether the columns measured carry money, identity, safety or law; unknown counts as normal."""
    issue_count: Count | None = Field(None, validation_alias=_also("issue_count", "issues", "issues_found"))
    """Open issues found by the checks."""


class Measured(Strict):
    """What one reading of the machines may hold."""

    cpu_percent: Percent | None = Field(None, validation_alias=_also("cpu_percent", "cpu_usage", "cpu"))
    memory_percent: Percent | None = Field(None, validation_alias=_also("memory_percent", "memory_usage", "memory"))
    storage_used_gb: NonNegative | None = Field(None, validation_alias=_also("storage_used_gb", "storage_used"))
    query_latency_ms: NonNegative | None = Field(None, validation_alias=_also("query_latency_ms", "query_latency"))
    """Latency as the SLO counts it, usually the 95th percentile."""
    error_rate_percent: Percent | None = Field(None, validation_alias=_also("error_rate_percent", "error_rate"))
    """Share of failed requests or records over the last minutes, 0 to 100."""
    load_per_core: NonNegative | None = None
    """Run queue over cores: above 1, work waits for a CPU."""
    consumer_lag: Count | None = None
    """Messages not yet consumed."""


class Reading(Measured):
    """One earlier reading."""

    at: Moment
    """When it was taken; without a zone, UTC."""


class InfrastructureMetrics(Measured):
    """The newest reading of the machines that run the pipeline, their limits, and earlier readings."""

    storage_total_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, validation_alias=_also("storage_total_gb", "storage_total")
    )
    storage_growth_gb_per_day: float | None = None
    """How fast the storage fills; negative when it shrinks."""
    latency_slo_ms: Annotated[float, Field(gt=0)] | None = None
    """The latency that was promised not to be exceeded."""
    availability_slo_percent: Annotated[float, Field(gt=0, lt=100)] | None = None
    """The share of successes that was promised: 99.9 leaves an error budget of 0.1."""
    oom_kills: Count | None = None
    """Processes killed for lack of memory since the reading before, or within the last hour."""
    replicas: Machines | None = None
    min_replicas: Machines | None = None
    history: Annotated[tuple[Reading, ...], Field(max_length=MOST_READINGS, strict=False)] = ()
    """Earlier readings, oldest first, the newest (this one) not among them."""

    @model_validator(mode="after")
    def _used_fits_in_total(self) -> Self:
        used, total = self.storage_used_gb, self.storage_total_gb
        if used is not None and total is not None and used > total:
            raise ValueError(f"storage_used_gb {used:g} is more than storage_total_gb {total:g}")
        return self

    @model_validator(mode="after")
    def _history_in_order(self) -> Self:
        for number, (before, after) in enumerate(zip(self.history, self.history[1:], strict=False), 1):
            if after.at <= before.at:
                raise ValueError(
                    f"history.{number}.at: found {after.at.isoformat()}, not after {before.at.isoformat()}; "
                    "readings stand oldest first"
                )
        return self


class PipelineFacts(Strict):
    """What every pipeline file may say of a pipeline."""

    id: Name
    source: Source
    quality_metrics: QualityMetrics = QualityMetrics()
    infrastructure_metrics: InfrastructureMetrics = InfrastructureMetrics()
    policy: Annotated[Name | dict[str, Any] | None, BeforeValidator(_policy)] = None
    """This pipeline's own policy: a preset's name, or changes to the run's policy (``priority.cpu.high: 75``). It may
    make a label graver than the run's policy does, and never milder."""


_BLOCKS: dict[str, type[Strict]] = {}


def register_block(key: str, model: type[Strict]) -> None:
    """Let pipeline files hold a further block of facts under this key, for a specialist of one's own."""
    _BLOCKS[key] = model


def file_model() -> type[PipelineFacts]:
    """What a pipeline file may say, registered blocks included: what its errors are told by."""
    blocks: dict[str, Any] = {key: (model | None, None) for key, model in _BLOCKS.items()}
    return create_model("PipelineFile", __base__=PipelineFacts, **blocks)


class PipelineSpec(PipelineFacts):
    """One data pipeline, as its owner describes it."""

    blocks: dict[str, SerializeAsAny[Strict]] = Field(default_factory=dict, repr=False)
    """Facts of further specialists, by the key of their block; in a file each stands under its own key."""

    @model_validator(mode="before")
    @classmethod
    def _gather_blocks(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if "blocks" in data:
            raise ValueError("blocks: each stands under its own key")
        found = {key: data[key] for key in _BLOCKS if key in data}
        blocks = {key: _BLOCKS[key].model_validate(block) for key, block in found.items() if block is not None}
        return {**{key: value for key, value in data.items() if key not in found}, "blocks": blocks}

    @model_serializer(mode="wrap")
    def _spread_blocks(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {**{key: value for key, value in data.items() if key != "blocks"}, **data.get("blocks", {})}
