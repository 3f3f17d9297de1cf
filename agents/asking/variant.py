"""Prompt variants are data: YAML files beside this module that say how all specialists are asked.

A short file is enough: what is asked, and the words for it, come from the specialist (its role, its choice, its
catalogue). A file may bring words of its own for some stages; these are templates, rendered in a sandbox.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from jinja2 import TemplateError
from pydantic import Field, field_validator, model_validator

from agents.asking.endpoint.parameters import Parameters
from agents.asking.templates import template
from agents.facts.spec import PipelineSpec
from agents.labels.label import Label
from agents.specialists.decision import MOST_ACTIONS, MOST_FACTS
from agents.specialists.registry import Stage
from common.console import shorten
from common.located import load_preset, merged, preset_names
from common.strict import Name, Strict

PROMPTS_DIR = Path(__file__).parent / "prompts"
DEFAULT_PROMPT = "write"

MOST_ORDERS = 6

Words = Annotated[str, Field(min_length=1)]


class Sampling(Strict):
    """How the model draws its tokens."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Lowers a token's odds each time it has been used; sent only where it is not 0."""
    max_tokens: Annotated[int, Field(ge=1)] = 220
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    """-1 would be no seed to vLLM, and beyond 2**53 JSON readers round."""


class ExampleAnswer(Strict):
    """A decision as a worked example gives it."""

    choice: str
    actions: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_ACTIONS, strict=False)]
    facts: Annotated[tuple[str, ...], Field(max_length=MOST_FACTS, strict=False)] = ()
    reason: Words | None = None
    note: Words | None = None


class Example(Strict):
    """A worked example: it is asked like the question itself and answered as we would."""

    pipeline: PipelineSpec
    label: Label | None = None
    answer: ExampleAnswer


class StagePrompt(Strict):
    """One stage's own words.

    `ask` is a Jinja2 template for what stands between the menu and the closing line, over these names:

    facts     what is known, as JSON inside its fence
    label     the stage's Label; None where it has none, and where labels' own attraction is read (`prior`)
    because   the reasons of the label's rules, in one line
    rules     names of the rules that asked for the label's level, or, where it is UNKNOWN, for the worst level known
    stage     the stage's name
    choices   the values offered
    actions   the ids of the actions offered
    """

    ask: Words | None = None
    examples: tuple[Example, ...] = Field((), strict=False)

    @field_validator("ask")
    @classmethod
    def _parses(cls, source: str | None) -> str | None:
        try:
            template(source or "")
        except (TemplateError, RecursionError) as error:
            raise ValueError(f"is not a Jinja2 template: {error}") from error
        return source


class PromptVariant(Strict):
    """One way to ask all specialists."""

    name: Name
    version: Annotated[int, Field(ge=1)]
    description: str
    ask: Literal["write", "read", "reason"]
    """write: the decision as JSON. read: one letter a question, with its probability. reason: a sentence first."""
    then: Literal["write", "read"] = "write"
    """reason: how the decision is asked for after the sentence."""
    offer: Literal["permitted", "all"] = "permitted"
    """permitted: only what facts and label permit may be chosen. all: everything, to see what the model knows."""
    list_permitted: bool = True
    """Whether the question ends in a list of what is offered, where that is not everything."""
    menu: Literal["short", "full"] = "short"
    """full: each action with what it means."""
    facts: bool = True
    """write: whether the answer names the facts it rests on."""
    note: bool = False
    """write: whether the answer ends in a sentence of the model's own."""
    orders: Annotated[int, Field(ge=1, le=MOST_ORDERS)] = 1
    """read: in how many orders the options are shown; the reading is their mean. The same orders for all cases."""
    menus: Literal["apart", "together"] = "apart"
    """read: whether each question shows its own options alone, or both questions show all, so that an engine computes
    menus and facts once for both."""
    prior: bool = False
    """read: whether the labels' own attraction, read on a case without facts, is taken out."""
    actions_picked: Annotated[int, Field(ge=1, le=MOST_ACTIONS)] = 2
    """read: how many actions are taken, the likeliest first."""
    reason_characters: Annotated[int, Field(ge=20, le=2000)] = 240
    """reason: the most it may write before it decides."""
    constrained: bool = True
    """write: whether the engine is held to the answer's JSON schema; without, the prompt alone asks for it."""
    sampling: Sampling = Sampling()
    parameters: Parameters = Parameters()
    """What is changed in every request, for servers that know other parameters."""
    system: Words | None = None
    """Plain words that stand first in every request, the same for all stages."""
    stages: dict[Stage, StagePrompt] = Field(default_factory=dict)
    """Words of one's own by stage; a stage that is not here is asked in the specialist's."""

    @field_validator("system")
    @classmethod
    def _no_template(cls, text: str | None) -> str | None:
        if text and any(mark in text for mark in ("{{", "{%", "{#")):
            raise ValueError("is the same for all stages and pipelines and may hold no template ({{, {%, {#)")
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        reasons, writes = self.ask == "reason", not self.reads
        effective = {
            "then": reasons,
            "reason_characters": reasons,
            "note": writes,
            "constrained": writes,
            "orders": self.reads,
            "prior": self.reads,
            "menus": self.reads,
            "actions_picked": self.reads,
        }
        for name, has_effect in effective.items():
            if not has_effect and getattr(self, name) != type(self).model_fields[name].default:
                way = f"{self.ask}, then {self.then}" if reasons else self.ask
                raise ValueError(f"{name}: has no effect where ask is {way}")
        return self

    @property
    def reads(self) -> bool:
        """Whether the decision itself is read off label tokens."""
        return self.ask == "read" or (self.ask == "reason" and self.then == "read")

    @property
    def held_to_schema(self) -> bool:
        """Whether the answer's schema is sent, and so what comes back is strictly of its form."""
        return self.constrained and "response_format" not in self.parameters.leave_out

    def with_parameters(self, other: Parameters) -> PromptVariant:
        """The same with a caller's changes to the parameters over the prompt's own."""
        return self.model_copy(update={"parameters": self.parameters.merged_with(other)})


class PromptFile(PromptVariant):
    """A variant as a file writes it."""

    base: Name | None = None
    """The packaged variant that holds where the file says nothing; by name only, never a path."""

    @model_validator(mode="before")
    @classmethod
    def _on_its_base(cls, data: Any) -> Any:
        base = data.get("base") if isinstance(data, dict) else None
        if base not in prompt_names():
            return data
        return merged(load_prompt(base).model_dump(mode="json", exclude_defaults=True), data)

    @field_validator("base")
    @classmethod
    def _is_packaged(cls, base: str | None) -> str | None:
        if base is not None and base not in prompt_names():
            raise ValueError(f"found {shorten(base, 80)!r}; allowed: {', '.join(prompt_names())}")
        return base


def prompt_names() -> list[str]:
    """The variants that come with Plumbline, sorted."""
    return preset_names(PROMPTS_DIR)


def load_prompt(name: str) -> PromptVariant:
    """A variant by name, or by the path of a YAML file of one's own. Raises BadInput naming file, line and field."""
    file = load_preset("prompt", PROMPTS_DIR, name, PromptFile)
    return PromptVariant.model_validate(file.model_dump(exclude={"base"}, exclude_defaults=True))
