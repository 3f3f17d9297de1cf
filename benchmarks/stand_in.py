"""A stand-in for a small model's behaviour, for proving the gate: rules that go by what their prompt says, no model.

A changed prompt changes its decisions the way it would a small model's: it knows of a pipeline only what stands in the
fence, believes the label it is told and takes the mildest where it is told none, chooses only what the schema offers,
loses its thread as the temperature rises, and chats where no schema holds it. It is served by the simulator
(`serving.simulator.listen(..., answerer=...)`) and says nothing about any model.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import ValidationError

from agents.facts.spec import InfrastructureMetrics, PipelineSpec, QualityMetrics, Source
from agents.labels.label import Label
from agents.labels.policy import DEFAULT_POLICY, load_policy
from agents.specialists.decision import Decision
from agents.specialists.oracle import spec_of
from agents.specialists.registry import labels_for, specialists
from agents.specialists.rules import rules_decision
from agents.specialists.specialist import Specialist
from common.console import BadInput
from serving.simulator_request import ChatRequest

_FENCE = re.compile(r"<facts>\n(.*?)\n</facts>", re.DOTALL)
_NAMES = {*Source.model_fields, *QualityMetrics.model_fields, *InfrastructureMetrics.model_fields}
_RANDOM_ACTIONS = 2


@dataclass(frozen=True)
class StandIn:
    """Answers chat completions; give it to the simulator.

    slips: share of cases it gets wrong by itself, always the same ones. seed: of its slips.
    """

    slips: float = 0.1
    seed: int = 0

    def __call__(self, asked: ChatRequest) -> str:
        """The answer to one request: the same for the same facts, prompt, temperature and seed."""
        texts = list(asked.texts)
        specialist = next((one for one in specialists() if one.role in texts[0]), specialists()[0])
        facts = _facts(texts[-1])
        decision = None if self._is_lost(asked, facts) else _decided(specialist, facts, texts[-1])
        if asked.answer_schema is None:
            return f"Sure! I would go for {decision.choice.id if decision else 'Kafka'}. Let me know if I can help!"
        return _written(asked.answer_schema, specialist, decision, _drawn(_digest(facts)))

    def _is_lost(self, asked: ChatRequest, facts: dict[str, Any]) -> bool:
        by_itself = _drawn(f"{self.seed}/{_digest(facts)}").random() < self.slips
        heat = asked.temperature or 0.0
        by_heat = _drawn(f"{asked.seed}/{heat}/{_digest(facts)}").random() < 0.3 * heat**2
        return by_itself or by_heat


def _facts(question: str) -> dict[str, Any]:
    """What stands in the fence; nothing where there is none or it is broken."""
    fence = _FENCE.search(question)
    try:
        found = json.loads(fence[1]) if fence else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _digest(facts: dict[str, Any]) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _drawn(key: str) -> random.Random:
    return random.Random(key)  # noqa: S311 - reproducible, not secret


def _decided(specialist: Specialist, facts: dict[str, Any], question: str) -> Decision | None:
    """What the rules decide on a pipeline of which only this is known; None where it is no pipeline."""
    try:
        # Not every agent is told what the source is, and no pipeline is without one.
        spec = spec_of("told", {"type": "?"} | {name: value for name, value in facts.items() if name in _NAMES})
        return rules_decision(specialist, spec, _label(specialist, spec, question))
    except (ValidationError, BadInput):
        return None


def _label(specialist: Specialist, spec: PipelineSpec, question: str) -> Label | None:
    """The label that the question tells, with the reasons that the facts give; the mildest where it tells none."""
    if specialist.label is None:
        return None
    kind = specialist.label.kind
    told = re.search(rf"\bThe {kind} is ([A-Z]+)\b", question)
    if told is None:
        return Label(kind=kind, value=specialist.label.levels[0], policy="none", rules=())
    by_facts = labels_for(spec, load_policy(DEFAULT_POLICY))[specialist.name]
    if by_facts is None or by_facts.value == told[1]:
        return by_facts
    return by_facts.model_copy(update={"value": told[1], "at_least": None})


def _written(schema: dict[str, Any], specialist: Specialist, decision: Decision | None, drawn: random.Random) -> str:
    """The decision in the schema's form; one at random where there is none."""
    fields = schema["properties"]
    choices, actions = fields[specialist.choice.name]["enum"], fields["actions"]["items"]["enum"]
    choice = decision.choice.id if decision else drawn.choice(choices)
    ids = decision.ids if decision else drawn.sample(actions, min(_RANDOM_ACTIONS, len(actions)))
    answer = {
        specialist.choice.name: choice if choice in choices else choices[0],
        "actions": [one for one in ids if one in actions] or actions[:1],
        "facts": fields["facts"]["items"]["enum"][:1] if "facts" in fields else [],
    }
    return json.dumps({name: answer.get(name, "Because of the facts.") for name in fields}, separators=(",", ":"))
