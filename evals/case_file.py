"""Cases on disk, read one at a time: a run of 100 000 cases must not hold them all."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, overload

import orjson
from pydantic import ValidationError

from agents.files import describe
from console import BadInput, CannotJudge
from evals.case import Case

_KEPT = 4096
"""Cases that stay parsed: more than are asked about at once."""


class CaseFile(Sequence[Case]):
    """The cases of a JSONL file, by number or id; memory is 8 bytes a case, and an id's when ids are asked for."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """file: readable; it stays open as long as this. name: what messages call it."""
        self._file = file
        self._name = name
        self._starts, self.digest = _lines(file)
        self._ids: dict[str, int] | None = None
        self._parsed = lru_cache(maxsize=_KEPT)(self._parse)
        self.id_of = lru_cache(maxsize=_KEPT)(self._id_of)

    @classmethod
    def open(cls, path: Path) -> CaseFile:
        """Raises BadInput when the file cannot be read."""
        try:
            return cls(path.open("rb"), str(path))
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror})") from None

    @classmethod
    def temporary(cls, cases: Iterable[Case]) -> CaseFile:
        """Cases in a file that goes with this object. Raises CannotJudge when the disk does not take them, BadInput
        when an id stands twice."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the cases
        seen: set[str] = set()
        try:
            for case in cases:
                if case.id in seen:
                    raise BadInput(f"cases: id {case.id!r} stands twice; ids must differ")
                seen.add(case.id)
                file.write(case.model_dump_json(exclude_defaults=True).encode() + b"\n")
            file.flush()
        except OSError as error:
            raise CannotJudge(f"the cases cannot be kept in {tempfile.gettempdir()} ({error.strerror})") from None
        return cls(file, "cases")

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, number: int) -> Case: ...
    @overload
    def __getitem__(self, number: slice) -> list[Case]: ...
    def __getitem__(self, number: int | slice) -> Case | list[Case]:
        if isinstance(number, slice):
            return [self._parsed(one) for one in range(*number.indices(len(self)))]
        if number < 0:
            number += len(self)
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._parsed(number)

    def __iter__(self) -> Iterator[Case]:
        # Not by the cache: one pass over all would turn out what is in use.
        return (self._parse(number) for number in range(len(self)))

    def lines(self) -> Iterator[bytes]:
        """Each case as its line, with the line's end."""
        return (self._line(number) for number in range(len(self)))

    def number_of(self, case_id: str) -> int:
        """The place of a case. Raises KeyError."""
        if self._ids is None:
            self._ids = {orjson.loads(line)["id"]: number for number, line in enumerate(self.lines())}
        return self._ids[case_id]

    def by_id(self, case_id: str) -> Case:
        """Raises KeyError."""
        return self._parsed(self.number_of(case_id))

    def _id_of(self, number: int) -> str:
        return str(orjson.loads(self._line(number))["id"])

    def _line(self, number: int) -> bytes:
        self._file.seek(self._starts[number])
        return self._file.read(self._starts[number + 1] - self._starts[number])

    def _parse(self, number: int) -> Case:
        try:
            return Case.model_validate_json(self._line(number))
        except ValidationError as error:
            raise BadInput(describe(error, Case, f"{self._name}:{number + 1}")) from None


def _lines(file: BinaryIO) -> tuple[array[int], str]:
    """Where each line starts and where the last one ends; a digest of all bytes."""
    starts, digest = array("q", [0]), hashlib.sha256()
    file.seek(0)
    for line in file:
        starts.append(starts[-1] + len(line))
        digest.update(line)
    return starts, digest.hexdigest()[:16]
