"""A run's results: every figure against a hand count, and nothing lost or counted twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.labels.policy import load_policy
from agents.specialists.registry import labels_for
from common.console import BadInput
from evals.by_rules import decided_by_rules
from evals.case import Case
from evals.compare import Run
from evals.generate import generate
from evals.leaderboard import below_the_rules, sentences, title
from evals.results import (
    Comparison,
    against_rules,
    compute_results,
    load_results,
    sampling_in_words,
    sentence,
    write_results,
)
from evals.run_folder import RunFolder
from evals.score_table import ScoreTable
from evals.statistics import Estimate
from tests.evals.made_runs import every, failed, made_run, reply, right, variant, wrong, wrong_on

CASES = generate(34, 3)


def test_the_headline_is_the_mean_over_cases_and_the_better_variant_comes_first(tmp_path: Path) -> None:
    bad = every(2, CASES)
    results = compute_results(*_of(made_run(tmp_path, {"half": wrong_on(bad), "all": right}, cases=CASES)))
    first, second = results.variants
    assert (first.name, second.name) == ("all", "half")
    assert first.scores["headline"] is not None
    assert first.scores["headline"].mean == 1.0
    assert second.scores["headline"] is not None
    assert second.scores["headline"].mean == pytest.approx(17 / 34)
    assert second.scores["headline"].n == 34
    assert (second.asked, second.scored, second.errored) == (34, 34, 0)
    assert sum(one.n for one in second.agents.values() if one) == 34
    assert sum(one.n for one in second.difficulties.values() if one) == 34
    assert sum(one.n for one in second.families.values() if one) == 34
    for case in CASES:  # one case of each family here
        mean = second.families[case.family]
        assert mean is not None
        if mean.n == 1:
            assert mean.mean == (0.0 if case.id in bad else 1.0)


def test_a_sample_without_an_answer_is_unscored_counted_and_told_by_its_class(tmp_path: Path) -> None:
    gone = {CASES[0].id, CASES[5].id}
    run = made_run(tmp_path, {"one": lambda case, r: failed(case) if case.id in gone else right(case, r)}, cases=CASES)
    one = compute_results(*_of(run)).of("one")
    assert (one.asked, one.scored, one.errored, one.errors) == (34, 32, 2, {"unreachable": 2})
    assert one.scores["headline"] is not None
    assert (one.scores["headline"].mean, one.scores["headline"].n) == (1.0, 32)


def test_a_sample_that_has_two_lines_counts_once_and_by_its_first_answer(tmp_path: Path) -> None:
    run = made_run(
        tmp_path,
        {"one": lambda case, r: failed(case) if case.id == CASES[1].id else right(case, r)},
        cases=CASES[:7],
    )
    answered, error = list(run.folder.samples())[:2]
    again = answered.model_copy(update={"decision": None, "problem": "is no JSON"})
    with run.folder.samples_path.open("a") as file:
        for line in (again, error, error.model_copy(update={"index": answered.index, "case_id": answered.case_id})):
            file.write(line.model_dump_json(exclude_defaults=True) + "\n")
    one = compute_results(*_of(run)).of("one")
    assert (one.errors, one.undecided) == ({"unreachable": 1}, 0)


def test_what_was_never_asked_is_told_and_is_no_error(tmp_path: Path) -> None:
    one = compute_results(*_of(made_run(tmp_path, {"one": right}, cases=CASES[:7], leave_out=2))).of("one")
    assert (one.asked, one.scored, one.errored, one.missing) == (7, 5, 0, 2)


def test_sampling_in_words_tells_apart_what_differs() -> None:
    plain = variant("one")
    told = {sampling_in_words(plain)}
    for change in (
        {"frequency_penalty": 0.5},
        {"temperature": 1.0},
        {"temperature": 1.0, "seed": 4},
        {"max_tokens": 9},
    ):
        sampling = plain.prompt.sampling.model_copy(update=change)
        told.add(sampling_in_words(variant("one", prompt=plain.prompt.model_copy(update={"sampling": sampling}))))
    assert len(told) == 5


@pytest.mark.slow
def test_repeats_of_a_case_are_one_value_not_several(tmp_path: Path) -> None:
    run = made_run(tmp_path, {"one": lambda case, r: (wrong if r else right)(case, r)}, cases=CASES, repeats=2)
    one = compute_results(*_of(run)).of("one")
    assert one.scores["headline"] is not None
    assert (one.scores["headline"].mean, one.scores["headline"].n, one.asked) == (0.5, 34, 68)


def test_answers_without_a_decision_are_scored_and_counted(tmp_path: Path) -> None:
    none = {CASES[0].id, CASES[5].id}

    def given(case: Case, repeat: int) -> Any:
        return {"replies": (reply("no"),), "problem": "is no JSON"} if case.id in none else right(case, repeat)

    one = compute_results(*_of(made_run(tmp_path, {"one": given}, cases=CASES))).of("one")
    assert (one.undecided, one.scored, one.errored) == (2, 34, 0)
    assert one.scores["headline"] is not None
    assert one.scores["headline"].mean == pytest.approx(32 / 34)


# --- the rules as an answerer ----------------------------------------------------------------------------


def as_rules(case: Case, _repeat: int) -> dict[str, Any]:
    """A model that decides as the rules do under `standard`."""
    return {
        "replies": (reply("{}"),),
        "decision": decided_by_rules(case, labels_for(case.spec, load_policy("standard"))),
    }


def test_the_rules_line_is_what_a_model_gets_that_decides_as_they_do(tmp_path: Path) -> None:
    results = compute_results(*_of(made_run(tmp_path, {"copy": as_rules, "bad": wrong}, cases=CASES)))
    (rules,) = results.rules
    copy = results.of("copy")
    assert (rules.name, rules.policy) == ("rules", "standard")
    assert (rules.scores, rules.agents, rules.families) == (copy.scores, copy.agents, copy.families)
    assert rules.scores["headline"] is not None
    assert rules.scores["headline"].n == 34
    assert [one.name for one in results.lines][-1] == "bad"


def test_a_variant_that_does_not_beat_the_rules_is_told_so_in_one_sentence(tmp_path: Path) -> None:
    results = compute_results(*_of(made_run(tmp_path, {"copy": as_rules, "bad": wrong}, cases=CASES)))
    told = {line.split()[0]: line for line in below_the_rules(results)}
    theirs = results.rules[0].scores["headline"]
    assert theirs is not None
    assert set(told) == {"copy", "bad"}
    assert told["bad"].startswith(f"bad does not beat the rules: 0.00 against {theirs.mean:.2f} (95 % interval [0.00, ")
    better = results.of("copy").model_copy(update={"scores": {"headline": Estimate(0.9, theirs.mean + 0.01, 1.0, 34)}})
    assert against_rules(better, results.rules[0]) is None
    unscored = results.of("copy").model_copy(update={"scores": {"headline": None}})
    assert against_rules(unscored, results.rules[0]) is None


def test_each_policy_of_a_run_has_its_own_rules_line(tmp_path: Path) -> None:
    run = made_run(tmp_path, {"one": wrong, "two": wrong}, cases=CASES[:7])
    plan = run.folder.plan
    other = plan.variants[1].model_copy(update={"policy": load_policy("seed")})
    folder = RunFolder(run.folder.path, plan.model_copy(update={"variants": (plan.variants[0], other)}))
    results = compute_results(folder, run.table)
    assert [(one.name, one.policy) for one in results.rules] == [("rules/standard", "standard"), ("rules/seed", "seed")]
    assert any("two does not beat the rules under seed" in line for line in below_the_rules(results))


# --- comparisons -----------------------------------------------------------------------------------------


def test_variants_are_compared_on_the_same_cases_with_holm_over_the_whole_table(tmp_path: Path) -> None:
    answers = {"good": right, "bad": wrong, "twin": right}
    results = compute_results(*_of(made_run(tmp_path, answers, cases=CASES)))
    headline = {(one.a, one.b): one for one in results.comparisons if one.scorer == "headline"}
    assert set(headline) == {("good", "bad"), ("good", "twin"), ("bad", "twin")}
    assert headline["good", "bad"].verdict == "worse"
    assert headline["good", "twin"].verdict == "no difference shown"
    assert headline["bad", "twin"].verdict == "better"
    tested = [one for one in results.comparisons if one.p is not None]
    certain = min(tested, key=lambda one: one.p or 0)
    assert certain.p is not None
    assert certain.p_holm == pytest.approx(min(1.0, certain.p * len(tested)))


@pytest.mark.slow
def test_with_many_variants_only_the_baseline_is_compared_with(tmp_path: Path) -> None:
    results = compute_results(*_of(made_run(tmp_path, {f"v{n}": right for n in range(8)}, cases=CASES[:7])))
    assert {one.a for one in results.comparisons} == {"v0"}
    assert len({one.b for one in results.comparisons}) == 7


def test_changed_cases_count_in_no_figure_but_their_own(tmp_path: Path) -> None:
    base = CASES[0]
    changed = base.model_copy(update={"id": f"{base.id}~x", "of": base.id, "relation": "rename_pipeline"})
    run = made_run(tmp_path, {"one": wrong_on([changed.id])}, cases=[*CASES, changed])
    results = compute_results(*_of(run))
    assert (results.cases, results.metamorphic_cases) == (34, 1)
    one = results.of("one")
    assert one.scores["headline"] is not None
    assert (one.scores["headline"].mean, one.scores["headline"].n) == (1.0, 34)
    assert [rate.relation for rate in results.relations] == ["rename_pipeline"]


@pytest.mark.slow
def test_results_do_not_depend_on_the_order_of_arrival_and_come_back_from_disk(tmp_path: Path) -> None:
    answers = {"half": wrong_on(every(3, CASES)), "all": right}
    one = made_run(tmp_path / "one", answers, cases=CASES)
    other = made_run(tmp_path / "other", answers, cases=CASES, backwards=True)
    written_one, written_other = write_results(*_of(one)), write_results(*_of(other))
    assert written_one == written_other == load_results(one.folder)
    assert (one.folder.path / "results.json").read_bytes() == (other.folder.path / "results.json").read_bytes()
    text = (one.folder.path / "results.json").read_text()
    assert str(tmp_path) not in text
    assert "latency" not in text


def test_results_that_cannot_be_read_name_the_file_and_the_command(tmp_path: Path) -> None:
    run = made_run(tmp_path, {"one": right}, cases=CASES[:2])
    with pytest.raises(BadInput, match=r"results\.json: cannot be read .*python -m evals rescore"):
        load_results(run.folder)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(BadInput, match=r"results\.json: .*rescore"):
        load_results(run.folder)


def test_every_scorer_of_the_table_is_defined_in_words_the_headline_first(tmp_path: Path) -> None:
    run = made_run(tmp_path, {"one": right}, cases=CASES[:2])
    results = compute_results(*_of(run))
    assert next(iter(results.definitions)) == "headline"
    assert set(results.definitions) == set(run.table.scorers)
    assert all(len(words) > 20 for words in results.definitions.values())
    assert "actions" in results.definitions["headline"]


def test_a_comparison_in_words_has_interval_n_and_what_could_have_been_found() -> None:
    one = Comparison(
        a="write",
        b="read",
        scorer="headline",
        n=66,
        clusters=34,
        mean_a=0.5,
        mean_b=0.62,
        difference=0.12,
        low=0.05,
        high=0.19,
        test="sign-flip",
        p=0.0001,
        p_holm=0.004,
        effect=0.4,
        mde=0.08,
    )
    assert sentence(one) == (
        "read is better than write in headline: +0.12 [+0.05, +0.19], n=66, p = 0.004 (Holm); "
        "this run finds differences from 0.08 on"
    )
    assert "too small to find any" in sentence(one.model_copy(update={"mde": 1.2}))
    assert "no difference shown" in sentence(one.model_copy(update={"p_holm": 0.2}))
    assert "too few pairs" in sentence(one.model_copy(update={"p_holm": None, "p": None}))


def test_a_simulated_run_says_so_and_sentences_are_bounded(tmp_path: Path) -> None:
    results = compute_results(*_of(made_run(tmp_path, {f"v{n}": right for n in range(6)}, cases=CASES[:7])))
    assert "SIMULATOR" in title(results)
    assert len(list(sentences(results))) <= 13


def _of(run: Run) -> tuple[RunFolder, ScoreTable]:
    return run.folder, run.table
