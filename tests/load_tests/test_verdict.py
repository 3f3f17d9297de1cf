"""Verdicts as files."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest

from load_tests.baseline import Comparison, compare_windows
from load_tests.slo import SloVerdict, judge
from load_tests.slo_file import Slo
from load_tests.verdict import as_json, junit, markdown, print_verdict
from tests.load_tests.made_windows import made_window

NASTY = "<b>*x* & \x1b[31m|`y`"
SLO = Slo.model_validate(
    {
        "name": NASTY,
        "objectives": [
            {"metric": "ttft", "percentile": 50, "at_most_ms": 300},
            {"metric": "ttft", "percentile": 95, "at_most_ms": 300},
            {"metric": "ttft", "percentile": 99, "at_most_ms": 900},
        ],
    }
)
MIXED = judge(SLO, made_window(np.array([0.1] * 80 + [0.5] * 20)), open_loop=True, simulated=True)
COMPARED = compare_windows(
    made_window(np.full(400, 0.1)), made_window(np.full(400, 0.2)), paired=True, closed_loop=False
)


def parsed(verdict: SloVerdict | Comparison) -> ET.Element:
    return ET.fromstring(junit(verdict))  # noqa: S314 - we wrote it


def test_junit_tells_failures_from_what_could_not_be_judged() -> None:
    root = parsed(MIXED)
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("3", "1", "1")
    assert len(root.findall(".//failure")) == 1
    assert "20 of 100 above" in (root.find(".//failure").get("message") or "")  # type: ignore[union-attr]


def test_junit_of_a_run_that_cannot_be_judged_is_one_error() -> None:
    invalid = judge(SLO, made_window([0.1] * 400), unusable=("client busy",), open_loop=True, simulated=False)
    root = parsed(invalid)
    assert (root.get("tests"), root.get("errors")) == ("1", "1")


def test_names_stay_data() -> None:
    told = markdown(MIXED)
    assert "<b>" not in told
    assert "\x1b" not in told
    assert parsed(MIXED).get("name", "").startswith("SLO <b>")
    assert "SIMULATED" in told


def test_comparison_is_told_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed(COMPARED).get("failures") == "3"
    assert "100.00 %" in markdown(COMPARED)
    assert as_json(COMPARED)["exit_code"] == 1
    print_verdict(COMPARED)
    assert "ttft" in capsys.readouterr().err


def test_json_holds_no_infinity() -> None:
    ok = np.array([True] * 50 + [False] * 50)
    failed = judge(SLO, made_window(np.full(100, 0.1), ok=ok), open_loop=True, simulated=False)
    assert as_json(failed)["objectives"][2]["value"] is None
