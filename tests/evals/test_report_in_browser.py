"""The report in a real browser: it asks nothing of anybody, sorts, stays legible, and runs no word of a model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from evals import page as shell
from evals.case import Case
from evals.generate import generate
from evals.report import write_report
from evals.results import write_results
from evals.verdict_commands import compare
from tests.evals.decisions import decision_of
from tests.evals.made_runs import every, made_run, reply, right, wrong_on

pytestmark = pytest.mark.slow

ATTACK = "</pre></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
CASES = generate(34, 3)


def attacking(case: Case, _repeat: int) -> dict[str, Any]:
    """A wrong decision whose note, facts and words all try to run."""
    decision = decision_of(case, good=False).model_copy(update={"note": ATTACK, "facts": (ATTACK,)})
    return {"replies": (reply(ATTACK),), "decision": decision}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose names, case description, notes and replies all try to run."""
    spec = CASES[0].spec
    source = spec.source.model_copy(update={"description": ATTACK})
    cases = [CASES[0].model_copy(update={"spec": spec.model_copy(update={"source": source})}), *CASES[1:]]
    answers = {
        "steady": wrong_on([case.id for case in cases[::2]]),
        "weak": wrong_on([case.id for case in cases if case.id != cases[5].id]),
        f"bad {ATTACK}": attacking,
    }
    run = made_run(tmp_path_factory.mktemp("run"), answers, cases=cases)
    write_results(run.folder, run.table)
    return write_report(run.folder)


class Seen:
    """A page with everything it did that it should not."""

    def __init__(self, browser: Browser, path: Path, **context: object) -> None:
        self.page: Page = browser.new_context(**context).new_page()  # type: ignore[arg-type]
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(path.as_uri())

    def column(self, table: str, number: int) -> list[str]:
        return [one.strip() for one in self.page.locator(f"{table} tbody tr > :nth-child({number})").all_inner_texts()]


def test_the_page_loads_without_a_request_or_a_complaint_and_runs_no_foreign_word(
    chromium: Browser, report: Path
) -> None:
    seen = Seen(chromium, report)
    for details in seen.page.locator("details").all():
        details.evaluate("one => { one.open = true }")
    seen.page.wait_for_timeout(300)
    assert seen.requests == [report.as_uri()]
    assert seen.complaints == []
    assert seen.page.title() == "made: evaluation"
    assert seen.page.locator("main img, main script").count() == 0
    assert "<img src=x" in seen.page.inner_text("#worst")  # it is there to be read
    assert report.stat().st_size < shell.MOST_BYTES


def test_a_click_on_a_header_sorts_and_says_so_and_keys_do_the_same(chromium: Browser, report: Path) -> None:
    seen = Seen(chromium, report)
    table = "#leaderboard table"
    names = seen.column(table, 1)
    assert {"rules", "steady", "weak"} <= set(names)
    assert names.index("steady") < names.index("weak")  # by headline
    variant = seen.page.locator(f"{table} th").nth(0)
    headline = seen.page.locator(f"{table} th").nth(1)
    assert headline.get_attribute("aria-sort") == "descending"
    headline.locator("button").click()
    assert headline.get_attribute("aria-sort") == "ascending"
    turned = seen.column(table, 1)
    assert turned.index("weak") < turned.index("steady")
    variant.locator("button").focus()
    seen.page.keyboard.press("Enter")
    assert (variant.get_attribute("aria-sort"), headline.get_attribute("aria-sort")) == ("ascending", None)
    assert seen.column(table, 1) == sorted(names)
    seen.page.keyboard.press("Space")
    assert seen.column(table, 1) == sorted(names, reverse=True)
    assert seen.complaints == []


def test_numbers_sort_as_numbers_and_what_is_missing_stays_below(chromium: Browser, report: Path) -> None:
    seen = Seen(chromium, report)
    table = "#scorers table"
    head = seen.page.locator(f"{table} th button").nth(1)
    for reverse in (False, True):
        head.click()
        cells = seen.column(table, 2)
        known = [float(cell) for cell in cells if cell != "-"]
        assert known == sorted(known, reverse=reverse)
        assert all(cell == "-" for cell in cells[len(known) :])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_in_both_schemes(chromium: Browser, report: Path, scheme: str) -> None:
    """WCAG 2.2 asks for a contrast of 4.5 for text of this size."""
    seen = Seen(chromium, report, color_scheme=scheme)
    dark = seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 23, 30)"
    assert dark == (scheme == "dark")
    assert seen.page.evaluate(_LOW_CONTRAST) == []


def test_a_phone_scrolls_tables_and_not_the_page(chromium: Browser, report: Path) -> None:
    seen = Seen(chromium, report, viewport={"width": 390, "height": 800})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_comparison_page_is_as_quiet(chromium: Browser, tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", {f"x {ATTACK}": right}, cases=CASES)
    b = made_run(tmp_path / "b", {f"y {ATTACK}": wrong_on(every(2, CASES))}, cases=CASES)
    compare(str(a.folder.path), str(b.folder.path), None, False)
    seen = Seen(chromium, tmp_path / "b" / "compare.html")
    seen.page.wait_for_timeout(300)
    assert (seen.complaints, len(seen.requests)) == ([], 1)
    assert "owned" not in seen.page.title()
    assert seen.page.locator("tbody tr").count() > 5


_LOW_CONTRAST = """() => {
  const level = (rgb) => {
    const linear = (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    const part = rgb.map((one) => linear(one / 255));
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const probe = document.createElement("div");
  for (let step = 0; step <= 10; step += 1) probe.innerHTML += `<span class="pill h${step}">step ${step}</span>`;
  document.querySelector("main").append(probe);
  const found = new Set();
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
    if (!own || ["SCRIPT", "STYLE"].includes(node.tagName)) continue;
    const one = level(rgb(getComputedStyle(node).color));
    const two = level(ground(node));
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (contrast < 4.5) found.add(`${node.tagName}.${node.className}: ${contrast.toFixed(2)}`);
  }
  return [...found];
}"""
