"""A gate's verdict as files: JUnit XML for the build server, Markdown for the pull request, JSON for programs.

What stands in them (names of variants, a policy's words) is data: XML escapes it, and Markdown gets none of its marks.
"""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree as ET

from common.console import one_line
from evals.gate import Check, GateVerdict
from evals.leaderboard import SIMULATED
from evals.markup import plain, xml_text

_MOST_REASONS = 12
_SIGNS = {"pass": "passed", "fail": "FAILED", "not judged": "not judged"}


def junit(verdict: GateVerdict) -> str:
    """One testcase per variant and check: failed ones have a `failure`, those that could not be judged an `error`."""
    counts = Counter(check.outcome for check in verdict.checks)
    whole = not verdict.checks
    attributes = {
        "name": xml_text(f"plumbline gate {verdict.suite}"),
        "tests": str(len(verdict.checks) or 1),
        "failures": str(counts["fail"]),
        "errors": str(counts["not judged"] or int(whole)),
        "skipped": "0",
    }
    root = ET.Element("testsuites", attributes)
    suite = ET.SubElement(root, "testsuite", attributes)
    for check in verdict.checks:
        _testcase(suite, check)
    if whole:
        case = ET.SubElement(suite, "testcase", classname="plumbline.gate", name="run")
        ET.SubElement(case, "error", message=xml_text(one_line(verdict.why)), type="not judged")
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _testcase(suite: ET.Element, check: Check) -> None:
    case = ET.SubElement(suite, "testcase", classname=xml_text(one_line(check.variant)), name=xml_text(check.check))
    why = xml_text(one_line(check.why))
    if check.outcome == "pass":
        ET.SubElement(case, "system-out").text = why
        return
    kind = "failure" if check.outcome == "fail" else "error"
    ET.SubElement(case, kind, message=why, type="regression" if kind == "failure" else "not judged").text = why


def markdown(verdict: GateVerdict) -> str:
    """A summary for a pull request: the sentence, what did not pass, and every check folded away."""
    lines = [f"### {plain(verdict.why)}", ""]
    if verdict.simulated:
        lines += [f"**{SIMULATED}.**", ""]
    lines += [
        f"Suite {plain(verdict.suite)}, {verdict.cases} cases; baseline {plain(verdict.baseline)}, "
        f"run {plain(verdict.candidate) or 'not made'}.",
        "",
    ]
    against = [check for check in verdict.checks if check.outcome != "pass"]
    if against:
        lines += [*_table(against), ""]
    lines += [f"- {plain(why)}" for why in reasons(verdict)]
    lines += [f"- {plain(note)}" for note in verdict.notes]
    if verdict.checks:
        passed = sum(check.outcome == "pass" for check in verdict.checks)
        still_open = sum(check.open for check in verdict.checks)
        told = f", {still_open} of them open (watched, too little evidence of a fall)" if still_open else ""
        summary = f"{passed} of {len(verdict.checks)} checks passed{told}"
        lines += ["", f"<details><summary>{summary}</summary>", "", *_table(verdict.checks), "", "</details>"]
    return "\n".join(lines) + "\n"


def reasons(verdict: GateVerdict) -> list[str]:
    """Why the checks did not pass that have no figures of a difference to say so; the rest of them is counted."""
    told = [check.why for check in verdict.checks if check.outcome != "pass" and check.difference is None]
    more = [f"and {len(told) - _MOST_REASONS} more; --json tells them all"] if len(told) > _MOST_REASONS else []
    return [*told[:_MOST_REASONS], *more]


def _table(checks: list[Check] | tuple[Check, ...]) -> list[str]:
    head = "| variant | check | baseline | run | difference [one-sided 95 % bounds] | margin | n | verdict |"
    return [head, "|---|---|---:|---:|---:|---:|---:|---|", *(_row(check) for check in checks)]


def _row(check: Check) -> str:
    cells = [
        plain(check.variant),
        plain(check.check) + ("" if check.required else " (watched)"),
        number(check.baseline),
        number(check.candidate),
        difference(check),
        "" if check.margin is None else f"{check.margin:g}",
        "" if check.n is None else str(check.n),
        sign(check),
    ]
    return f"| {' | '.join(cells)} |"


def sign(check: Check) -> str:
    """A check's outcome in words; "open" is a watched metric that may have fallen or not."""
    return "open" if check.open else _SIGNS[check.outcome]


def number(value: float | None) -> str:
    """A mean for a table; nothing where there is none."""
    return "" if value is None else f"{value:.3f}"


def difference(check: Check) -> str:
    """A difference with its interval; nothing where there is none."""
    if check.difference is None:
        return ""
    if check.low is None or check.high is None:
        return f"{check.difference:+.3f}"
    return f"{check.difference:+.3f} [{check.low:+.3f}, {check.high:+.3f}]"
