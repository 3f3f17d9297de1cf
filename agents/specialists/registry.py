"""Which specialists there are. A name in here is a stage everywhere: in reports, cases, requests and load tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from agents.facts.spec import PipelineFacts, PipelineSpec, register_block
from agents.labels.label import Label
from agents.labels.labelling import stricter
from agents.labels.policy import policy_for
from agents.labels.policy_model import Policy
from agents.specialists.catalogue import load_catalogue
from agents.specialists.infrastructure import INFRASTRUCTURE
from agents.specialists.ingestion import INGESTION
from agents.specialists.quality import QUALITY
from agents.specialists.specialist import Specialist
from common.console import BadInput, shorten

_SPECIALISTS: dict[str, Specialist] = {}


def register(specialist: Specialist) -> None:
    """Make a specialist known, or replace the one of its name.

    Raises ValueError where its block's key or its label's kind is another one's already.
    """
    others = [one for one in _SPECIALISTS.values() if one.name != specialist.name]
    if specialist.block and specialist.block[0] in {
        *PipelineFacts.model_fields,
        *(one.block[0] for one in others if one.block),
    }:
        raise ValueError(f"{specialist.name}: block {specialist.block[0]!r} is taken")
    if specialist.label and specialist.label.kind in {one.label.kind for one in others if one.label}:
        raise ValueError(f"{specialist.name}: a label of kind {specialist.label.kind!r} is given already")
    if specialist.block:
        register_block(*specialist.block)
    _SPECIALISTS[specialist.name] = specialist


for _specialist in (INGESTION, QUALITY, INFRASTRUCTURE):
    register(_specialist)


def specialists() -> tuple[Specialist, ...]:
    """All of them, in the order they were registered in."""
    return tuple(_SPECIALISTS.values())


def stages() -> tuple[str, ...]:
    """Their names."""
    return tuple(_SPECIALISTS)


def specialist_of(stage: str) -> Specialist:
    """The specialist of a stage. Raises BadInput for a stage that is not known."""
    found = _SPECIALISTS.get(stage)
    if found is None:
        raise BadInput(f"stage {shorten(stage, 60)!r} is not known; known: {', '.join(_SPECIALISTS)}")
    return found


def _known(stage: str) -> str:
    if stage not in _SPECIALISTS:
        raise ValueError(f"found {shorten(stage, 60)!r}; allowed: {', '.join(_SPECIALISTS)}")
    return stage


Stage = Annotated[str, AfterValidator(_known)]
"""The name of a registered specialist."""


def add_actions(path: Path) -> None:
    """Add a user's file of actions to the specialist it names. Raises BadInput naming file, line and field."""
    found = load_catalogue(path)
    try:
        register(specialist_of(found.specialist).with_actions(found.actions))
    except (ValueError, BadInput) as error:
        raise BadInput(f"{path}: {error}") from None


Labels = dict[str, Label | None]
"""By stage; None for a specialist without a label."""


def labels_for(spec: PipelineSpec, policy: Policy) -> Labels:
    """Each specialist's label, by the run's policy; the pipeline's own one may only make a label graver.

    Raises BadInput when the pipeline's own policy is not usable.
    """
    own = policy_for(spec, policy)
    return {one.name: _label(one, spec, policy, own) for one in specialists()}


def _label(specialist: Specialist, spec: PipelineSpec, policy: Policy, own: Policy) -> Label | None:
    rule = specialist.label
    if rule is None:
        return None
    given = rule.decide(spec, policy)
    return given if own is policy else stricter(given, rule.decide(spec, own), rule.rank)
