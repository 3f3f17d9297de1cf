"""Verdicts of load tests as text: tables for people, JUnit XML for the build server, Markdown for the pull request.

Names of SLOs and what endpoints say are data: XML escapes them, and Markdown gets none of its marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from common import console
from evals.markup import plain, xml_text
from load_tests.baseline import Change, Comparison
from load_tests.slo import Outcome, SloVerdict


class _Case(NamedTuple):
    """One line of a verdict: what was judged, how it came out, why."""

    name: str
    status: str
    because: str


_PASSED = {"met", "no worse"}
_FAILED = {"missed", "worse"}
_OBJECTIVES = ["objective", "value", "95 % bounds", "limit", "n", "verdict"]
_CHANGES = ["metric", "baseline", "now", "change", "95 % bounds", "margin", "n", "verdict"]


def as_json(verdict: SloVerdict | Comparison) -> dict[str, Any]:
    """One JSON object; figures in the units their fields tell."""
    return {**asdict(verdict), "exit_code": int(verdict.exit_code)}


def print_verdict(verdict: SloVerdict | Comparison) -> None:
    """Table and sentence on stderr."""
    columns, rows = _tabled(verdict)
    console.table(_title(verdict), columns, rows, right=columns[1:-1])
    console.say(_sentence(verdict))


def junit(*verdicts: SloVerdict | Comparison) -> str:
    """One testsuite per verdict, one testcase per objective or metric: missed ones have a `failure`, undecided ones an
    `error`.

    A verdict that rests on the whole run (it could not be judged) is a testcase of its own, an `error`.
    """
    counted = [(_title(verdict), _cases(verdict)) for verdict in verdicts]
    every_case = [case for _, cases in counted for case in cases]
    root = ET.Element("testsuites", _counts(" and ".join(title for title, _ in counted), every_case))
    for title, cases in counted:
        suite = ET.SubElement(root, "testsuite", _counts(title, cases))
        for case in cases:
            _testcase(suite, case)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _counts(name: str, cases: Sequence[_Case]) -> dict[str, str]:
    return {
        "name": xml_text(console.one_line(name)),
        "tests": str(len(cases)),
        "failures": str(sum(case.status in _FAILED for case in cases)),
        "errors": str(sum(case.status not in _PASSED | _FAILED for case in cases)),
        "skipped": "0",
    }


def markdown(verdict: SloVerdict | Comparison) -> str:
    """A summary for a pull request: the sentence, then every figure."""
    columns, rows = _tabled(verdict)
    lines = [f"### {plain(_title(verdict))}", "", plain(_sentence(verdict)), ""]
    lines += [_row(columns), _row(["---"] * len(columns)), *(_row([plain(cell) for cell in row]) for row in rows)]
    if isinstance(verdict, Comparison):
        lines += ["", *(f"- {plain(note)}" for note in verdict.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _title(verdict: SloVerdict | Comparison) -> str:
    if isinstance(verdict, Comparison):
        return "Load test against its baseline" + (" (SIMULATED)" if verdict.simulated else "")
    return f"SLO {verdict.slo}" + (" (SIMULATED)" if verdict.simulated else "")


def _sentence(verdict: SloVerdict | Comparison) -> str:
    if isinstance(verdict, Comparison):
        return verdict.because
    return f"{verdict.status}: {verdict.because} ({verdict.requests} requests in the steady window)"


def _cases(verdict: SloVerdict | Comparison) -> list[_Case]:
    if isinstance(verdict, Comparison):
        # A watched metric that is undecided does not hold up the verdict, so it is no error in the build either.
        return [
            _Case(c.metric, c.verdict if c.required or c.verdict != "undecided" else "no worse", c.because)
            for c in verdict.changes
        ]
    if verdict.unusable:
        return [_Case("run", verdict.status, verdict.because)]
    return [_Case(outcome.objective, outcome.status, outcome.because) for outcome in verdict.objectives]


def _testcase(suite: ET.Element, case: _Case) -> None:
    element = ET.SubElement(suite, "testcase", classname="plumbline.load", name=xml_text(console.one_line(case.name)))
    why = xml_text(console.one_line(case.because))
    if case.status in _PASSED:
        ET.SubElement(element, "system-out").text = why
    else:
        kind = "failure" if case.status in _FAILED else "error"
        ET.SubElement(element, kind, message=why, type=case.status).text = why


def _tabled(verdict: SloVerdict | Comparison) -> tuple[list[str], list[list[str]]]:
    if isinstance(verdict, Comparison):
        return _CHANGES, [_change_cells(change) for change in verdict.changes]
    return _OBJECTIVES, [_outcome_cells(outcome) for outcome in verdict.objectives]


def _outcome_cells(outcome: Outcome) -> list[str]:
    bounds = f"{_figure(outcome.low, outcome.unit)} to {_figure(outcome.high, outcome.unit)}"
    value, limit = (_figure(figure, outcome.unit) for figure in (outcome.value, outcome.limit))
    return [outcome.objective, value, bounds, limit, str(outcome.n), outcome.status]


def _change_cells(change: Change) -> list[str]:
    unit = "share" if change.unit == "points" else "per_s" if change.metric == "requests_per_s" else "s"
    suffix = " %" if change.unit == "percent" else " points"
    return [
        change.metric + ("" if change.required else " (watched)"),
        _figure(change.baseline, unit),
        _figure(change.now, unit),
        _signed(change.change, suffix),
        f"{_signed(change.low, '')} to {_signed(change.high, '')}",
        f"{change.margin:g}{suffix}",
        f"{change.n_baseline}, {change.n_now}",
        change.verdict,
    ]


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "n/a"
    if unit == "s":
        return f"{value * 1e3:,.1f} ms"
    return f"{value:.2%}" if unit == "share" else f"{value:.3g}/s"


def _signed(value: float | None, suffix: str) -> str:
    return "n/a" if value is None else f"{value:+.2f}{suffix}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
