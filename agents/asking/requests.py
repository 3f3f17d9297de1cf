"""From pipelines to the requests that agents, evaluation and load tests all send."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agents.asking.variant import PromptVariant, chat_body
from agents.facts.spec import PipelineSpec
from agents.labels.label import Label
from agents.labels.policy import Policy, policy_for, priority, severity
from agents.schema import Stage


@dataclass(frozen=True)
class StageRequest:
    """One chat completion that one stage of one pipeline needs."""

    pipeline_id: str
    stage: Stage
    label: Label | None
    """The label the stage's prompt may tell; ingestion has none."""
    body: dict[str, Any]
    """JSON body of POST /v1/chat/completions, without streaming options."""


Labels = dict[Stage, Label | None]


def labels_for(spec: PipelineSpec, policy: Policy) -> Labels:
    """Severity for quality, priority for infrastructure, none for ingestion; by the pipeline's own policy if it has
    one. Raises BadInput when that policy is not usable."""
    own = policy_for(spec, policy)
    return {
        Stage.INGESTION: None,
        Stage.QUALITY: severity(spec.quality_metrics, own),
        Stage.INFRASTRUCTURE: priority(spec.infrastructure_metrics, own),
    }


def stage_request(stage: Stage, spec: PipelineSpec, variant: PromptVariant, labels: Labels, model: str) -> StageRequest:
    """The request of one stage. Raises BadInput when the prompt cannot be rendered."""
    return StageRequest(spec.id, stage, labels[stage], chat_body(variant, stage, spec, labels[stage], model))


def requests_for(
    specs: Iterable[PipelineSpec], variant: PromptVariant, policy: Policy, model: str
) -> list[StageRequest]:
    """Every stage of every pipeline, pipeline by pipeline. Raises BadInput."""
    return [
        stage_request(stage, spec, variant, labels, model)
        for spec in specs
        for labels in [labels_for(spec, policy)]
        for stage in Stage
    ]
