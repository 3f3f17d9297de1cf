"""From pipelines to the requests that agents, evaluation and load tests all send."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agents.policy import Policy, priority, severity
from agents.prompt import PromptVariant, chat_body
from agents.schema import Label, PipelineSpec, Stage


@dataclass(frozen=True)
class StageRequest:
    """One chat completion that one stage of one pipeline needs."""

    pipeline_id: str
    stage: Stage
    label: Label | None
    """The label the stage's prompt may tell; ingestion has none."""
    body: dict[str, Any]
    """JSON body of POST /v1/chat/completions, without streaming options."""


def label_for(stage: Stage, spec: PipelineSpec, policy: Policy) -> Label | None:
    """Severity for quality, priority for infrastructure, none for ingestion."""
    if stage is Stage.QUALITY:
        return severity(spec.quality_metrics, policy)
    if stage is Stage.INFRASTRUCTURE:
        return priority(spec.infrastructure_metrics, policy)
    return None


def stage_request(stage: Stage, spec: PipelineSpec, variant: PromptVariant, policy: Policy, model: str) -> StageRequest:
    """The request of one stage."""
    label = label_for(stage, spec, policy)
    return StageRequest(spec.id, stage, label, chat_body(variant, stage, spec, label, model))


def requests_for(
    specs: Iterable[PipelineSpec], variant: PromptVariant, policy: Policy, model: str
) -> list[StageRequest]:
    """Every stage of every pipeline, pipeline by pipeline."""
    return [stage_request(stage, spec, variant, policy, model) for spec in specs for stage in Stage]
