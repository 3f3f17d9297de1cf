"""The suite file: which prompts, models, samplings and policies are compared, on which cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from agents.asking.endpoint.parameters import Parameters
from agents.asking.variant import PromptVariant
from agents.labels.policy import DEFAULT_POLICY
from common.console import shorten
from common.strict import Name, Strict
from evals.gate_rules import GateRules

AS_PROMPT = "as prompt"
"""The sampling that changes nothing: each prompt's own."""


class SuiteModel(Strict):
    """A model to ask, where it is served."""

    name: Name
    """What tables call it."""
    base_url: Name | None = None
    """Its endpoint; None for the one that is found without a suite."""
    model: Name | None = None
    """The id it is served under; None for the first one there."""


class SamplingChange(Strict):
    """What to change in every prompt's own sampling; None leaves the prompt's value."""

    name: Name
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """Not below 0: vLLM takes -1 for "no seed". Above 2**53 a JSON number is no longer exact."""
    constrained: bool | None = None
    """False: the answer's schema is not enforced by the engine."""

    def applied(self, prompt: PromptVariant) -> PromptVariant:
        """The prompt with this sampling in it."""
        changes = self.model_dump(exclude={"name", "constrained"}, exclude_none=True)
        held = prompt.constrained if self.constrained is None else self.constrained
        sampling = prompt.sampling.model_copy(update=changes)
        return prompt.model_copy(update={"sampling": sampling, "constrained": held})


class CaseSet(Strict):
    """Cases: the curated ones, generated ones (`count` and `seed`), or the user's own (`file`)."""

    curated: bool = False
    count: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    seed: int = 0
    file: Name | None = None
    """JSONL, relative to the suite file."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.curated + (self.count is not None) + (self.file is not None) != 1:
            raise ValueError("give one of curated: true, count (and seed), or file")
        if self.seed and self.count is None:
            raise ValueError("seed goes with count")
        return self


class Metamorphic(Strict):
    """Cases changed in a way that must not change the advice (evals/metamorphic.py)."""

    relations: Literal["all"] | Annotated[list[Name], Field(min_length=1)] = "all"
    cases: Annotated[int, Field(ge=1)] = 30
    """How many cases each relation is tried on."""

    @field_validator("relations")
    @classmethod
    def _none_twice(cls, names: str | list[str]) -> str | list[str]:
        if twice := next((name for name in names if isinstance(names, list) and names.count(name) > 1), None):
            raise ValueError(f"{shorten(twice, 80)!r} stands twice")
        return names


class Suite(Strict):
    """One evaluation: every combination of the axes on every case, `repeats` times."""

    name: Name
    prompts: Annotated[list[Name], Field(min_length=1)]
    """Names, or paths of YAML files, relative to the suite file."""
    models: Annotated[list[SuiteModel], Field(min_length=1)] | None = None
    """None: the one endpoint that --base-url, OPENAI_BASE_URL or `serving start` names."""
    sampling: Annotated[list[SamplingChange], Field(min_length=1)] = Field(
        default_factory=lambda: [SamplingChange(name=AS_PROMPT)]
    )
    policies: Annotated[list[Name], Field(min_length=1)] = Field(default_factory=lambda: [DEFAULT_POLICY])
    """As prompts."""
    parameters: Parameters = Parameters()
    """Changes to every request, over those of each prompt: for servers that know other parameters."""
    repeats: Annotated[int, Field(ge=1, le=1000)] = 1
    """Samples of each case under each variant; the seed of repeat r is the prompt's plus r."""
    cases: CaseSet
    metamorphic: Metamorphic | None = None
    baseline: Name | None = None
    """The variant that the others are compared with; None for the first."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    """Requests in flight at each model: enough to keep the engine's batch full."""
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    max_retries: Annotated[int, Field(ge=0, le=20)] = 2
    gate: GateRules | None = None

    @field_validator("prompts", "models", "sampling", "policies")
    @classmethod
    def _none_twice(cls, values: Sequence[Any] | None) -> Sequence[Any] | None:
        names = [str(value if isinstance(value, str) else value.name) for value in values or ()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{shorten(twice, 80)!r} stands twice")
        return values
