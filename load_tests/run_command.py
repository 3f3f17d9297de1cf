"""`python -m load_tests run`: one load test, its report, and the verdicts it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common import console
from load_tests.arrivals import Closed
from load_tests.baseline import MARGIN_PERCENT, Margins, refuse_incomparable
from load_tests.calibrate import this_machines
from load_tests.conclusion import conclude, read_asked
from load_tests.headless import run_locust
from load_tests.keeping import Keeping
from load_tests.profiles import LoadProfile, load_profile
from load_tests.rows import read_run
from load_tests.run_folder import RunFolder
from load_tests.scrape import Scraper
from load_tests.warm_up import warm_up
from load_tests.workload import LoadPlan, plan_load
from serving.endpoint import connect

SloOption = Annotated[Path | None, typer.Option(metavar="SLO.yaml", help="Exit 1 if it is missed, 3 if unknown.")]
BaselineOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="An earlier run of this profile, or its .parquet: exit 1 if this is worse."),
]
MarginOption = Annotated[float, typer.Option(min=0.1, help="With --baseline: how much slower is too much.")]
SpreadOption = Annotated[
    float, typer.Option(min=0, help="With --baseline: how much runs of the same differ (standard deviation).")
]
JunitOption = Annotated[Path | None, typer.Option(metavar="FILE.xml", help="Verdict for a build server.")]
MarkdownOption = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE.md", help="Verdict for a pull request.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def run(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE.yaml", help="What to do; see examples/load.yaml.")],
    base_url: Annotated[str | None, typer.Option(help="Endpoint, e.g. http://127.0.0.1:8000/v1.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; the first one served otherwise.")] = None,
    slo: SloOption = None,
    baseline: BaselineOption = None,
    margin_percent: MarginOption = MARGIN_PERCENT,
    run_spread_percent: SpreadOption = 0.0,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Else a new one in runs/load.")] = None,
    junit: JunitOption = None,
    markdown_file: MarkdownOption = None,
    as_json_document: JsonOption = False,
    log_to_mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Log one MLflow run.")] = True,
) -> None:
    """Send requests as the profile says, stamp every chunk, report latencies and give a verdict.

    Example: python -m load_tests run examples/load.yaml --slo examples/slo.yaml
    """
    wanted = load_profile(profile)
    margins = Margins(percent=margin_percent, run_spread_percent=run_spread_percent)
    asked = read_asked(slo, baseline, margins, junit, markdown_file)
    endpoint = connect(base_url, model)
    if asked.baseline:
        profile_now = wanted.model_dump(mode="json")
        refuse_incomparable(asked.baseline.start, profile_now, simulated=endpoint.simulated)
    plan = plan_load(wanted, endpoint)
    folder = RunFolder.create(out)
    _announce(plan, folder)
    warm_up(plan)
    scraper = Scraper(plan.endpoint.base_url, folder.server)
    scraper.start()
    ended = run_locust(plan, profile, folder)
    kept = Keeping()
    kept.do(scraper.stop)
    if not folder.started:
        ended.refuse_unless_whole()
    conclude(
        folder,
        read_run(folder.path),
        asked,
        kept,
        ended,
        calibration=this_machines(),
        to_mlflow=log_to_mlflow,
        to_stdout=as_json_document,
    )


def _announce(plan: LoadPlan, folder: RunFolder) -> None:
    profile, endpoint = plan.profile, plan.endpoint
    simulated = " (simulated)" if endpoint.simulated else ""
    prompt = f", prompt {plan.prompt_name} v{plan.prompt_version}" if plan.prompt_name else ""
    console.say(
        f"{profile.name}: {_told(profile)} for {profile.duration_s} s against {endpoint.model}{simulated} "
        f"at {endpoint.base_url}{prompt}; {profile.warmup_requests} warm-up requests first; rows go to {folder.path}"
    )


def _told(profile: LoadProfile) -> str:
    arrivals = profile.arrivals
    if isinstance(arrivals, Closed):
        return f"{arrivals.users} users"
    settings = arrivals.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
    return f"{arrivals.kind} arrivals ({', '.join(f'{name} {value}' for name, value in settings.items())})"
