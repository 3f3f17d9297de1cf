"""`python -m evals`: make cases with known answers, and score prompt variants on them."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

import console
from agents.prompt import PromptVariant
from console import BadInput, CannotJudge, say
from evals.case import dump_cases
from evals.generate import ROWS
from evals.generate import generate as generate_cases
from evals.record import EXPERIMENT, log_variant
from evals.runner import Sample, estimates, open_samples
from evals.runner import run as run_plan
from evals.scorers import SCORERS
from evals.suite import Plan, load_plan
from serving.endpoint import Endpoint, connect
from tracking.runs import LoggedRun, ui_command

app = console.command_group(__doc__ or "")

ByVariant = list[tuple[PromptVariant, list[Sample]]]


@app.command()
def generate(
    out: Annotated[Path, typer.Option(help="JSONL file to write.")],
    n: Annotated[int, typer.Option("--n", min=1, max=1_000_000, help="How many cases.")] = len(ROWS),
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
) -> None:
    """Write cases made from the oracle table, row after row in turn.

    Example: python -m evals generate --n 60 --seed 7 --out cases.jsonl
    """
    cases = generate_cases(n, seed)
    try:
        out.write_text(dump_cases(cases), "utf8")
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror})") from None
    say(f"{len(cases)} cases from {len({case.row for case in cases})} oracle rows in {out}")


@app.command()
def run(
    suite: Annotated[Path, typer.Argument(metavar="SUITE.yaml")],
    base_url: Annotated[str | None, typer.Option(help="Endpoint; else OPENAI_BASE_URL, else the started one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; else the first one served.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for samples.jsonl; else runs/evals/TIME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Run a suite, score it, and log one MLflow run per prompt variant. Exit 3 when a sample got no answer.

    Example: python -m evals run examples/suite.yaml
    """
    plan = load_plan(suite)
    endpoint = connect(base_url, model)
    folder = out or Path("runs") / "evals" / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    began = time.monotonic()
    samples = _ask(plan, endpoint, folder)
    wall_s = time.monotonic() - began
    by_variant = [(variant, [one for one in samples if one.variant == variant.name]) for variant in plan.variants]
    if not as_json:
        # Before MLflow, whose store may fail: the scores were paid for.
        _print(plan, endpoint, by_variant, folder, wall_s)
    runs = {variant.name: log_variant(plan, variant, rows, endpoint) for variant, rows in by_variant}
    say(f"MLflow experiment {EXPERIMENT}, one run per prompt: {ui_command()}")
    if as_json:
        document = _document(plan, endpoint, by_variant, runs, folder, wall_s)
        print(json.dumps(document, indent=2, ensure_ascii=False))
    errored = [sample for sample in samples if sample.error]
    if errored:
        raise CannotJudge(f"{len(errored)} of {len(samples)} samples got no answer; first: {errored[0].error}")


def _ask(plan: Plan, endpoint: Endpoint, folder: Path) -> list[Sample]:
    total = len(plan.variants) * len(plan.cases)
    what = f"{len(plan.variants)} prompts x {len(plan.cases)} cases"
    say(f"{what} on {endpoint.model}, {plan.suite.concurrency} at a time")
    try:
        sink = open_samples(folder)
    except OSError as error:
        raise BadInput(f"--out {folder}: cannot be written ({error.strerror})") from None
    with sink, console.progress("samples") as bar:
        task = bar.add_task(plan.suite.name, total=total)
        return asyncio.run(run_plan(plan, endpoint, sink, lambda _sample: bar.advance(task)))


def _print(plan: Plan, endpoint: Endpoint, by_variant: ByVariant, folder: Path, wall_s: float) -> None:
    made_by = "SIMULATOR, answers are made up" if endpoint.simulated else endpoint.model
    console.table(
        f"{plan.suite.name}: {made_by}, {len(plan.cases)} cases, policy {plan.policy.name}; mean [95 % interval]",
        ["prompt", "scored", "errored", *SCORERS, "median latency"],
        [
            [
                f"{variant.name} v{variant.version}",
                sum(bool(row.scores) for row in rows),
                sum(row.error is not None for row in rows),
                *(estimate or "unscored" for estimate in estimates(rows).values()),
                _median_latency(rows),
            ]
            for variant, rows in by_variant
        ],
        right=["scored", "errored"],
    )
    count = sum(len(rows) for _, rows in by_variant)
    say(f"{count} samples in {wall_s:.1f} s; each one is a line of {folder / 'samples.jsonl'}")


def _median_latency(rows: list[Sample]) -> str:
    values = [row.latency_s for row in rows if row.latency_s is not None]
    return f"{median(values):.1f} s" if values else "none"


def _document(
    plan: Plan,
    endpoint: Endpoint,
    by_variant: ByVariant,
    runs: dict[str, LoggedRun],
    folder: Path,
    wall_s: float,
) -> dict[str, Any]:
    return {
        "suite": plan.suite.name,
        "endpoint": endpoint.base_url,
        "model": endpoint.model,
        "simulated": endpoint.simulated,
        "policy": plan.policy.name,
        "cases": len(plan.cases),
        "wall_s": round(wall_s, 3),
        "samples_file": str(folder / "samples.jsonl"),
        "variants": [
            {
                "prompt": variant.name,
                "prompt_version": variant.version,
                "samples": len(rows),
                "errored": sum(row.error is not None for row in rows),
                "mlflow_run_id": runs[variant.name].run_id,
                "scores": {
                    name: {"mean": one.mean, "ci95": [one.low, one.high], "n": one.n} if one else None
                    for name, one in estimates(rows).items()
                },
            }
            for variant, rows in by_variant
        ],
    }


if __name__ == "__main__":
    console.run(app)
