"""`python -m load_tests report`: a test that was run already, from its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from load_tests.baseline import MARGIN_PERCENT, Margins, refuse_incomparable
from load_tests.conclusion import conclude, read_asked
from load_tests.headless import Ended
from load_tests.keeping import Keeping
from load_tests.rows import read_run
from load_tests.run_command import (
    BaselineOption,
    JsonOption,
    JunitOption,
    MarginOption,
    MarkdownOption,
    SloOption,
    SpreadOption,
)
from load_tests.run_folder import RunFolder


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of the test: runs/load/...")],
    slo: SloOption = None,
    baseline: BaselineOption = None,
    margin_percent: MarginOption = MARGIN_PERCENT,
    run_spread_percent: SpreadOption = 0.0,
    junit: JunitOption = None,
    markdown_file: MarkdownOption = None,
    as_json_document: JsonOption = False,
    log_to_mlflow: Annotated[bool, typer.Option("--mlflow", help="Log one MLflow run, another one if it had one.")] = (
        False
    ),
) -> None:
    """Report a test again from its rows, under another SLO too; nothing is sent.

    Also one that was killed, was started from Locust's web UI, or ran on several hosts: copy all rows-*.jsonl into one
    folder. Its report.json, .md and .html are written anew.

    Example: python -m load_tests report runs/load/20260131T120000Z --slo examples/slo.yaml
    """
    where = RunFolder.open(folder)
    margins = Margins(percent=margin_percent, run_spread_percent=run_spread_percent)
    asked = read_asked(slo, baseline, margins, junit, markdown_file)
    rows = read_run(where.path)
    if asked.baseline:
        refuse_incomparable(asked.baseline.start, rows.start.profile, simulated=rows.start.simulated)
    # The error bars that this machine has today are not those of the test, nor perhaps of its machine.
    conclude(
        where,
        rows,
        asked,
        Keeping(),
        Ended(),
        calibration=None,
        to_mlflow=log_to_mlflow,
        to_stdout=as_json_document,
    )
