"""`python -m load_tests calibrate` and `capacity`: many tests in a row, for one figure."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common import console
from load_tests.run_folder import RUNS
from load_tests.run_test import run_profile
from serving.endpoint import connect

if TYPE_CHECKING:
    from load_tests.capacity import Capacity

DEFAULT_PROFILE = Path("examples/load_open.yaml")


def calibrate(
    rate: Annotated[list[float] | None, typer.Option(help="Requests per second; give it again for more.")] = None,
    duration_s: Annotated[int, typer.Option(help="Seconds at each rate.")] = 10,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Else a new one in runs/load.")] = None,
    as_json_document: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure this machine's own timing errors against a simulator that stamps what it sends; later runs tell them.

    Example: python -m load_tests calibrate
    """
    from load_tests import calibrate_command
    from load_tests.calibrate import store

    rates = tuple(rate) if rate else calibrate_command.RATES_PER_S
    folder = out or _named("calibration")
    if folder.exists():
        raise console.BadInput(f"--out: {folder} is there already; give a folder that is not")
    found = calibrate_command.calibrate_machine(run_profile, folder, rates, duration_s)
    stored = store(found)
    calibrate_command.print_calibration(found)
    console.say(f"kept for later runs: {stored}")
    if as_json_document:
        sys.stdout.write(calibrate_command.as_json(found) + "\n")


def capacity(
    slo: Annotated[Path, typer.Option(metavar="SLO.yaml", help="What must hold; see examples/slo.yaml.")],
    profile: Annotated[Path, typer.Option(metavar="PROFILE.yaml", help="The work, at rates of our choice.")] = (
        DEFAULT_PROFILE
    ),
    base_url: Annotated[str | None, typer.Option(help="Endpoint, e.g. http://127.0.0.1:8000/v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; the first one served otherwise.")] = None,
    from_per_s: Annotated[
        float | None, typer.Option("--from", help="Requests per second to begin with; else the profile's.")
    ] = None,
    to_per_s: Annotated[float | None, typer.Option("--to", help="Look no higher.")] = None,
    probes: Annotated[int, typer.Option(help="At most so many tests.")] = 8,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Else a new one in runs/load.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out: run only what did not end there.")
    ] = False,
    as_json_document: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    log_to_mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Log one MLflow run.")] = True,
) -> None:
    """Find the highest rate of requests that meets the SLO, within 5 percent, and draw latency and goodput over rate.

    Stopped or killed, a search goes on by the same command with --resume --out FOLDER; with more --probes too.

    Example: python -m load_tests capacity --slo examples/slo.yaml --profile examples/load_open.yaml
    """
    from load_tests import capacity_command
    from load_tests.keeping import Keeping
    from load_tests.phases import window_of
    from load_tests.profiles import load_profile
    from load_tests.slo_file import load_slo
    from load_tests.workload import content_digest

    if resume and out is None:
        raise console.BadInput("--resume: needs --out FOLDER, the search to go on with")
    limits, work = load_slo(slo), load_profile(profile)
    endpoint = connect(base_url, model)
    order = capacity_command.CapacityOrder(
        slo=limits,
        profile=work,
        endpoint=endpoint,
        content=content_digest(work, endpoint),
        folder=out or _named("capacity"),
        from_per_s=from_per_s,
        to_per_s=to_per_s,
        probes=probes,
        resume=resume,
    )
    found = capacity_command.find_capacity(order, run_profile, window_of)
    capacity_command.print_capacity(order, found)
    console.say(f"curve and probes: {order.folder / 'capacity.html'}")
    kept = Keeping()
    if log_to_mlflow:
        kept.do(lambda: _log(capacity_command.asked(order), found, capacity_command.curve_files(order.folder)))
    if as_json_document:
        json.dump(capacity_command.as_json(order, found), sys.stdout, indent=2)
        sys.stdout.write("\n")
    raise typer.Exit(capacity_command.refuse_unfound(found) or kept.exit_code)


def _log(order: Mapping[str, Any], found: Capacity, files: Sequence[Path]) -> None:
    from load_tests.capacity_logged import log_capacity
    from tracking.store import ui_command

    logged = log_capacity(order, found, files)
    console.say(f"MLflow run {logged.run_id} in experiment {logged.experiment}: see it with `{ui_command()}`")


def _named(what: str) -> Path:
    return RUNS / f"{what}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
