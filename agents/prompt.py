"""Prompt variants are data: YAML files beside this module, checked on loading and rendered in a sandbox.

A pipeline's words are data too. They enter a prompt only as JSON inside a fence, with `<` escaped, so that no
value can close the fence or pass for an instruction of ours.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import Field, field_validator

from agents.files import load_preset, preset_names
from agents.schema import RECOMMENDATIONS, Label, Name, PipelineSpec, Stage, Strict
from console import BadInput, shorten

PROMPTS_DIR = Path(__file__).parent / "prompts"
DEFAULT_PROMPT = "grounded"


class Sampling(Strict):
    """How the model draws its tokens."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Lowers a token's odds each time it has been used: what keeps a very small model from going in circles."""
    max_tokens: Annotated[int, Field(ge=1)] = 220
    seed: int = 0


class StagePrompt(Strict):
    """System and user template of one stage; Jinja2 over `facts`, `label` and `stage`."""

    system: str
    user: str

    @field_validator("system", "user")
    @classmethod
    def _parses(cls, source: str) -> str:
        try:
            _templates().from_string(source)
        except TemplateError as error:
            raise ValueError(f"is not a Jinja2 template: {error}") from error
        return source


class PromptVariant(Strict):
    """One way to ask all three agents."""

    name: Name
    version: Annotated[int, Field(ge=1)]
    description: str
    sampling: Sampling = Sampling()
    stages: dict[Stage, StagePrompt]

    @field_validator("stages", mode="before")
    @classmethod
    def _every_stage(cls, stages: object) -> object:
        found = set(stages) if isinstance(stages, dict) else set()
        if found != set(Stage):
            raise ValueError(f"must have exactly the stages {', '.join(Stage)}")
        return {Stage(key): value for key, value in stages.items()} if isinstance(stages, dict) else stages


def prompt_names() -> list[str]:
    """The variants that come with Plumbline, sorted."""
    return preset_names(PROMPTS_DIR)


def load_prompt(name: str) -> PromptVariant:
    """A variant by name, or by the path of a YAML file of one's own. Raises BadInput."""
    return load_preset("prompt", PROMPTS_DIR, name, PromptVariant)


def facts_for(stage: Stage, spec: PipelineSpec) -> dict[str, str | float | int]:
    """What this stage's agent is told about the pipeline: only what is known, under names that carry units."""
    part = {
        Stage.INGESTION: spec.source,
        Stage.QUALITY: spec.quality_metrics,
        Stage.INFRASTRUCTURE: spec.infrastructure_metrics,
    }[stage]
    known: dict[str, Any] = part.model_dump(exclude_none=True)
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in known.items()
    }


def render(variant: PromptVariant, stage: Stage, spec: PipelineSpec, label: Label | None) -> list[dict[str, str]]:
    """The messages for one stage of one pipeline. Raises BadInput when the template asks for what is not there."""
    facts = json.dumps(facts_for(stage, spec), ensure_ascii=False, indent=1).replace("<", "\\u003c")
    values = {"stage": stage.value, "label": label, "facts": f"<facts>\n{facts}\n</facts>"}
    source = variant.stages[stage]
    try:
        return [
            {"role": role, "content": _templates().from_string(text).render(values).strip()}
            for role, text in (("system", source.system), ("user", source.user))
        ]
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BadInput(f"prompt {variant.name}: stage {stage}: {shorten(str(error))}") from None


def chat_body(
    variant: PromptVariant, stage: Stage, spec: PipelineSpec, label: Label | None, model: str
) -> dict[str, Any]:
    """The whole JSON body of a chat completion for this stage, constrained to the stage's schema.

    Agents, evaluation and load tests all send this, so that what is measured is what is used.
    """
    return {
        "model": model,
        "messages": render(variant, stage, spec, label),
        **variant.sampling.model_dump(),
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": f"{stage}_recommendation",
                "schema": answer_schema(stage),
                "strict": True,
            },
        },
    }


@cache
def answer_schema(stage: Stage) -> dict[str, Any]:
    """The JSON schema that constrains a stage's answer."""
    return RECOMMENDATIONS[stage].model_json_schema()


@cache
def _templates() -> SandboxedEnvironment:
    return SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
