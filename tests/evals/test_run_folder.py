"""A run's folder: what is read back is what was written, and damage is found."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from common.console import BadInput, CannotJudge
from evals.case_file import CaseFile
from evals.generate import generate
from evals.run_folder import RunFolder, SampleWriter, keep_answered
from evals.sample import Sample
from tests.evals.small_runs import CASES, FAST, ask_all, new_run, rows

Start = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, start_simulator: Start) -> RunFolder:
    return new_run(tmp_path, start_simulator(**FAST))


def sample(run: RunFolder, index: int, error: str | None = None) -> Sample:
    case, variant, repeat = run.plan.place(index)
    name = run.plan.variants[variant].name
    return Sample(
        index=index, variant=name, case_id=run.cases[case].id, repeat=repeat, request="a", error=error, replies=()
    )


def write(run: RunFolder, *samples: Sample) -> None:
    writer = SampleWriter(run)
    for one in samples:
        writer.write(one)
    writer.close()


# --- cases -----------------------------------------------------------------------------------------------


def test_cases_are_found_by_number_and_by_id() -> None:
    cases = generate(40, 3)
    held = CaseFile.temporary(iter(cases))
    assert list(held) == cases
    assert (held[0], held[-1], held[3:5], len(held)) == (cases[0], cases[-1], cases[3:5], 40)
    assert held.by_id(cases[17].id) == cases[17]
    with pytest.raises(IndexError):
        held[40]
    with pytest.raises(KeyError):
        held.by_id("nobody")


def test_a_case_that_stands_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="stands twice"):
        CaseFile.temporary([*generate(2, 3), *generate(1, 3)])


# --- the folder ------------------------------------------------------------------------------------------


def test_a_run_read_back_is_the_same_run(run: RunFolder) -> None:
    again = RunFolder.open(run.path)
    assert again.plan == run.plan
    assert list(again.cases) == generate(CASES, 3)


def test_a_run_is_never_written_over(run: RunFolder) -> None:
    with pytest.raises(BadInput, match=r"holds a run already; go on with it by --resume, or name another folder$"):
        RunFolder.create(run.path, run.plan, run.cases)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "format: found None, this version reads 2; run it anew"),
        ('{"format": 7}', "format: found 7, this version reads 2; run it anew"),
        ('{"format": 1, "suite": {}}', "format: found 1, this version reads 2; run it anew"),
        ('{"format": 2}', "suite: is missing"),
        ("{", "is not JSON"),
    ],
)
def test_a_folder_that_is_no_run_of_this_version_gets_one_line(run: RunFolder, text: str, told: str) -> None:
    (run.path / "plan.json").write_text(text)
    with pytest.raises(BadInput) as refused:
        RunFolder.open(run.path)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_plan_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is no folder of a run: plan\.json cannot be read \(No such file"):
        RunFolder.open(tmp_path)


def test_other_cases_than_the_plans_are_found(run: RunFolder) -> None:
    path = run.path / "cases.jsonl"
    path.write_bytes(path.read_bytes().replace(b"row-01", b"row-99"))
    with pytest.raises(BadInput, match=r"cases\.jsonl: is not the file the plan was made with"):
        RunFolder.open(run.path)


def test_two_runs_do_not_write_one_folder(run: RunFolder) -> None:
    with (
        run.locked(),
        pytest.raises(BadInput, match="another run is writing it"),
        RunFolder.open(run.path).locked(),
    ):
        pass
    with run.locked():  # and it is free again afterwards
        pass


# --- samples ---------------------------------------------------------------------------------------------


def test_what_is_kept_is_one_row_for_each_answered_sample(run: RunFolder) -> None:
    write(run, sample(run, 4), sample(run, 1, error="gone"), sample(run, 4), sample(run, 0))
    with run.samples_path.open("ab") as file:
        file.write(b'{"index": 2, "vari\n')
        file.write(orjson.dumps({**rows_of(sample(run, 3)), "variant": "other"}) + b"\n")
        file.write(orjson.dumps({**rows_of(sample(run, 3)), "index": 12}) + b"\n")
        file.write(orjson.dumps({**rows_of(sample(run, 3)), "case_id": "other"}) + b"\n")
        file.write(b"\xff\x00\n")
        file.write(orjson.dumps(rows_of(sample(run, 5)))[:-4])
    kept = keep_answered(run)
    assert (kept.answered, kept.errored, kept.twice) == (2, 1, 1)
    assert list(kept.done) == [1, 0, 0, 0, 1] + [0] * 7
    assert [row["index"] for row in rows(run)] == [4, 0]
    places = [problem.split(": ")[0] for problem in kept.damaged]
    assert places == [f"{run.samples_path}:{number}" for number in (5, 6, 7, 8, 9)]


def rows_of(one: Sample) -> dict[str, object]:
    return one.model_dump(mode="json", exclude_defaults=True)


def test_a_sample_read_back_is_the_same_sample(run: RunFolder) -> None:
    ask_all(run)
    seen = list(run.samples())
    assert len(seen) == 2 * CASES
    assert [orjson.loads(one.model_dump_json(exclude_defaults=True)) for one in seen] == rows(run)


def test_a_full_disk_is_one_line_and_leaves_whole_rows(run: RunFolder) -> None:
    write(run, sample(run, 0))
    size = run.samples_path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = SampleWriter(run)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
        with pytest.raises(CannotJudge, match=r"cannot be written \(File too large\); mend it, then go on by --resume"):
            writer.write(sample(run, 1))
        with pytest.raises(CannotJudge):
            writer.write(sample(run, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        writer.close()
    assert run.samples_path.read_bytes().endswith(b"\n")
    assert [row["index"] for row in rows(run)] == [0]


def test_a_folder_left_before_its_plan_was_written_can_be_used(tmp_path: Path, run: RunFolder) -> None:
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "samples.jsonl").touch()
    assert RunFolder.create(tmp_path / "left", run.plan, run.cases).plan == run.plan
