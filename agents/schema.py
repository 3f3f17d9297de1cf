"""The shared types: what an agent recommends and what a run reports. What comes in is agents/facts/spec.py.

Everything here is a border: fields are checked strictly, unknown keys are refused, and what is absent stays
absent (None), since a missing metric is neither zero nor a hundred.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from agents.labels.label import Label
from common.strict import Strict


class Stage(StrEnum):
    """The three stages of a pipeline's review, each with its own agent."""

    INGESTION = "ingestion"
    QUALITY = "quality"
    INFRASTRUCTURE = "infrastructure"


# --- what is recommended ---------------------------------------------------------------------------------


class IngestionMode(StrEnum):
    """How data moves from its source; the order is by operational cost."""

    BATCH = "batch"
    MICRO_BATCH = "micro_batch"
    STREAMING = "streaming"
    CDC = "cdc"
    PUSH_RECEIVER = "push_receiver"


class Recommendation(Strict):
    """What one agent advises, whatever form it was asked in (agents/answers.py)."""

    summary: str
    actions: tuple[str, ...] = Field(strict=False)
    """Two steps, the more important one first."""
    mode: IngestionMode | None = Field(None, strict=False)
    """Ingestion only."""
    reasoning: str | None = None
    """What the model wrote before it decided, where its prompt asks for that; no advice, and not judged as such."""

    @property
    def text(self) -> str:
        """The advice in its own words, one sentence a line: what guardrails and scorers read."""
        return "\n".join([self.summary, *self.actions])


class Violation(Strict):
    """One rule that a recommendation breaks."""

    rule: str
    """The rule's name, for counting."""
    found: str
    """The words or figures that break it."""
    told: str
    """What the model, or a person, is told about it."""


# --- what a run reports ----------------------------------------------------------------------------------


class ErrorClass(StrEnum):
    """Why a stage has no recommendation; each failure is counted under exactly one."""

    UNREACHABLE = "unreachable"
    """Refused, reset, broken off before the answer's head."""
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"
    """HTTP 429 to the last try."""
    SERVER_ERROR = "server_error"
    """HTTP 5xx to the last try."""
    REFUSED = "refused"
    """HTTP 4xx but 429: the request itself is not accepted, and is not tried again."""
    BROKEN_ANSWER = "broken_answer"
    """An answer that is cut off, not JSON, too large, or no chat completion."""
    UNUSABLE_REPLY = "unusable_reply"
    """A sound answer whose text is not the recommendation that was asked for."""
    BAD_INPUT = "bad_input"
    """The prompt cannot be rendered on this pipeline."""


FallbackReason = Literal["guardrails", "deadline", "endpoint"]
"""Why the rules recommend in the model's place: it may not be given, was late, or (under a deadline) did not come."""


class Rejected(Strict):
    """An answer that was not let through, kept for the evaluation."""

    answer: str
    """The model's words as they came."""
    violations: tuple[Violation, ...] = Field(strict=False)


class StageReport(Strict):
    """What one agent answered, or why it could not."""

    stage: Stage = Field(strict=False)
    status: Literal["completed", "failed"]
    source: Literal["model", "fallback"] = "model"
    """fallback: the recommendation is the rules', not the model's."""
    fallback_because: FallbackReason | None = None
    recommendation: Recommendation | None = None
    violations: tuple[Violation, ...] = Field((), strict=False)
    """What the recommendation given here breaks: only with guardrails set to warn."""
    rejected: tuple[Rejected, ...] = Field((), strict=False)
    """Answers that guardrails did not let through."""
    error: str | None = None
    """What went wrong: of a failed stage, or where the rules had to stand in for the endpoint."""
    error_class: ErrorClass | None = Field(None, strict=False)
    answer: str | None = None
    """The model's words as they came, kept when they could not be used."""
    prompt_tokens: int | None = None
    """Over all requests of this stage."""
    output_tokens: int | None = None
    latency_s: float | None = None
    """Seconds from sending the first request to the last whole answer, repetitions included; None when none came."""


class PipelineReport(Strict):
    """One pipeline's row: every pipeline that came in has one, whatever went wrong."""

    pipeline_id: str
    where: str | None = None
    """File and entry the pipeline came from."""
    start_time: datetime = Field(strict=False)
    end_time: datetime = Field(strict=False)
    status: Literal["completed", "partial", "failed", "invalid"]
    """completed: all stages have a recommendation; partial: some; failed: none; invalid: the input was refused."""
    severity: Label | None = None
    priority: Label | None = None
    stages: tuple[StageReport, ...] = Field((), strict=False)
    requires_approval: bool = False
    approval_reasons: tuple[str, ...] = Field((), strict=False)
    """Why a person has to decide before anything is done."""
    trace_id: str | None = None
    """The MLflow trace on which a person decides."""
    error: str | None = None

    @property
    def stages_completed(self) -> int:
        """How many stages have a recommendation, the model's or the rules'."""
        return sum(stage.status == "completed" for stage in self.stages)
