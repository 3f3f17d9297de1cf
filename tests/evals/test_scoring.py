"""Scoring a run's folder: the same answers give the same bytes, whatever order they came in."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from common.console import BadInput
from evals.labels import case_labels
from evals.run_folder import RunFolder
from evals.score_table import ScoreTable
from evals.scorers import SCORER_NAMES, score_all
from evals.scoring import answered, load_table, score_run, scores
from tests.evals.small_runs import CASES, FAST, ask_all, new_run

Start = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, start_simulator: Start) -> RunFolder:
    made = new_run(tmp_path, start_simulator(**FAST), repeats=2)
    ask_all(made)
    return made


def lines(run: RunFolder) -> list[bytes]:
    return run.samples_path.read_bytes().splitlines(keepends=True)


def same(one: ScoreTable, other: ScoreTable) -> bool:
    heads = [(t.variants, t.scorers, t.case_ids, t.families, t.stages, t.relations) for t in (one, other)]
    values = np.array_equal(one.values, other.values, equal_nan=True)
    return heads[0] == heads[1] and values and np.array_equal(one.errored, other.errored)


def test_every_answer_gets_what_the_scorers_say_of_it(run: RunFolder) -> None:
    table = score_run(run)
    assert table.values.shape == (2, CASES, 2, len(SCORER_NAMES))
    assert (table.variants, table.scorers) == (("write", "read"), SCORER_NAMES)
    assert [case.family for case in run.cases] == list(table.families)
    by_index = {row["index"]: row["scores"] for row in scores(run)}
    for sample in run.samples():
        case, variant, repeat = run.plan.place(sample.index)
        held = run.plan.variants[variant]
        labels = case_labels(run.cases[case], held.policy)
        wanted = score_all(answered(run.cases[case], sample, labels))
        assert {name: score["value"] for name, score in by_index[sample.index].items()} == {
            name: score.value for name, score in wanted.items()
        }
        for number, name in enumerate(SCORER_NAMES):
            value = table.values[variant, case, repeat, number]
            assert value == wanted[name].value if name in wanted else np.isnan(value)


def test_the_order_of_arrival_changes_no_byte(run: RunFolder) -> None:
    first = score_run(run)
    before = (run.path / "scores.jsonl").read_bytes()
    shuffled = lines(run)
    random.Random(1).shuffle(shuffled)
    run.samples_path.write_bytes(b"".join(shuffled))
    assert same(score_run(run), first)
    assert (run.path / "scores.jsonl").read_bytes() == before
    assert [row["index"] for row in scores(run)] == list(range(run.plan.samples))


def test_several_processes_give_the_same_bytes(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = score_run(run, workers=1)
    before = (run.path / "scores.jsonl").read_bytes()
    monkeypatch.setattr("evals.scoring._SAMPLES_A_TASK", 4)
    assert same(score_run(run, workers=2), first)
    assert (run.path / "scores.jsonl").read_bytes() == before


def test_the_table_is_read_back_from_the_scores(run: RunFolder) -> None:
    assert same(score_run(run), load_table(run))


def test_an_error_is_unscored_and_a_missing_row_is_neither(run: RunFolder) -> None:
    kept = [orjson.loads(line) for line in lines(run) if orjson.loads(line)["index"] not in {3, 8}]
    failed = next(row for row in kept if row["index"] == 5)
    failed |= {"replies": [], "error": "gone", "error_class": "unreachable"}
    run.samples_path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in kept))
    for table in (score_run(run), load_table(run)):
        assert (int(table.errored.sum()), int(table.scored.sum())) == (1, run.plan.samples - 3)
        case, variant, repeat = run.plan.place(5)
        assert table.errored[variant, case, repeat]
        assert np.isnan(table.values[variant, case, repeat]).all()
    assert [row["index"] for row in scores(run) if not row["scores"]] == [5]


def test_damage_is_told_and_costs_that_row_alone(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    kept = lines(run)
    other = orjson.loads(kept[2])
    kept[1] = kept[1].replace(b'"replies"', b'"replays"')
    kept[2] = orjson.dumps({**other, "variant": "nobody"}) + b"\n"
    run.samples_path.write_bytes(b"".join(kept) + kept[4] + kept[5][:-9])
    table = score_run(run)
    assert int(table.scored.sum()) == run.plan.samples - 2
    assert "2 lines of" in capsys.readouterr().err


def test_an_answer_counts_before_an_error_of_the_same_sample(run: RunFolder) -> None:
    first = score_run(run)
    row = orjson.loads(lines(run)[0])
    error = {**row, "replies": [], "error": "gone", "error_class": "unreachable"}
    run.samples_path.write_bytes(orjson.dumps(error) + b"\n" + b"".join(lines(run)))
    assert same(score_run(run), first)


def test_scores_of_other_scorers_are_refused(run: RunFolder) -> None:
    with pytest.raises(BadInput, match=r"make it by: python -m evals rescore "):
        load_table(run)
    score_run(run)
    path = run.path / "scores.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"decided"', b'"resolved"'))
    with pytest.raises(BadInput, match=r"is no row of these scorers \(KeyError\('resolved'\)\); score it anew: "):
        load_table(run)


@pytest.mark.parametrize("row", [b"[]", b"{}", b'{"index": 999999, "scores": {}}', b'{"index": -1, "scores": {}}'])
def test_a_row_that_is_none_is_told_with_its_line(run: RunFolder, row: bytes) -> None:
    score_run(run)
    path = run.path / "scores.jsonl"
    path.write_bytes(path.read_bytes() + row + b"\n")
    with pytest.raises(BadInput, match=r"scores\.jsonl:\d+: is no row of these scorers .*; score it anew: "):
        load_table(run)


def test_a_run_that_is_being_written_is_not_scored(run: RunFolder) -> None:
    with run.locked(), pytest.raises(BadInput, match="another run is writing it"):
        score_run(run)
