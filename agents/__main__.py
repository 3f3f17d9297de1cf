"""`python -m agents`: recommendations for data pipelines, and what policies and prompts there are."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

import console
from agents.agent import make_client
from agents.files import InvalidPipeline, ReadPipeline, read_pipelines
from agents.orchestrator import AgenticDataOrchestrator, summary
from agents.policy import DEFAULT_POLICY, Policy, load_policy, policy_names
from agents.prompt import DEFAULT_PROMPT, PromptVariant, load_prompt, prompt_names
from agents.requests import requests_for
from agents.schema import IngestionRecommendation, PipelineReport, StageReport
from console import BadInput, ExitCode, say
from serving.endpoint import Endpoint, connect

app = console.command_group(__doc__ or "")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.command()
def run(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pipelines: .yaml, .json or .jsonl.")],
    prompt: Annotated[str, typer.Option(help="Prompt variant, or a YAML file with one.")] = DEFAULT_PROMPT,
    policy: Annotated[str, typer.Option(help="Policy, or a YAML file with one.")] = DEFAULT_POLICY,
    base_url: Annotated[str | None, typer.Option(help="Endpoint; else OPENAI_BASE_URL, else the started one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; else the first one served.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write one report per line to this .jsonl file.")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Give up on a request after this long.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Recommend for every pipeline of the files. Exit 2 when a pipeline was refused, 3 when an agent got no answer.

    Example: python -m agents run examples/pipelines.yaml --json
    """
    variant, rules = load_prompt(prompt), load_policy(policy)
    entries = read_pipelines(files)
    # Every prompt is rendered once before the first call, so that a template's error costs no answers.
    requests_for((entry.spec for entry in entries if isinstance(entry, ReadPipeline)), variant, rules, "check")
    endpoint = connect(base_url, model)
    sink = _open_out(out)  # it empties the file, so not before there is something to write
    try:
        reports = asyncio.run(_run(endpoint, entries, variant, rules, timeout_s, sink))
    finally:
        if sink:
            sink.close()
    if as_json:
        print(json.dumps(_document(endpoint, variant, rules, entries, reports), indent=2, ensure_ascii=False))
    else:
        for report in reports:
            _print_report(report)
        _print_summary(endpoint, variant, rules, reports)
    raise typer.Exit(exit_code(reports))


@app.command()
def policies(as_json: AsJson = False) -> None:
    """List the policies and their numbers."""
    loaded = [load_policy(name) for name in policy_names()]
    if as_json:
        print(json.dumps([one.model_dump() for one in loaded], indent=2))
        return
    console.table(
        "policies",
        ["name", "what it does", "severity", "priority"],
        [
            [
                _marked(one.name, DEFAULT_POLICY),
                one.description,
                _numbers(one.severity),
                _numbers(one.priority),
            ]
            for one in loaded
        ],
    )


@app.command()
def prompts(as_json: AsJson = False) -> None:
    """List the prompt variants."""
    loaded = [load_prompt(name) for name in prompt_names()]
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in loaded], indent=2))
        return
    console.table(
        "prompts",
        ["name", "version", "what it does", "sampling"],
        [[_marked(one.name, DEFAULT_PROMPT), one.version, one.description, _numbers(one.sampling)] for one in loaded],
    )


async def _run(
    endpoint: Endpoint,
    entries: list[ReadPipeline | InvalidPipeline],
    variant: PromptVariant,
    rules: Policy,
    timeout_s: float,
    sink: TextIO | None,
) -> list[PipelineReport]:
    async with make_client(endpoint, timeout_s=timeout_s) as client:
        orchestrator = AgenticDataOrchestrator(client, endpoint.model, variant, rules)
        condition = _condition(endpoint, variant, rules)
        with console.progress("pipelines") as bar:
            task = bar.add_task(f"asking {endpoint.model}", total=len(entries))

            def ended(report: PipelineReport) -> None:
                if sink:
                    sink.write(json.dumps({**condition, **report.model_dump(mode="json")}, ensure_ascii=False) + "\n")
                    sink.flush()
                bar.advance(task)

            return await orchestrator.process_all(entries, on_report=ended)


def exit_code(reports: list[PipelineReport]) -> ExitCode:
    """2 when input was refused (its owner can mend it), else 3 when an answer is missing, else 0."""
    statuses = {report.status for report in reports}
    if "invalid" in statuses:
        return ExitCode.BAD_INPUT
    return ExitCode.NOT_JUDGED if statuses & {"failed", "partial"} else ExitCode.DONE


def _document(
    endpoint: Endpoint,
    variant: PromptVariant,
    rules: Policy,
    entries: list[ReadPipeline | InvalidPipeline],
    reports: list[PipelineReport],
) -> dict[str, Any]:
    return {
        **_condition(endpoint, variant, rules),
        "pipelines_in": len(entries),
        "pipelines_out": dict(Counter(report.status for report in reports)),
        "pipelines": [
            {**report.model_dump(mode="json"), "stages_completed": report.stages_completed} for report in reports
        ],
    }


def _condition(endpoint: Endpoint, variant: PromptVariant, rules: Policy) -> dict[str, Any]:
    """What every output stands under; `simulated` tells that no model wrote the answers."""
    return {
        "endpoint": endpoint.base_url,
        "model": endpoint.model,
        "simulated": endpoint.simulated,
        "prompt": f"{variant.name} v{variant.version}",
        "policy": rules.name,
    }


def _open_out(path: Path | None) -> TextIO | None:
    if path is None:
        return None
    try:
        return path.open("w", encoding="utf8")
    except OSError as error:
        raise BadInput(f"--out {path}: cannot be written ({error.strerror})") from None


def _print_report(report: PipelineReport) -> None:
    say(f"\n{report.pipeline_id}  ({report.status})")
    if not report.stages and report.error:
        say(f"  refused: {report.error}")
    for label in (report.severity, report.priority):
        if label:
            say(f"  {label.kind} {label.value}: {'; '.join(rule.reason for rule in label.rules)}")
    for stage in report.stages:
        _print_stage(stage)


def _print_stage(stage: StageReport) -> None:
    cost = f"{stage.output_tokens} tokens, {stage.latency_s:.1f} s" if stage.latency_s is not None else "no answer"
    say(f"  {stage.stage} ({cost})")
    advice = stage.recommendation
    if advice is None:
        say(f"    failed: {stage.error}")
        return
    mode = f"[{advice.mode}] " if isinstance(advice, IngestionRecommendation) else ""
    say(f"    {mode}{advice.summary}")
    for action in advice.actions:
        say(f"    - {action}")


def _print_summary(endpoint: Endpoint, variant: PromptVariant, rules: Policy, reports: list[PipelineReport]) -> None:
    made_by = "SIMULATOR, answers are made up" if endpoint.simulated else endpoint.model
    frame = summary(reports)
    frame["Start Time"] = [report.start_time.astimezone().strftime("%H:%M:%S") for report in reports]
    console.table(
        f"{len(reports)} pipelines ({made_by}; prompt {variant.name} v{variant.version}; policy {rules.name})",
        list(frame.columns),
        frame.itertuples(index=False),
        right=["Stages Completed"],
    )


def _marked(name: str, default: str) -> str:
    return f"{name} (default)" if name == default else name


def _numbers(rules: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in rules.model_dump(exclude_none=True).items())


if __name__ == "__main__":
    console.run(app)
