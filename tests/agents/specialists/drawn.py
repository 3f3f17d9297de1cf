"""Cases drawn from a specialist's oracle rows, for tests of what its rules owe the key."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from agents.facts.spec import PipelineSpec
from agents.labels.label import Label
from agents.labels.policy import Policy
from agents.specialists.decision import Decision
from agents.specialists.oracle import Difficulty, Key, OracleRow, spec_of
from agents.specialists.rules import Permitted, permitted, rules_decision
from agents.specialists.specialist import Specialist
from tests.agents.made_specs import STANDARD

SEEDS = 30


@dataclass(frozen=True)
class Case:
    """One drawn case with what the rules make of it."""

    spec: PipelineSpec
    key: Key
    label: Label
    may: Permitted
    decision: Decision

    @property
    def covered(self) -> float:
        """The share of the key's needs that the rules' decision meets."""
        met = [group for group in self.key.right if set(group) & set(self.decision.ids)]
        return len(met) / len(self.key.right)


def cases(specialist: Specialist, row: OracleRow) -> Iterator[Case]:
    """Cases of a row, of each difficulty."""
    for difficulty in get_args(Difficulty):
        for seed in range(SEEDS):
            drawn = row.draw(random.Random(seed), difficulty)
            spec = spec_of("p", drawn.facts)
            label = label_of(specialist, spec)
            yield Case(
                spec, drawn.key, label, permitted(specialist, spec, label), rules_decision(specialist, spec, label)
            )


def label_of(specialist: Specialist, spec: PipelineSpec, policy: Policy = STANDARD) -> Label:
    """The specialist's label of a pipeline."""
    assert specialist.label
    return specialist.label.decide(spec, policy)


def check_the_rules_agree_with_the_key(specialist: Specialist, row: OracleRow) -> None:
    """They rule out nothing that is right, advise nothing that is wrong, and meet each need."""
    for case in cases(specialist, row):
        right = {action for group in case.key.right for action in group}
        assert right <= set(case.may.actions), case
        assert set(case.key.right_choices) <= set(case.may.choices), case
        assert case.decision.choice.id not in case.key.wrong_choices, case
        assert not set(case.key.harmful) & set(case.decision.ids), case
        assert case.covered == 1, case


def check_a_key_names_only_what_there_is(specialist: Specialist, row: OracleRow) -> None:
    """Its actions and choices exist, and nothing is both right and wrong."""
    for case in cases(specialist, row):
        key = case.key
        right = {action for group in key.right for action in group}
        assert right
        assert right | set(key.harmful) <= specialist.actions_by_id.keys()
        assert {*key.right_choices, *key.wrong_choices} <= set(specialist.choice.values)
        assert not right & set(key.harmful)
        assert not set(key.right_choices) & set(key.wrong_choices)
        assert not key.labels or case.label.value in key.labels
