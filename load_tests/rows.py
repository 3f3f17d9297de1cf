"""The rows of a load test: JSON lines while it runs, one file per worker, so that a crash loses nothing before it.

{"kind":"start", ...}    the condition: profile, endpoint, model, prompt; always the first line
{"kind":"request", ...}  a RequestRecord, written as the request ends
{"kind":"end", ...}      how many were sent; the last line, and without it the worker did not end by itself

Read back, the workers' files are one test: each worker's stamps, taken from its own clock, become nanoseconds since
the start they share, so that hosts whose clocks count from different moments merge.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson
from pydantic import TypeAdapter, ValidationError

from common.console import BadInput, CannotJudge, shorten
from load_tests.parquet import read_records, write_records
from load_tests.sse import RequestRecord

if TYPE_CHECKING:
    from load_tests.workload import LoadPlan

ROWS_GLOB = "rows-*.jsonl"
_STAMPS = ("intended_ns", "sent_ns", "first_content_ns", "last_content_ns", "ended_ns")


@dataclass(frozen=True)
class RunStart:
    """The condition every figure of this worker stands under."""

    profile: dict[str, Any]
    base_url: str
    model: str
    simulated: bool
    prompt: str | None
    """None where the workload uses no prompt of ours."""
    prompt_version: int | None
    loop: str
    """open or closed"""
    users: int | None
    """Users asked for, all workers together; under Locust's web UI it may differ from the profile's. None if open."""
    scheduled: int | None
    """Requests in this worker's share of the schedule; None in a closed loop."""
    worker: int
    workers: int
    started_at: str
    """UTC, ISO 8601."""
    start_at_s: float
    """The same moment in seconds since 1970, equal for all workers."""
    start_ns: int
    """The same moment in perf_counter nanoseconds, the clock of every stamp in the file; 0 once read back."""
    client: str
    """The load generator and its version."""


@dataclass(frozen=True)
class RunEnd:
    """How one worker ended."""

    stop_ns: int
    """When it was to send no more: the end of the measuring window."""
    end_ns: int
    sent: int
    """Requests sent, counted apart from the rows, so that a lost row shows."""
    cpu_s: float
    """Processor time of the sending process between start and stop; near the elapsed time it is the bottleneck. The
    drain, in which it mostly waits, would make a busy one look idle."""
    max_rss_mb: float
    stolen_share: float | None = None
    """Of the machine's processor time, what its hypervisor gave to others while the test ran; stamps are late by it.
    None where the system does not tell."""


@dataclass(frozen=True)
class LoadRows:
    """A load test, read back. Stamps are nanoseconds since its start."""

    starts: tuple[RunStart, ...]
    """One per worker that started, by worker."""
    records: tuple[RequestRecord, ...]
    """Of all workers, by index."""
    ends: tuple[RunEnd | None, ...]
    """One per start, in the same order; None for a worker that did not come to its end."""

    @property
    def start(self) -> RunStart:
        """The condition that all workers share."""
        return self.starts[0]

    @property
    def absent(self) -> tuple[int, ...]:
        """Workers of this test that left no file."""
        here = {start.worker for start in self.starts}
        return tuple(worker for worker in range(self.start.workers) if worker not in here)

    @property
    def lost_by_worker(self) -> dict[int, int | None]:
        """Requests each worker sent that left no row; None where it did not end, or left no file, and nobody knows."""
        rows = dict.fromkeys((start.worker for start in self.starts), 0)
        for record in self.records:
            rows[record.worker] += 1
        known = {
            start.worker: None if end is None else end.sent - rows[start.worker]
            for start, end in zip(self.starts, self.ends, strict=True)
        }
        return {worker: known.get(worker) for worker in range(self.start.workers)}

    @property
    def lost(self) -> int | None:
        """Requests sent that left no row; None when some worker did not come to its end and nobody knows."""
        return _total(self.lost_by_worker.values())

    @property
    def unsent(self) -> int | None:
        """Requests of the schedule that were not sent; None in a closed loop, or when nobody knows."""
        if self.absent:
            return None
        return _total(
            None if end is None or start.scheduled is None else start.scheduled - end.sent
            for start, end in zip(self.starts, self.ends, strict=True)
        )


def _total(counts: Iterable[int | None]) -> int | None:
    found = list(counts)
    known = [count for count in found if count is not None]
    return sum(known) if len(known) == len(found) else None


# --- writing ---------------------------------------------------------------------------------------------


class RowFile:
    """One worker's file being written: each line reaches the system at once, so a crash loses none before it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file: BinaryIO = path.open("xb", buffering=0)
        except FileExistsError:
            raise BadInput(f"{path}: is there already; rows of two load tests do not go into one file") from None
        self.path = path

    def write(self, kind: str, row: RunStart | RequestRecord | RunEnd) -> None:
        """Append one line. Raises CannotJudge when the disk does not take it."""
        # By orjson and not asdict, which copies every gap of an answer: 10 instead of 160 us while others stream.
        line = memoryview(b'{"kind":"%s",%s\n' % (kind.encode(), orjson.dumps(row)[1:]))
        try:
            while line:  # a system that is short of space may take a part
                line = line[self._file.write(line) :]
        except OSError as error:
            raise CannotJudge(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def close(self) -> None:
        """No more lines follow."""
        self._file.close()


def start_of(
    plan: LoadPlan,
    *,
    worker: int,
    workers: int,
    users: int | None,
    scheduled: int | None,
    start_at_s: float,
    start_ns: int,
    client: str,
) -> RunStart:
    """The first line's content; `users` in a closed loop, `scheduled` (this worker's share) in an open one."""
    if (users is None) == (scheduled is None):
        raise ValueError("a closed loop has users, an open one a schedule; found both or neither")
    endpoint = plan.endpoint
    return RunStart(
        profile=plan.profile.model_dump(mode="json"),
        base_url=endpoint.base_url,
        model=endpoint.model,
        simulated=endpoint.simulated,
        prompt=plan.prompt_name,
        prompt_version=plan.prompt_version,
        loop="closed" if scheduled is None else "open",
        users=users,
        scheduled=scheduled,
        worker=worker,
        workers=workers,
        started_at=datetime.fromtimestamp(start_at_s, UTC).isoformat(timespec="milliseconds"),
        start_at_s=start_at_s,
        start_ns=start_ns,
        client=client,
    )


# --- reading ---------------------------------------------------------------------------------------------


def read_run(folder: Path) -> LoadRows:
    """Every worker's rows, also of a test that was killed.

    Raises CannotJudge when no worker started, and BadInput naming file and line where a file is damaged (but for a
    last line that a kill tore) or is not of the same test as the others.
    """
    files = [file for path in sorted(folder.glob(ROWS_GLOB)) if (file := _read_file(path)) is not None]
    if not files:
        raise CannotJudge(f"{folder}: no load test was started: no {ROWS_GLOB} there holds its first line")
    files.sort(key=lambda file: file.start.worker)
    for one, other in pairwise(files):
        _refuse_other_test(one, other)
    records = sorted((record for file in files for record in file.records), key=lambda record: record.index)
    for before, after in pairwise(records):
        if before.index == after.index:
            raise BadInput(f"{folder}: request {after.index} stands in the rows twice; its latency would count twice")
    return LoadRows(tuple(file.start for file in files), tuple(records), tuple(file.end for file in files))


def write_parquet(rows: LoadRows, path: Path) -> None:
    """Write the whole test as one Parquet file, the starts and ends of its workers as JSON in the metadata."""
    ends = [None if end is None else asdict(end) for end in rows.ends]
    write_records(rows.records, {"starts": [asdict(start) for start in rows.starts], "ends": ends}, path)


def read_parquet(path: Path) -> LoadRows:
    """What write_parquet was given. Raises BadInput when the file is not of a load test."""
    try:
        records, condition = read_records(path)
        starts, ends = _STARTS.validate_python(condition["starts"]), _ENDS.validate_python(condition["ends"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: is not a load test in Parquet: {_said(error)}") from None
    return LoadRows(starts, records, ends)


@dataclass
class _WorkerFile:
    path: Path
    start: RunStart
    records: list[RequestRecord]
    end: RunEnd | None = None


def _read_file(path: Path) -> _WorkerFile | None:
    """One worker's rows, stamps since the start; None when it was killed before its first line was whole."""
    found: _WorkerFile | None = None
    since_ns = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = orjson.loads(line)
                kind = row.pop("kind")
                if found is None:
                    start = _start(kind, row)
                    since_ns = start.start_ns
                    found = _WorkerFile(path, replace(start, start_ns=0), [])
                else:
                    _take(found, kind, row, since_ns)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if not line.endswith(b"\n"):
                    break  # only the last line has no end: a kill tore it, and the count of the sent tells what is lost
                raise BadInput(f"{path}:{number}: is not a row of a load test: {_said(error)}") from None
    return found


def _start(kind: str, row: dict[str, Any]) -> RunStart:
    if kind != "start":
        raise ValueError(f"found {shorten(repr(kind), 40)} before the start")
    return _START.validate_python(row)


def _take(file: _WorkerFile, kind: str, row: dict[str, Any], since_ns: int) -> None:
    """Add one line's content to what was read of the file."""
    if file.end is not None:
        raise ValueError("a row after the end")
    if kind == "request":
        for name in _STAMPS:
            if row[name] is not None:
                row[name] -= since_ns
        record = _RECORD.validate_python(row)
        if record.worker != file.start.worker:
            raise ValueError(f"a row of worker {record.worker} in the file of worker {file.start.worker}")
        file.records.append(record)
    elif kind == "end":
        row["stop_ns"] -= since_ns
        row["end_ns"] -= since_ns
        file.end = _END.validate_python(row)
    else:
        raise ValueError(f"found {shorten(repr(kind), 40)}; allowed here: request, end")


def _refuse_other_test(one: _WorkerFile, other: _WorkerFile) -> None:
    """Raise BadInput unless two files are of one test and of different workers of it."""
    if one.start.worker == other.start.worker:
        raise BadInput(f"{other.path}: is of worker {other.start.worker}, as {one.path} is")
    for name in ("start_at_s", "workers", "loop", "model"):
        here, there = getattr(one.start, name), getattr(other.start, name)
        if here != there:
            raise BadInput(f"{other.path}: {name}: found {there}, and {here} in {one.path}: not of one load test")


def _said(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else shorten(str(error))


_RECORD = TypeAdapter(RequestRecord)
_START = TypeAdapter(RunStart)
_END = TypeAdapter(RunEnd)
_STARTS = TypeAdapter(tuple[RunStart, ...])
_ENDS = TypeAdapter(tuple[RunEnd | None, ...])
