"""The suite file: which prompt variants run on which cases; checked whole before the first call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from agents.files import load_yaml_model
from agents.policy import DEFAULT_POLICY, Policy, load_policy
from agents.prompt import PromptVariant, load_prompt
from agents.requests import StageRequest, labels_for, stage_request
from agents.schema import Name, Strict
from console import BadInput
from evals.case import Case, load_cases
from evals.generate import generate


class CaseSet(Strict):
    """Cases: generated (`count` and `seed`) or the user's own (`file`)."""

    count: Annotated[int, Field(ge=1, le=100_000)] | None = None
    seed: int = 0
    file: Name | None = None
    """JSONL, relative to the suite file."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.count is None) == (self.file is None):
            raise ValueError("give either count (and seed) or file")
        return self


class Suite(Strict):
    """One evaluation: every prompt on every case."""

    name: Name
    prompts: Annotated[list[Name], Field(min_length=1)]
    cases: CaseSet
    policy: Name = DEFAULT_POLICY
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    """Requests in flight at once: enough to keep the engine's batch full."""
    timeout_s: Annotated[float, Field(gt=0)] = 300.0

    @model_validator(mode="after")
    def _no_prompt_twice(self) -> Self:
        if len(set(self.prompts)) != len(self.prompts):
            raise ValueError("prompts: a prompt stands twice")
        return self


class Plan(Strict):
    """A suite with everything it names loaded."""

    suite: Suite
    variants: tuple[PromptVariant, ...]
    policy: Policy
    cases: tuple[Case, ...]

    def request(self, variant: PromptVariant, case: Case, model: str) -> StageRequest:
        """What is sent for one case under one variant."""
        return stage_request(case.stage, case.spec, variant, labels_for(case.spec, self.policy), model)


def load_plan(path: Path) -> Plan:
    """Load a suite and all it names, and render every prompt on every case. Raises BadInput."""
    suite = load_yaml_model(path, Suite)
    wanted = suite.cases
    cases = load_cases(path.parent / wanted.file) if wanted.file else generate(wanted.count or 0, wanted.seed)
    plan = Plan(
        suite=suite,
        variants=tuple(load_prompt(name) for name in suite.prompts),
        policy=load_policy(suite.policy),
        cases=tuple(cases),
    )
    names = [variant.name for variant in plan.variants]
    if len(set(names)) != len(names):
        raise BadInput(f"{path}: prompts: two files name their variant alike; names must differ")
    for variant in plan.variants:
        for case in plan.cases:
            plan.request(variant, case, "check")
    return plan
