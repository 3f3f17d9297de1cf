"""The rows of a run on disk: one JSON line per pipeline, written when its report is ready, and how a run goes on.

Each row stands under the run's condition (model, prompt, policy, guardrails) and names its input by a digest, so that
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from agents.files import Entry, PipelineFiles, ReadPipeline
from agents.schema import PipelineReport
from console import BadInput, shorten

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
        try:
            self._file = path.open("a", encoding="utf8")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"--out {path}: another run is writing it") from None
        except OSError as error:
            raise BadInput(f"--out {path}: cannot be written ({error.strerror})") from None

    @classmethod
    def new(cls, path: Path, condition: Condition) -> Self:
        """A file of its own. Raises BadInput when an earlier run's rows are in it, or it cannot be written."""
        if path.is_file() and path.stat().st_size:
            raise BadInput(f"--out {path}: holds rows already; go on with them by --resume, or name another file")
        return cls(path, condition)

    def write(self, entry: Entry, report: PipelineReport) -> None:
        """One row, handed over to the operating system."""
        head = f'{{"condition": {self._condition}, "input": "{input_digest(entry)}", '
        self._file.write(head + report.model_dump_json()[1:] + "\n")
        self._file.flush()

    def close(self) -> None:
        """Have the rows on the disk itself."""
        self._file.flush()
        with contextlib.suppress(OSError):  # a pipe has no disk
            os.fsync(self._file.fileno())
        self._file.close()


class Unfinished:
    """What an earlier run left to do: its entries without an answer in the file given by --out.

    Raises BadInput when the rows were made under another condition, or the entries can be read but once.
    """

    def __init__(self, path: Path, condition: Condition, entries: PipelineFiles) -> None:
        if entries.count is None:
            raise BadInput("--resume: the pipelines come from a pipe, which cannot be read twice; write them to a file")
        self.path = path
        self.condition = condition
        self.entries = entries
        self.kept = 0
        """Rows that need not be asked again."""
        self._todo = sqlite3.connect("")  # SQLite's name for a private file that it removes itself
        self._todo.execute("create table todo (digest text primary key) without rowid")
        for entry in entries:
            self._todo.execute("insert or ignore into todo values (?)", (input_digest(entry),))
        if path.is_file():
            self._keep_answered()

    def __iter__(self) -> Iterator[Entry]:
        """The entries that have no answer yet."""
        for entry in self.entries:
            if self._todo.execute("select 1 from todo where digest = ?", (input_digest(entry),)).fetchone():
                yield entry

    @property
    def count(self) -> int:
        """How many entries have no answer yet."""
        return (self.entries.count or 0) - self.kept

    def _keep_answered(self) -> None:
        """Replace the file by its rows that need not be asked again, whole or not at all."""
        RowFile(self.path, self.condition).close()  # nobody writes it now, and we may
        kept = self.path.with_name(f"{self.path.name}.part")
        try:
            with self.path.open("rb") as file, kept.open("wb") as out:
                for number, line in enumerate(file, 1):
                    if self._is_answered(number, line):
                        out.write(line)
                        self.kept += 1
            kept.replace(self.path)
        finally:
            kept.unlink(missing_ok=True)

    def _is_answered(self, number: int, line: bytes) -> bool:
        """Whether a line is an answered row of an entry of this run; its entry is then off the list."""
        if not line.endswith(b"\n"):
            return False  # the process was killed while it wrote this one
        row = self._row(number, line)
        if row["status"] not in {"completed", "invalid"}:
            return False
        return bool(self._todo.execute("delete from todo where digest = ?", (row["input"],)).rowcount)

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row: dict[str, Any] = json.loads(line)
            made, _, _ = row["condition"], row["input"], row["status"]
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
