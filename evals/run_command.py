"""`python -m evals run` and `rescore`: a suite asked, scored, told and logged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import console
from console import BadInput, CannotJudge, say
from evals.case_file import CaseFile
from evals.plan import Plan, load_plan
from evals.run_folder import RunFolder
from evals.running import Ran, Where, resume_command, resume_run, run_suite
from evals.scoring import score_run

if TYPE_CHECKING:
    from evals.results import Results  # its imports take seconds, which --help and generate would wait for


def run(
    suite: Annotated[Path | None, typer.Argument(metavar="SUITE.yaml", help="May be left out with --resume.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Endpoint; else OPENAI_BASE_URL, else the started one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; else the first one served.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; else runs/evals/TIME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out: ask what has no answer yet.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Take answers from this file, and keep new ones: runs/evals/cache.db.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the matrix, ask nothing.")
    ] = False,
    judge: Annotated[str | None, typer.Option(metavar="URL", help="Have a model at this endpoint judge too.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge; else the first one served there.")] = None,
    mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Log one MLflow run per variant.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Ask every variant of a suite about every case, score the answers, compare. Exit 3 when a sample got no answer.

    Killed or stopped, a run goes on by --resume --out FOLDER and repeats only what was in flight.

    Example: python -m evals run examples/suite.yaml
    """
    where = Where(base_url, model, out, cache)
    if dry_run:
        print_matrix(*load_plan(_given(suite), base_url, model))
        return
    ran = resume_run(suite, where) if resume else run_suite(_given(suite), where)
    results = derive(ran.folder, ran)
    if not as_json:
        # Before MLflow, whose store may fail: the scores were paid for.
        _print(ran.folder, results)
    _judged(ran.folder, judge, judge_model)
    logged = _logged(ran, results) if mlflow else {}
    if as_json:
        print(json.dumps(_document(ran, results, logged), indent=2, ensure_ascii=False))
    ran.check()


def _given(suite: Path | None) -> Path:
    if suite is None:
        raise BadInput("SUITE.yaml: is missing; only --resume --out FOLDER goes without it")
    return suite


def rescore(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    judge: Annotated[str | None, typer.Option(metavar="URL", help="Have a model at this endpoint judge too.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge; else the first one served there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="results.json on stdout.")] = False,
) -> None:
    """Score a run's stored answers anew and make its results and report again, without a model call but a judge's.

    Example: python -m evals rescore runs/evals/20260131-120000
    """
    found = RunFolder.open(folder)
    results = derive(found)
    if as_json:
        print(results.model_dump_json(indent=2))
    else:
        _print(found, results)
    _judged(found, judge, judge_model)


def _judged(folder: RunFolder, base_url: str | None, model: str | None) -> None:
    if base_url:
        from evals.judging import judge

        judge(folder, base_url, model)


def derive(folder: RunFolder, ran: Ran | None = None) -> Results:
    """Results and report of a run, from the scores it has just got or gets now. Raises CannotJudge without a row."""
    from evals.report import write_report
    from evals.results import write_results

    table = ran.table if ran else score_run(folder)
    asked, scored, errored = table.values[..., 0].size, int(table.scored.sum()), int(table.errored.sum())
    missing = asked - scored - errored
    if not scored + errored:
        raise CannotJudge(f"{folder.path}: holds no answer yet; ask by: {resume_command(folder)}")
    say(f"{asked} samples asked = {scored} scored + {errored} errored" + (f" + {missing} missing" if missing else ""))
    if missing:
        say(f"the run is not complete; go on by: {resume_command(folder)}")
    results = write_results(folder, table)
    write_report(folder)
    return results


def _print(folder: RunFolder, results: Results) -> None:
    from evals.leaderboard import print_leaderboard

    print_leaderboard(results)
    say(f"report: {folder.path / 'report.html'}; every answer: {folder.samples_path}")


def _logged(ran: Ran, results: Results) -> dict[str, Any]:
    from evals.record import EXPERIMENT, log_run_folder
    from tracking.runs import ui_command

    logged = log_run_folder(ran.folder, ran.table, results)
    say(f"MLflow experiment {EXPERIMENT}, one run per variant: {ui_command()}")
    return dict(logged)


def print_matrix(plan: Plan, cases: CaseFile) -> None:
    """What a suite would ask."""
    console.table(
        f"{plan.suite.name}: {plan.samples} samples = {len(plan.variants)} variants x {plan.cases} cases "
        f"x {plan.repeats} repeats; {plan.suite.concurrency} at a time and model",
        ["variant", "prompt", "model", "endpoint", "sampling", "policy", "guardrails"],
        [
            (
                variant.name + (" (baseline)" if variant.name == plan.baseline else ""),
                f"{variant.prompt.name} v{variant.prompt.version}",
                variant.model.model + (" (SIMULATOR)" if variant.model.simulated else ""),
                variant.model.base_url,
                variant.sampling_name,
                variant.policy.name,
                variant.guardrails.value,
            )
            for variant in plan.variants
        ],
    )
    counts = Counter((case.stage.value, case.relation or case.family) for case in cases)
    rows = [(stage, group, count) for (stage, group), count in sorted(counts.items())]
    console.table(f"{plan.cases} cases", ["stage", "family or relation", "cases"], rows, right=["cases"])
    say("nothing was asked: --dry-run")


def _document(ran: Ran, results: Results, logged: dict[str, Any]) -> dict[str, Any]:
    plan = ran.folder.plan
    return {
        "suite": plan.suite.name,
        "simulated": plan.simulated,
        "cases": plan.cases,
        "repeats": plan.repeats,
        "samples": plan.samples,
        "errored": int(ran.table.errored.sum()),
        "answers_kept": ran.kept,
        "answers_from_cache": ran.cached,
        "wall_s": round(ran.wall_s, 3),
        "folder": str(ran.folder.path),
        "samples_file": str(ran.folder.samples_path),
        "report": str(ran.folder.path / "report.html"),
        "variants": [
            {
                "name": variant.name,
                "prompt": variant.prompt.name,
                "prompt_version": variant.prompt.version,
                "model": variant.model.model,
                "endpoint": variant.model.base_url,
                "sampling": variant.sampling_name,
                "policy": variant.policy.name,
                "guardrails": variant.guardrails.value,
                "mlflow_run_id": logged[variant.name].run_id if variant.name in logged else None,
            }
            for variant in plan.variants
        ],
        "results": results.model_dump(mode="json"),
    }
