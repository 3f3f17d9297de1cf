"""`python -m evals run` and `rescore`: a suite asked, scored, told and logged."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common import console
from common.console import BadInput, CannotJudge, say
from evals.case_file import CaseFile
from evals.plan import Plan, load_plan
from evals.run_folder import RunFolder
from evals.running import Ran, Where, resume_command, resume_run, run_suite
from evals.score_table import ScoreTable
from evals.scoring import load_table, score_run
from serving.endpoint import Endpoint

if TYPE_CHECKING:
    from evals.results import Results  # its imports take seconds, which --help and generate would wait for

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Judge = Annotated[str | None, typer.Option(metavar="URL", help="Have a model at this endpoint judge the notes too.")]
JudgedBy = tuple[tuple[str, str] | None, Endpoint]
"""Two variants to hold side by side, and where the judge is."""
JudgePair = Annotated[
    str | None, typer.Option(metavar="A,B", help="Two variants whose notes the judge also holds side by side.")
]
JudgeModel = Annotated[str | None, typer.Option(help="The judge; else the first one served there.")]


def run(
    suite: Annotated[Path | None, typer.Argument(metavar="SUITE.yaml", help="May be left out with --resume.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Endpoint; else OPENAI_BASE_URL, else the started one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; else the first one served.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; else runs/evals/TIME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out: ask what has no answer yet.")] = False,
    cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take answers from it, and keep new ones there.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the matrix, ask nothing.")
    ] = False,
    judge: Judge = None,
    judge_model: JudgeModel = None,
    judge_pair: JudgePair = None,
    mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Log one MLflow run per variant.")] = True,
    as_json: AsJson = False,
) -> None:
    """Ask every variant of a suite about every case, score the decisions, compare. Exit 3 when a sample got no answer.

    Killed or stopped, a run goes on by --resume --out FOLDER and repeats only what was in flight.

    Example: python -m evals run examples/suite.yaml
    """
    if dry_run and resume:
        raise BadInput("--dry-run: asks nothing, so there is nothing to --resume")
    judged_by = _judge(judge, judge_model, judge_pair)  # before the first call
    if dry_run:
        _dry_run(*load_plan(_given(suite), base_url, model), as_json=as_json)
        return
    where = Where(base_url, model, out, cache)
    ran = resume_run(suite, where) if resume else run_suite(_given(suite), where)
    results = derive(ran.folder, ran)
    logged: dict[str, Any] = {}
    try:
        if not as_json:
            _print(ran.folder, results)
        if mlflow:
            logged = _logged(ran.folder, ran.table, results)
        _judged(ran.folder, judged_by)
    finally:
        # Whatever a store or a judge fails with: the answers were paid for.
        if as_json:
            _print_json(_document(ran, results, logged))
    ran.check()


def _given(suite: Path | None) -> Path:
    if suite is None:
        raise BadInput("SUITE.yaml: is missing; only --resume --out FOLDER goes without it")
    return suite


def rescore(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    judge: Judge = None,
    judge_model: JudgeModel = None,
    judge_pair: JudgePair = None,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Log one MLflow run per variant, as `run` does.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="results.json on stdout.")] = False,
) -> None:
    """Score a run's stored answers anew and make its results and report again, without a model call but a judge's.

    Example: python -m evals rescore runs/evals/20260131-120000
    """
    found, judged_by = RunFolder.open(folder), _judge(judge, judge_model, judge_pair)
    results = derive(found)
    if as_json:
        print(results.model_dump_json(indent=2))
    else:
        _print(found, results)
    if mlflow:
        _logged(found, load_table(found), results)
    _judged(found, judged_by)


def _judge(base_url: str | None, model: str | None, pair: str | None) -> JudgedBy | None:
    """Who judges, and what, if a judge is wanted. Raises BadInput and CannotJudge."""
    if base_url is None:
        if unused := "--judge-model" if model else "--judge-pair" if pair else None:
            raise BadInput(f"{unused}: needs --judge URL, where the judge is served")
        return None
    from evals.judging import find_judge, pair_of

    return pair_of(pair), find_judge(base_url, model)


def _judged(folder: RunFolder, judged_by: JudgedBy | None) -> None:
    if judged_by:
        from evals.judging import judge

        pair, endpoint = judged_by
        judge(folder, endpoint, pair)


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


def _logged(folder: RunFolder, table: ScoreTable, results: Results) -> dict[str, Any]:
    from evals.record import EXPERIMENT, log_run_folder
    from tracking.runs import ui_command

    try:
        logged = log_run_folder(folder, table, results)
    except CannotJudge as error:
        again = f"python -m evals rescore {shlex.quote(str(folder.path))} --mlflow"
        raise CannotJudge(f"{error}; log it later by: {again}") from None
    say(f"MLflow experiment {EXPERIMENT}, one run per variant: {ui_command()}")
    return dict(logged)


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _dry_run(plan: Plan, cases: CaseFile, *, as_json: bool) -> None:
    groups = Counter((case.stage, case.relation or case.family) for case in cases)
    if as_json:
        told = [{"stage": stage, "group": group, "cases": count} for (stage, group), count in sorted(groups.items())]
        _print_json({**_plan_document(plan), "groups": told})
    else:
        print_matrix(plan, groups)
    say("nothing was asked: --dry-run")


def print_matrix(plan: Plan, groups: Mapping[tuple[str, str], int]) -> None:
    """What a suite would ask. groups: cases by stage and family or relation."""
    console.table(
        f"{plan.suite.name}: {plan.samples} samples = {len(plan.variants)} variants x {plan.cases} cases "
        f"x {plan.repeats} repeats; {plan.suite.concurrency} at a time and model",
        ["variant", "prompt", "model", "endpoint", "sampling", "policy"],
        [
            (
                variant.name + (" (baseline)" if variant.name == plan.baseline else ""),
                f"{variant.prompt.name} v{variant.prompt.version}",
                variant.model.model + (" (SIMULATOR)" if variant.model.simulated else ""),
                variant.model.base_url,
                variant.sampling_name,
                variant.policy.name,
            )
            for variant in plan.variants
        ],
    )
    rows = [(stage, group, count) for (stage, group), count in sorted(groups.items())]
    console.table(f"{plan.cases} cases", ["stage", "family or relation", "cases"], rows, right=["cases"])


def _document(ran: Ran, results: Results, logged: dict[str, Any]) -> dict[str, Any]:
    plan = _plan_document(ran.folder.plan)
    runs = {name: run.run_id for name, run in logged.items()}
    variants = [{**variant, "mlflow_run_id": runs.get(variant["name"])} for variant in plan["variants"]]
    return {
        **plan,
        "variants": variants,
        "errored": int(ran.table.errored.sum()),
        "answers_kept": ran.kept,
        "answers_from_cache": ran.cached,
        "wall_s": round(ran.wall_s, 3),
        "folder": str(ran.folder.path),
        "samples_file": str(ran.folder.samples_path),
        "report": str(ran.folder.path / "report.html"),
        "results": results.model_dump(mode="json"),
    }


def _plan_document(plan: Plan) -> dict[str, Any]:
    return {
        "suite": plan.suite.name,
        "simulated": plan.simulated,
        "cases": plan.cases,
        "repeats": plan.repeats,
        "samples": plan.samples,
        "baseline": plan.baseline,
        "variants": [
            {
                "name": variant.name,
                "prompt": variant.prompt.name,
                "prompt_version": variant.prompt.version,
                "model": variant.model.model,
                "endpoint": variant.model.base_url,
                "sampling": variant.sampling_name,
                "policy": variant.policy.name,
            }
            for variant in plan.variants
        ],
    }
