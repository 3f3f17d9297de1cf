"""One question of one stage of one pipeline: who is asked about what, and what is offered."""

from __future__ import annotations

from dataclasses import dataclass

from agents.asking.variant import PromptVariant
from agents.facts.spec import PipelineSpec
from agents.labels.label import Label
from agents.specialists.registry import specialist_of
from agents.specialists.rules import Permitted, permitted
from agents.specialists.specialist import Facts, Specialist


@dataclass(frozen=True)
class StageQuestion:
    """Everything about one question, whatever way it is asked in."""

    stage: str
    specialist: Specialist
    spec: PipelineSpec
    label: Label | None
    permitted: Permitted
    told: Facts
    """What is known, as the model is told it."""
    choices: tuple[str, ...]
    """Values offered, in the choice's order."""
    actions: tuple[str, ...]
    """Ids offered, in the catalogue's order."""

    @property
    def facts(self) -> tuple[str, ...]:
        """Names of the facts that an answer may rest on."""
        return tuple(self.told)


def question_for(variant: PromptVariant, stage: str, spec: PipelineSpec, label: Label | None) -> StageQuestion:
    """The question that a variant puts about a pipeline. Raises BadInput for a stage that is not known."""
    specialist = specialist_of(stage)
    may = permitted(specialist, spec, label)
    everything = variant.offer == "all"
    return StageQuestion(
        stage=stage,
        specialist=specialist,
        spec=spec,
        label=label,
        permitted=may,
        told=specialist.told(spec),
        choices=specialist.choice.values if everything else may.choices,
        actions=tuple(specialist.actions_by_id) if everything else may.actions,
    )
