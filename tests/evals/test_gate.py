"""The gate: what passes, what fails, what cannot be judged, and the files that say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.labels.policy import Policy, load_policy, policy_names
from agents.specialists.registry import labels_for
from common.console import BadInput
from evals.case import Case
from evals.compare import Run
from evals.gate import Check, GateVerdict, _by_rules, _Measured, judge
from evals.gate_rules import GateRules
from evals.generate import generate
from evals.markup import plain
from evals.running import Where, run_suite
from evals.verdict_commands import gate
from evals.verdict_files import junit, markdown
from tests.evals.made_runs import Answer, every, failed, made_run, reply, right, variant, wrong, wrong_on

CASES = generate(68, 3)
RULES = GateRules()
Make = Callable[..., Run]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Nine of ten cases right."""
    return made_run(tmp_path_factory.mktemp("base"), {"write": wrong_on(every(10, CASES))}, cases=CASES)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda answer, **how: made_run(tmp_path / "run", {"write": answer}, **{"cases": CASES, **how})


def check_of(verdict: GateVerdict, name: str) -> Check:
    return next(check for check in verdict.checks if check.check == name)


# --- pass and fail ---------------------------------------------------------------------------------------


def test_the_same_answers_pass(baseline: Run) -> None:
    verdict = judge(baseline, baseline, RULES)
    assert verdict.outcome == "pass"
    assert verdict.why.startswith("PASS: ")
    assert "no case differs" in verdict.why
    assert {check.outcome for check in verdict.checks} == {"pass"}


def test_a_fall_fails_and_the_sentence_has_difference_interval_margin_and_n(baseline: Run, make: Make) -> None:
    verdict = judge(baseline, make(wrong_on(every(2, CASES))), RULES)
    assert verdict.outcome == "fail"
    assert verdict.exit_code == 1
    headline = check_of(verdict, "headline")
    fell = (34 - 7) / 68
    assert headline.difference == pytest.approx(-fell, abs=0.02)
    assert verdict.why.startswith(f"FAIL: headline of write fell: {headline.difference:+.3f} [")
    assert "(margin 0.05, n=68)" in verdict.why


@pytest.mark.slow
def test_an_improvement_passes(make: Make, baseline: Run) -> None:
    assert judge(baseline, make(right), RULES).outcome == "pass"


@pytest.mark.slow
def test_a_fall_within_one_agent_fails_though_the_mean_hides_it(baseline: Run, make: Make) -> None:
    bad = [case.id for case in CASES if case.stage == "infrastructure"]
    rules = GateRules(margins={"headline": 1.0, "actions": 1.0})
    verdict = judge(baseline, make(wrong_on(bad)), rules)
    assert check_of(verdict, "headline").outcome == "pass"
    assert check_of(verdict, "headline/infrastructure").outcome == "fail"
    assert verdict.outcome == "fail"


def test_too_little_evidence_is_no_pass_and_says_how_many_cases_would_tell(baseline: Run, make: Make) -> None:
    shifted = [case.id for case in CASES[1::10]]  # as many wrong as in the baseline, but others
    verdict = judge(baseline, make(wrong_on(shifted)), RULES)
    assert (verdict.outcome, verdict.exit_code) == ("not judged", 3)
    needed = check_of(verdict, "headline").needed_n
    assert needed is not None
    assert needed > 68
    assert f"about {needed} cases would tell" in verdict.why


@pytest.mark.slow
def test_answers_without_a_decision_fail_by_their_own_metric(baseline: Run, make: Make) -> None:
    undecided = {case.id for case in CASES[::3]}
    same = wrong_on(every(10, CASES))

    def cut(case: Case, repeat: int) -> Any:
        given = {"replies": (reply("{", "length"),), "problem": "was cut off"}
        return given if case.id in undecided else same(case, repeat)

    verdict = judge(baseline, make(cut), RULES)
    assert verdict.outcome == "fail"
    assert check_of(verdict, "decided").outcome == "fail"


@pytest.mark.slow
def test_a_policy_whose_labels_fit_worse_fails_without_any_change_of_words(baseline: Run, make: Make) -> None:
    fits = {name: _label_fit(load_policy(name), baseline) for name in policy_names()}
    worst = min(fits, key=lambda name: fits[name])
    assert fits[worst] < fits["standard"], "no packaged policy fits worse: the test proves nothing"
    same: Answer = wrong_on(every(10, CASES))
    verdict = judge(baseline, make(same, changes={"policy": load_policy(worst)}), RULES)
    assert check_of(verdict, "label_fit").outcome == "fail"
    assert verdict.outcome == "fail"


def _label_fit(policy: Policy, run: Run) -> float:
    judged = [case for case in run.folder.cases if case.acceptable_labels]
    labels = [labels_for(case.spec, policy)[case.stage] for case in judged]
    return sum(
        bool(label and label.value in case.acceptable_labels) for case, label in zip(judged, labels, strict=True)
    ) / len(judged)


@pytest.mark.slow
def test_a_level_is_held_whatever_the_baseline_does(baseline: Run) -> None:
    def outcome(level: float) -> str:
        return check_of(judge(baseline, baseline, GateRules(minimum={"headline": level})), "minimum headline").outcome

    assert outcome(0.85) == "pass"
    assert outcome(0.93) == "not judged"  # within the interval
    assert outcome(0.999) == "fail"


def test_a_level_is_not_missed_by_one_case(tmp_path: Path) -> None:
    def outcome(cases: list[Case]) -> str:
        run = made_run(tmp_path / str(len(cases)), {"write": wrong}, cases=cases)
        return check_of(judge(run, run, GateRules(minimum={"headline": 0.5})), "minimum headline").outcome

    assert outcome(CASES[:1]) == "not judged"
    assert outcome(CASES[:12]) == "fail"


def test_rules_that_fall_by_just_their_margin_have_not_fallen(baseline: Run) -> None:
    """0.7 - 0.8 is below -0.1 by rounding."""
    before, after = np.array([0.8]), np.array([0.7])
    check = _by_rules(_Measured("write", "label_fit", before, after), GateRules(margins={"label_fit": 0.1}))
    assert check.outcome == "pass"
    check = _by_rules(_Measured("write", "label_fit", before, after), GateRules(margins={"label_fit": 0.09}))
    assert check.outcome == "fail"


# --- what cannot be judged -------------------------------------------------------------------------------


def test_a_headline_near_zero_cannot_fall_and_proves_nothing(tmp_path: Path) -> None:
    silent = made_run(
        tmp_path,
        {"write": lambda _case, _repeat: {"replies": (reply("{}"),), "problem": "is no decision"}},
        cases=CASES[:34],
    )
    verdict = judge(silent, silent, RULES)
    assert verdict.outcome == "not judged"
    assert "no required metric of write can fall by its margin (headline was 0.000" in verdict.why
    assert "gate.required" in verdict.why


def test_too_many_errors_are_the_endpoints_fault_and_no_verdict(baseline: Run, make: Make) -> None:
    gone = {case.id for case in CASES[:3]}
    same = wrong_on(every(10, CASES))
    verdict = judge(baseline, make(lambda case, r: failed(case) if case.id in gone else same(case, r)), RULES)
    assert verdict.outcome == "not judged"
    assert "3 of 68 samples of write in the run got no answer (unreachable: 3); allowed are 2.0%" in verdict.why


@pytest.mark.slow
def test_a_run_that_is_not_sound_is_told_before_thin_evidence(baseline: Run, make: Make) -> None:
    gone, shifted = {case.id for case in CASES[2:5]}, wrong_on([case.id for case in CASES[1::10]])
    verdict = judge(baseline, make(lambda case, r: failed(case) if case.id in gone else shifted(case, r)), RULES)
    assert check_of(verdict, "headline").outcome == "not judged"
    assert verdict.why.startswith("NOT JUDGED: 3 of 68 samples of write in the run got no answer")


def test_a_metric_that_the_suite_requires_and_nothing_measures_is_no_pass(make: Make) -> None:
    run = make(right, cases=[case for case in CASES if case.stage == "ingestion"])
    verdict = judge(run, run, GateRules(required=("headline", "headline/quality")))
    assert "headline/quality of write is required and no case has a value of it in both runs" in verdict.why
    assert verdict.outcome == "not judged"


@pytest.mark.slow
def test_a_run_that_is_not_complete_is_not_judged(baseline: Run, make: Make) -> None:
    incomplete = make(wrong_on(every(10, CASES)), leave_out=5)
    verdict = judge(baseline, incomplete, RULES)
    assert verdict.outcome == "not judged"
    assert "5 samples of write were never asked in the run" in verdict.why
    assert "- 5 samples of write were never asked" in markdown(verdict)
    assert check_of(judge(incomplete, baseline, RULES), "samples of the baseline").outcome == "not judged"


def test_a_baseline_without_the_cases_asks_for_a_new_one(baseline: Run, make: Make) -> None:
    verdict = judge(baseline, make(right, cases=[*CASES[:60], CASES[0].model_copy(update={"id": "new"})]), RULES)
    assert (verdict.outcome, verdict.checks) == ("not judged", ())
    assert "lacks 1 of the run's 61 cases; make a new baseline" in verdict.why


def test_cases_that_the_run_dropped_are_told(baseline: Run, make: Make) -> None:
    verdict = judge(baseline, make(right, cases=CASES[:66]), RULES)
    assert verdict.cases == 66
    assert "2 cases of the baseline are not in the run and were not judged" in verdict.notes


def test_made_up_answers_are_not_held_against_real_ones(baseline: Run, make: Make) -> None:
    model = variant("x").model.model_copy(update={"simulated": False})
    verdict = judge(baseline, make(right, changes={"model": model}), RULES)
    assert verdict.outcome == "not judged"
    assert "the baseline's answers are the simulator's and the run's are not" in verdict.why


@pytest.mark.slow
def test_a_fail_outweighs_what_was_not_judged(tmp_path: Path) -> None:
    cases = CASES[:34]
    before = made_run(tmp_path / "a", {"one": right, "two": right}, cases=cases)
    after = made_run(tmp_path / "b", {"one": wrong, "two": failed}, cases=cases)
    assert judge(before, after, RULES).outcome == "fail"


@pytest.mark.slow
def test_variants_without_a_counterpart_are_told(tmp_path: Path) -> None:
    before = made_run(tmp_path / "a", {"one": right, "old": right}, cases=CASES[:7])
    after = made_run(tmp_path / "b", {"one": right, "new": right}, cases=CASES[:7])
    notes = " ".join(judge(before, after, RULES).notes)
    assert "variant old of the baseline is not in the run" in notes
    assert "variant new is new" in notes


def test_what_changed_in_the_set_up_is_told_by_its_name(tmp_path: Path) -> None:
    prompt = variant("x").prompt
    hot = prompt.model_copy(update={"sampling": prompt.sampling.model_copy(update={"temperature": 1.5})})
    before = made_run(tmp_path / "a", {"one": right}, cases=CASES[:7])
    after = made_run(tmp_path / "b", {"two": right}, cases=CASES[:7], changes={"prompt": hot})
    notes = judge(before, after, RULES).notes
    assert "two is held against one: the only variant on each side" in notes
    assert any(note.startswith("sampling of two was temperature 0,") for note in notes)
    assert not any("prompt" in note for note in notes)


# --- the rules' own file ---------------------------------------------------------------------------------


def test_an_unknown_metric_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValidationError, match=r"'hedline' is no metric; metrics: headline, "):
        GateRules.model_validate({"minimum": {"hedline": 0.5}})
    with pytest.raises(ValidationError):
        GateRules.model_validate({"margins": {"headline": -0.1}})
    with pytest.raises(ValidationError):
        GateRules.model_validate({"required": []})
    with pytest.raises(ValidationError, match="headline is required and ignored"):
        GateRules.model_validate({"ignore": ["headline"]})


def test_margins_default_by_metric_and_can_be_set() -> None:
    rules = GateRules.model_validate({"margins": {"headline": 0.1}, "ignore": ["permitted"], "by_agent": False})
    assert (rules.margin("headline"), rules.margin("decided"), rules.margin("label_fit")) == (0.1, 0.02, 0.0)
    assert not rules.judges("permitted")
    assert not rules.judges("headline/quality")


# --- the command and its files ---------------------------------------------------------------------------


def suite_file(folder: Path) -> Path:
    path = folder / "suite.yaml"
    path.write_text("name: made\nprompts: [write]\ncases: {count: 68, seed: 3}\n")
    return path


def gate_exit(suite: Path, baseline: Run, **options: object) -> int:
    with pytest.raises(typer.Exit) as ended:
        gate(suite, baseline.folder.path, **{"base_url": None, "model": None, "out": None, **options})  # type: ignore[arg-type]
    return int(ended.value.exit_code)


def test_the_command_judges_a_run_on_disk_and_writes_both_files(baseline: Run, make: Make, tmp_path: Path) -> None:
    bad = make(wrong)
    xml, summary = tmp_path / "out" / "gate.xml", tmp_path / "gate.md"
    code = gate_exit(
        suite_file(tmp_path), baseline, run=bad.folder.path, junit_file=xml, markdown_file=summary, as_json=False
    )
    assert code == 1
    root = ET.fromstring(xml.read_text())  # noqa: S314 - ours
    suite = root.find("testsuite")
    assert suite is not None
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases) > 10
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure")) > 0
    assert all({"name", "classname"} <= set(case.attrib) for case in cases)
    assert summary.read_text().startswith("### FAIL: ")


@pytest.mark.slow
def test_an_endpoint_that_is_down_exits_3_and_the_build_server_is_told(baseline: Run, tmp_path: Path) -> None:
    xml = tmp_path / "gate.xml"
    url = "http://127.0.0.1:9/v1"
    code = gate_exit(
        suite_file(tmp_path),
        baseline,
        run=None,
        base_url=url,
        out=tmp_path / "new",
        junit_file=xml,
        markdown_file=None,
        as_json=False,
    )
    assert code == 3
    root = ET.fromstring(xml.read_text())  # noqa: S314 - ours
    assert root.attrib["errors"] == "1"
    assert root.find("testsuite/testcase/error") is not None


@pytest.mark.slow
def test_the_suite_is_run_on_a_simulator_and_judged_against_itself(
    start_simulator: Callable[..., str], tmp_path: Path
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("name: small\nprompts: [write]\ncases: {count: 34, seed: 3}\n")
    base_url = start_simulator(ttft_ms=0, itl_ms=0)
    ran = run_suite(suite, Where(base_url, None, tmp_path / "base"))
    before = Run(ran.folder, ran.table, Run.open(ran.folder.path).outcomes)
    code = gate_exit(
        suite,
        before,
        run=None,
        base_url=base_url,
        out=tmp_path / "new",
        junit_file=None,
        markdown_file=tmp_path / "m.md",
        as_json=False,
    )
    assert (tmp_path / "new" / "report.html").is_file()
    assert code in {0, 3}  # the simulator decides by its schema alone: its headline may be 0
    assert "SIMULATOR" in (tmp_path / "m.md").read_text()


def test_a_file_that_cannot_be_written_does_not_cost_the_verdict(
    baseline: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    run = baseline.folder.path
    with pytest.raises(BadInput, match=r"--junit .*cannot be written"):
        gate(suite_file(tmp_path), run, run, None, None, None, tmp_path / "file" / "gate.xml", None, False)
    assert "PASS: " in capsys.readouterr().err


def test_a_baseline_that_is_no_run_costs_no_call(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no folder of a run"):
        gate(suite_file(tmp_path), tmp_path, None, None, None, tmp_path / "new", None, None, False)
    assert not (tmp_path / "new").exists()


def _verdict(text: str) -> GateVerdict:
    check = Check(variant=text, check="headline", outcome="fail", why=text, p=0.01, difference=-0.2)
    return GateVerdict(
        outcome="fail",
        why=text,
        suite=text,
        baseline=text,
        candidate=text,
        simulated=False,
        cases=1,
        checks=(check,),
        notes=(text,),
    )


@given(st.text(min_size=1, max_size=40))
def test_any_name_gives_sound_xml_and_a_markdown_table_of_the_same_width(text: str) -> None:
    verdict = _verdict(text)
    ET.fromstring(junit(verdict))  # noqa: S314 - ours
    rows = [line for line in markdown(verdict).splitlines() if line.startswith("|")]
    assert len(rows) == 6
    for row in rows:
        assert row.replace("\\\\", "").replace("\\|", "").count("|") == 9


def test_markdown_and_html_in_a_name_are_shown_not_obeyed() -> None:
    assert plain("a|b `c` <img src=x> [l](u) @all\n# h") == (
        "a\\|b \\`c\\` &lt;img src=x&gt; \\[l\\]\\(u\\) \\@all \\# h"
    )
