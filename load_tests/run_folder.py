"""The folder of one load test: where each of its files is.

rows-0.jsonl, rows-1.jsonl, ...    one per worker, written while it runs: the truth (rows.py)
server.parquet                     the endpoint's own /metrics, once a second
locust.log                         what Locust and the senders said
requests.parquet, report.json, report.md, report.html    worked out at the end
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from common.console import BadInput
from load_tests.profiles import ROOT
from load_tests.rows import ROWS_GLOB, LoadRows, read_parquet, read_run

RUNS = ROOT / "runs" / "load"


@dataclass(frozen=True)
class RunFolder:
    """One load test's files."""

    path: Path

    @classmethod
    def create(cls, path: Path | None = None) -> RunFolder:
        """A folder for a new test: the one that is named, else one with the time as its name in runs/load.

        Raises BadInput when it holds a test already or cannot be made.
        """
        try:
            folder = cls(_new_in_runs() if path is None else path)
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--out {path or RUNS}: cannot be made ({error.strerror or error})") from None
        if taken := folder.taken:
            raise BadInput(f"--out {path}: holds a load test already ({taken.name}); name another folder")
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An earlier test's. Raises BadInput when there is none."""
        folder = cls(path)
        if not any(path.glob(ROWS_GLOB)):
            raise BadInput(f"{path}: is no folder of a load test: no {ROWS_GLOB} is there")
        return folder

    @property
    def started(self) -> bool:
        """Whether a worker came to its start: from then on there is something to report."""
        return any(path.stat().st_size for path in self.path.glob(ROWS_GLOB))

    @property
    def taken(self) -> Path | None:
        """A file of a test that is there already."""
        found = sorted(self.path.glob(ROWS_GLOB)) + [path for path in (self.parquet, self.report_json) if path.exists()]
        return found[0] if found else None

    def rows(self, worker: int) -> Path:
        """One worker's rows."""
        return self.path / f"rows-{worker}.jsonl"

    @property
    def parquet(self) -> Path:
        """Every request, once the test is over."""
        return self.path / "requests.parquet"

    @property
    def report_json(self) -> Path:
        """The figures."""
        return self.path / "report.json"

    @property
    def report_md(self) -> Path:
        """The figures for people, as text."""
        return self.path / "report.md"

    @property
    def page(self) -> Path:
        """The figures for people, as a page."""
        return self.path / "report.html"

    @property
    def server(self) -> Path:
        """The endpoint's own figures."""
        return self.path / "server.parquet"

    @property
    def log(self) -> Path:
        """What Locust and the senders said."""
        return self.path / "locust.log"


def read_test(path: Path) -> LoadRows:
    """An earlier test, from its folder or from its Parquet file alone, as MLflow keeps it. Raises BadInput."""
    return read_parquet(path) if path.is_file() else read_run(RunFolder.open(path).path)


def _new_in_runs() -> Path:
    """A folder that was not there before: two tests that start in the same second get one each."""
    RUNS.mkdir(parents=True, exist_ok=True)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for number in count(1):
        path = RUNS / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")
