"""Cases on disk: what is kept of them is what would be read again, and forked processes read beside each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.labels.policy import load_policy
from common.console import BadInput
from evals import case_file
from evals.case import Case, curated_cases
from evals.case_file import CaseFile
from evals.generate import generate
from evals.labels import case_labels
from evals.metamorphic import RELATIONS, metamorphic_cases
from evals.run_folder import RunFolder
from tests.evals.small_runs import FAST, new_run

Start = Callable[..., str]
POLICY = load_policy("standard")


def changed() -> list[Case]:
    """Cases of every relation."""
    return metamorphic_cases(curated_cases(), list(RELATIONS), 4)


@pytest.mark.parametrize("made", [lambda: generate(100, 5), curated_cases, changed])
def test_a_case_as_it_was_made_is_the_case_as_it_is_read(made: Callable[[], list[Case]]) -> None:
    cases = made()
    held = CaseFile.temporary(cases)
    assert len(cases) > 20
    for case, line in zip(cases, held.lines(), strict=True):
        assert Case.model_validate_json(line) == case


def test_what_no_longer_fits_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_file, "_KEPT", 3)
    cases = generate(8, 3)
    held = CaseFile.temporary(cases)
    for _ in range(2):
        assert list(held) == cases
        assert [held.labels(number, POLICY) for number in (7, 0, 7)] == [
            case_labels(cases[number], POLICY) for number in (7, 0, 7)
        ]
    assert len(held._read.kept) == 3
    assert held[0] is held[0]
    assert held[7] is held[7]


def test_labels_are_those_of_the_policy_asked_for() -> None:
    seed = load_policy("seed")
    cases = generate(40, 3)
    held = CaseFile.temporary(cases)
    for policy in (POLICY, seed, POLICY):
        assert [held.labels(number, policy) for number in range(40)] == [case_labels(case, policy) for case in cases]
    assert any(held.labels(number, POLICY) != held.labels(number, seed) for number in range(40))
    assert held.labels(3, POLICY) is held.labels(3, POLICY)


def test_a_policy_that_a_case_brings_and_that_is_none_is_told_each_time() -> None:
    case = next(one for one in generate(40, 3) if one.stage == "quality")
    spec = case.spec.model_copy(update={"policy": {"severity.no_such_rule": 1}})
    held = CaseFile.temporary([case.model_copy(update={"spec": spec})])
    for _ in range(2):
        with pytest.raises(BadInput, match="no_such_rule"):
            held.labels(0, POLICY)


def test_ids_are_known_in_any_order() -> None:
    cases = generate(12, 3)
    held = CaseFile.temporary(cases)
    assert [held.id_of(number) for number in reversed(range(12))] == [case.id for case in reversed(cases)]
    assert [held.number_of(case.id) for case in cases] == list(range(12))


def test_a_forked_process_does_not_move_where_this_one_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_file, "_KEPT", 0)
    monkeypatch.setattr(case_file, "_RECENT", 0)
    cases = generate(60, 3)
    held = CaseFile.temporary(cases)
    child = os.fork()
    if not child:
        os._exit(0 if all(list(reversed(held)) == cases[::-1] for _ in range(5)) else 1)
    assert all(list(held) == cases for _ in range(5))
    assert os.waitpid(child, 0)[1] == 0


def test_a_run_goes_on_with_what_planning_has_read(tmp_path: Path, start_simulator: Start) -> None:
    run = new_run(tmp_path, start_simulator(**FAST))
    again = RunFolder.open(run.path)
    assert list(run.cases) == list(again.cases)
    assert run.cases.digest == again.cases.digest == run.plan.cases_digest
