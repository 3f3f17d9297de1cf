"""The report as text: bounded, the same bytes for the same answers, and nothing of a model's in it unescaped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from evals import page
from evals.case import Case
from evals.compare import Run
from evals.generate import generate
from evals.metamorphic import RELATIONS
from evals.report import MOST_OF_A_FAMILY, report, write_report
from evals.results import compute_results, write_results
from tests.evals.decisions import decision_of
from tests.evals.made_runs import every, made_run, reply, right, wrong, wrong_on

CASES = generate(34, 3)


def hostile(case: Case, _repeat: int) -> dict[str, Any]:
    """Replies, a note and facts that would like to be HTML, beside a decision that is wrong."""
    attack = "<script>document.title='owned'</script><img src=x onerror=\"alert(1)\">"
    decision = decision_of(case, good=False).model_copy(update={"note": attack, "facts": (attack, "<b>fact")})
    return {"replies": (reply(f"{attack} {case.id} {'<' * 4000}"),), "decision": decision}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    run = made_run(
        tmp_path_factory.mktemp("run"), {"half": wrong_on(every(2, CASES)), "<b>bad</b>": hostile}, cases=CASES
    )
    write_results(run.folder, run.table)
    return run, write_report(run.folder).read_text()


def test_nothing_of_a_models_words_or_a_name_is_markup(made: tuple[Run, str]) -> None:
    _, text = made
    assert "<script>document" not in text
    assert "<img" not in text
    assert "<b>bad" not in text
    assert "<b>fact" not in text
    assert "&lt;script&gt;document.title" in text
    assert text.count("<script>") == 1  # the page's own


def test_the_policy_names_the_digest_of_what_the_page_holds_and_nothing_else(made: tuple[Run, str]) -> None:
    _, text = made
    found = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert found
    policy = found[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert " style=" not in text
    assert not re.search(r'(?:src|href)="(?!#)', text)
    for tag in ("style", "script"):
        body = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert body
        assert page._digest(body[1]) in policy


def test_the_worst_samples_show_prompt_answer_and_every_scorers_reason(made: tuple[Run, str]) -> None:
    run, text = made
    worst = text[text.index('id="worst"') :]
    for words in ("more characters", "Prompt and replies", "the rules decide", "need 1", "harmless", "rests on"):
        assert words in worst
    shown = re.findall(r"</span> (\S+) <span", worst)
    families = [run.folder.cases.by_id(case_id).family for case_id in shown]
    assert len(set(shown)) >= 20
    assert max(families.count(family) for family in families) <= 2 * MOST_OF_A_FAMILY  # two variants


def test_the_simulator_is_named_and_every_section_is_there(made: tuple[Run, str]) -> None:
    _, text = made
    assert "SIMULATOR: answers are made up" in text
    for section in ("leaderboard", "comparisons", "scorers", "difficulty", "families", "worst", "definitions"):
        assert f'id="{section}"' in text
    assert 'id="metamorphic"' not in text  # there is no such case in this run


def test_the_rules_stand_in_the_leaderboard_and_a_variant_below_them_is_told(made: tuple[Run, str]) -> None:
    _, text = made
    leaderboard = text[text.index('id="leaderboard"') : text.index('id="comparisons"')]
    assert '<th scope="row">rules</th>' in leaderboard
    assert "&lt;b&gt;bad&lt;/b&gt; does not beat the rules: 0.00 against" in leaderboard
    difficulty = text[text.index('id="difficulty"') : text.index('id="families"')]
    assert "rules</th>" in difficulty


def test_a_sample_without_a_decision_tells_why_and_what_the_rules_decide(tmp_path: Path) -> None:
    run = made_run(tmp_path, {"one": lambda *_: {"replies": (reply("{"),), "problem": "<b>cut off"}}, cases=CASES[:2])
    text = report(run.folder, compute_results(run.folder, run.table))
    worst = text[text.index('id="worst"') :]
    assert "No decision: &lt;b&gt;cut off" in worst
    assert "the rules decide" in worst
    assert ">decided<" not in worst[: worst.index('id="definitions"')].replace('<th scope="row">decided<', "")


@pytest.mark.slow
def test_the_same_answers_give_the_same_bytes_in_any_order_of_arrival(tmp_path: Path) -> None:
    answers = {"half": wrong_on(every(3, CASES)), "none": wrong}
    texts = []
    for name, backwards in (("one", False), ("two", True)):
        run = made_run(tmp_path / name, answers, cases=CASES[:12], backwards=backwards)
        write_results(run.folder, run.table)
        texts.append(write_report(run.folder).read_bytes())
    assert texts[0] == texts[1]
    assert str(tmp_path).encode() not in texts[0]


@pytest.mark.slow
def test_metamorphic_rates_are_shown_with_what_broke(tmp_path: Path) -> None:
    base = CASES[0]
    changed = base.model_copy(update={"id": f"{base.id}~x", "of": base.id, "relation": "rename_pipeline"})
    run = made_run(tmp_path, {"one": wrong_on([changed.id])}, cases=[*CASES[:7], changed])
    text = report(run.folder, compute_results(run.folder, run.table))
    part = text[text.index('id="metamorphic"') : text.index('id="worst"')]
    assert "rename_pipeline" in part
    assert "What broke in one" in part


@pytest.mark.slow
def test_many_variants_with_long_hostile_answers_stay_under_a_megabyte(tmp_path: Path) -> None:
    run = made_run(tmp_path, {f"variant {n}": hostile for n in range(60)}, cases=CASES)
    text = report(run.folder, compute_results(run.folder, run.table))
    assert len(text.encode()) < page.MOST_BYTES
    assert "variants are shown; results.json has all" in text


@pytest.mark.slow
def test_broken_relations_of_many_variants_leave_room(tmp_path: Path) -> None:
    """36 variants that break each of 12 relations on each of 6 cases."""
    cases = CASES[:6]
    changed = [
        case.model_copy(update={"id": f"{case.id}~{relation}", "of": case.id, "relation": relation})
        for relation in RELATIONS
        for case in cases
    ]
    answer = wrong_on([case.id for case in changed])
    run = made_run(tmp_path, {f"variant {n}": answer for n in range(36)}, cases=[*cases, *changed])
    results = compute_results(run.folder, run.table)
    assert len([rate for rate in results.relations if rate.worst]) > 36 * 6
    text = report(run.folder, results)
    assert len(text.encode()) < page.MOST_BYTES
    assert 'id="metamorphic"' in text


def test_a_run_that_is_not_complete_says_so_on_top(tmp_path: Path, made: tuple[Run, str]) -> None:
    run = made_run(tmp_path, {"one": right}, cases=CASES[:4], leave_out=1)
    assert "Not complete: 1 of 4 samples were never asked" in report(run.folder, compute_results(run.folder, run.table))
    assert "Not complete" not in made[1]


def test_a_text_is_cut_and_stripped_of_what_cannot_be_shown() -> None:
    assert page.cut("a\x00b\x1b[31m\nc" + "d" * 10, 8) == {"text": "a b [31m", "left_out": 12}


@pytest.mark.slow
def test_right_answers_leave_no_worst_sample(tmp_path: Path) -> None:
    run = made_run(tmp_path, {"one": right}, cases=CASES[:7])
    text = report(run.folder, compute_results(run.folder, run.table))
    assert "None is shown." in text
