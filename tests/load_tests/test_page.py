"""The page of a load test: bounded, true to its rows, and in a real browser without a request or a foreign word run."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser

from common.console import ExitCode
from evals import page as shell
from load_tests import page_charts
from load_tests.calibrate import Calibration, CalibrationStep, Spread
from load_tests.charts import Axis, Chart, Drawn, latency_axis, linear_axis, round_step
from load_tests.page import load_page, steady_window, write_page
from load_tests.page_charts import TestTimes, charts_of
from load_tests.rows import LoadRows
from load_tests.server_metrics import report_of
from load_tests.slo import Outcome, SloVerdict
from load_tests.sse import Status
from tests.evals.test_report_in_browser import Seen
from tests.load_tests.made_load import NS, made_record, made_rows
from tests.load_tests.test_server_metrics import run_of

ATTACK = "</pre></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
REPORT: dict[str, Any] = {
    "simulated": True,
    "warnings": [],
    "phases": {"start_s": 3.0, "end_s": 50.0, "why": "steady from 3 s on"},
    "ttft_s": {"n": 40, "p50": 0.05, "p90": 0.06, "p95": 0.07, "p99": None, "p50_low": 0.049, "p50_high": 0.051},
    "itl_s": {"n": 120, "p50": 0.01, "p90": 0.01, "p95": 0.011, "p99": 0.0123},
    "requests_per_s": 1.0,
}

SPREAD = Spread(n=500, mean_s=0.0002, p50_s=0.00018, p99_s=0.00083)
CALIBRATION = Calibration(
    measured_at=datetime(2026, 1, 2, tzinfo=UTC),
    hostname=ATTACK,
    environment={},
    load_average=0.5,
    client="made",
    ttft_s=0.05,
    itl_s=0.01,
    output_tokens=64,
    steps=(
        CalibrationStep(
            rate_per_s=50.0,
            sent=500,
            ok=500,
            chunks_per_s=3200.0,
            ttft_error=SPREAD,
            ttft_over_nominal=SPREAD,
            itl_error=SPREAD,
            scheduling_lag=SPREAD,
            cpu_share=None,
        ),
    ),
)


def many(count: int, seconds: float = 60.0) -> LoadRows:
    """A busy test: lognormal TTFTs that rise in the middle, some failures of each kind."""
    rng = np.random.default_rng(5)
    sent_s = np.sort(rng.uniform(0, seconds, count))
    ttft_s = 0.05 * rng.lognormal(0, 0.4, count) * (1 + 3 * np.exp(-(((sent_s - seconds / 2) / 5) ** 2)))
    late_s = rng.exponential(0.002, count)
    records = []
    for index in range(count):
        changes: dict[str, Any] = {"sent_ns": int(sent_s[index] * NS), "ttft_s": float(ttft_s[index])}
        changes["intended_ns"] = changes["sent_ns"] - int(late_s[index] * NS)
        changes["itl_s"] = [0.01 + 0.001 * (index % 7)] * 15
        if index % 97 == 0:
            changes |= {"status": Status.HTTP_ERROR, "http_status": 429, "error": "HTTP 429: too many requests"}
            changes |= {"ttft_s": None, "itl_s": [], "content_chunks": 0, "e2e_s": None, "last_content_ns": None}
        records.append(made_record(index, **changes))
    return made_rows(records, stop_s=seconds)


def verdict(status: Any, words: str) -> SloVerdict:
    outcome = Outcome("ttft", f"p95 of TTFT {words}", "missed", words, "s", 0.3, 0.4123, 0.401, None, 40)
    return SloVerdict("slo", status, f"because {words}", (outcome,), "intended", 40, True)


def folder(path: Path) -> Any:
    return SimpleNamespace(page=path / "report.html")


def test_every_section_is_there_and_figures_are_the_reports() -> None:
    text = load_page(REPORT, many(40), report_of(run_of(40), many(40)), verdict("missed", "slow"), CALIBRATION)
    for section in (
        "verdict",
        "latency",
        "percentiles",
        "timeline",
        "throughput",
        "heat",
        "server",
        "errors",
        "slowest",
    ):
        assert f'id="{section}"' in text
    assert "SIMULATED" in text
    assert "12.30" in text  # p99 of ITL, as the report says
    assert "Steady from 3 s on." in text
    assert "0.4123" in text
    assert ExitCode.VERDICT_AGAINST.value == 1
    assert "0.83" in text  # the p99 of the TTFT error, milliseconds
    assert " style=" not in text
    assert not re.search(r'(?:src|href)="(?!#)', text)


def test_a_test_without_an_answer_a_window_or_a_server_still_has_a_page() -> None:
    failed = made_record(
        0, status=Status.CONNECTION, ttft_s=None, itl_s=[], content_chunks=0, error="refused", e2e_s=None
    )
    text = load_page({"warnings": ["nothing was answered"]}, made_rows([failed]), None, None, None)
    assert "refused" in text
    assert "nothing was answered" in text
    assert "gave no figures of its own" in text
    assert "No steady window is known" in text
    assert 'id="errors"' in load_page({"warnings": []}, made_rows([]), None, None, None)


def test_nothing_that_came_from_outside_is_markup() -> None:
    failed = made_record(1, status=Status.STREAM_ERROR, error=ATTACK, pipeline_id=ATTACK, stage="x")
    rows = made_rows([made_record(0, pipeline_id=ATTACK), failed], model=ATTACK, base_url=ATTACK, client=ATTACK)
    text = load_page({"warnings": [ATTACK]}, rows, None, verdict("met", ATTACK), CALIBRATION)
    assert "<script>document" not in text
    assert "<img" not in text
    assert text.count("<script>") == 1


def test_the_slowest_requests_stand_first_with_what_was_in_flight() -> None:
    """Request 3 waits 5 s for its token and is alone for the first second of that."""
    slow = made_record(3, ttft_s=5.0)
    rows = made_rows([made_record(0), made_record(1), made_record(2), slow, made_record(4), made_record(5)])
    text = load_page(REPORT, rows, None, None, None)
    part = text[text.index('id="slowest"') :]
    assert re.search(r'<tbody>\s*<tr><td class="num" data-value="3">3<', part)
    times = TestTimes.of(rows, None)
    assert list(times.in_flight_at(np.array([2.5, 3.0, 4.01, 6.0, 9.0]))) == [0, 1, 2, 1, 0]


# --- what charts show ------------------------------------------------------------------------------------


def test_tokens_are_counted_where_their_chunks_came_and_none_is_lost() -> None:
    times = TestTimes.of(made_rows([made_record(0, output_tokens=8), made_record(1, output_tokens=None)]), None)
    assert times.chunk_tokens.sum() == 12  # 8 in four chunks, and four chunks of unknown size count one each
    assert times.chunk_s[0] == pytest.approx(0.050)
    assert times.chunk_s[3] == pytest.approx(0.080)


def test_dots_are_thinned_evenly_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_charts, "MOST_DOTS", 50)
    shown = charts_of(TestTimes.of(many(200), None))["timeline"][0]
    dots = re.search(r'opacity=".55"[^>]*d="([^"]*)"', shown.svg)
    assert dots
    assert 30 < dots[1].count("h0") <= 50
    assert "every 4th of them" in shown.words
    assert "all 197 requests" in shown.words


def test_a_line_is_interrupted_where_there_is_nothing() -> None:
    x, y = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, np.nan, 1.0])
    chart = Chart("t", linear_axis(0, 4), linear_axis(0, 1), [Drawn("one", x, y)])
    assert "M0 2000L500 0M1500 0" in chart.svg


def test_axes_have_round_marks_inside_their_ends() -> None:
    assert [words for _, words in linear_axis(0.0, 60.0, " s").ticks] == ["0 s", "20 s", "40 s", "60 s"]
    axis = latency_axis(np.array([0.008, 0.3]))
    assert [words for _, words in axis.ticks] == ["10 ms", "20 ms", "50 ms", "100 ms", "200 ms"]
    assert axis.place(np.array([axis.low, axis.high])) == pytest.approx([0.0, 1.0])
    narrow = latency_axis(np.array([0.0101, 0.0149]))
    assert len(narrow.ticks) >= 3
    assert all(narrow.low <= at <= narrow.high for at, _ in narrow.ticks)
    assert [round_step(least) for least in (0.11, 1.0, 2.1, 60.0)] == pytest.approx([0.2, 1.0, 5.0, 100.0])
    assert list(Axis(1.0, 100.0, (), logarithmic=True).place(np.array([10.0]))) == [0.5]


def test_the_window_is_none_unless_the_report_names_both_ends() -> None:
    assert steady_window(REPORT) == (3.0, 50.0)
    assert steady_window({"phases": {"why": "requests in flight grew"}}) is None
    assert steady_window({}) is None


@pytest.mark.slow
def test_fifty_thousand_requests_fit_a_megabyte() -> None:
    rows = many(50_000, 600.0)
    text = load_page(REPORT, rows, report_of(run_of(1200), rows), verdict("missed", "slow"), None)
    assert len(text.encode()) < shell.MOST_BYTES
    assert "every 9th of them" in text


# --- in a browser ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = many(600)
    failed = made_record(600, status=Status.STREAM_ERROR, error=ATTACK, pipeline_id=ATTACK)
    rows = made_rows([*rows.records, failed], model=ATTACK)
    server = report_of(run_of(600), rows)
    report = {**REPORT, "warnings": [ATTACK]}
    return write_page(folder(tmp_path_factory.mktemp("run")), report, rows, server, verdict("missed", ATTACK), None)


@pytest.mark.slow
def test_the_page_asks_for_nothing_complains_of_nothing_and_runs_no_foreign_word(
    chromium: Browser, hostile: Path
) -> None:
    seen = Seen(chromium, hostile)
    assert seen.requests == [hostile.as_uri()]
    assert seen.complaints == []
    assert "owned" not in seen.page.title().replace(ATTACK, "")
    assert seen.page.locator("img").count() == 0
    assert seen.page.locator("svg[role=img]").count() >= 10


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_charts_are_as_wide_as_the_page_and_their_words_stay_legible(
    chromium: Browser, hostile: Path, width: int
) -> None:
    seen = Seen(chromium, hostile, viewport={"width": width, "height": 900})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [one.bounding_box() for one in seen.page.locator(".wide > svg[role=img]").all()]
    assert all(box and width * 0.75 < box["width"] <= width for box in boxes)
    assert seen.page.locator("svg text").first.evaluate("one => getComputedStyle(one).fontSize") == "11px"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_have_a_colour_of_the_page_in_light_and_dark(chromium: Browser, hostile: Path, scheme: str) -> None:
    seen = Seen(chromium, hostile, color_scheme=scheme)
    colours = seen.page.locator("#percentiles .wide path").evaluate_all(
        "all => [...new Set(all.map(one => getComputedStyle(one).stroke))]"
    )
    assert len(colours) >= 3  # the grid and two rows: a variable the page lacks would be none
    assert "none" not in colours
