"""The shared types: what a pipeline file may say, what an agent recommends, what a run reports.

Everything here is a border: fields are checked strictly, unknown keys are refused, and what is absent stays
absent (None), since a missing metric is neither zero nor a hundred.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SerializeAsAny, model_validator


class Stage(StrEnum):
    """The three stages of a pipeline's review, each with its own agent."""

    INGESTION = "ingestion"
    QUALITY = "quality"
    INFRASTRUCTURE = "infrastructure"


class Strict(BaseModel):
    """Frozen; unknown keys and values of the wrong type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
Percent = Annotated[float, Field(ge=0, le=100)]
NonNegative = Annotated[float, Field(ge=0)]


def _also(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class Source(Strict):
    """Where the data comes from."""

    type: Name
    """Kind of source, in the owner's words: ``REST API``, ``Kafka``, ``PostgreSQL``."""
    volume: Name | None = None
    """How much, with its unit: ``10GB/day``."""
    frequency: Name | None = None
    """How often or how fresh: ``daily``, ``real-time``."""
    description: Text | None = None
    """Anything else that decides the mode: log access, deletes that matter, rate limits."""


class QualityMetrics(Strict):
    """What data quality checks measured."""

    completeness_percent: Percent | None = Field(None, validation_alias=_also("completeness_percent", "completeness"))
    """Share of required values present, 0 to 100."""
    consistency_percent: Percent | None = Field(None, validation_alias=_also("consistency_percent", "consistency"))
    """Share of records that agree with each other and with their rules, 0 to 100."""
    issue_count: Annotated[int, Field(ge=0)] | None = Field(
        None, validation_alias=_also("issue_count", "issues", "issues_found")
    )
    """Open issues found by the checks."""


class InfrastructureMetrics(Strict):
    """One reading of the machines that run the pipeline."""

    cpu_percent: Percent | None = Field(None, validation_alias=_also("cpu_percent", "cpu_usage", "cpu"))
    memory_percent: Percent | None = Field(None, validation_alias=_also("memory_percent", "memory_usage", "memory"))
    storage_used_gb: NonNegative | None = Field(None, validation_alias=_also("storage_used_gb", "storage_used"))
    storage_total_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, validation_alias=_also("storage_total_gb", "storage_total")
    )
    query_latency_ms: NonNegative | None = Field(None, validation_alias=_also("query_latency_ms", "query_latency"))

    @model_validator(mode="after")
    def _used_fits_in_total(self) -> Self:
        used, total = self.storage_used_gb, self.storage_total_gb
        if used is not None and total is not None and used > total:
            raise ValueError(f"storage_used_gb {used:g} is more than storage_total_gb {total:g}")
        return self


class PipelineSpec(Strict):
    """One data pipeline, as its owner describes it."""

    id: Name
    source: Source
    quality_metrics: QualityMetrics = QualityMetrics()
    infrastructure_metrics: InfrastructureMetrics = InfrastructureMetrics()


# --- what a model is asked for ---------------------------------------------------------------------------

Sentence = Annotated[str, Field(min_length=1, max_length=160)]
"""One sentence: the bound keeps a small model from running on until its tokens end mid-sentence."""
Action = Annotated[str, Field(min_length=1, max_length=100)]
"""One short step."""


class IngestionMode(StrEnum):
    """How data moves from its source; the order is by operational cost."""

    BATCH = "batch"
    MICRO_BATCH = "micro_batch"
    STREAMING = "streaming"
    CDC = "cdc"
    PUSH_RECEIVER = "push_receiver"


class Recommendation(BaseModel):
    """What every agent answers with: a summary and exactly two actions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    summary: Sentence
    actions: Annotated[list[Action], Field(min_length=2, max_length=2)]

    @property
    def text(self) -> str:
        """Everything the model wrote in its own words, one sentence a line: what the scorers read."""
        return "\n".join([self.summary, *self.actions])


class IngestionRecommendation(Recommendation):
    """How to bring the data in."""

    mode: IngestionMode


class QualityRecommendation(Recommendation):
    """What the quality metrics mean and what to do first."""


class InfrastructureRecommendation(Recommendation):
    """What the infrastructure reading means and what to do first."""


RECOMMENDATIONS: dict[Stage, type[Recommendation]] = {
    Stage.INGESTION: IngestionRecommendation,
    Stage.QUALITY: QualityRecommendation,
    Stage.INFRASTRUCTURE: InfrastructureRecommendation,
}
"""The schema each stage's answer is constrained to."""


# --- what a run reports ----------------------------------------------------------------------------------


class RuleFired(Strict):
    """One rule of a policy that had a say in a label."""

    rule: str
    reason: str


class Label(Strict):
    """A severity or a priority, given by a policy's rules and never by the model."""

    kind: Literal["severity", "priority"]
    value: str
    """LOW, MEDIUM, HIGH (severity); NORMAL, HIGH, CRITICAL (priority); UNKNOWN where a metric is missing."""
    policy: str
    rules: tuple[RuleFired, ...]


class StageReport(Strict):
    """What one agent answered, or why it could not."""

    stage: Stage
    status: Literal["completed", "failed"]
    recommendation: SerializeAsAny[Recommendation] | None = None
    """The stage's own kind of recommendation."""
    error: str | None = None
    answer: str | None = None
    """The model's words as they came, kept when they could not be used."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None
    """Seconds from sending the request to the whole answer; None when none came."""


class PipelineReport(Strict):
    """One pipeline's row: every pipeline that came in has one, whatever went wrong."""

    pipeline_id: str
    where: str | None = None
    """File and entry the pipeline came from."""
    start_time: datetime
    end_time: datetime
    status: Literal["completed", "partial", "failed", "invalid"]
    """completed: all stages answered; partial: some; failed: none; invalid: the input was refused."""
    severity: Label | None = None
    priority: Label | None = None
    stages: tuple[StageReport, ...] = ()
    error: str | None = None

    @property
    def stages_completed(self) -> int:
        """How many agents gave a usable recommendation."""
        return sum(stage.status == "completed" for stage in self.stages)
