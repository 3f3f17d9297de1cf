"""A run is a folder: what was planned, what was answered, and what is worked out from both.

    plan.json       frozen before the first call (evals/plan.py)
    cases.jsonl     every case, the metamorphic ones too
    samples.jsonl   one sample a line, in the order of arrival: the truth that --resume goes by
    scores.jsonl, results.json, report.html    derived, and the same bytes for the same answers

A sample is with the operating system before the next one is written, so killing the process loses at most the line it
was writing. The lock of a run is on plan.json, which is never replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import orjson
from pydantic import ValidationError

from common.console import BadInput, CannotJudge, shorten
from common.located import describe
from common.whole_file import write_whole
from evals.case import Case
from evals.case_file import CaseFile
from evals.plan import FORMAT, Plan
from evals.sample import Sample

OnDamage = Callable[[int, str], None]
"""Gets a line's number and what is wrong with it."""


class RunFolder:
    """The folder of one run; `plan` and `cases` are as they were when it was made."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan

    @classmethod
    def create(cls, path: Path, plan: Plan, cases: Iterable[Case]) -> Self:
        """Make the folder with its plan and cases. Raises BadInput when it holds a run already or cannot be made."""
        samples = path / "samples.jsonl"
        if (path / "plan.json").exists() or (samples.exists() and samples.stat().st_size):
            raise BadInput(f"--out {path}: holds a run already; go on with it by --resume, or name another folder")
        held = cases if isinstance(cases, CaseFile) else CaseFile.temporary(cases)
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_whole(path / "cases.jsonl", held.lines())
            samples.touch()
            # Last: a folder with a plan is a run.
            write_whole(path / "plan.json", [plan.model_dump_json(indent=2).encode() + b"\n"])
        except OSError as error:
            raise BadInput(f"--out {path}: cannot be written ({error.strerror})") from None
        run = cls(path, plan)
        run.cases = held  # the same bytes, and what planning has read of them is known already
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """An earlier run. Raises BadInput when this is none, or one of another format."""
        try:
            text = (path / "plan.json").read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: is no folder of a run: plan.json cannot be read ({error.strerror})") from None
        run = cls(path, _read_plan(path / "plan.json", text))
        if (len(run.cases), run.cases.digest) != (run.plan.cases, run.plan.cases_digest):
            raise BadInput(f"{path / 'cases.jsonl'}: is not the file the plan was made with; restore it, or run anew")
        return run

    @cached_property
    def cases(self) -> CaseFile:
        """Every case, read when asked for."""
        return CaseFile.open(self.path / "cases.jsonl")

    @property
    def samples_path(self) -> Path:
        """Where the samples are."""
        return self.path / "samples.jsonl"

    def samples(self) -> Iterator[Sample]:
        """Every sample that has a line, in order of arrival; damaged lines and a torn last one are left out."""
        for _, _, sample in sound_samples(self, lambda _number, _problem: None):
            yield sample

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to this folder. Raises BadInput when one does."""
        with (self.path / "plan.json").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"{self.path}: another run is writing it") from None
            yield


def _read_plan(path: Path, text: bytes) -> Plan:
    try:
        document = orjson.loads(text)
        found = document.get("format") if isinstance(document, dict) else None
        if found != FORMAT:
            raise BadInput(f"{path}: format: found {shorten(str(found), 40)}, this version reads {FORMAT}; run it anew")
        return Plan.model_validate_json(text)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path}: is not JSON: {shorten(str(error))}") from None
    except ValidationError as error:
        raise BadInput(describe(error, Plan, str(path))) from None


# --- reading samples -------------------------------------------------------------------------------------


def sound_samples(folder: RunFolder, on_damage: OnDamage) -> Iterator[tuple[int, bytes, Sample]]:
    """Line number, line and sample of every line that is a sample of this run's plan; the others are told of."""
    try:
        file = folder.samples_path.open("rb")
    except OSError as error:
        raise BadInput(f"{folder.samples_path}: cannot be read ({error.strerror})") from None
    with file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                continue  # the process was killed while it wrote this one
            try:
                sample = Sample.model_validate_json(line)
            except ValidationError as error:
                on_damage(number, describe(error, Sample, f"{folder.samples_path}:{number}"))
                continue
            if problem := misplaced(folder, sample):
                on_damage(number, f"{folder.samples_path}:{number}: {problem}")
            else:
                yield number, line, sample


def misplaced(folder: RunFolder, sample: Sample) -> str | None:
    """What is wrong with a sample whose index is not of this plan, or not that of its case, variant and repeat."""
    plan = folder.plan
    if sample.index >= plan.samples:
        return f"index: found {sample.index}, the plan has {plan.samples} samples"
    case, variant, repeat = plan.place(sample.index)
    wanted = (folder.cases.id_of(case), plan.variants[variant].name, repeat)
    found = (sample.case_id, sample.variant, sample.repeat)
    if found == wanted:
        return None
    return f"index: {sample.index} is of {shorten(str(wanted), 120)}, and the row of {shorten(str(found), 120)}"


# --- going on --------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """What an earlier run left."""

    done: bytearray
    """Per sample of the plan: 1 where it has its answer."""
    answered: int = 0
    errored: int = 0
    """Rows without an answer: they are asked again."""
    twice: int = 0
    """Rows of a sample that had its answer already: the first one stands."""
    damaged: tuple[str, ...] = ()
    """File, line and problem of rows that cannot be read; they are asked again."""


def keep_answered(folder: RunFolder) -> Kept:
    """Leave nothing in samples.jsonl but one row for each answered sample; replaced whole or not at all.

    Raises CannotJudge when it cannot be written.
    """
    kept, damaged = Kept(bytearray(folder.plan.samples)), list[str]()

    def rows() -> Iterator[bytes]:
        for _, line, sample in sound_samples(folder, lambda _number, problem: damaged.append(problem)):
            if sample.error is not None:
                kept.errored += 1
            elif kept.done[sample.index]:
                kept.twice += 1
            else:
                kept.done[sample.index] = 1
                kept.answered += 1
                yield line

    try:
        write_whole(folder.samples_path, rows())
    except OSError as error:
        raise CannotJudge(_full(folder.samples_path, error)) from None
    kept.damaged = tuple(damaged)
    return kept


class SampleWriter:
    """Adds samples to samples.jsonl, each one whole or not at all."""

    def __init__(self, folder: RunFolder) -> None:
        self.path = folder.samples_path
        self._failed = False
        try:
            self._file = self.path.open("ab", buffering=0)
            self._size = self._file.tell()
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be written ({error.strerror})") from None

    def write(self, sample: Sample) -> None:
        """One line, handed to the operating system. Raises CannotJudge when it does not take it."""
        line = sample.model_dump_json(exclude_defaults=True).encode() + b"\n"
        if self._failed:
            raise CannotJudge(f"{self.path}: cannot be written")
        try:
            written = self._file.write(line)
            while written < len(line):  # a disk that gets full takes half a line, and says why at the next write
                written += self._file.write(line[written:])
        except OSError as error:
            self._failed = True
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise CannotJudge(_full(self.path, error)) from None
        self._size += written

    def close(self) -> None:
        """Have the rows on the disk itself."""
        with contextlib.suppress(OSError):  # a full disk was told when the row was written
            os.fsync(self._file.fileno())
        self._file.close()


def _full(path: Path, error: OSError) -> str:
    return f"{path}: cannot be written ({error.strerror}); mend it, then go on by --resume --out {path.parent}"
