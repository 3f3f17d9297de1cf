"""Rows of several workers written, torn, damaged, merged and carried into Parquet: nothing lost, nothing twice."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.console import BadInput, CannotJudge
from load_tests.rows import LoadRows, RowFile, RunEnd, RunStart, read_parquet, read_run, write_parquet
from load_tests.sse import RequestRecord, Status
from tests.load_tests.made_load import NS, made_record, made_rows

START_NS = 5_000 * NS
"""What worker 0's clock said at the start; worker 1's said three hours more."""


def clock_ns(worker: int) -> int:
    return START_NS + worker * 10_800 * NS


def start_line(worker: int, workers: int = 2, **changes: Any) -> RunStart:
    made = made_rows([], worker=worker, workers=workers, start_ns=clock_ns(worker), scheduled=3)
    return replace(made.start, **changes)


def on_clock(record: RequestRecord, shift_ns: int) -> RequestRecord:
    """The record as a worker whose clock is so far ahead would have stamped it."""
    names = ("intended_ns", "sent_ns", "first_content_ns", "last_content_ns", "ended_ns")
    stamps: dict[str, Any] = {name: getattr(record, name) for name in names}
    moved: dict[str, Any] = {name: None if stamp is None else stamp + shift_ns for name, stamp in stamps.items()}
    return replace(record, **moved)


def write_worker(
    folder: Path, worker: int, indexes: list[int], *, sent: int | None = None, ended: bool = True, **start: Any
) -> Path:
    """The file of one worker of two, rows in the order given."""
    file = RowFile(folder / f"rows-{worker}.jsonl")
    file.write("start", start_line(worker, **start))
    for index in indexes:
        file.write("request", on_clock(made_record(index, worker=worker), clock_ns(worker)))
    if ended:
        count = len(indexes) if sent is None else sent
        file.write("end", RunEnd(clock_ns(worker) + 60 * NS, clock_ns(worker) + 61 * NS, count, 1.5, 60.0))
    file.close()
    return file.path


def two_workers(folder: Path) -> LoadRows:
    write_worker(folder, 0, [4, 0, 2])
    write_worker(folder, 1, [1, 5, 3])
    return read_run(folder)


def test_workers_with_clocks_hours_apart_merge_into_one_test(tmp_path: Path) -> None:
    rows = two_workers(tmp_path)
    assert rows.records == tuple(made_record(index, worker=index % 2) for index in range(6))
    assert [start.worker for start in rows.starts] == [0, 1]
    assert {start.start_ns for start in rows.starts} == {0}
    assert rows.ends == (RunEnd(60 * NS, 61 * NS, 3, 1.5, 60.0),) * 2
    assert (rows.lost, rows.unsent, rows.absent) == (0, 0, ())


def test_one_worker_gives_the_same_records_as_two(tmp_path: Path) -> None:
    merged = two_workers(tmp_path / "two")
    write_worker(tmp_path / "one", 0, [5, 4, 3, 2, 1, 0], workers=1, scheduled=6)
    single = read_run(tmp_path / "one")
    assert single.records == tuple(replace(record, worker=0) for record in merged.records)


def test_ten_workers_are_in_order_of_number_and_not_of_name(tmp_path: Path) -> None:
    for worker in range(11):
        write_worker(tmp_path, worker, [worker], workers=11)
    assert [start.worker for start in read_run(tmp_path).starts] == list(range(11))


def test_a_request_without_moments_keeps_them_missing(tmp_path: Path) -> None:
    refused = made_record(0, ttft_s=None, status=Status.CONNECTION, http_status=None, itl_s=[])
    file = RowFile(tmp_path / "rows-0.jsonl")
    file.write("start", start_line(0, 1))
    file.write("request", on_clock(refused, clock_ns(0)))
    file.close()
    assert read_run(tmp_path).records == (refused,)


def test_lost_rows_are_counted_for_each_worker(tmp_path: Path) -> None:
    write_worker(tmp_path, 0, [0, 2], sent=3)
    write_worker(tmp_path, 1, [1, 3, 5])
    rows = read_run(tmp_path)
    assert rows.lost_by_worker == {0: 1, 1: 0}
    assert rows.lost == 1


def test_requests_of_the_schedule_that_were_not_sent_are_counted(tmp_path: Path) -> None:
    write_worker(tmp_path, 0, [0, 2])
    write_worker(tmp_path, 1, [1, 3, 5])
    assert (read_run(tmp_path).unsent, read_run(tmp_path).lost) == (1, 0)


def test_a_closed_loop_has_nothing_unsent(tmp_path: Path) -> None:
    write_worker(tmp_path, 0, [0], workers=1, loop="closed", users=2, scheduled=None)
    assert read_run(tmp_path).unsent is None


def test_of_a_killed_worker_nobody_knows_what_is_lost(tmp_path: Path) -> None:
    write_worker(tmp_path, 0, [0, 2], ended=False)
    write_worker(tmp_path, 1, [1, 3, 5])
    rows = read_run(tmp_path)
    assert rows.ends[0] is None
    assert rows.lost_by_worker == {0: None, 1: 0}
    assert (rows.lost, rows.unsent, len(rows.records)) == (None, None, 5)


@pytest.mark.parametrize("left", [None, b"", b'{"kind":"sta'])
def test_a_worker_that_never_began_is_absent_and_the_loss_unknown(tmp_path: Path, left: bytes | None) -> None:
    write_worker(tmp_path, 0, [0, 2, 4])
    if left is not None:
        (tmp_path / "rows-1.jsonl").write_bytes(left)
    rows = read_run(tmp_path)
    assert rows.absent == (1,)
    assert rows.lost_by_worker == {0: 0, 1: None}
    assert (rows.lost, rows.unsent) == (None, None)


@pytest.mark.parametrize("left", [None, b"", b'{"kind":"sta'])
def test_a_test_that_never_began_cannot_be_judged(tmp_path: Path, left: bytes | None) -> None:
    if left is not None:
        (tmp_path / "rows-0.jsonl").write_bytes(left)
    with pytest.raises(CannotJudge, match="no load test was started"):
        read_run(tmp_path)


@given(cut=st.integers(1, 10_000))
def test_a_file_cut_anywhere_gives_the_whole_rows_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = write_worker(folder, 0, [0, 2, 4], workers=1)
    whole = path.read_bytes()
    kept = whole[: cut % len(whole)]
    path.write_bytes(kept)
    # A line is whole with its last brace, whether or not its line end was still written.
    lines = [line for line in kept.split(b"\n") if line.endswith(b"}") and line in whole.split(b"\n")]
    if not lines:
        with pytest.raises(CannotJudge):
            read_run(folder)
        return
    rows = read_run(folder)
    assert len(rows.records) == min(len(lines) - 1, 3)
    assert (rows.lost is None) == (len(lines) < 5)


def changed(number: int, change: Callable[[dict[str, Any]], object]) -> Callable[[list[bytes]], list[bytes]]:
    """Lines with one of them changed as a dict."""

    def edit(lines: list[bytes]) -> list[bytes]:
        row = json.loads(lines[number])
        change(row)
        return [*lines[:number], json.dumps(row).encode(), *lines[number + 1 :]]

    return edit


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda lines: [*lines[:2], b'{"kind":"requ', *lines[3:]], ":3: is not a row of a load test: "),
        (lambda lines: [*lines[:2], b"", *lines[2:]], ":3: is not a row of a load test: "),
        (lambda lines: [*lines[:2], b"[1]", *lines[2:]], ":3: is not a row of a load test: "),
        (lambda lines: lines[1:], ":1: is not a row of a load test: found 'request' before the start"),
        (
            lambda lines: [lines[0], *lines],
            ":2: is not a row of a load test: found 'start'; allowed here: request, end",
        ),
        (lambda lines: [*lines, lines[-1]], ":6: is not a row of a load test: a row after the end"),
        (changed(1, lambda row: row.pop("sent_ns")), ":2: is not a row of a load test: 'sent_ns' is missing"),
        (changed(1, lambda row: row.pop("status")), ":2: is not a row of a load test: status: Field required"),
        (changed(1, lambda row: row.update(status="fine")), ":2: is not a row of a load test: status: Input should be"),
        (changed(1, lambda row: row.update(sent_ns="now")), ":2: is not a row of a load test: "),
        (changed(1, lambda row: row.update(itl_s=[0.1, "x"])), ":2: is not a row of a load test: itl_s.1: "),
        (
            changed(1, lambda row: row.update(worker=1)),
            ":2: is not a row of a load test: a row of worker 1 in the file",
        ),
        (changed(4, lambda row: row.pop("sent")), ":5: is not a row of a load test: sent: Field required"),
        (changed(0, lambda row: row.update(start_ns=None)), ":1: is not a row of a load test: start_ns: "),
    ],
)
def test_damage_is_told_with_file_and_line(
    tmp_path: Path, edit: Callable[[list[bytes]], list[bytes]], told: str
) -> None:
    path = write_worker(tmp_path, 0, [0, 2, 4], workers=1)
    path.write_bytes(b"".join(line + b"\n" for line in edit(path.read_bytes().splitlines())))
    with pytest.raises(BadInput) as raised:
        read_run(tmp_path)
    assert f"rows-0.jsonl{told}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_request_that_stands_twice_is_refused(tmp_path: Path) -> None:
    write_worker(tmp_path, 0, [0, 2, 2])
    with pytest.raises(BadInput, match="request 2 stands in the rows twice"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"start_at_s": 1.0}, "start_at_s: found 1.0, and 1700000000.0 in"),
        ({"workers": 3}, "workers: found 3, and 2 in"),
        ({"model": "other"}, "model: found other, and made-model in"),
        ({"loop": "closed"}, "loop: found closed, and open in"),
    ],
)
def test_files_of_two_tests_are_not_merged(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    write_worker(tmp_path, 0, [0])
    write_worker(tmp_path, 1, [1], **changes)
    with pytest.raises(BadInput, match=r"rows-1\.jsonl: ") as raised:
        read_run(tmp_path)
    assert told in str(raised.value)


def test_one_workers_file_under_two_names_is_refused(tmp_path: Path) -> None:
    path = write_worker(tmp_path, 0, [0])
    (tmp_path / "rows-1.jsonl").write_bytes(path.read_bytes())
    with pytest.raises(BadInput, match=r"rows-1\.jsonl: is of worker 0, as .*rows-0\.jsonl is"):
        read_run(tmp_path)


def test_a_rows_file_is_never_overwritten(tmp_path: Path) -> None:
    path = write_worker(tmp_path, 0, [0])
    before = path.read_bytes()
    with pytest.raises(BadInput, match="is there already"):
        RowFile(path)
    assert path.read_bytes() == before


def test_each_row_is_in_the_file_before_the_next_is_written(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows-0.jsonl")
    file.write("start", start_line(0, 1))
    file.write("request", made_record(0))
    assert file.path.read_bytes().count(b"\n") == 2  # nobody closed or flushed


def test_a_row_is_json_with_its_kind_first(tmp_path: Path) -> None:
    """Whoever follows the file knows a request by how its line begins."""
    path = write_worker(tmp_path, 0, [2], workers=1)
    line = path.read_bytes().splitlines()[1]
    assert line.startswith(b'{"kind":"request",')
    assert json.loads(line) == {"kind": "request", **asdict(on_clock(made_record(2), clock_ns(0)))}


class _Disk:
    """A file that takes three bytes at a time and, after `room` bytes, none."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.held = b""

    def write(self, data: memoryview) -> int:
        taken = bytes(data[: min(3, self.room - len(self.held))])
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.held += taken
        return len(taken)


def test_a_disk_that_takes_a_part_gets_the_rest_and_a_full_one_is_told(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows-0.jsonl")
    disk = _Disk(room=10_000)
    file._file = disk  # type: ignore[assignment] # no disk can be filled in a test
    file.write("request", made_record(0))
    assert json.loads(disk.held)["index"] == 0
    disk.room = len(disk.held) + 7
    with pytest.raises(CannotJudge, match=r"rows-0\.jsonl: cannot be written \(No space left on device\)"):
        file.write("request", made_record(1))


# --- Parquet --------------------------------------------------------------------------------------------

texts = st.text(max_size=20)
maybe = st.none() | st.floats(0, 100)
records = st.builds(
    made_record,
    st.integers(0, 10**6),
    worker=st.just(0),
    user=st.none() | st.integers(0, 99),
    status=st.sampled_from(Status),
    error=texts,
    itl_s=st.lists(st.floats(0, 100), max_size=5),
    lag_s=st.none() | st.lists(st.floats(-1, 1), max_size=5),
    output_tokens=st.none() | st.integers(0, 2**40),
    schema_valid=st.none() | st.booleans(),
    headline=maybe,
    finish_reason=st.none() | texts,
)


@pytest.mark.slow
@given(st.lists(records, max_size=5))
def test_parquet_gives_back_what_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, made: list[RequestRecord]
) -> None:
    path = tmp_path_factory.mktemp("p") / "requests.parquet"
    rows = made_rows(made)
    write_parquet(rows, path)
    assert read_parquet(path) == rows


def test_parquet_of_two_workers_one_of_them_killed(tmp_path: Path) -> None:
    write_worker(tmp_path, 0, [0, 2], ended=False)
    write_worker(tmp_path, 1, [1, 3])
    rows = read_run(tmp_path)
    write_parquet(rows, tmp_path / "requests.parquet")
    assert read_parquet(tmp_path / "requests.parquet") == rows
    assert {path.name for path in tmp_path.iterdir()} == {"rows-0.jsonl", "rows-1.jsonl", "requests.parquet"}


def test_parquet_is_read_by_others_with_its_condition(tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    write_parquet(made_rows([made_record(0), made_record(1, ttft_s=None, output_tokens=None)]), path)
    table = pd.read_parquet(path)
    assert table["ttft_s"].isna().tolist() == [False, True]
    assert list(table["itl_s"][0]) == [0.010] * 3
    condition = json.loads(pq.read_schema(path).metadata[b"plumbline"])
    assert condition["starts"][0]["simulated"] is True
    assert condition["ends"][0]["sent"] == 2


def test_parquet_holds_more_rows_than_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("load_tests.parquet._ROW_GROUP", 3)
    rows = made_rows(made_record(index) for index in range(7))
    write_parquet(rows, tmp_path / "requests.parquet")
    assert read_parquet(tmp_path / "requests.parquet") == rows


def test_what_is_no_parquet_of_a_load_test_is_told(tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    with pytest.raises(BadInput, match="is not a load test in Parquet"):
        read_parquet(path)
    path.write_bytes(b"not parquet")
    with pytest.raises(BadInput, match="is not a load test in Parquet"):
        read_parquet(path)
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(BadInput, match="is not a load test in Parquet"):
        read_parquet(path)


@pytest.mark.slow
def test_ten_thousand_long_answers_are_read_back_whole(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows-0.jsonl")
    file.write("start", replace(start_line(0, 1), start_ns=0, scheduled=10_000))
    gaps = [0.010 + n / 1e6 for n in range(63)]
    made = [made_record(index, itl_s=gaps) for index in range(10_000)]
    for record in made:
        file.write("request", record)
    file.write("end", RunEnd(60 * NS, 61 * NS, 10_000, 1.0, 60.0))
    file.close()
    rows = read_run(tmp_path)
    assert (rows.records, rows.lost) == (tuple(made), 0)
    write_parquet(rows, tmp_path / "requests.parquet")
    assert read_parquet(tmp_path / "requests.parquet") == rows
