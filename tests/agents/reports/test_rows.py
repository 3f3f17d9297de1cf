"""Rows on disk: one per pipeline, never two, never of two conditions; what was answered is not asked again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.deciding.agent import Because
from agents.facts.pipeline_files import Entry, InvalidPipeline, PipelineFiles
from agents.reports.report import PipelineReport, StageReport
from agents.reports.rows import Condition, RowFile, Unfinished
from common.console import BadInput, CannotJudge

CONDITION = {"endpoint": "http://127.0.0.1:1/v1", "model": "m", "prompt": "write v1"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pipelines(*lines: dict[str, Any] | str) -> PipelineFiles:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    Path("in.jsonl").write_text(text)
    return PipelineFiles([Path("in.jsonl")])


def named(name: str, kind: str = "Kafka") -> dict[str, Any]:
    return {"id": name, "source": {"type": kind}}


def report_of(entry: Entry, status: Any = None, **more: Any) -> PipelineReport:
    refused = isinstance(entry, InvalidPipeline)
    return PipelineReport(
        pipeline_id=entry.pipeline_id if isinstance(entry, InvalidPipeline) else entry.spec.id,
        where=entry.where,
        start_time=datetime.now(UTC),
        end_time=datetime.now(UTC),
        status=status or ("invalid" if refused else "completed"),
        **more,
    )


def write(path: Path, *rows: tuple[Entry, Any]) -> None:
    sink = RowFile(path, CONDITION)
    for entry, status in rows:
        sink.write(entry, report_of(entry, status))
    sink.close()


def rows_in(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in path.read_text("utf8").splitlines()]
    return [(row["pipeline_id"], row["status"]) for row in rows]


OUT = Path("out.jsonl")


def unfinished(
    entries: PipelineFiles, condition: Condition = CONDITION, *, out: Path = OUT, traces_wanted: bool = False
) -> Unfinished:
    left = Unfinished(out, condition, entries, traces_wanted=traces_wanted)
    left.rows.close()
    return left


def test_a_row_names_its_condition_and_holds_the_report(folder: Path) -> None:
    [entry] = pipelines(named("a"))
    write(OUT, (entry, None))
    [line] = OUT.read_text("utf8").splitlines()
    row = json.loads(line)
    assert row.pop("condition") == CONDITION
    assert len(row.pop("input")) == 32
    assert PipelineReport.model_validate_json(json.dumps(row)).pipeline_id == "a"


def test_a_row_is_on_disk_before_the_file_is_closed(folder: Path) -> None:
    [entry] = pipelines(named("a"))
    sink = RowFile.new(OUT, CONDITION)
    sink.write(entry, report_of(entry))
    assert rows_in(OUT) == [("a", "completed")]
    sink.close()


def test_an_earlier_runs_rows_are_not_overwritten(folder: Path) -> None:
    OUT.write_text("an earlier run\n")
    with pytest.raises(BadInput, match=r"^--out out.jsonl: holds rows already; go on with them by --resume"):
        RowFile.new(OUT, CONDITION)
    assert OUT.read_text() == "an earlier run\n"


def test_two_runs_cannot_write_one_file(folder: Path) -> None:
    first = RowFile.new(OUT, CONDITION)
    with pytest.raises(BadInput, match=r"^--out out.jsonl: another run is writing it$"):
        RowFile(OUT, CONDITION)
    first.close()
    RowFile(OUT, CONDITION).close()


def test_what_has_its_answer_is_not_asked_again_and_what_failed_is(folder: Path) -> None:
    entries = pipelines(named("done"), "not JSON", named("failed"), named("partial"), named("new"))
    done, refused, failed, partial, _ = entries
    write(OUT, (partial, "partial"), (done, None), (refused, None), (failed, "failed"))
    left = unfinished(entries)
    assert (left.kept, left.count) == ({"completed": 1, "invalid": 1}, 3)
    assert rows_in(OUT) == [("done", "completed"), ("", "invalid")]
    assert [entry.spec.id for entry in left if not isinstance(entry, InvalidPipeline)] == ["failed", "partial", "new"]


def test_a_pipeline_that_changed_since_is_asked_again(folder: Path) -> None:
    write(OUT, *((entry, None) for entry in pipelines(named("changed"), named("same"))))
    left = unfinished(pipelines(named("changed", "MQTT"), named("same")))
    assert [entry.spec.id for entry in left if not isinstance(entry, InvalidPipeline)] == ["changed"]
    assert rows_in(OUT) == [("same", "completed")]


def test_a_line_that_was_mended_since_loses_the_row_of_its_refusal(folder: Path) -> None:
    write(OUT, *((entry, None) for entry in pipelines("not JSON", named("same"))))
    left = unfinished(pipelines(named("mended"), named("same")))
    assert [entry.spec.id for entry in left if not isinstance(entry, InvalidPipeline)] == ["mended"]
    assert rows_in(OUT) == [("same", "completed")]


def test_the_rows_of_other_pipelines_are_never_thrown_away(folder: Path) -> None:
    write(OUT, *((entry, None) for entry in pipelines(named("a"), named("b"))))
    before = OUT.read_bytes()
    with pytest.raises(BadInput) as refused:
        unfinished(pipelines(named("b"), named("c")))
    assert str(refused.value) == (
        "--resume: out.jsonl:1 is pipeline 'a', which is not in the files given now; "
        "give the same files, or another --out"
    )
    assert OUT.read_bytes() == before


def test_what_the_rules_gave_because_the_endpoint_failed_is_asked_again(folder: Path) -> None:
    entries = pipelines(named("failed"), named("late"))
    failed, late = entries
    sink = RowFile(OUT, CONDITION)
    reasons: list[Because] = ["endpoint", "deadline"]
    for entry, because in zip((failed, late), reasons, strict=True):
        stage = StageReport(stage="quality", status="completed", because=because)
        sink.write(entry, report_of(entry, stages=(stage,)))
    sink.close()
    assert [entry.spec.id for entry in unfinished(entries) if not isinstance(entry, InvalidPipeline)] == ["failed"]


def test_the_same_pipeline_in_other_units_is_not_asked_again(folder: Path) -> None:
    def with_volume(volume: str) -> PipelineFiles:
        return pipelines({"id": "a", "source": {"type": "Kafka", "volume": volume}})

    write(OUT, *((entry, None) for entry in with_volume("10GB/day")))
    assert unfinished(with_volume("10240 MB/day")).count == 0


@given(cut=st.integers(1, 300))
def test_a_last_line_that_was_cut_off_is_asked_again(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    source, out = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(named(name)) + "\n" for name in ("first", "sécond")))
    entries = PipelineFiles([source])
    write(out, *((entry, None) for entry in entries))
    whole = out.read_bytes()
    out.write_bytes(whole[: -min(cut, len(whole.splitlines()[-1]))])
    left = unfinished(entries, out=out)
    assert [entry.spec.id for entry in left if not isinstance(entry, InvalidPipeline)] == ["sécond"]
    assert rows_in(out) == [("first", "completed")]


def test_rows_made_under_another_condition_are_not_gone_on_with(folder: Path) -> None:
    entries = pipelines(named("a"))
    write(OUT, *((entry, None) for entry in entries))
    before = OUT.read_bytes()
    with pytest.raises(BadInput) as refused:
        unfinished(entries, {**CONDITION, "model": "other"})
    assert str(refused.value) == (
        "--resume: out.jsonl:1 was made with model 'm', this run has 'other'; use the same options, or another --out"
    )
    assert OUT.read_bytes() == before
    assert not Path("out.jsonl.part").exists()
    moved = {**CONDITION, "endpoint": "http://127.0.0.1:2/v1"}
    assert unfinished(entries, moved).count == 0


@pytest.mark.parametrize(
    "line",
    ["words\n", "[]\n", "{}\n", '{"condition": {}}\n', '{"condition": 5, "input": "", "status": ""}\n', "\xff\n"],
)
def test_a_file_that_holds_something_else_is_left_as_it_is(folder: Path, line: str) -> None:
    OUT.write_text(line, "latin1")
    with pytest.raises(BadInput, match=r"^--out out.jsonl:1: is no row of a run: "):
        unfinished(pipelines(named("a")))
    assert OUT.read_text("latin1") == line


def test_a_run_that_never_began_is_gone_on_with_from_the_start(folder: Path) -> None:
    assert unfinished(pipelines(named("a"))).count == 1


def test_refused_entries_that_are_alike_are_counted_one_by_one(folder: Path) -> None:
    Path("in.yaml").write_text("[{id: a}, {id: b}, {id: c}]")  # one line, one error, three times
    entries = PipelineFiles([Path("in.yaml")])
    write(OUT, *((entry, None) for entry in list(entries)[:2]))
    left = unfinished(entries)
    assert (left.kept.total(), left.count, len(list(left))) == (2, 1, 1)
    assert len(rows_in(OUT)) == 2


def test_what_a_person_could_not_decide_on_is_asked_again_once_traces_are_wanted(folder: Path) -> None:
    entries = pipelines(named("lost"), named("waits"), named("calm"))
    lost, waits, calm = entries
    sink = RowFile(OUT, CONDITION)
    sink.write(lost, report_of(lost, requires_approval=True))
    sink.write(waits, report_of(waits, requires_approval=True, trace_id="tr-1"))
    sink.write(calm, report_of(calm))
    sink.close()
    assert unfinished(entries).count == 0
    left = unfinished(entries, traces_wanted=True)
    assert [entry.spec.id for entry in left if not isinstance(entry, InvalidPipeline)] == ["lost"]


def test_a_resumed_file_is_locked_and_a_link_stays_a_link(folder: Path) -> None:
    entries = pipelines(named("a"), named("b"))
    real = Path("real.jsonl")
    write(real, *((entry, None) for entry in list(entries)[:1]))
    OUT.symlink_to(real)
    left = Unfinished(OUT, CONDITION, entries, traces_wanted=False)
    with pytest.raises(BadInput, match="another run is writing it"):
        Unfinished(OUT, CONDITION, entries, traces_wanted=False)
    for entry in left:
        left.rows.write(entry, report_of(entry))
    left.rows.close()
    assert OUT.is_symlink()
    assert rows_in(real) == [("a", "completed"), ("b", "completed")]


def test_a_disk_that_takes_no_more_is_told_with_the_files_name(folder: Path) -> None:
    OUT.symlink_to("/dev/full")
    [entry] = pipelines(named("a"))
    sink = RowFile(OUT, CONDITION)
    with pytest.raises(CannotJudge, match=r"^--out out.jsonl: cannot be written \(No space left on device\); "):
        sink.write(entry, report_of(entry))
    sink.close()
