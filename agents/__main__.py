"""`python -m agents`: recommendations for data pipelines, what policies and prompts there are, and approvals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

import console
from agents.approvals import TraceMode
from agents.approvals_command import approvals
from agents.batch import SMALL_RUN, Outcome, Setup, ask_all
from agents.client import ClientKind
from agents.files import Entry, PipelineFiles
from agents.guardrails import GuardrailMode
from agents.orchestrator import summary
from agents.policies_command import policies
from agents.policy import DEFAULT_POLICY, load_policy, with_settings
from agents.prompt import DEFAULT_PROMPT, load_prompt
from agents.prompt_check import check_renders
from agents.prompts_command import prompts
from agents.rows import RowFile, Unfinished
from agents.schema import PipelineReport, StageReport
from agents.tally import Tally
from console import BadInput, CannotJudge, say
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

    Files may be of any length: pipelines are read, asked and written one by one. (--json holds all reports in memory;
    for long files use --out.)

    Example: python -m agents run examples/pipelines.yaml --json
    """
    if resume and out is None:
        raise BadInput("--resume: needs --out FILE.jsonl, the file to go on with")
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
    left: Iterable[Entry] = entries
    count, kept = entries.count, 0
    if resume and out:
        left = unfinished = Unfinished(out, setup.condition(), entries)
        count, kept = unfinished.count, unfinished.kept
        say(f"{kept} of {entries.count} pipelines have their answer in {out}; {count} are asked now")
    sink = _open_sink(out, setup, resume=resume)
    shown = _Shown(SMALL_RUN if not as_json else None)
    outcome = _ask(setup, left, count, sink, shown, small=small)
    if as_json:
        print(json.dumps(_document(setup, outcome, shown.reports, kept), indent=2, ensure_ascii=False))
    else:
        _print(setup, outcome.tally, shown)
    _finish(outcome, count, out)


def _ask(
    setup: Setup, left: Iterable[Entry], count: int | None, sink: RowFile | None, shown: _Shown, *, small: bool
) -> Outcome:
    try:
        with console.progress("pipelines") as bar:
            task = bar.add_task(f"asking {setup.endpoint.model}", total=count)

            def ended(entry: Entry, report: PipelineReport) -> None:
                if sink:
                    sink.write(entry, report)
                shown.add(entry, report)
                bar.advance(task)

            return uvloop.run(ask_all(setup, shown.numbered(left), ended, small=small))
    except KeyboardInterrupt:
        hint = f"; the same command with --resume goes on with {sink.path}" if sink else "; nothing was kept: no --out"
        say(f"stopped after {shown.ended} pipelines{hint}")
        raise
    finally:
        if sink:
            sink.close()


def _client(choice: ClientChoice, *, small: bool) -> ClientKind:
    if choice is ClientChoice.AUTO:
        return "openai" if small else "lean"
    return "openai" if choice is ClientChoice.OPENAI else "lean"


def _open_sink(out: Path | None, setup: Setup, *, resume: bool) -> RowFile | None:
    """The file of rows; opened last, so that nothing is made or kept busy when there is nothing to write."""
    if out is None:
        return None
    return RowFile(out, setup.condition()) if resume else RowFile.new(out, setup.condition())


class _Shown:
    """The reports that are shown one by one, in their entries' order: all, or the first few of a run of any length."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.ended = 0
        self._numbers: dict[int, int] = {}
        self._reports: list[tuple[int, PipelineReport]] = []

    def numbered(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The same entries, their order noted as they are drawn."""
        for number, entry in enumerate(entries):
            self._numbers[id(entry)] = number
            yield entry

    def add(self, entry: Entry, report: PipelineReport) -> None:
        """Note that an entry has its report."""
        self.ended += 1
        number = self._numbers.pop(id(entry))
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


def _finish(outcome: Outcome, count: int | None, out: Path | None) -> None:
    tally = outcome.tally
    if count is not None and tally.pipelines != count:
        raise CannotJudge(
            f"{count} pipelines were to be asked, {tally.pipelines} have a row: read {out or 'the output'}"
        )
    if outcome.failures_untraced:
        say(f"{outcome.failures_untraced} more failed pipelines have no trace; their errors are in {out or 'no file'}")
    if outcome.trace_problem:
        raise CannotJudge(f"traces are missing, and with them what a person could decide on: {outcome.trace_problem}")
    raise typer.Exit(tally.exit_code())


def _document(setup: Setup, outcome: Outcome, reports: list[PipelineReport], kept: int) -> dict[str, Any]:
    return {
        **setup.condition(),
        "pipelines_in": outcome.tally.pipelines + kept,
        "pipelines_kept": kept,
        "pipelines_out": dict(outcome.tally.statuses),
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
    say(f"\n{report.pipeline_id}  ({report.status})")
    if not report.stages and report.error:
        say(f"  refused: {report.error}")
    for label in (report.severity, report.priority):
        if label:
            say(f"  {label.kind} {label.value}: {'; '.join(rule.reason for rule in label.rules)}")
    for stage in report.stages:
        _print_stage(stage)
    if report.requires_approval:
        where = f" (trace {report.trace_id})" if report.trace_id else ""
        say(f"  a person has to decide{where}: {'; '.join(report.approval_reasons)}")


def _print_stage(stage: StageReport) -> None:
    cost = f"{stage.output_tokens} tokens, {stage.latency_s:.1f} s" if stage.latency_s is not None else "no answer"
    say(f"  {stage.stage} ({cost})")
    advice = stage.recommendation
    if advice is None:
        say(f"    failed: {stage.error}")
        return
    if stage.source == "fallback":
        late = "the model did not answer in time"
        say(f"    from the rules: {late if stage.fallback_because == 'deadline' else _broken(stage)}")
    mode = f"[{advice.mode}] " if advice.mode else ""
    say(f"    {mode}{advice.summary}")
    for action in advice.actions:
        say(f"    - {action}")
    for violation in stage.violations:
        say(f"    breaks {violation.rule}: {violation.told}")


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
