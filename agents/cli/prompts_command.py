"""`python -m agents prompts`: which prompt variants there are, and exactly what one of them sends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.answers import answer_schema
from agents.asking.prompt_check import check_renders
from agents.asking.requests import labels_for
from agents.asking.variant import DEFAULT_PROMPT, PromptVariant, load_prompt, prompt_names, render
from agents.facts.pipeline_files import InvalidPipeline, read_pipelines
from agents.facts.spec import PipelineSpec
from agents.labels.policy import DEFAULT_POLICY, Policy, load_policy
from agents.schema import Stage
from common import console
from common.console import BadInput, ExitCode, say

Document = dict[str, Any]


def prompts(
    show: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Print this variant's templates.")] = None,
    on: Annotated[Path | None, typer.Option(metavar="FILE", help="Render --show on the pipelines of FILE.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="Only this stage of --show; else all three.")] = None,
    policy: Annotated[str, typer.Option(help="Policy that gives the labels, or a YAML file.")] = DEFAULT_POLICY,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List the prompt variants, or show what one of them sends. Exit 2 when a pipeline was refused.

    Example: python -m agents prompts --show grounded --on examples/pipelines.yaml
    """
    if show is None:
        if on or stage:
            raise BadInput(f"{'--on' if on else '--stage'}: say which prompt with --show ({', '.join(prompt_names())})")
        _list(as_json)
        return
    variant, stages = load_prompt(show), [stage] if stage else list(Stage)
    check_renders(variant)
    if on is None:
        document = {**variant.model_dump(mode="json", exclude_none=True), "answers": _answers(variant, stages)}
        document["stages"] = {one.value: document["stages"][one.value] for one in stages}
        _print_json(document) if as_json else _print_templates(variant, stages)
        return
    document = rendered(variant, load_policy(policy), on, stages)
    _print_json(document) if as_json else _print_rendered(document)
    if any("error" in pipeline for pipeline in document["pipelines"]):
        raise typer.Exit(ExitCode.BAD_INPUT)


def rendered(variant: PromptVariant, rules: Policy, path: Path, stages: Sequence[Stage]) -> Document:
    """What a variant sends for every pipeline of a file; a pipeline that is refused keeps its place with its error.

    Raises BadInput when the file as a whole cannot be read.
    """
    return {
        "prompt": f"{variant.name} v{variant.version}",
        "form": variant.form.value,
        "policy": rules.name,
        "sampling": variant.sampling.model_dump(),
        "answers": _answers(variant, stages),
        "pipelines": [
            {"pipeline_id": entry.pipeline_id, "where": entry.where, "error": entry.error}
            if isinstance(entry, InvalidPipeline)
            else {"pipeline_id": entry.spec.id, "where": entry.where, **_asked(variant, rules, entry.spec, stages)}
            for entry in read_pipelines([path])
        ],
    }


def _asked(variant: PromptVariant, rules: Policy, spec: PipelineSpec, stages: Sequence[Stage]) -> Document:
    try:
        labels = labels_for(spec, rules)
    except BadInput as error:  # the pipeline's own policy is not usable: the others are shown all the same
        return {"error": str(error)}
    return {
        "stages": {
            stage.value: {
                "label": label.value if (label := labels[stage]) else None,
                "messages": render(variant, stage, spec, label),
            }
            for stage in stages
        }
    }


# --- what an answer may hold -----------------------------------------------------------------------------


def _answers(variant: PromptVariant, stages: Sequence[Stage]) -> Document:
    return {stage.value: answer_schema(variant.form, stage) for stage in stages}


def bounds(schema: Document) -> dict[str, str]:
    """The fields of an answer's JSON schema, in the order they are written in, each with its bounds in words."""
    return {name: _bound(field, schema.get("$defs", {})) for name, field in schema["properties"].items()}


def _bound(field: Document, definitions: Document) -> str:
    if "$ref" in field:
        return _bound(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "enum" in field:
        return f"one of {', '.join(field['enum'])}"
    if field["type"] == "array":
        return f"{_between(field, 'Items')} of {_bound(field['items'], definitions)}"
    return f"{_between(field, 'Length')} characters"


def _between(field: Document, what: str) -> str:
    least, most = field[f"min{what}"], field[f"max{what}"]
    return str(least) if least == most else f"{least} to {most}"


# --- for people ------------------------------------------------------------------------------------------


def _list(as_json: bool) -> None:
    loaded = [load_prompt(name) for name in prompt_names()]
    if as_json:
        _print_json([one.model_dump(mode="json", exclude_none=True) for one in loaded])
        return
    console.table(
        "prompts",
        ["name", "version", "form", "what it does", "sampling"],
        [
            [
                f"{one.name} (default)" if one.name == DEFAULT_PROMPT else one.name,
                one.version,
                one.form,
                one.description,
                _sampling(one.sampling.model_dump()),
            ]
            for one in loaded
        ],
        right=["version"],
    )


def _print_templates(variant: PromptVariant, stages: Sequence[Stage]) -> None:
    say(f"{variant.name} v{variant.version}: {variant.description}")
    if variant.system is not None:
        _print_message("system, all stages", variant.system)
    for stage in stages:
        prompt = variant.stages[stage]
        say(f"\n{stage}")
        if prompt.system is not None:
            _print_message("system", prompt.system)
        if prompt.examples:
            say(f"  worked examples: {len(prompt.examples)}, shown in full by --on FILE")
        _print_message("user", prompt.user)
        _print_bounds(answer_schema(variant.form, stage))
    say(f"\nsampling: {_sampling(variant.sampling.model_dump())}")


def _print_rendered(document: Document) -> None:
    for pipeline in document["pipelines"]:
        say(f"\n{pipeline['pipeline_id'] or '(no id)'}  ({pipeline['where']})")
        if "error" in pipeline:
            say(f"  refused: {pipeline['error']}")
        for stage, asked in pipeline.get("stages", {}).items():
            say(f"\n{stage}" + (f" ({asked['label']})" if asked["label"] else ""))
            for message in asked["messages"]:
                _print_message(message["role"], message["content"])
            _print_bounds(document["answers"][stage])
    say(f"\nprompt {document['prompt']}; policy {document['policy']}; sampling: {_sampling(document['sampling'])}")


def _print_message(role: str, text: str) -> None:
    lines = "\n".join(f"    {line}" for line in text.strip().split("\n"))
    say(f"  [{role}]\n{lines}")


def _print_bounds(schema: Document) -> None:
    say("  answer: " + "; ".join(f"{name}: {bound}" for name, bound in bounds(schema).items()))


def _sampling(sampling: Document) -> str:
    return ", ".join(f"{key} {value}" for key, value in sampling.items())


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))
