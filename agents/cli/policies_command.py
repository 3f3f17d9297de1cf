"""`python -m agents policies`: the rules behind the labels, and why a pipeline has the labels it has."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.facts.pipeline_files import InvalidPipeline, ReadPipeline, read_pipelines
from agents.facts.spec import PipelineSpec
from agents.labels.label import Label, RuleFired
from agents.labels.labelling import Finding, NotJudged, shown
from agents.labels.policy import (
    BLOCKS,
    DEFAULT_POLICY,
    Policy,
    load_policy,
    policy_for,
    policy_names,
    with_settings,
)
from agents.specialists.registry import labels_for, specialists
from common import console
from common.console import BadInput, ExitCode, say


@dataclass(frozen=True)
class Explained:
    """A label with everything its rules said, those that did not decide it too."""

    label: Label
    findings: tuple[Finding, ...]


def policies(
    explain: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Say why its pipelines get their labels.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="One policy only, or a YAML file with one; the default for --explain.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a number; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List the policies and their numbers, or explain the labels of a file. Exit 2 when a pipeline was refused.

    Example: python -m agents policies --explain examples/pipelines.yaml --set priority.cpu.high=75
    """
    chosen = with_settings(load_policy(policy or DEFAULT_POLICY), settings or [])
    if explain:
        raise typer.Exit(_explain(explain, chosen, as_json))
    _list([chosen] if policy or settings else [load_policy(name) for name in policy_names()], as_json)


# --- listing ---------------------------------------------------------------------------------------------


def _list(listed: list[Policy], as_json: bool) -> None:
    if as_json:
        print(json.dumps([one.model_dump() for one in listed], indent=2, ensure_ascii=False))
        return
    for one in listed:
        say(f"{_marked(one.name)}: {one.description}")
    dumps = [one.model_dump() for one in listed]
    rows = [[key, *(_numbers(dump, key) for dump in dumps)] for key in BLOCKS]
    # A rule that is made of blocks only has no row of its own: theirs follow.
    told = [row for row in rows if any(cell not in {"", "off"} for cell in row[1:])]
    console.table("policies", ["rule", *(_marked(one.name) for one in listed)], told)


def _numbers(dump: dict[str, Any], key: str) -> str:
    """The numbers that stand right below a rule's key; ``off`` where the policy leaves the rule out."""
    block: Any = dump
    for part in key.split("."):
        block = block.get(part) if block else None
    if block is None:
        return "off"
    numbers = {name: value for name, value in block.items() if f"{key}.{name}" not in BLOCKS}
    return ", ".join(f"{name} {'off' if value is None else shown(value)}" for name, value in numbers.items())


def _fact(value: float | str) -> str:
    return value if isinstance(value, str) else shown(value)


def _marked(name: str) -> str:
    return f"{name} (default)" if name == DEFAULT_POLICY else name


# --- explaining ------------------------------------------------------------------------------------------


def explained(spec: PipelineSpec, policy: Policy) -> tuple[Explained, ...]:
    """Each label of one pipeline with all that its rules said. Raises BadInput for the pipeline's own policy."""
    own = policy_for(spec, policy)
    given = labels_for(spec, policy)
    return tuple(
        Explained(label, tuple(one.label.findings(spec, own if label.policy == own.name else policy)))
        for one in specialists()
        if one.label and (label := given[one.name])
    )


def _explain(path: Path, policy: Policy, as_json: bool) -> ExitCode:
    entries = [_checked(entry, policy) for entry in read_pipelines([path])]
    if as_json:
        print(json.dumps(_document(entries, policy), indent=2, ensure_ascii=False))
    else:
        for entry in entries:
            _print_entry(entry)
    refused = any(isinstance(entry, InvalidPipeline) for entry in entries)
    return ExitCode.BAD_INPUT if refused else ExitCode.DONE


_Checked = tuple[ReadPipeline, tuple[Explained, ...]] | InvalidPipeline


def _checked(entry: ReadPipeline | InvalidPipeline, policy: Policy) -> _Checked:
    """An entry with its labels; one whose own policy is wrong is refused like any other."""
    if isinstance(entry, InvalidPipeline):
        return entry
    try:
        return entry, explained(entry.spec, policy)
    except BadInput as error:
        return InvalidPipeline(entry.spec.id, entry.where, f"{entry.where}: {error}")


def _document(entries: Iterable[_Checked], policy: Policy) -> dict[str, Any]:
    entries = list(entries)
    return {
        "policy": policy.name,
        "pipelines": [
            {
                "pipeline_id": entry[0].spec.id,
                "where": entry[0].where,
                **{one.label.kind: _explanation(one) for one in entry[1]},
            }
            for entry in entries
            if not isinstance(entry, InvalidPipeline)
        ],
        "refused": [
            {"pipeline_id": entry.pipeline_id, "where": entry.where, "error": entry.error}
            for entry in entries
            if isinstance(entry, InvalidPipeline)
        ],
    }


def _explanation(one: Explained) -> dict[str, Any]:
    return {
        "label": one.label.model_dump(),
        "fired": [rule.model_dump() for rule in one.findings if isinstance(rule, RuleFired)],
        "not_judged": [
            {"rule": rule.rule, "missing": list(rule.missing)} for rule in one.findings if isinstance(rule, NotJudged)
        ],
    }


def _print_entry(entry: _Checked) -> None:
    if isinstance(entry, InvalidPipeline):
        say(f"\n{entry.pipeline_id or '(no id)'}\n  refused: {entry.error}")
        return
    read, labels = entry
    policies = dict.fromkeys(one.label.policy for one in labels)
    say(f"\n{read.spec.id}  (policy {', '.join(policies)})")
    for one in labels:
        _print_label(one)


def _print_label(one: Explained) -> None:
    at_least = f", at least {one.label.at_least}" if one.label.at_least else ""
    say(f"  {one.label.kind} {one.label.value}{at_least}")
    # A label of which nothing spoke has a rule of its own that says so.
    fired = [rule for rule in one.findings if isinstance(rule, RuleFired)] or one.label.rules
    for rule in fired:
        facts = ", ".join(f"{name} = {_fact(value)}" for name, value in rule.facts.items())
        say(f"    {rule.level:<8}  {rule.rule}: {rule.reason}{f'  [{facts}]' if facts else ''}")
    unjudged = [f"{rule.rule} ({', '.join(rule.missing)})" for rule in one.findings if isinstance(rule, NotJudged)]
    if unjudged:
        say(f"    nothing to judge, for lack of: {'; '.join(unjudged)}")
