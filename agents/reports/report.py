"""What a run reports of each pipeline: labels, decisions beside the rules' own, costs, and why something is missing."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from agents.asking.endpoint.reply import ErrorClass
from agents.deciding.agent import Because
from agents.labels.label import Label
from agents.specialists.decision import Decision
from agents.specialists.registry import Stage
from common.strict import Strict


class StageReport(Strict):
    """What was decided for one stage, or why nothing was."""

    stage: Stage
    status: Literal["completed", "failed"]
    decision: Decision | None = None
    """What is given; `decision.by` tells whose it is."""
    told: tuple[str, ...] = Field((), strict=False)
    """The decision in words: its choice, then a sentence an action."""
    rules: Decision | None = None
    """What the rules decide, whoever decided."""
    because: Because | None = None
    """Why the rules decided and not the model."""
    model: Decision | None = None
    """The model's own decision, where the rules do not permit it."""
    problem: str | None = None
    """What was wrong with the model's answer."""
    note_dropped: str | None = None
    """Why the model's note was left out."""
    error: str | None = None
    """What the endpoint or the input failed with."""
    error_class: ErrorClass | None = Field(None, strict=False)
    answer: str | None = None
    """The model's words as they came, kept where they could not be used."""
    prompt_tokens: int | None = None
    """Over all requests of this stage."""
    cached_tokens: int | None = None
    """Of these, what the engine had in its prefix cache; None where it does not say."""
    output_tokens: int | None = None
    latency_s: float | None = None
    """Seconds from sending the first request to the last whole answer; None when none came."""

    @property
    def differs(self) -> bool:
        """Whether a model decided otherwise than the rules would have."""
        return bool(self.decision and self.rules and not self.decision.agrees_with(self.rules))


class PipelineReport(Strict):
    """One pipeline's row: every pipeline that came in has one, whatever went wrong."""

    pipeline_id: str
    where: str | None = None
    """File and entry the pipeline came from."""
    start_time: datetime = Field(strict=False)
    end_time: datetime = Field(strict=False)
    status: Literal["completed", "partial", "failed", "invalid"]
    """completed: all stages have a decision; partial: some; failed: none; invalid: the input was refused."""
    labels: dict[str, Label] = Field(default_factory=dict)
    """By kind: severity, priority; none for an input that was refused."""
    stages: tuple[StageReport, ...] = Field((), strict=False)
    requires_approval: bool = False
    approval_reasons: tuple[str, ...] = Field((), strict=False)
    """Why a person has to decide before anything is done."""
    trace_id: str | None = None
    """The MLflow trace on which a person decides."""
    error: str | None = None

    @property
    def stages_completed(self) -> int:
        """How many stages have a decision, the model's or the rules'."""
        return sum(stage.status == "completed" for stage in self.stages)
