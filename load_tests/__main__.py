"""python -m load_tests: how fast an endpoint answers under load.

python -m load_tests run examples/load.yaml
python -m load_tests run my_load.yaml --base-url http://127.0.0.1:8000/v1 --out rows.jsonl --json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import console
from load_tests.headless import run_locust
from load_tests.latency import LatencyReport, latency_report
from load_tests.profiles import load_profile
from load_tests.report import as_json, markdown, metrics, print_report
from load_tests.rows import LoadRows, new_rows_path, read_rows
from load_tests.session import warm_up
from load_tests.sse import Status
from load_tests.workload import LoadPlan, plan_load
from serving.endpoint import connect
from tracking.runs import LoggedRun, RunContent, log_run, ui_command

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "plumbline-load"

app = console.command_group("Measure TTFT, ITL and end-to-end latency of an endpoint under load.")


@app.callback()
def _commands() -> None:
    """Keeps `run` a subcommand while it is the only one."""


@app.command("run")
def run_command(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE.yaml", help="What to do; see examples/load.yaml.")],
    base_url: Annotated[str | None, typer.Option(help="Endpoint, e.g. http://127.0.0.1:8000/v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; the first one served otherwise.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Rows; else a new file in runs/load.")] = None,
    as_json_document: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    log_to_mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Log one MLflow run.")] = True,
) -> None:
    """Send the agents' requests in a closed loop, stamp every chunk, report latencies.

    Example: python -m load_tests run examples/load.yaml
    """
    rows_path = out or new_rows_path()
    if rows_path.exists():
        raise console.BadInput(f"--out: {rows_path} is there already; rows of two tests do not go into one file")
    plan = plan_load(load_profile(profile), connect(base_url, model))
    _announce(plan)
    warm_up(plan)
    finished = run_locust(plan, profile, rows_path)
    rows = read_rows(rows_path)
    report = latency_report(rows)
    print_report(report)
    console.say(f"rows: {rows_path}")
    logged = _log(plan, rows, report, rows_path) if log_to_mlflow and finished else None
    if as_json_document:
        json.dump({**as_json(report), "rows": str(rows_path), "mlflow": _where(logged)}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    if not finished:
        raise KeyboardInterrupt
    _refuse_unjudgeable(report)


def _announce(plan: LoadPlan) -> None:
    profile, endpoint = plan.profile, plan.endpoint
    simulated = " (simulated)" if endpoint.simulated else ""
    console.say(
        f"{profile.name}: {profile.users} users for {profile.duration_s} s against {endpoint.model}{simulated} "
        f"at {endpoint.base_url}, prompt {plan.prompt_name} v{plan.prompt_version}, "
        f"{len(plan.requests)} different requests; {profile.warmup_requests} warm-up requests first"
    )


def _refuse_unjudgeable(report: LatencyReport) -> None:
    """Raises CannotJudge when the figures say nothing about the endpoint."""
    if report.lost is None or report.lost > 0:
        raise console.CannotJudge(f"rows are missing ({report.lost or 'unknown how many'}): the figures are partial")
    if not report.ok:
        classes = ", ".join(f"{status} {count}" for status, count in sorted(report.failures.items()))
        raise console.CannotJudge(f"no request of {report.in_window} succeeded ({classes or 'none was sent'})")


def _log(plan: LoadPlan, rows: LoadRows, report: LatencyReport, rows_path: Path) -> LoggedRun:
    logged = log_run(EXPERIMENT, _run_content(plan, rows, report, rows_path))
    console.say(f"MLflow run {logged.run_id} in experiment {logged.experiment}: see it with `{ui_command()}`")
    return logged


def _run_content(plan: LoadPlan, rows: LoadRows, report: LatencyReport, rows_path: Path) -> RunContent:
    start = rows.start
    return RunContent(
        name=f"load-{plan.profile.name}",
        params={
            **plan.profile.model_dump(),
            "base_url": start.base_url,
            "model": start.model,
            "prompt": start.prompt,
            "prompt_version": start.prompt_version,
            "simulated": start.simulated,
            "client": start.client,
            "loop": "closed",
        },
        metrics=metrics(report),
        tags={"simulated": str(start.simulated).lower(), "kind": "load"},
        tables={"rows.json": _table(rows)},
        texts={"report.md": markdown(report)},
        files=(rows_path,),
    )


def _table(rows: LoadRows) -> pd.DataFrame:
    """One line per request, without its gaps: those are in the rows file, logged beside."""
    import pandas as pd

    keys = ["index", "user", "stage", "pipeline_id", "status", "http_status", "error", "ttft_s", "e2e_s"]
    keys += ["prompt_tokens", "output_tokens", "content_chunks", "finish_reason"]
    return pd.DataFrame([{key: _plain(getattr(record, key)) for key in keys} for record in rows.records], columns=keys)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Status) else value


def _where(logged: LoggedRun | None) -> dict[str, str] | None:
    if logged is None:
        return None
    return {"run_id": logged.run_id, "experiment": logged.experiment, "tracking_uri": logged.tracking_uri}


if __name__ == "__main__":
    console.run(app)
