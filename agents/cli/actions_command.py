"""`python -m agents actions`: what each specialist may decide, and what the rules permit for a file's pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.facts.pipeline_files import InvalidPipeline, ReadPipeline, read_pipelines
from agents.labels.policy import DEFAULT_POLICY, Policy, load_policy
from agents.specialists.registry import add_actions, labels_for, specialist_of, specialists
from agents.specialists.rules import permitted, rules_decision, why_not
from agents.specialists.specialist import Specialist
from common import console
from common.console import BadInput, ExitCode, say

Document = dict[str, Any]


def actions(
    stage: Annotated[str | None, typer.Option(help="Only this specialist; else all.")] = None,
    on: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is permitted for its pipelines; no endpoint needed.")
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Option("--actions", metavar="FILE", help="Further actions, as `run --actions` takes.")
    ] = None,
    policy: Annotated[str, typer.Option(help="Policy that gives the labels, or a YAML file.")] = DEFAULT_POLICY,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List the catalogues of actions, or what of them the rules permit on a file. Exit 2 when a pipeline was refused.

    Example: python -m agents actions --stage quality --on examples/pipelines.yaml
    """
    for path in more or []:
        add_actions(path)
    wanted = (specialist_of(stage),) if stage else specialists()
    if on is None:
        _print_json([_catalogue(one) for one in wanted]) if as_json else _print_catalogues(wanted)
        return
    rules = load_policy(policy)
    found = [_permitted(entry, rules, wanted) for entry in read_pipelines([on])]
    _print_json(found) if as_json else _print_permitted(found)
    if any("error" in one for one in found):
        raise typer.Exit(ExitCode.BAD_INPUT)


def _catalogue(specialist: Specialist) -> Document:
    choice = specialist.choice
    return {
        "specialist": specialist.name,
        "choice": choice.name,
        "options": [option.model_dump() for option in choice.options],
        "actions": [action.model_dump(mode="json") for action in specialist.catalogue],
        "predicates": {name: (one.__doc__ or "").strip() for name, one in specialist.predicates.items()},
    }


def _print_catalogues(wanted: tuple[Specialist, ...]) -> None:
    for specialist in wanted:
        choice = specialist.choice
        say(f"\n{specialist.name}: {choice.name} is {', '.join(choice.values)}")
        console.table(
            f"{len(specialist.catalogue)} actions, in the order in which the rules prefer them",
            ["id", "what to do", "right when", "wrong when", "when", "undone", "spends"],
            [
                [
                    action.id,
                    action.do,
                    ", ".join(action.right_when),
                    ", ".join(action.wrong_when),
                    action.when,
                    "yes" if action.can_be_undone else "NO",
                    action.spends,
                ]
                for action in specialist.catalogue
            ],
        )
    say("what each predicate means: --json")


def _permitted(entry: ReadPipeline | InvalidPipeline, policy: Policy, wanted: tuple[Specialist, ...]) -> Document:
    if isinstance(entry, InvalidPipeline):
        return {"pipeline_id": entry.pipeline_id, "where": entry.where, "error": entry.error}
    head: Document = {"pipeline_id": entry.spec.id, "where": entry.where}
    try:
        labels = labels_for(entry.spec, policy)
    except BadInput as error:
        return {**head, "error": f"{entry.where}: {error}"}
    found = {}
    for specialist in wanted:
        label = labels[specialist.name]
        may = permitted(specialist, entry.spec, label)
        found[specialist.name] = {
            "label": label.value if label else None,
            "choices": list(may.choices),
            "ruled_out": dict(specialist.choice.ruled_out(entry.spec, label)),
            "permitted": list(may.actions),
            "wrong": {
                one.id: why for one in specialist.catalogue if (why := why_not(specialist, one, entry.spec, label))
            },
            "rules": rules_decision(specialist, entry.spec, label).model_dump(mode="json"),
        }
    return {**head, "stages": found}


def _print_permitted(found: list[Document]) -> None:
    for one in found:
        say(f"\n{one['pipeline_id'] or '(no id)'}")
        if "error" in one:
            say(f"  refused: {one['error']}")
        for stage, told in one.get("stages", {}).items():
            say(f"  {stage}" + (f" ({told['label']})" if told["label"] else ""))
            say(f"    permitted: {', '.join(told['choices'])}; {', '.join(told['permitted'])}")
            for value, why in told["ruled_out"].items():
                say(f"    not {value}: {why}")
            for action, why in told["wrong"].items():
                say(f"    not {action}: {', '.join(why)}")
            rules = told["rules"]
            say(f"    the rules: {rules['choice']['id']}; {', '.join(each['id'] for each in rules['actions'])}")


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))
