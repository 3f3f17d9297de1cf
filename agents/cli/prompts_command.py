"""`python -m agents prompts`: which ways to ask there are, and exactly what one of them sends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.asking.prompt_check import FULL, check_renders
from agents.asking.question import question_for
from agents.asking.requests import chat_bodies
from agents.asking.variant import DEFAULT_PROMPT, PromptVariant, load_prompt, prompt_names
from agents.facts.pipeline_files import InvalidPipeline, ReadPipeline, read_pipelines
from agents.facts.spec import PipelineSpec
from agents.labels.policy import DEFAULT_POLICY, Policy, load_policy
from agents.specialists.registry import labels_for, specialist_of, stages
from common import console
from common.console import BadInput, ExitCode, say

Document = dict[str, Any]


def prompts(
    show: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Print what this variant sends.")] = None,
    on: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For the pipelines of FILE; else for a made-up one.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Only this stage of --show; else all.")] = None,
    policy: Annotated[str, typer.Option(help="Policy that gives the labels, or a YAML file.")] = DEFAULT_POLICY,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List the prompt variants, or show what one of them sends. Exit 2 when a pipeline was refused.

    Example: python -m agents prompts --show write --on examples/pipelines.yaml
    """
    if show is None:
        if on or stage:
            raise BadInput(f"{'--on' if on else '--stage'}: say which prompt with --show ({', '.join(prompt_names())})")
        _list(as_json)
        return
    variant = load_prompt(show)
    check_renders(variant)
    document = rendered(variant, load_policy(policy), on, (specialist_of(stage).name,) if stage else stages())
    _print_json(document) if as_json else _print_rendered(variant, document)
    if any("error" in pipeline for pipeline in document["pipelines"]):
        raise typer.Exit(ExitCode.BAD_INPUT)


def rendered(variant: PromptVariant, rules: Policy, path: Path | None, wanted: Sequence[str]) -> Document:
    """What a variant sends for every pipeline of a file; a pipeline that is refused keeps its place with its error.

    path: None for a made-up pipeline of which everything is known. Raises BadInput when the file cannot be read.
    """
    entries = read_pipelines([path]) if path else [ReadPipeline(FULL, "made up")]
    return {
        "prompt": f"{variant.name} v{variant.version}",
        "variant": variant.model_dump(mode="json", exclude_none=True),
        "policy": rules.name,
        "pipelines": [
            {"pipeline_id": entry.pipeline_id, "where": entry.where, "error": entry.error}
            if isinstance(entry, InvalidPipeline)
            else {"pipeline_id": entry.spec.id, "where": entry.where, **_asked(variant, rules, entry.spec, wanted)}
            for entry in entries
        ],
    }


def _asked(variant: PromptVariant, rules: Policy, spec: PipelineSpec, wanted: Sequence[str]) -> Document:
    try:
        labels = labels_for(spec, rules)
    except BadInput as error:  # the pipeline's own policy is not usable: the others are shown all the same
        return {"error": str(error)}
    return {"stages": {stage: _question(variant, stage, spec, labels[stage]) for stage in wanted}}


def _question(variant: PromptVariant, stage: str, spec: PipelineSpec, label: Any) -> Document:
    question = question_for(variant, stage, spec, label)
    return {
        "label": label.value if label else None,
        "choices": list(question.choices),
        "actions": list(question.actions),
        "facts": list(question.facts),
        "requests": list(chat_bodies(variant, question, "MODEL")),
    }


# --- for people ------------------------------------------------------------------------------------------


def _list(as_json: bool) -> None:
    loaded = [load_prompt(name) for name in prompt_names()]
    if as_json:
        _print_json([one.model_dump(mode="json", exclude_none=True) for one in loaded])
        return
    console.table(
        "prompts",
        ["name", "version", "asks", "offers", "what it does"],
        [
            [
                f"{one.name} (default)" if one.name == DEFAULT_PROMPT else one.name,
                one.version,
                one.ask,
                one.offer,
                one.description,
            ]
            for one in loaded
        ],
        right=["version"],
    )


def _print_rendered(variant: PromptVariant, document: Document) -> None:
    say(f"{variant.name} v{variant.version}: {variant.description}")
    for pipeline in document["pipelines"]:
        say(f"\n{pipeline['pipeline_id'] or '(no id)'}  ({pipeline['where']})")
        if "error" in pipeline:
            say(f"  refused: {pipeline['error']}")
        for stage, asked in pipeline.get("stages", {}).items():
            _print_stage(stage, asked)
    say(f"\nprompt {document['prompt']}; policy {document['policy']}")


def _print_stage(stage: str, asked: Document) -> None:
    say(f"\n{stage}" + (f" ({asked['label']})" if asked["label"] else ""))
    for number, body in enumerate(asked["requests"], 1):
        if len(asked["requests"]) > 1:
            say(f"  request {number} of {len(asked['requests'])}")
        for message in body["messages"]:
            lines = "\n".join(f"    {line}" for line in str(message["content"]).strip().split("\n"))
            say(f"  [{message['role']}]\n{lines}")
        rest = {key: value for key, value in body.items() if key not in {"messages", "response_format", "model"}}
        say("  " + ", ".join(f"{key} {value}" for key, value in rest.items()))
    say(f"  offered: {', '.join(asked['choices'])}; {', '.join(asked['actions'])}")


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))
