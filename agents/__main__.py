"""`python -m agents`: recommendations for data pipelines, what policies and prompts there are, and approvals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from agents.asking.client import ClientKind
from agents.asking.prompt_check import check_renders
from agents.asking.variant import DEFAULT_PROMPT, load_prompt
from agents.cli.approvals_command import approvals
from agents.cli.open_files import allow_connections
from agents.cli.policies_command import policies
from agents.cli.prompts_command import prompts
from agents.facts.pipeline_files import Entry, PipelineFiles
from agents.guardrails import GuardrailMode
from agents.labels.policy import DEFAULT_POLICY, load_policy, with_settings
from agents.reports.approvals import TraceMode
from agents.reports.batch import SMALL_RUN, Outcome, Setup, ask_all
from agents.reports.orchestrator import summary
from agents.reports.rows import RowFile, Unfinished
from agents.reports.tally import Tally
from agents.schema import PipelineReport, Stage, StageReport
from common import console
from common.console import BadInput, CannotJudge, ExitCode, one_line, say
from serving.endpoint import connect

app = console.command_group(__doc__ or "")
app.command()(policies)
app.command()(prompts)
app.add_typer(approvals, name="approvals")


class ClientChoice(StrEnum):
    """Which client asks; auto takes the openai SDK for a few pipelines and the lean one for many."""

    AUTO = "auto"
    OPENAI = "openai"
    LEAN = "lean"


@app.command()
def run(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pipelines: .yaml, .json or .jsonl.")],
    prompt: Annotated[str, typer.Option(help="Prompt variant, or a YAML file with one.")] = DEFAULT_PROMPT,
    policy: Annotated[str, typer.Option(help="Policy, or a YAML file with one.")] = DEFAULT_POLICY,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the policy: priority.cpu.high=75.")
    ] = None,
    guardrails: Annotated[
        GuardrailMode, typer.Option(help="What to do with advice that contradicts the facts.")
    ] = GuardrailMode.ENFORCE,
    deadline_ms: Annotated[
        float | None, typer.Option(min=1, help="What the model has not answered by then comes from the rules.")
    ] = None,
    trace: Annotated[
        TraceMode, typer.Option(help="Pipelines written to MLflow; auto: in long runs what failed or needs a person.")
    ] = TraceMode.AUTO,
    base_url: Annotated[str | None, typer.Option(help="Endpoint; else OPENAI_BASE_URL, else the started one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; else the first one served.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write one row per pipeline to this .jsonl file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out: ask what has no answer yet.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Pipelines at a time, three requests each.")] = 16,
    client: Annotated[ClientChoice, typer.Option(help="Which client asks.")] = ClientChoice.AUTO,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Give up on a try after this long.")] = 120.0,
    max_retries: Annotated[int, typer.Option(min=0, max=20, help="Tries after the first: 429, 5xx, lost.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Recommend for every pipeline of the files. Exit 2 when a pipeline was refused, 3 when an agent got no answer.

    A .jsonl file may be of any length: its pipelines are read, asked and written one by one. (--json holds all reports
    in memory; for long files use --out.)

    Example: python -m agents run examples/pipelines.yaml --json
    """
    if resume and out is None:
        raise BadInput("--resume: needs --out FILE.jsonl, the file to go on with")
    allow_connections(concurrency * len(Stage))
    variant, rules = load_prompt(prompt), with_settings(load_policy(policy), settings or [])
    check_renders(variant)
    entries = PipelineFiles(files)
    small = entries.count is not None and entries.count <= SMALL_RUN
    setup = Setup(
        endpoint=connect(base_url, model),
        variant=variant,
        policy=rules,
        guardrails=guardrails,
        deadline_ms=deadline_ms,
        timeout_s=timeout_s,
        max_retries=max_retries,
        concurrency=concurrency,
        client=_client(client, small=small),
        trace=trace,
    )
    work = _resumed(out, setup, entries) if resume and out else _Work(entries, entries.count, _new_rows(out, setup))
    shown = _Shown(SMALL_RUN if not as_json else None)
    outcome = _ask(setup, work, shown, small=small)
    if as_json:
        print(json.dumps(_document(setup, outcome, shown.reports, work.kept), indent=2, ensure_ascii=False))
    else:
        _print(setup, outcome.tally, shown)
    _finish(outcome, work, out)


@dataclass(frozen=True)
class _Work:
    """What is to do, and where its rows go."""

    entries: Iterable[Entry]
    count: int | None
    rows: RowFile | None
    kept: Mapping[str, int] = field(default_factory=dict)
    """Rows of an earlier run that stay, by status."""
    earlier_trace: Callable[[Entry], str | None] = lambda _entry: None


def _new_rows(out: Path | None, setup: Setup) -> RowFile | None:
    return RowFile.new(out, setup.condition()) if out else None


def _resumed(out: Path, setup: Setup, entries: PipelineFiles) -> _Work:
    left = Unfinished(out, setup.condition(), entries, traces_wanted=setup.trace is not TraceMode.NONE)
    say(f"{left.kept.total()} of {entries.count} pipelines have their answer in {out}; {left.count} are asked now")
    return _Work(left, left.count, left.rows, left.kept, left.earlier_trace)


def _ask(setup: Setup, work: _Work, shown: _Shown, *, small: bool) -> Outcome:
    rows = work.rows
    try:
        with console.progress("pipelines") as bar:
            task = bar.add_task(f"asking {setup.endpoint.model}", total=work.count)

            def ended(number: int, entry: Entry, report: PipelineReport) -> None:
                if rows:
                    rows.write(entry, report)
                shown.add(number, report)
                bar.advance(task)

            asking = ask_all(setup, work.entries, ended, small=small, earlier_trace=work.earlier_trace)
            return uvloop.run(asking)
    except KeyboardInterrupt:
        hint = f"; the same command with --resume goes on with {rows.path}" if rows else "; nothing was kept: no --out"
        say(f"stopped after {shown.ended} pipelines{hint}")
        raise
    finally:
        if rows:
            rows.close()


def _client(choice: ClientChoice, *, small: bool) -> ClientKind:
    if choice is ClientChoice.AUTO:
        return "openai" if small else "lean"
    return "openai" if choice is ClientChoice.OPENAI else "lean"


class _Shown:
    """The reports that are shown one by one, in their entries' order: all, or the first few of a run of any length."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.ended = 0
        self._reports: list[tuple[int, PipelineReport]] = []

    def add(self, number: int, report: PipelineReport) -> None:
        """Note that an entry has its report."""
        self.ended += 1
        if self.most is None or len(self._reports) < self.most:
            self._reports.append((number, report))

    @property
    def reports(self) -> list[PipelineReport]:
        """Those to show."""
        return [report for _, report in sorted(self._reports, key=lambda one: one[0])]

    @property
    def complete(self) -> bool:
        """Whether they are all there are."""
        return self.ended == len(self._reports)


def _finish(outcome: Outcome, work: _Work, out: Path | None) -> None:
    tally = outcome.tally
    if work.count is not None and tally.pipelines != work.count:
        raise CannotJudge(
            f"{work.count} pipelines were to be asked, {tally.pipelines} have a row: read {out or 'the output'}"
        )
    if outcome.failures_untraced:
        told = f"their errors are in {out}" if out else "with --out their errors are kept"
        say(f"{outcome.failures_untraced} more failed pipelines have no trace; {told}")
    if outcome.trace_problem:
        raise CannotJudge(f"traces are missing, and with them what a person could decide on: {outcome.trace_problem}")
    refused = ExitCode.BAD_INPUT if work.kept.get("invalid") else None
    raise typer.Exit(refused or tally.exit_code())


def _document(setup: Setup, outcome: Outcome, reports: list[PipelineReport], kept: Mapping[str, int]) -> dict[str, Any]:
    """pipelines_out counts what an earlier run left as well; counts and pipelines are those asked now."""
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


def _print(setup: Setup, tally: Tally, shown: _Shown) -> None:
    if shown.complete:
        for report in shown.reports:
            _print_report(report)
        _print_summary(setup, shown.reports)
    else:
        console.table(
            _title(setup, tally.pipelines),
            ["what", "how many"],
            [(name.replace("_", " "), _counts(value)) for name, value in tally.document().items()],
        )
    if tally.need_approval and setup.trace is not TraceMode.NONE:
        say(f"{tally.need_approval} wait for a person: python -m agents approvals list")
    elif tally.need_approval:
        say(f"{tally.need_approval} need a person, who cannot decide on them here: --trace none keeps no trace")


def _counts(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in sorted(value.items(), key=lambda one: -one[1])) or "none"
    return str(value)


def _title(setup: Setup, count: int) -> str:
    made_by = "SIMULATOR, answers are made up" if setup.endpoint.simulated else setup.endpoint.model
    variant = setup.variant
    return f"{count} pipelines ({made_by}; prompt {variant.name} v{variant.version}; policy {setup.policy.name})"


def _print_report(report: PipelineReport) -> None:
    say(f"\n{one_line(report.pipeline_id)}  ({report.status})")
    if not report.stages and report.error:
        say(f"  refused: {one_line(report.error)}")
    for label in (report.severity, report.priority):
        if label:
            say(f"  {label.kind} {label.value}: {'; '.join(rule.reason for rule in label.rules)}")
    for stage in report.stages:
        _print_stage(stage)
    if report.requires_approval:
        where = f" (trace {report.trace_id})" if report.trace_id else ""
        say(f"  a person has to decide{where}: {one_line('; '.join(report.approval_reasons))}")


def _print_stage(stage: StageReport) -> None:
    say(f"  {stage.stage} ({_cost(stage)})")
    advice = stage.recommendation
    if stage.error:
        say(f"    failed: {one_line(stage.error)}")
    if advice is None:
        return
    if stage.fallback_because:
        say(f"    from the rules: {_why_from_rules(stage)}")
    mode = f"[{advice.mode}] " if advice.mode else ""
    say(f"    {mode}{one_line(advice.summary)}")
    for action in advice.actions:
        say(f"    - {one_line(action)}")
    for violation in stage.violations:
        say(f"    breaks {violation.rule}: {one_line(violation.told)}")


def _cost(stage: StageReport) -> str:
    if stage.latency_s is None:
        return "no answer"
    tokens = "unknown" if stage.output_tokens is None else stage.output_tokens
    return f"{tokens} tokens, {stage.latency_s:.1f} s"


def _why_from_rules(stage: StageReport) -> str:
    if stage.fallback_because == "deadline":
        return "the model did not give a usable answer in time"
    if stage.fallback_because == "endpoint":
        return "the endpoint gave no answer"
    return _broken(stage)


def _broken(stage: StageReport) -> str:
    rules = sorted({violation.rule for rejected in stage.rejected for violation in rejected.violations})
    return f"the model's answers broke {', '.join(rules)}"


def _print_summary(setup: Setup, reports: list[PipelineReport]) -> None:
    frame = summary(reports)
    frame["Start Time"] = [report.start_time.astimezone().strftime("%H:%M:%S") for report in reports]
    console.table(
        _title(setup, len(reports)),
        list(frame.columns),
        frame.itertuples(index=False),
        right=["Stages Completed", "From Rules"],
    )


if __name__ == "__main__":
    console.run(app)
