"""The rows of a run on disk: one JSON line per pipeline, written when its report is ready, and how a run goes on.

Each row stands under the run's condition (model, prompt, policy) and names its input by a digest, so that
`--resume` repeats nothing that was answered, asks again what failed or changed since, and never mixes two conditions
in one file. What is handed over is with the operating system before the next pipeline starts: killing the process
loses at most the line it was writing, which the next `--resume` removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from agents.facts.pipeline_files import Entry, PipelineFiles, ReadPipeline
from agents.reports.report import PipelineReport
from common.console import BadInput, CannotJudge, shorten

Condition = Mapping[str, object]

_NOT_COMPARED = {"endpoint"}
"""A server may move between two halves of a run; what it serves may not change."""


def input_digest(entry: Entry) -> str:
    """Names an entry by what was read: the accepted pipeline, or the place and the reason of a refused one."""
    text = entry.spec.model_dump_json() if isinstance(entry, ReadPipeline) else f"{entry.where}\0{entry.error}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class RowFile:
    """The file given by --out, locked against a second run. Close it when the run ends."""

    def __init__(self, path: Path, condition: Condition) -> None:
        """Go on at the end of a file, or make it. Raises BadInput when it cannot be written."""
        self.path = path
        self._condition = json.dumps(dict(condition), ensure_ascii=False)
        self._file = _locked(path)

    @classmethod
    def new(cls, path: Path, condition: Condition) -> Self:
        """A file of its own. Raises BadInput when an earlier run's rows are in it, or it cannot be written."""
        if path.is_file() and path.stat().st_size:
            raise BadInput(f"--out {path}: holds rows already; go on with them by --resume, or name another file")
        return cls(path, condition)

    def write(self, entry: Entry, report: PipelineReport) -> None:
        """One row, handed over to the operating system. Raises CannotJudge when it does not take it."""
        head = f'{{"condition": {self._condition}, "input": "{input_digest(entry)}", '
        try:
            self._file.write(head + report.model_dump_json()[1:] + "\n")
            self._file.flush()
        except OSError as error:
            raise CannotJudge(
                f"--out {self.path}: cannot be written ({error.strerror}); mend it, then --resume"
            ) from None

    def close(self) -> None:
        """Have the rows on the disk itself."""
        with contextlib.suppress(OSError):  # a pipe has no disk; a full one was told when the row was written
            self._file.flush()
            os.fsync(self._file.fileno())
        with contextlib.suppress(OSError):
            self._file.close()


class Unfinished:
    """What an earlier run left to do: its entries without an answer, and the file given by --out without their rows.

    A row counts as answered when its pipeline was refused, or completed by the model or the rules; not when the rules
    had to stand in for an endpoint that failed, nor, if traces_wanted, when a person has to decide on it and has no
    trace to do so. Raises BadInput when the rows were made under another condition or from other pipelines, or the
    entries can be read but once.
    """

    def __init__(self, path: Path, condition: Condition, entries: PipelineFiles, *, traces_wanted: bool) -> None:
        if entries.count is None:
            raise BadInput("--resume: the pipelines come from a pipe, which cannot be read twice; write them to a file")
        self.path = path
        self.condition = condition
        self.entries = entries
        self.traces_wanted = traces_wanted
        self.kept: Counter[str] = Counter()
        """Rows that need not be asked again, by status."""
        self._todo = sqlite3.connect("")  # SQLite's name for a private file that it removes itself
        self._todo.execute("create table todo (digest text primary key, times integer) without rowid")
        self._todo.execute("create table pipelines (id text primary key) without rowid")
        for entry in entries:
            # Refused entries may be alike: three broken ones on one line.
            more = "insert into todo values (?, 1) on conflict (digest) do update set times = times + 1"
            self._todo.execute(more, (input_digest(entry),))
            self._todo.execute("insert or ignore into pipelines values (?)", (_id_of(entry),))
        self.rows = self._answered_rows() if self.path.is_file() else RowFile(self.path, condition)

    def __iter__(self) -> Iterator[Entry]:
        """The entries that have no answer yet; may be iterated once."""
        return (entry for entry in self.entries if self._take(input_digest(entry)))

    @property
    def count(self) -> int:
        """How many entries have no answer yet."""
        return (self.entries.count or 0) - self.kept.total()

    def _take(self, digest: str) -> bool:
        """Whether such an entry is still to do; if so, there is one less."""
        less = "update todo set times = times - 1 where digest = ? and times > 0"
        return bool(self._todo.execute(less, (digest,)).rowcount)

    def _answered_rows(self) -> RowFile:
        """The file with nothing but the rows that need not be asked again, replaced whole or not at all."""
        before = _locked(self.path)
        real = self.path.resolve()  # a link stays a link
        kept = real.with_name(f"{real.name}.part")
        try:
            with real.open("rb") as file, kept.open("wb") as out:
                for number, line in enumerate(file, 1):
                    if self._is_answered(number, line):
                        out.write(line)
            kept.chmod(real.stat().st_mode)
            kept.replace(real)
            # The old file's lock is held until the new one's is: no other run comes in between unnoticed.
            return RowFile(self.path, self.condition)
        finally:
            kept.unlink(missing_ok=True)
            before.close()

    def _is_answered(self, number: int, line: bytes) -> bool:
        """Whether a line is an answered row of an entry of this run; its entry is then off the list."""
        if not line.endswith(b"\n"):
            return False  # the process was killed while it wrote this one
        row = self._row(number, line)
        if self._is_final(row) and self._take(row["input"]):
            self.kept[row["status"]] += 1
            return True
        known = self._todo.execute("select 1 from pipelines where id = ?", (row["pipeline_id"],)).fetchone()
        if not known and not _is_refused(row):
            name = shorten(str(row["pipeline_id"]), 80)
            raise BadInput(
                f"--resume: {self.path}:{number} is pipeline {name!r}, which is not in the files given now; "
                "give the same files, or another --out"
            )
        return False

    def _is_final(self, row: Mapping[str, Any]) -> bool:
        if _is_refused(row):
            return True
        failed = any(stage.get("because") == "endpoint" for stage in row.get("stages", ()))
        undecidable = self.traces_wanted and row.get("requires_approval") and not row.get("trace_id")
        return row["status"] == "completed" and not failed and not undecidable

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row: dict[str, Any] = json.loads(line)
            made, _, _, _ = row["condition"], row["input"], row["status"], row["pipeline_id"]
            other = {
                key for key in {*made, *self.condition} - _NOT_COMPARED if made.get(key) != self.condition.get(key)
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"--out {self.path}:{number}: is no row of a run: {shorten(str(error))}") from None
        if other:
            key = min(other)
            was, now = (shorten(str(one.get(key)), 80) for one in (made, self.condition))
            raise BadInput(
                f"--resume: {self.path}:{number} was made with {key} {was!r}, this run has {now!r}; "
                "use the same options, or another --out"
            )
        return row


def _id_of(entry: Entry) -> str:
    return entry.spec.id if isinstance(entry, ReadPipeline) else entry.pipeline_id


def _is_refused(row: Mapping[str, Any]) -> bool:
    return bool(row["status"] == "invalid")


def _locked(path: Path) -> TextIO:
    """A file open at its end, locked against other runs for as long as it is open. Raises BadInput."""
    try:
        file = path.open("a", encoding="utf8")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(f"--out {path}: another run is writing it") from None
    except OSError as error:
        raise BadInput(f"--out {path}: cannot be written ({error.strerror})") from None
    if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
        return file
    file.close()  # another run has just replaced it
    raise BadInput(f"--out {path}: another run is writing it")
