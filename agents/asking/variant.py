"""Prompt variants are data: YAML files beside this module, checked on loading and rendered in a sandbox.

A pipeline's words are data too. They enter a prompt only as JSON inside a fence, with `<` escaped, so that no
value can close the fence, pass for an instruction of ours or spell a token of the model's own chat format.

What requests share, so that an engine's prefix cache can answer it once:

    all stages, all pipelines    the variant's `system`, which is plain text and no template
    one stage, all pipelines     the stage's worked examples and its user text up to the facts

A variant whose stages have a `system` each (`plain`) shares nothing between stages. The packaged variants put the
label, which differs, after the facts and everything else before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Self

import orjson
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import Field, ValidationError, field_validator, model_validator

from agents.answers import AnswerForm, answer_model, answer_schema
from agents.facts.spec import InfrastructureMetrics, PipelineSpec, Reading
from agents.labels.label import Label, RuleFired
from agents.schema import Recommendation, Stage
from common.console import BadInput, shorten
from common.located import load_preset, preset_names
from common.strict import Name, Strict

PROMPTS_DIR = Path(__file__).parent / "prompts"
DEFAULT_PROMPT = "grounded"

Fact = str | float | int | bool
Message = dict[str, str]
Words = Annotated[str, Field(min_length=1)]


class Sampling(Strict):
    """How the model draws its tokens."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Lowers a token's odds each time it has been used: what keeps a very small model from going in circles."""
    max_tokens: Annotated[int, Field(ge=1)] = 220
    seed: Annotated[int, Field(ge=0, le=2**53)] = 0
    """-1 would be no seed to vLLM, and beyond 2**53 JSON readers round."""


class Example(Strict):
    """A worked example: it is asked with the stage's own template and answered as we would."""

    pipeline: PipelineSpec
    label: Label | None = None
    answer: Recommendation


class StagePrompt(Strict):
    """One stage's texts: Jinja2 templates over these names.

    facts     what is known, as JSON inside its fence
    label     the stage's Label, None for ingestion
    because   the reasons of the label's rules, in one line
    rules     names of the rules that asked for the label's level, or, where it is UNKNOWN, for the worst level known
    causes    names of the facts those rules are about
    stage     the stage's name
    """

    system: Words | None = None
    """This stage's own system template; None where the variant has one for all stages."""
    examples: tuple[Example, ...] = Field((), strict=False)
    user: Words

    @field_validator("system", "user")
    @classmethod
    def _parses(cls, source: str | None) -> str | None:
        try:
            _template(source or "")
        except (TemplateError, RecursionError) as error:
            raise ValueError(f"is not a Jinja2 template: {error}") from error
        return source


class PromptVariant(Strict):
    """One way to ask all three agents."""

    name: Name
    version: Annotated[int, Field(ge=1)]
    description: str
    form: AnswerForm = Field(AnswerForm.STANDARD, strict=False)
    """Which schema the answer has to fit."""
    constrained: bool = True
    """Whether the engine is held to that schema; without, the prompt alone asks for it, and answers may miss it."""
    sampling: Sampling = Sampling()
    system: Words | None = None
    """What every request begins with. The same for all, so it is plain text and no template."""
    stages: dict[Stage, StagePrompt]

    @field_validator("system")
    @classmethod
    def _no_template(cls, text: str | None) -> str | None:
        if text and any(mark in text for mark in ("{{", "{%", "{#")):
            raise ValueError("is the same for all stages and pipelines and may hold no template ({{, {%, {#)")
        return text

    @field_validator("stages", mode="before")
    @classmethod
    def _every_stage(cls, stages: object) -> object:
        found = set(stages) if isinstance(stages, dict) else set()
        if found != set(Stage):
            raise ValueError(f"must have exactly the stages {', '.join(Stage)}")
        return {Stage(key): value for key, value in stages.items()} if isinstance(stages, dict) else stages

    @model_validator(mode="after")
    def _one_system(self) -> Self:
        for stage, prompt in self.stages.items():
            if (self.system is None) == (prompt.system is None):
                raise ValueError(f"stages.{stage}: give system either here or once for all stages at the top")
        return self

    @model_validator(mode="after")
    def _examples_fit(self) -> Self:
        for stage, prompt in self.stages.items():
            for number, example in enumerate(prompt.examples):
                try:
                    _written(self.form, stage, example.answer)
                except ValidationError as error:
                    first = error.errors(include_url=False)[0]
                    field = ".".join(["answer", *map(str, first["loc"])])
                    raise ValueError(f"stages.{stage}.examples.{number}.{field}: {first['msg']}") from None
        return self


def prompt_names() -> list[str]:
    """The variants that come with Plumbline, sorted."""
    return preset_names(PROMPTS_DIR)


def load_prompt(name: str) -> PromptVariant:
    """A variant by name, or by the path of a YAML file of one's own. Raises BadInput."""
    return load_preset("prompt", PROMPTS_DIR, name, PromptVariant)


# --- what is told ----------------------------------------------------------------------------------------


def facts_for(stage: Stage, spec: PipelineSpec) -> dict[str, Fact]:
    """What this stage's agent is told about the pipeline: only what is known, under names that carry units.

    Earlier readings are told as the range they span, in words whose figures are facts like the others.
    """
    part = {
        Stage.INGESTION: spec.source,
        Stage.QUALITY: spec.quality_metrics,
        Stage.INFRASTRUCTURE: spec.infrastructure_metrics,
    }[stage]
    known = part.model_dump(mode="json", exclude_none=True, exclude={"history"})
    facts = {name: _plain(value) for name, value in known.items()}
    if "kind" in facts:
        facts["kind"] = str(facts["kind"]).replace("_", " ")
    if stage is Stage.INFRASTRUCTURE:
        facts |= _history(spec.infrastructure_metrics)
        if spec.source.partitions is not None and spec.infrastructure_metrics.consumer_lag is not None:
            facts["partitions"] = spec.source.partitions  # what decides whether more consumers would help
    return facts


def _plain(value: Fact) -> Fact:
    """Whole numbers without a decimal point; beyond 2**53 a float has no exact digits to show."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _history(metrics: InfrastructureMetrics) -> dict[str, Fact]:
    """CPU and memory over the earlier readings: `61 to 88 over 24 h, 96 readings`."""
    told: dict[str, Fact] = {}
    for name in ("cpu_percent", "memory_percent"):
        readings = [one for one in metrics.history if getattr(one, name) is not None]
        if readings:
            values = [getattr(one, name) for one in readings]
            least, most = (f"{one:g}" for one in (min(values), max(values)))
            told[f"{name}_history"] = (least if least == most else f"{least} to {most}") + _span(readings)
    return told


def _span(readings: list[Reading]) -> str:
    if len(readings) == 1:
        return " in 1 reading"
    minutes = (readings[-1].at - readings[0].at).total_seconds() / 60
    span = f"{minutes / 60:.0f} h" if minutes >= 90 else f"{minutes:.0f} min"
    return f" over {span}, {len(readings)} readings"


def _deciding(label: Label | None) -> list[RuleFired]:
    """The rules behind a label's level, or, where it is UNKNOWN, behind the worst level known."""
    return [rule for rule in label.rules if rule.level == label.worst_known] if label else []


def _causes(rules: Iterable[RuleFired]) -> list[str]:
    """What the rules are about, each fact once: a rule names it first, and then what it compared it with."""
    return list(dict.fromkeys(name for rule in rules for name in islice(rule.facts, 1)))


# --- rendering -------------------------------------------------------------------------------------------

_EXAMPLES_KEPT = 512
_EXAMPLES: dict[tuple[int, AnswerForm, Stage], tuple[StagePrompt, list[Message]]] = {}


def render(variant: PromptVariant, stage: Stage, spec: PipelineSpec, label: Label | None) -> list[Message]:
    """The messages for one stage of one pipeline. Raises BadInput when the template asks for what is not there."""
    try:
        return list(_messages(variant, stage, spec, label))
    except (TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise BadInput(f"prompt {shorten(variant.name, 80)}: stage {stage}: {shorten(str(error))}") from None


def _messages(variant: PromptVariant, stage: Stage, spec: PipelineSpec, label: Label | None) -> Iterator[Message]:
    prompt, values = variant.stages[stage], _values(stage, spec, label)
    system = variant.system if prompt.system is None else _template(prompt.system).render(values)
    yield {"role": "system", "content": (system or "").strip()}
    yield from map(dict, _examples(variant.form, stage, prompt))
    yield {"role": "user", "content": _template(prompt.user).render(values).strip()}


def _examples(form: AnswerForm, stage: Stage, prompt: StagePrompt) -> list[Message]:
    """The worked examples, rendered once: each takes as long as the question itself."""
    # By identity, since a prompt is costly to hash. A kept one is held, so that no other gets its id.
    key = (id(prompt), form, stage)
    found = _EXAMPLES.get(key)
    if found is None:
        if len(_EXAMPLES) >= _EXAMPLES_KEPT:
            _EXAMPLES.clear()
        found = _EXAMPLES[key] = (prompt, list(_example_messages(form, stage, prompt)))
    return found[1]


def _example_messages(form: AnswerForm, stage: Stage, prompt: StagePrompt) -> Iterator[Message]:
    ask = _template(prompt.user)
    for example in prompt.examples:
        asked = ask.render(_values(stage, example.pipeline, example.label))
        yield {"role": "user", "content": asked.strip()}
        yield {"role": "assistant", "content": _written(form, stage, example.answer)}


def _values(stage: Stage, spec: PipelineSpec, label: Label | None) -> dict[str, Any]:
    """What a template may use; see StagePrompt."""
    facts = orjson.dumps(facts_for(stage, spec), option=orjson.OPT_INDENT_2).decode().replace("<", "\\u003c")
    deciding = _deciding(label)
    return {
        "stage": stage.value,
        "facts": f"<facts>\n{facts}\n</facts>",
        "label": label,
        "because": "; ".join(rule.reason for rule in label.rules) if label else "",
        "rules": [rule.rule for rule in deciding],
        "causes": _causes(deciding),
    }


@lru_cache(maxsize=512)
def _written(form: AnswerForm, stage: Stage, answer: Recommendation) -> str:
    """An answer as the model has to write it. Raises pydantic's ValidationError when it does not fit the form."""
    return answer_model(form, stage).model_validate(answer.model_dump(exclude_none=True)).model_dump_json()


def chat_body(
    variant: PromptVariant, stage: Stage, spec: PipelineSpec, label: Label | None, model: str
) -> dict[str, Any]:
    """The whole JSON body of a chat completion for this stage, constrained to the stage's schema unless told not to.

    Agents, evaluation and load tests all send this, so that what is measured is what is used.
    """
    body = {"model": model, "messages": render(variant, stage, spec, label), **variant.sampling.model_dump()}
    return body | {"response_format": _response_format(variant.form, stage)} if variant.constrained else body


@cache
def _response_format(form: AnswerForm, stage: Stage) -> dict[str, Any]:
    schema = {"name": f"{stage}_recommendation", "schema": answer_schema(form, stage), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


@lru_cache(maxsize=512)
def _template(source: str) -> Template:
    """A compiled template: compiling costs a hundred times what rendering does."""
    template = _sandbox().from_string(source)
    # It comes as a ChainMap, and is copied by each rendering: that takes a third of the rendering's time.
    template.globals = dict(template.globals)
    return template


@cache
def _sandbox() -> SandboxedEnvironment:
    return SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
