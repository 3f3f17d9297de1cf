"""Cases on disk, read one at a time: a run of 100 000 cases must not hold them all.

Planning, asking, scoring and reporting each go through all cases, and reading a case and working out its label cost as
much as all else that is done for a sample. So what was read is kept, as far as a fixed number of cases.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, overload

import orjson
from pydantic import ValidationError

from agents.labels.policy import Policy
from agents.specialists.registry import Labels
from common.console import BadInput, CannotJudge
from common.located import describe
from evals.case import Case
from evals.labels import case_labels

K = TypeVar("K")
V = TypeVar("V")

_KEPT = 4096
"""Cases that stay read, and as many labels: 22 MB."""
_RECENT = 1024
"""Of the others: more than are asked about at once."""


class _Remembering(Generic[K, V]):
    """A function that keeps its first _KEPT results for good, and of the later ones those used last.

    What is gone through from end to end again and again, and is larger than a cache of the results used last, is never
    found in that.
    """

    def __init__(self, work: Callable[[K], V]) -> None:
        self.kept: dict[K, V] = {}
        self._work = work
        self._recent = lru_cache(maxsize=_RECENT)(work)

    def __call__(self, key: K) -> V:
        found = self.kept.get(key)
        if found is None:
            if len(self.kept) >= _KEPT:
                return self._recent(key)
            found = self.kept[key] = self._work(key)
        return found


class CaseFile(Sequence[Case]):
    """The cases of a JSONL file, by number or id; memory is 8 bytes a case, an id's when ids are asked for, and that of
    the first _KEPT cases. A forked process may go on using it."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """file: readable; it stays open as long as this. name: what messages call it."""
        self._file = file
        self._name = name
        self._starts, self.digest = _lines(file)
        self._read = _Remembering(self._parse)
        self._policies: dict[int, Policy] = {}
        self._labels = _Remembering(self._labels_of)

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
        first: dict[int, Case] = {}
        try:
            for number, case in enumerate(cases):
                if case.id in seen:
                    raise BadInput(f"cases: id {case.id!r} stands twice; ids must differ")
                seen.add(case.id)
                file.write(case.model_dump_json(exclude_defaults=True).encode() + b"\n")
                if number < _KEPT:
                    first[number] = case
            file.flush()
        except OSError as error:
            raise CannotJudge(f"the cases cannot be kept in {tempfile.gettempdir()} ({error.strerror})") from None
        held = cls(file, "cases")
        # What is written is what would be read again: tests/evals/test_case_file.py holds every maker of cases to that.
        held._read.kept.update(first)
        return held

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, number: int) -> Case: ...
    @overload
    def __getitem__(self, number: slice) -> list[Case]: ...
    def __getitem__(self, number: int | slice) -> Case | list[Case]:
        if isinstance(number, slice):
            return [self._read(one) for one in range(*number.indices(len(self)))]
        if number < 0:
            number += len(self)
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._read(number)

    def __iter__(self) -> Iterator[Case]:
        return (self._read(number) for number in range(len(self)))

    def labels(self, number: int, policy: Policy) -> Labels:
        """What evals.labels.case_labels gives for that case. Raises BadInput as it does."""
        self._policies[id(policy)] = policy  # held, so that no other gets its id: to hash one costs as much as a label
        return self._labels((number, id(policy)))

    def _labels_of(self, key: tuple[int, int]) -> Labels:
        return case_labels(self._read(key[0]), self._policies[key[1]])

    def lines(self) -> Iterator[bytes]:
        """Each case as its line, with the line's end."""
        return (self._line(number) for number in range(len(self)))

    def heads(self) -> Iterator[dict[str, Any]]:
        """Each case as plain JSON, unchecked: for its id, family, stage and relation alone, a case costs too much."""
        return (orjson.loads(line) for line in self.lines())

    def number_of(self, case_id: str) -> int:
        """The place of a case. Raises KeyError."""
        return self._numbers[case_id]

    def by_id(self, case_id: str) -> Case:
        """Raises KeyError."""
        return self._read(self.number_of(case_id))

    def id_of(self, number: int) -> str:
        """The id of a case, without reading the whole of it."""
        return self._ids[number]

    @cached_property
    def _ids(self) -> list[str]:
        return [str(head["id"]) for head in self.heads()]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {case_id: number for number, case_id in enumerate(self._ids)}

    def _line(self, number: int) -> bytes:
        # Not seek and read: processes that were forked share one position in the file.
        start = self._starts[number]
        return os.pread(self._file.fileno(), self._starts[number + 1] - start, start)

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
