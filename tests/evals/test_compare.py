"""Two runs side by side: what is paired, what is left out and told, and what the page shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.console import BadInput, CannotJudge
from evals.compare import Run, compare_runs, named_run, paired_variants, shared_cases
from evals.generate import generate
from evals.verdict_commands import compare, compare_page
from tests.evals.made_runs import every, made_run, right, wrong_on

CASES = generate(34, 3)
BAD = every(2, CASES)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("before"), {"write": right}, cases=CASES)


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Half of it wrong, two cases fewer, one of its own, and one that says something else under its id."""
    changed = CASES[2].model_copy(update={"right_actions": ()})
    own = CASES[3].model_copy(update={"id": "own"})
    cases = [CASES[1], changed, *CASES[3:33], own]
    return made_run(tmp_path_factory.mktemp("after"), {"read": wrong_on(BAD)}, cases=cases)


def test_only_cases_that_say_the_same_in_both_runs_count_and_the_others_are_told(before: Run, after: Run) -> None:
    shared = shared_cases(before, after)
    assert (len(shared.families), shared.only_a, shared.only_b, shared.changed) == (31, 2, 1, 1)
    for a, b in zip(shared.rows_a, shared.rows_b, strict=True):
        assert before.table.case_ids[a] == after.table.case_ids[b] != CASES[2].id
    compared = compare_runs(before, after)
    assert (
        compared.in_words
        == "31 cases in both runs; left out: 2 only in A, 1 only in B, 1 of one id but not one content"
    )


def test_the_difference_is_b_minus_a_over_the_shared_cases(before: Run, after: Run) -> None:
    compared = compare_runs(before, after)
    assert compared.pairs == (("write", "read"),)
    headline = next(one for one in compared.comparisons if one.scorer == "headline")
    fell = sum(case.id in BAD for case in CASES[3:33])  # CASES[1] is right in both
    assert headline.n == 31
    assert headline.difference == pytest.approx(-fell / 31)
    assert headline.verdict == "worse"
    by_agent = [one for one in compared.comparisons if one.scorer.startswith("headline/")]
    assert sum(one.n for one in by_agent) == 31


def test_runs_without_a_common_case_cannot_be_compared(before: Run, tmp_path: Path) -> None:
    other = made_run(tmp_path, {"write": right}, cases=generate(3, 99)[:1])
    renamed = [case.model_copy(update={"id": f"x-{case.id}"}) for case in CASES[:2]]
    alien = made_run(tmp_path / "alien", {"write": right}, cases=renamed)
    for run in (other, alien):
        with pytest.raises(CannotJudge, match="no case in common"):
            shared_cases(before, run)


def test_variants_are_paired_by_choice_then_one_to_one_then_by_name() -> None:
    assert paired_variants(["a"], ["b"]) == [("a", "b")]
    assert paired_variants(["a", "b", "c"], ["c", "b"]) == [("b", "b"), ("c", "c")]
    assert paired_variants(["a", "b"], ["a", "b"], "a", "b") == [("a", "b")]
    with pytest.raises(BadInput, match=r"no variant stands in both.*the first has a, b.*FOLDER#VARIANT"):
        paired_variants(["a", "b"], ["c"])
    with pytest.raises(BadInput, match=r"variant 'z' is not in the run; it has a, b"):
        paired_variants(["a", "b"], ["a"], "z")


def test_a_run_is_named_with_or_without_a_variant(tmp_path: Path) -> None:
    odd = tmp_path / "run#1"
    odd.mkdir()
    assert named_run(str(odd)) == (odd, None)
    assert named_run(f"{odd}#write/hot") == (odd, "write/hot")
    assert named_run("runs/one") == (Path("runs/one"), None)


def test_the_page_is_written_beside_the_second_run_and_escapes_names(
    before: Run, after: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(str(before.folder.path), f"{after.folder.path}#read", tmp_path / "page.html", False)
    assert (tmp_path / "page.html").read_text() == compare_page(compare_runs(before, after))
    told = capsys.readouterr().err
    assert "headline" in told
    assert "SIMULATOR" in told
    compared = compare_runs(before, after).model_copy(update={"a": "<script>alert(1)</script>"})
    assert "<script>alert" not in compare_page(compared)
    assert "&lt;script&gt;alert(1)" in compare_page(compared)


def test_scores_of_other_scorers_are_not_compared(before: Run, tmp_path: Path) -> None:
    made_run(tmp_path, {"write": right}, cases=CASES[:5])
    Run.open(tmp_path)
    scores = tmp_path / "scores.jsonl"
    lines = scores.read_text().splitlines()
    row = json.loads(lines[3])
    row["scores"]["headline"]["value"] = 0.123
    scores.write_text("\n".join([*lines[:3], json.dumps(row), *lines[4:]]) + "\n")
    with pytest.raises(BadInput, match=r"not what the scorers say today of sample 3; score it anew: .*rescore"):
        compare(str(before.folder.path), str(tmp_path), None, False)


def test_answers_that_were_never_scored_are_not_compared(before: Run, tmp_path: Path) -> None:
    made_run(tmp_path, {"write": right}, cases=CASES[:5])
    (tmp_path / "scores.jsonl").write_text("")
    with pytest.raises(BadInput, match="score it anew"):
        compare(str(before.folder.path), str(tmp_path), None, False)


def test_a_run_given_as_a_dot_has_a_name(before: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(before.folder.path)
    assert Run.open(Path()).name == before.folder.path.name


def test_a_folder_that_is_no_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is no folder of a run"):
        compare(str(tmp_path), str(tmp_path), None, False)
