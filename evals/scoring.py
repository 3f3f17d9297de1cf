"""Scoring: samples.jsonl to scores.jsonl and one table, in the plan's order, without a model call.

Samples lie in the order they arrived in. A first pass notes where each one starts; then whole cases are scored at a
time, so that a case is parsed and labelled once for all its samples, by as many processes as there are cores.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from multiprocessing import get_context
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from agents.specialists.registry import Labels, specialist_of
from agents.specialists.rules import permitted
from common import console
from common.console import BadInput, CannotJudge, shorten
from common.whole_file import write_whole
from evals.case import Case
from evals.run_folder import RunFolder, misplaced
from evals.sample import Sample
from evals.score import Score
from evals.score_table import ScoreTable
from evals.scorers import SCORER_NAMES, Answered, score_all

_ONE_PROCESS = 4_000
"""Up to so many samples a second process would cost more to start than it saves."""
_SAMPLES_A_TASK = 500
_MISSING = -1
_SCORER_NUMBER = {name: number for number, name in enumerate(SCORER_NAMES)}


def score_run(folder: RunFolder, *, workers: int | None = None) -> ScoreTable:
    """Score every answer of a run and write scores.jsonl, whole or not at all.

    workers: processes; None for one a core, or none for a short run. Raises BadInput when the run is being written,
    CannotJudge when scores.jsonl cannot be written.
    """
    with folder.locked():
        starts = sample_starts(folder)
        tasks = list(_tasks(folder, starts))
        table = _Filling(folder)
        try:
            write_whole(folder.path / "scores.jsonl", table.lines(_scored(folder, tasks, _workers(folder, workers))))
        except OSError as error:
            raise CannotJudge(f"{folder.path / 'scores.jsonl'}: cannot be written ({error.strerror})") from None
    return table.table


def answered(case: Case, sample: Sample, labels: Labels) -> Answered:
    """A sample ready for the scorers. labels: what the policy gives the case."""
    label = labels[case.stage]
    return Answered(
        case=case,
        label=label,
        permitted=permitted(specialist_of(case.stage), case.spec, label),
        decision=sample.decision,
        problem=sample.problem,
    )


# --- which sample is where -------------------------------------------------------------------------------


def sample_starts(folder: RunFolder) -> NDArray[np.int64]:
    """Byte offset of each sample's line; -1 where there is none. Of several lines the first answer counts."""
    starts = np.full(folder.plan.samples, _MISSING, dtype=np.int64)
    final = bytearray(folder.plan.samples)
    offset = 0
    with folder.samples_path.open("rb") as file:
        for line in file:
            index, is_answer = _glance(line)
            if 0 <= index < len(starts) and not final[index]:
                starts[index], final[index] = offset, is_answer
            offset += len(line)
    return starts


def read_samples(folder: RunFolder, wanted: Collection[int]) -> dict[int, Sample]:
    """The answers with those indexes, by index; samples without an answer are left out."""
    if not wanted:
        return {}
    starts, found = sample_starts(folder), dict[int, Sample]()
    with folder.samples_path.open("rb") as file:
        for index in sorted(wanted):
            if starts[index] == _MISSING:
                continue
            file.seek(int(starts[index]))
            with contextlib.suppress(ValidationError):  # a damaged line was told of when it was scored
                sample = Sample.model_validate_json(file.readline())
                if sample.error is None:
                    found[index] = sample
    return found


def _glance(line: bytes) -> tuple[int, bool]:
    """A line's index and whether it is an answer; the index is -1 for a line that is none."""
    if not line.endswith(b"\n"):
        return _MISSING, False
    try:
        row = orjson.loads(line)
        return int(row["index"]), row.get("error") is None
    except (ValueError, KeyError, TypeError, AttributeError):
        return _MISSING, False


@dataclass(frozen=True)
class _Task:
    """Some whole cases in a row."""

    first: int
    """Number of the first case."""
    starts: NDArray[np.int64]
    """Offsets of all their samples, in plan order."""


def _tasks(folder: RunFolder, starts: NDArray[np.int64]) -> Iterator[_Task]:
    a_case = len(folder.plan.variants) * folder.plan.repeats
    cases = max(1, _SAMPLES_A_TASK // a_case)
    for first in range(0, folder.plan.cases, cases):
        yield _Task(first, starts[first * a_case : (first + cases) * a_case])


# --- scoring some cases ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scored:
    """What came of a task."""

    first: int
    lines: bytes
    values: NDArray[np.float64]
    """Shape (samples, scorers)."""
    errored: NDArray[np.bool_]
    cases: list[tuple[str, str, str, str | None]]
    """Id, family, stage and relation of each case."""
    damaged: list[int]
    """Indexes of samples whose line cannot be read."""


class _Worker:
    """Scores tasks of one run."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.policies = folder.plan.policies
        # Mapped, since samples lie in another order: to seek and read a line each costs more than scoring it.
        with folder.samples_path.open("rb") as file:
            self.samples = mmap(file.fileno(), 0, access=ACCESS_READ) if folder.samples_path.stat().st_size else b""

    def score(self, task: _Task) -> _Scored:
        plan = self.folder.plan
        a_case = len(plan.variants) * plan.repeats
        values = np.full((len(task.starts), len(SCORER_NAMES)), np.nan)
        errored = np.zeros(len(task.starts), dtype=bool)
        lines, cases, damaged = list[bytes](), list[tuple[str, str, str, str | None]](), list[int]()
        for number in range(len(task.starts) // a_case):
            case = self.folder.cases[task.first + number]
            cases.append((case.id, case.family, case.stage, case.relation))
            for offset in range(number * a_case, (number + 1) * a_case):
                if task.starts[offset] == _MISSING:
                    continue
                sample = self._sample(int(task.starts[offset]))
                if sample is None:
                    damaged.append(task.first * a_case + offset)
                    continue
                scores = {} if sample.error is not None else self._scores(case, sample)
                for name, score in scores.items():
                    values[offset, _SCORER_NUMBER[name]] = score.value
                errored[offset] = not scores
                lines.append(_line(sample, scores))
        return _Scored(task.first, b"".join(lines), values, errored, cases, damaged)

    def _sample(self, start: int) -> Sample | None:
        try:
            sample = Sample.model_validate_json(self.samples[start : self.samples.find(b"\n", start)])
        except ValidationError:
            return None
        return None if misplaced(self.folder, sample) else sample

    def _scores(self, case: Case, sample: Sample) -> dict[str, Score]:
        number, which, _ = self.folder.plan.place(sample.index)
        labels = self.folder.cases.labels(number, self.policies[which])
        return score_all(answered(case, sample, labels))


def _line(sample: Sample, scores: dict[str, Score]) -> bytes:
    row = {
        "index": sample.index,
        "variant": sample.variant,
        "case_id": sample.case_id,
        "repeat": sample.repeat,
        "scores": scores,
    }
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


# --- by several processes --------------------------------------------------------------------------------

_mine: _Worker | None = None


def _begin(folder: RunFolder) -> None:
    global _mine
    _mine = _Worker(folder)


def _score(task: _Task) -> _Scored:
    if _mine is None:
        raise RuntimeError("the process was not prepared")
    return _mine.score(task)


def _workers(folder: RunFolder, wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    return 1 if folder.plan.samples <= _ONE_PROCESS else os.cpu_count() or 1


def _scored(folder: RunFolder, tasks: list[_Task], workers: int) -> Iterator[_Scored]:
    """Every task's scores, in the tasks' order."""
    if workers == 1:
        worker = _Worker(folder)
        yield from map(worker.score, tasks)
        return
    # A fork, since a fresh process would import for seconds. The children compute and read files of their own; of what
    # other threads may hold locked at that moment (terminal, sockets) they use nothing.
    context = get_context("fork")
    with ProcessPoolExecutor(workers, context, _begin, (folder,)) as pool:
        waiting: deque[Future[_Scored]] = deque()
        for task in tasks:
            waiting.append(pool.submit(_score, task))
            if len(waiting) > 4 * workers:  # what is scored ahead is held in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Filling:
    """The table, filled as tasks end."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        plan = folder.plan
        self._values = np.full((plan.samples, len(SCORER_NAMES)), np.nan)
        self._errored = np.zeros(plan.samples, dtype=bool)
        self._cases: list[tuple[str, str, str, str | None]] = []
        self._damaged: list[int] = []

    def lines(self, scored: Iterable[_Scored]) -> Iterator[bytes]:
        """The lines of scores.jsonl, in the plan's order."""
        a_case = len(self.folder.plan.variants) * self.folder.plan.repeats
        with console.progress("samples") as bar:
            task = bar.add_task("scoring", total=self.folder.plan.samples)
            for part in scored:
                first, count = part.first * a_case, len(part.errored)
                self._values[first : first + count] = part.values
                self._errored[first : first + count] = part.errored
                self._cases += part.cases
                self._damaged += part.damaged
                yield part.lines
                bar.advance(task, count)

    @property
    def table(self) -> ScoreTable:
        if self._damaged:
            console.say(f"{len(self._damaged)} lines of {self.folder.samples_path} cannot be read: --resume asks again")
        return _table(self.folder, self._cases, self._values, self._errored)


def _table(
    folder: RunFolder,
    cases: list[tuple[str, str, str, str | None]],
    values: NDArray[np.float64],
    errored: NDArray[np.bool_],
) -> ScoreTable:
    plan = folder.plan
    shape = (plan.cases, len(plan.variants), plan.repeats)
    ids, families, stages, relations = zip(*cases, strict=True)
    return ScoreTable(
        variants=tuple(variant.name for variant in plan.variants),
        scorers=SCORER_NAMES,
        case_ids=ids,
        families=families,
        stages=stages,
        relations=relations,
        values=np.ascontiguousarray(values.reshape(*shape, -1).transpose(1, 0, 2, 3)),
        errored=np.ascontiguousarray(errored.reshape(shape).transpose(1, 0, 2)),
    )


# --- reading scores --------------------------------------------------------------------------------------


def scores(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """The rows of scores.jsonl: index, variant, case_id, repeat and scores; those are empty where no answer came.

    Raises BadInput when there are none yet, or they cannot be read.
    """
    path = folder.path / "scores.jsonl"
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise BadInput(f"{path}:{number}: is not JSON: {error}; make it anew: {rescore(folder)}") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); make it by: {rescore(folder)}") from None


def rescore(folder: RunFolder) -> str:
    """The command that makes scores.jsonl anew."""
    return f"python -m evals rescore {folder.path}"


def load_table(folder: RunFolder) -> ScoreTable:
    """The table in scores.jsonl. Raises BadInput when it is not there, or was made by other scorers."""
    plan = folder.plan
    values = np.full((plan.samples, len(SCORER_NAMES)), np.nan)
    errored = np.zeros(plan.samples, dtype=bool)
    for number, row in enumerate(scores(folder), 1):
        try:
            index = range(plan.samples).index(row["index"])
            errored[index] = not row["scores"]
            for name, score in row["scores"].items():
                values[index, _SCORER_NUMBER[name]] = score["value"]
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            told = f"{folder.path / 'scores.jsonl'}:{number}: is no row of these scorers ({shorten(repr(error), 80)})"
            raise BadInput(f"{told}; score it anew: {rescore(folder)}") from None
    cases = [(head["id"], head["family"], head["stage"], head.get("relation")) for head in folder.cases.heads()]
    return _table(folder, cases, values, errored)
