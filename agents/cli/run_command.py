"""`python -m agents run`: decisions for pipelines, by a model or by the rules."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from pydantic import ValidationError

from agents.asking.endpoint.parameters import Parameters
from agents.asking.prompt_check import check_renders
from agents.asking.variant import DEFAULT_PROMPT, load_prompt
from agents.cli.open_files import allow_connections
from agents.cli.shown import Shown, print_run
from agents.facts.pipeline_files import Entry, PipelineFiles
from agents.labels.policy import DEFAULT_POLICY, load_policy, with_settings
from agents.reports.approvals import TraceMode
from agents.reports.batch import SMALL_RUN, Outcome, Setup, decide_all
from agents.reports.report import PipelineReport
from agents.reports.rows import RowFile, Unfinished
from agents.specialists.registry import add_actions, stages
from common import console
from common.console import BadInput, CannotJudge, ExitCode, say, shorten
from common.located import describe
from serving.endpoint import connect


class By(StrEnum):
    """Who decides."""

    MODEL = "model"
    RULES = "rules"


def run(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pipelines: .yaml, .json or .jsonl.")],
    by: Annotated[By, typer.Option(help="Who decides; the rules need no endpoint.")] = By.MODEL,
    prompt: Annotated[str, typer.Option(help="Prompt variant, or a YAML file with one.")] = DEFAULT_PROMPT,
    policy: Annotated[str, typer.Option(help="Policy, or a YAML file with one.")] = DEFAULT_POLICY,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the policy: priority.cpu.high=75.")
    ] = None,
    actions: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Further actions for a specialist's catalogue.")
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(min=1, help="What the model has not answered by then the rules decide.")
    ] = None,
    trace: Annotated[
        TraceMode, typer.Option(help="Pipelines written to MLflow; auto: in long runs what failed or needs a person.")
    ] = TraceMode.AUTO,
    base_url: Annotated[str | None, typer.Option(help="Endpoint; else OPENAI_BASE_URL, else the started one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; else the first one served.")] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Parameter the endpoint does not take: seed.")
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="max_tokens=max_completion_tokens.")
    ] = None,
    add: Annotated[list[str] | None, typer.Option(metavar="NAME=JSON", help="Parameter to send as well.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write one row per pipeline to this .jsonl file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out: ask what has no answer yet.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Pipelines at a time.")] = 16,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Give up on a try after this long.")] = 120.0,
    max_retries: Annotated[int, typer.Option(min=0, max=20, help="Tries after the first: 429, 5xx, lost.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Decide for every pipeline of the files. Exit 2 when a pipeline was refused, 3 when an agent got no answer.

    A .jsonl file may be of any length: its pipelines are read, decided and written one by one. (--json holds all
    reports in memory; for long files use --out.)

    Example: python -m agents run examples/pipelines.yaml --by rules
    """
    if resume and out is None:
        raise BadInput("--resume: needs --out FILE.jsonl, the file to go on with")
    for path in actions or []:
        add_actions(path)
    allow_connections(concurrency * len(stages()))
    variant = load_prompt(prompt).with_parameters(_parameters(leave_out, rename, add))
    rules = with_settings(load_policy(policy), settings or [])
    check_renders(variant)
    entries = PipelineFiles(files)
    small = entries.count is not None and entries.count <= SMALL_RUN
    setup = Setup(
        endpoint=connect(base_url, model) if by is By.MODEL else None,
        variant=variant,
        policy=rules,
        deadline_ms=deadline_ms,
        timeout_s=timeout_s,
        max_retries=max_retries,
        concurrency=concurrency,
        trace=trace,
    )
    work = _resumed(out, setup, entries) if resume and out else _Work(entries, entries.count, _new_rows(out, setup))
    shown = Shown(SMALL_RUN if not as_json else None)
    outcome = _decide(setup, work, shown, small=small)
    if as_json:
        print(json.dumps(_document(setup, outcome, shown.reports, work.kept), indent=2, ensure_ascii=False))
    else:
        print_run(setup, outcome.tally, shown)
    _finish(outcome, work, out)


@dataclass(frozen=True)
class _Work:
    """What is to do, and where its rows go."""

    entries: Iterable[Entry]
    count: int | None
    rows: RowFile | None
    kept: Mapping[str, int] = field(default_factory=dict)
    """Rows of an earlier run that stay, by status."""


def _parameters(leave_out: list[str] | None, rename: list[str] | None, add: list[str] | None) -> Parameters:
    """The request's parameters as the command line changes them. Raises BadInput that names the option."""
    renamed = dict(_pair("--rename", one) for one in rename or [])
    added = {}
    for name, text in (_pair("--add", one) for one in add or []):
        try:
            added[name] = json.loads(text)
        except json.JSONDecodeError:
            raise BadInput(f"--add {name}: found {shorten(text, 60)!r}; allowed: a JSON value") from None
    try:
        return Parameters(rename=renamed, leave_out=tuple(leave_out or ()), add=added)
    except ValidationError as error:
        raise BadInput(describe(error, Parameters, "--leave-out, --rename, --add")) from None


def _pair(option: str, text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise BadInput(f"{option}: found {shorten(text, 60)!r}; allowed: NAME=VALUE")
    return name, value


def _new_rows(out: Path | None, setup: Setup) -> RowFile | None:
    return RowFile.new(out, setup.condition()) if out else None


def _resumed(out: Path, setup: Setup, entries: PipelineFiles) -> _Work:
    left = Unfinished(out, setup.condition(), entries, traces_wanted=setup.trace is not TraceMode.NONE)
    say(f"{left.kept.total()} of {entries.count} pipelines have their answer in {out}; {left.count} are asked now")
    return _Work(left, left.count, left.rows, left.kept)


def _decide(setup: Setup, work: _Work, shown: Shown, *, small: bool) -> Outcome:
    rows = work.rows
    try:
        with console.progress("pipelines") as bar:
            what = f"asking {setup.endpoint.model}" if setup.endpoint else "deciding by the rules"
            task = bar.add_task(what, total=work.count)

            def ended(number: int, entry: Entry, report: PipelineReport) -> None:
                if rows:
                    rows.write(entry, report)
                shown.add(number, report)
                bar.advance(task)

            return uvloop.run(decide_all(setup, work.entries, ended, small=small))
    except KeyboardInterrupt:
        hint = f"; the same command with --resume goes on with {rows.path}" if rows else "; nothing was kept: no --out"
        say(f"stopped after {shown.ended} pipelines{hint}")
        raise
    finally:
        if rows:
            rows.close()


def _finish(outcome: Outcome, work: _Work, out: Path | None) -> None:
    tally = outcome.tally
    if work.count is not None and tally.pipelines != work.count:
        raise CannotJudge(f"{work.count} pipelines came in, {tally.pipelines} have a row: read {out or 'the output'}")
    if outcome.failures_untraced:
        told = f"their errors are in {out}" if out else "with --out their errors are kept"
        say(f"{outcome.failures_untraced} more failed pipelines have no trace; {told}")
    if outcome.trace_problem:
        raise CannotJudge(f"traces are missing, and with them what a person could decide on: {outcome.trace_problem}")
    refused = ExitCode.BAD_INPUT if work.kept.get("invalid") else None
    raise typer.Exit(refused or tally.exit_code())


def _document(setup: Setup, outcome: Outcome, reports: list[PipelineReport], kept: Mapping[str, int]) -> dict[str, Any]:
    """pipelines_out counts what an earlier run left as well; counts and pipelines are those decided now."""
    every = Counter(outcome.tally.statuses) + Counter(kept)
    return {
        **setup.condition(),
        "pipelines_in": every.total(),
        "pipelines_kept": sum(kept.values()),
        "pipelines_out": dict(every),
        "counts": outcome.tally.document(),
        "pipelines": [
            {**report.model_dump(mode="json"), "stages_completed": report.stages_completed} for report in reports
        ],
    }
