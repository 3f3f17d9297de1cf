"""judgements.jsonl: what a judge said, one line each, on disk when it arrives."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import Field, ValidationError

from agents.asking.endpoint.reply import ErrorClass
from common.console import BadInput, CannotJudge
from common.strict import Name, Strict
from evals.judge_prompt import Preference, Verdict

JUDGEMENTS_FILE = "judgements.jsonl"


class Judgement(Strict):
    """One line: a verdict, a preference, or why there is none."""

    key: str
    """Digest of the request."""
    judge: str
    """The model that judged."""
    simulated: bool
    case_id: Name
    variant: Name
    """Whose note was judged; of a pair, the one shown first."""
    second: Name | None = None
    """Of a pair, the variant whose note was shown second."""
    verdict: Verdict | None = None
    preference: Preference | None = None
    error: str | None = None
    error_class: ErrorClass | None = Field(None, strict=False)


def known_judgements(path: Path, *, simulated: bool) -> dict[str, Judgement]:
    """Every judgement of an earlier call that has a verdict, by its key. What cannot be read is asked again.

    simulated: whether to look for those of the simulator, which may go by a model's name, or for the others.
    """
    if not path.exists():
        return {}
    found: dict[str, Judgement] = {}
    with path.open("rb") as file:
        for line in file:
            try:
                row = Judgement.model_validate_json(line)
            except ValidationError:  # torn when a process was killed, or another version's
                continue
            if row.error is None and row.simulated == simulated:
                found.setdefault(row.key, row)
    return found


class JudgementWriter:
    """Appends lines that are with the operating system when `write` returns."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, row: Judgement) -> None:
        """Raises CannotJudge when the disk does not take it."""
        try:
            self._file.write(row.model_dump_json(exclude_defaults=True).encode() + b"\n")
        except OSError as error:
            raise CannotJudge(
                f"{self._path}: cannot be written ({error.strerror}); make room and judge again, what is there is kept"
            ) from None


@contextmanager
def appending(path: Path) -> Iterator[JudgementWriter]:
    """The file, open for this process alone. Raises BadInput when another one is writing it."""
    with path.open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{path}: another judge is writing it") from None
        if _is_torn(path):
            file.write(b"\n")
        yield JudgementWriter(file, path)
        os.fsync(file.fileno())


def _is_torn(path: Path) -> bool:
    """Whether the last line has no end: what is written next must not become part of it."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
