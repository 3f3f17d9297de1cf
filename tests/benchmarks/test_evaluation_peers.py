"""What the comparison with other evaluation tools concludes from its runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.evaluation_peers import (
    SUBJECTS,
    Cost,
    Round,
    Subject,
    as_rows,
    check_scored,
    chosen,
    difference,
    ratios,
    sized,
    timed,
)
from benchmarks.peers.environment import PeerFailed, environment_folder
from benchmarks.peers.work import SCORERS, read_rows, write_rows
from common.console import BadInput
from evals.generate import generate

SUBJECT = Subject("some_driver", small=100, large=600)


def test_startup_is_not_in_what_a_sample_costs() -> None:
    # 2 s of start-up and 10 ms a sample; 4 s of wall and 20 ms a sample
    found = difference(SUBJECT, Cost(cpu_s=3.0, wall_s=6.0), Cost(cpu_s=8.0, wall_s=16.0))
    assert found.cpu_ms == pytest.approx(10.0)
    assert found.samples_per_s == pytest.approx(50.0)
    assert found.startup_cpu_s == pytest.approx(2.0)


def test_a_difference_that_is_noise_is_no_figure() -> None:
    with pytest.raises(PeerFailed, match="600 samples took no longer than 100: raise --scale"):
        difference(SUBJECT, Cost(3.0, 6.0), Cost(2.9, 7.0))


@pytest.mark.parametrize("told", ['{"scored": 99}', '{"scored": null}', "", "Traceback", "[]", "7"])
def test_a_peer_that_lost_samples_or_says_nothing_has_no_figure(told: str) -> None:
    with pytest.raises(PeerFailed):
        check_scored(told, 100)


def test_a_peer_that_scored_all_is_counted() -> None:
    check_scored('{"scored": 100}', 100)


def test_ratios_compare_rounds_of_the_same_number() -> None:
    first, other = [Round(1.0, 1, 0), Round(2.0, 1, 0)], [Round(10.0, 1, 0), Round(10.0, 1, 0)]
    assert ratios(other, first) == [10.0, 5.0]
    assert ratios([], first) == []


@pytest.mark.slow
def test_the_cpu_of_a_program_and_its_children_is_counted_and_sleep_is_not() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    program = (
        f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); time.sleep(0.3); print(1)"
    )
    cost, told = timed([sys.executable, "-c", program])
    assert told == "1"
    assert cost.cpu_s >= 0.2
    assert cost.wall_s >= 0.3


def test_a_program_that_fails_is_told_by_its_last_line() -> None:
    with pytest.raises(PeerFailed, match="ended with 3: no such thing"):
        timed([sys.executable, "-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"])


def test_small_and_large_stay_apart_at_any_scale() -> None:
    for subject in SUBJECTS.values():
        scaled = sized(subject, 0.001)
        assert 0 < scaled.small < scaled.large


def test_an_unknown_subject_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"--only: 'promptfoo' is not known; known: plumbline, inspect_ai, "):
        chosen("plumbline,promptfoo")


def test_peers_are_given_what_our_runner_sends(tmp_path: Path) -> None:
    cases = generate(34, seed=0)
    write_rows(tmp_path / "rows.jsonl", as_rows(cases, "m"))
    rows = read_rows(tmp_path / "rows.jsonl")
    assert [row.id for row in rows] == [case.id for case in cases]
    # lm-eval has one system message and one of the user; it could not ask what has more.
    assert {tuple(one["role"] for one in row.messages) for row in rows} == {("system", "user")}
    assert all(row.options["response_format"] for row in rows)


def test_other_versions_are_installed_into_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = environment_folder()
    (tmp_path / "requirements.txt").write_text("some==1\n")
    monkeypatch.setattr("benchmarks.peers.environment._REQUIREMENTS", tmp_path / "requirements.txt")
    assert environment_folder() != before
    assert environment_folder().is_relative_to(tmp_path)


def test_the_plain_scorers_tell_right_from_wrong() -> None:
    def scores(answer: str) -> dict[str, float]:
        return {name: score(answer, ["batch", "cdc"]) for name, score in SCORERS.items()}

    assert scores('{"mode": "Batch"}') == {"is_json": 1.0, "mentions": 0.5, "is_short": 1.0}
    assert scores("[" + "x" * 600) == {"is_json": 0.0, "mentions": 0.0, "is_short": 0.0}
