"""What a load test comes to: its figures, the verdicts it was asked for, its files and its exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from common import console
from common.whole_file import write_whole
from evals.markup import check_target, write_file
from load_tests import verdict
from load_tests.baseline import Comparison, Margins, compare_runs
from load_tests.calibrate import Calibration, error_bars
from load_tests.headless import Ended
from load_tests.keeping import Keeping
from load_tests.latency import LatencyReport, latency_report
from load_tests.page import write_page
from load_tests.phases import window_of
from load_tests.report import as_json, markdown, print_report
from load_tests.rows import LoadRows, write_parquet
from load_tests.run_folder import RunFolder, read_test
from load_tests.server_metrics import ServerReport, server_json, server_metrics, server_report, server_sentences
from load_tests.slo import EVERY_ONE_CANCELLED, SloVerdict, judge_run, unusable
from load_tests.slo_file import Slo, load_slo
from tracking.runs import ui_command

Window = tuple[float, float]


@dataclass(frozen=True)
class Asked:
    """What the figures are held against, read before the test: a mistake in it must not cost a test."""

    slo: Slo | None
    baseline: LoadRows | None
    baseline_window_s: Window | None
    margins: Margins
    junit: Path | None
    markdown: Path | None


@dataclass(frozen=True)
class Judged:
    """The verdicts of a test; None for what was not asked."""

    slo: SloVerdict | None = None
    comparison: Comparison | None = None
    not_compared: str = ""
    """Why there is no comparison although there is a baseline."""

    @property
    def all(self) -> tuple[SloVerdict | Comparison, ...]:
        return tuple(one for one in (self.slo, self.comparison) if one is not None)

    @property
    def exit_code(self) -> console.ExitCode:
        """Against, if one verdict is; else not judged, if one is not."""
        codes = {verdict.exit_code for verdict in self.all}
        if self.not_compared:
            codes.add(console.ExitCode.NOT_JUDGED)
        order = (console.ExitCode.VERDICT_AGAINST, console.ExitCode.NOT_JUDGED)
        return next((code for code in order if code in codes), console.ExitCode.DONE)


def read_asked(
    slo: Path | None, baseline: Path | None, margins: Margins, junit: Path | None, markdown_file: Path | None
) -> Asked:
    """Raises BadInput for what cannot be read or written, CannotJudge for a baseline that cannot be compared with."""
    for option, file in (("--junit", junit), ("--markdown", markdown_file)):
        if file and not (slo or baseline):
            raise console.BadInput(f"{option}: there is no verdict to write without --slo or --baseline")
        if file:
            check_target(file, option)
    earlier = read_test(baseline) if baseline else None
    window_s, why = window_of(earlier) if earlier else (None, "")
    if earlier and window_s is None:
        raise console.CannotJudge(f"--baseline {baseline}: that run has no steady state to compare with: {why}")
    if earlier and window_s and (faults := unusable(earlier, window_s)):
        raise console.CannotJudge(f"--baseline {baseline}: that run cannot be compared with: {faults[0]}")
    return Asked(load_slo(slo) if slo else None, earlier, window_s, margins, junit, markdown_file)


def conclude(
    folder: RunFolder,
    rows: LoadRows,
    asked: Asked,
    kept: Keeping,
    ended: Ended,
    *,
    calibration: Calibration | None,
    to_mlflow: bool,
    to_stdout: bool,
) -> None:
    """Report a test from its rows, reach the verdicts and leave its files; ends with the exit status of all that.

    Raises typer.Exit, KeyboardInterrupt for a test that was stopped, and CannotJudge where nothing can be said.
    """
    report = latency_report(rows)
    print_report(report)
    server = server_report(folder.server, rows) if folder.server.exists() else None
    for line in server_sentences(server) if server else []:
        console.say(line)
    judged = _judge(asked, rows) if ended.whole else Judged()
    document = _document(report, server, judged, calibration)
    in_markdown = [verdict.markdown(one) for one in judged.all]
    kept.do(lambda: write_parquet(rows, folder.parquet))
    kept.do(lambda: write_whole(folder.report_json, [json.dumps(document, indent=2).encode() + b"\n"]))
    kept.do(lambda: write_whole(folder.report_md, ["\n".join([markdown(report), *in_markdown]).encode()]))
    kept.do(lambda: write_page(folder, document, rows, server, judged.slo, calibration))
    _write_verdicts(asked, judged, in_markdown, kept)
    if to_mlflow and ended.whole:
        kept.do(lambda: document.update(mlflow=_log(folder, rows, report, server, judged)))
    console.say(f"everything of this test: {folder.path} (page: {folder.page})")
    if to_stdout:
        json.dump({**document, "folder": str(folder.path)}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    ended.refuse_unless_whole()
    if not judged.all:
        _refuse_unjudgeable(report)
    if judged.not_compared and judged.exit_code is console.ExitCode.NOT_JUDGED:
        raise console.CannotJudge(judged.not_compared)
    raise typer.Exit(judged.exit_code or kept.exit_code)


def _judge(asked: Asked, rows: LoadRows) -> Judged:
    """The verdicts that were asked for, each shown as it is reached."""
    if not asked.slo and not asked.baseline:
        return Judged()
    window_s, why = window_of(rows)
    slo = judge_run(asked.slo, rows, window_s, why) if asked.slo else None
    if slo:
        verdict.print_verdict(slo)
    if not (asked.baseline and asked.baseline_window_s):
        return Judged(slo)
    if window_s is None:
        return Judged(slo, not_compared=f"no steady state to compare with the baseline: {why}")
    if faults := unusable(rows, window_s):
        return Judged(slo, not_compared=f"this run cannot be compared with the baseline: {faults[0]}")
    comparison = compare_runs(asked.baseline, asked.baseline_window_s, rows, window_s, margins=asked.margins)
    verdict.print_verdict(comparison)
    return Judged(slo, comparison)


def _document(
    report: LatencyReport,
    server: ServerReport | None,
    judged: Judged,
    calibration: Calibration | None,
) -> dict[str, Any]:
    """What report.json holds."""
    rate = report.start.profile.get("arrivals", {}).get("rate_per_s", report.requests_per_s or None)
    return {
        **as_json(report),
        "server": server_json(server) if server else None,
        "calibration": error_bars(calibration, rate, datetime.now(UTC)) if calibration else None,
        "slo": verdict.as_json(judged.slo) if judged.slo else None,
        "baseline": verdict.as_json(judged.comparison) if judged.comparison else None,
    }


def _write_verdicts(asked: Asked, judged: Judged, in_markdown: Sequence[str], kept: Keeping) -> None:
    """JUnit and Markdown hold all that was asked, the SLO first."""
    if not judged.all:
        return
    if junit := asked.junit:
        kept.do(lambda: write_file(junit, "--junit", verdict.junit(*judged.all)))
    if file := asked.markdown:
        kept.do(lambda: write_file(file, "--markdown", "\n".join(in_markdown)))


def _log(
    folder: RunFolder, rows: LoadRows, report: LatencyReport, server: ServerReport | None, judged: Judged
) -> dict[str, str]:
    from load_tests.logged import log_load_test

    tags = {"slo": judged.slo.status if judged.slo else "", "baseline": ""}
    if judged.comparison:
        tags["baseline"] = judged.comparison.verdict
    logged = log_load_test(
        folder,
        rows,
        report,
        metrics=server_metrics(server) if server else {},
        tags={name: value for name, value in tags.items() if value},
    )
    console.say(f"MLflow run {logged.run_id} in experiment {logged.experiment}: see it with `{ui_command()}`")
    return {"run_id": logged.run_id, "experiment": logged.experiment, "tracking_uri": logged.tracking_uri}


def _refuse_unjudgeable(report: LatencyReport) -> None:
    """Raises CannotJudge when the figures say nothing about the endpoint."""
    if report.lost is None or report.lost > 0:
        raise console.CannotJudge(f"rows are missing ({report.lost or 'unknown how many'}): the figures are partial")
    if not report.ok:
        if report.cancelled == report.sent > 0:
            raise console.CannotJudge(EVERY_ONE_CANCELLED)
        classes = ", ".join(f"{status} {count}" for status, count in sorted(report.failures.items()))
        raise console.CannotJudge(f"no request of {report.in_window} succeeded ({classes or 'none was sent'})")
