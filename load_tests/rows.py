"""The file of a load test: JSON lines, one for the start, one per request as it ends, one for the end.

{"kind":"start", ...}    the condition: profile, endpoint, model, prompt
{"kind":"request", ...}  a RequestRecord
{"kind":"end", ...}      how many were sent; without this line the test did not end by itself
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from pydantic import TypeAdapter, ValidationError

from console import BadInput, CannotJudge, shorten
from load_tests.profiles import ROOT
from load_tests.sse import RequestRecord
from load_tests.workload import LoadPlan

ROWS_DIR = ROOT / "runs" / "load"


@dataclass(frozen=True)
class RunStart:
    """The condition every figure of this test stands under."""

    profile: dict[str, Any]
    base_url: str
    model: str
    simulated: bool
    prompt: str
    prompt_version: int
    users: int
    """Users asked for; under Locust's web UI it may differ from the profile's."""
    started_at: str
    """UTC, ISO 8601."""
    start_ns: int
    """The same moment in perf_counter nanoseconds, the clock of every stamp below."""
    client: str
    """The load generator and its version."""


@dataclass(frozen=True)
class RunEnd:
    """How the test ended."""

    stop_ns: int
    """When users were told to send no more: the end of the measuring window."""
    end_ns: int
    sent: int
    """Requests sent, counted apart from the rows, so that a lost row shows."""
    cpu_s: float
    """Processor time of the load generator between start and end; near the elapsed time it is the bottleneck."""


@dataclass(frozen=True)
class LoadRows:
    """A rows file, read back."""

    start: RunStart
    records: tuple[RequestRecord, ...]
    end: RunEnd | None

    @property
    def lost(self) -> int | None:
        """Requests sent that left no row; None when the test did not come to its end and nobody knows."""
        return None if self.end is None else self.end.sent - len(self.records)


class RowFile:
    """The rows file being written: each line reaches the system in one write, so a crash loses none before it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file: BinaryIO = path.open("xb", buffering=0)
        except FileExistsError:
            raise BadInput(f"{path}: is there already; rows of two load tests do not go into one file") from None
        self.path = path

    def write(self, kind: str, row: RunStart | RequestRecord | RunEnd) -> None:
        """Append one line."""
        self._file.write(orjson.dumps({"kind": kind, **asdict(row)}) + b"\n")

    def close(self) -> None:
        """No more lines follow."""
        self._file.close()


def start_of(plan: LoadPlan, *, users: int, start_ns: int, client: str) -> RunStart:
    """The first line's content."""
    endpoint = plan.endpoint
    return RunStart(
        profile=plan.profile.model_dump(),
        base_url=endpoint.base_url,
        model=endpoint.model,
        simulated=endpoint.simulated,
        prompt=plan.prompt_name,
        prompt_version=plan.prompt_version,
        users=users,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        start_ns=start_ns,
        client=client,
    )


def new_rows_path() -> Path:
    """A file name for a test that starts now."""
    return ROWS_DIR / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.jsonl"


def read_rows(path: Path) -> LoadRows:
    """Read a rows file, also of a test that was killed. Raises CannotJudge when it never started."""
    starts: list[RunStart] = []
    records: list[RequestRecord] = []
    ends: list[RunEnd] = []
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            row = orjson.loads(line)
            kind = row.pop("kind")
            if kind == "request":
                records.append(_RECORD.validate_python(row))
            elif kind == "start":
                starts.append(_START.validate_python(row))
            else:
                ends.append(_END.validate_python(row))
        except (ValueError, KeyError, AttributeError) as error:
            if number == len(lines):
                break  # a kill in the middle of a write; the count of sent requests tells that a row is lost
            raise BadInput(f"{path}:{number}: is not a row of a load test: {_said(error)}") from None
    if not starts:
        raise CannotJudge(f"{path}: no load test was started")
    return LoadRows(starts[0], tuple(records), ends[0] if ends else None)


def _said(error: Exception) -> str:
    return error.errors()[0]["msg"] if isinstance(error, ValidationError) else shorten(str(error))


_RECORD = TypeAdapter(RequestRecord)
_START = TypeAdapter(RunStart)
_END = TypeAdapter(RunEnd)
