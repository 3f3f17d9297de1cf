"""From pipelines to the requests that agents, evaluation and load tests all send, so that what is measured is used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agents.asking.question import StageQuestion, question_for
from agents.asking.variant import PromptVariant
from agents.asking.ways.chat_reader import label_body
from agents.asking.ways.label_question import label_questions
from agents.asking.ways.reason import reason_body
from agents.asking.ways.write import write_body
from agents.asking.words import Message
from agents.facts.spec import PipelineSpec
from agents.labels.label import Label
from agents.labels.policy import Policy
from agents.specialists.registry import Labels, labels_for, stages


@dataclass(frozen=True)
class StageRequest:
    """The chat completions that one stage of one pipeline needs, as far as they do not hang on an answer."""

    pipeline_id: str
    stage: str
    label: Label | None
    """The label the stage's prompt may tell; None for a specialist without one."""
    bodies: tuple[dict[str, Any], ...]
    """JSON bodies of POST /v1/chat/completions, without streaming options; at least one. `read` has one a question."""

    @property
    def body(self) -> dict[str, Any]:
        """The first of them."""
        return self.bodies[0]


def chat_bodies(variant: PromptVariant, question: StageQuestion, model: str) -> tuple[dict[str, Any], ...]:
    """The requests of one question, as far as they do not hang on an answer; labels are looked for by their text.

    Raises BadInput when the prompt cannot be rendered.
    """
    if variant.ask == "read":
        return tuple(label_body(one, model, variant) for one in label_questions(variant, question))
    if variant.reads:
        return (reason_body(variant, question, model),)
    return (write_body(variant, question, model),)


def chat_body(variant: PromptVariant, question: StageQuestion, model: str) -> dict[str, Any]:
    """The first request of a question. Raises BadInput."""
    return chat_bodies(variant, question, model)[0]


def render(variant: PromptVariant, question: StageQuestion) -> list[Message]:
    """The messages of the first request. Raises BadInput."""
    messages: list[Message] = chat_body(variant, question, "")["messages"]
    return messages


def stage_request(stage: str, spec: PipelineSpec, variant: PromptVariant, labels: Labels, model: str) -> StageRequest:
    """The requests of one stage. Raises BadInput when the prompt cannot be rendered."""
    question = question_for(variant, stage, spec, labels[stage])
    return StageRequest(spec.id, stage, labels[stage], chat_bodies(variant, question, model))


def requests_for(
    specs: Iterable[PipelineSpec], variant: PromptVariant, policy: Policy, model: str
) -> list[StageRequest]:
    """Every stage of every pipeline, pipeline by pipeline. Raises BadInput."""
    return [
        stage_request(stage, spec, variant, labels, model)
        for spec in specs
        for labels in [labels_for(spec, policy)]
        for stage in stages()
    ]
