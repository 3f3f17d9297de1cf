"""The rules as an answerer: the same decision that stands beside every model's, with no endpoint behind it."""

from __future__ import annotations

from agents.asking.endpoint.reply import AgentError, ErrorClass
from agents.deciding.agent import Answer
from agents.facts.spec import PipelineSpec
from agents.labels.policy_model import Policy
from agents.specialists.registry import Labels, labels_for, specialist_of
from agents.specialists.rules import rules_decision
from common.console import BadInput


class RulesAgent:
    """Decides for one specialist by its rules alone."""

    def __init__(self, policy: Policy, stage: str) -> None:
        self.policy = policy
        self.specialist = specialist_of(stage)

    async def decide(self, spec: PipelineSpec, labels: Labels | None = None, *, until_s: float | None = None) -> Answer:
        """See Decider; the rules are never late. Raises AgentError for a policy that is not usable."""
        try:
            labels = labels_for(spec, self.policy) if labels is None else labels
        except BadInput as error:
            raise AgentError(str(error), ErrorClass.BAD_INPUT) from None
        rules = rules_decision(self.specialist, spec, labels[self.specialist.name])
        return Answer(rules, rules)
