"""Files that come in: YAML, JSON and JSONL, read safely and checked, with errors that name file, line and field.

A pipeline that is refused is an entry like the others (InvalidPipeline), so nothing that came in is lost.
"""

from __future__ import annotations

import codecs
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from agents.facts.spec import PipelineSpec, file_model
from common.console import BadInput, shorten
from common.located import (
    Document,
    Loc,
    describe,
    no_duplicates,
    opened,
    parse_json,
    parse_yaml,
    read_text,
    shown_value,
)

PIPELINE_SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")
LONGEST_LINE = 4 * 2**20
"""Bytes a line of a JSONL file may have: memory is bounded by the longest pipeline, not by the file."""


@dataclass(frozen=True)
class InvalidPipeline:
    """One entry of a pipeline file that was refused."""

    pipeline_id: str
    where: str
    error: str


@dataclass(frozen=True)
class ReadPipeline:
    """One accepted entry of a pipeline file."""

    spec: PipelineSpec
    where: str


Entry = ReadPipeline | InvalidPipeline


class PipelineFiles:
    """The entries of pipeline files, in order, drawn one at a time: a JSONL file may be longer than memory.

    Files of the other kinds are read whole and up front, so that one that cannot be read costs no answers. Ids must
    differ, since reports are found by id: the second entry with one id is refused. May be iterated several times.
    Raises BadInput when a whole file cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        _refuse_names(self.paths)
        self._whole = {path: list(_whole_file(path)) for path in self.paths if not _by_lines(path)}
        for path in self.paths:
            if path not in self._whole and not path.is_fifo():  # a pipe may be opened but once
                opened(path).close()
        self.count: int | None = (
            self._counted() if all(path in self._whole or path.is_file() for path in paths) else None
        )
        """How many entries there are; None when a file is a pipe, which can be read but once."""

    def _counted(self) -> int:
        return sum(len(self._whole[path]) if path in self._whole else _count_entries(path) for path in self.paths)

    def __iter__(self) -> Iterator[Entry]:
        ids = _Ids()
        for path in self.paths:
            for entry in self._whole.get(path) or _lines(path):
                yield ids.refused(entry) or entry


def read_pipelines(paths: Sequence[Path]) -> list[Entry]:
    """Every entry of every file at once; see PipelineFiles. Raises BadInput when a whole file cannot be read."""
    return list(PipelineFiles(paths))


# --- reading ---------------------------------------------------------------------------------------------


def _by_lines(path: Path) -> bool:
    if path.suffix not in PIPELINE_SUFFIXES:
        raise BadInput(f"{path}: ends in {path.suffix!r}; allowed: {', '.join(PIPELINE_SUFFIXES)}")
    return path.suffix == ".jsonl"


def _count_entries(path: Path) -> int:
    """How many lines of a JSONL file hold something. Raises BadInput when none does."""
    with opened(path) as file:
        count = sum(1 for _ in _filled_lines(file))
    if not count:
        raise BadInput(f"{path}: is empty")
    return count


def _lines(path: Path) -> Iterator[Entry]:
    with opened(path) as file:
        for number, line in _filled_lines(file):
            where = f"{path}:{number}"
            if line is None:
                yield InvalidPipeline("", where, f"{where}: is longer than {LONGEST_LINE} bytes")
            else:
                yield _json_line(where, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)


def _filled_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Number and bytes of each line that is not blank; None for one that is longer than LONGEST_LINE."""
    # Bytes, not text: U+2028 and its like end a line of text, and may stand inside a JSON string.
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE)
            yield number, None
        elif not line.isspace():
            yield number, line


def _refuse_names(paths: Sequence[Path]) -> None:
    """Raise BadInput for a file that is named twice, or whose name no row could hold."""
    for path, times in Counter(paths).items():
        if times > 1:
            raise BadInput(f"{path}: is named twice")
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise BadInput(f"{os.fsencode(path)!r}: the file's name is not UTF-8; rename it") from None


def _whole_file(path: Path) -> Iterator[Entry]:
    text = read_text(path)
    document = parse_json(path, text) if path.suffix == ".json" else parse_yaml(path, text)
    prefix, items = _pipeline_list(path, document.data)
    for index, item in enumerate(items):
        # YAML tells the line; in JSON, which does not, the entry's number leads there.
        where = str(path) if document.node or prefix is None else f"{path}: entry {index + 1}"
        yield _check(item, where, document.below((*prefix, index) if prefix is not None else ()))


class _Ids:
    """Which ids were seen, and where: on disk, since a long run has more of them than memory should hold."""

    def __init__(self) -> None:
        self._seen = sqlite3.connect("")  # SQLite's name for a private file that it removes itself
        self._seen.execute("create table ids (id text primary key, place text) without rowid")

    def refused(self, entry: Entry) -> InvalidPipeline | None:
        """What becomes of an entry whose id another one has; None when the id is new."""
        if isinstance(entry, InvalidPipeline):
            return None
        row = (entry.spec.id, entry.where)
        if self._seen.execute("insert or ignore into ids values (?, ?)", row).rowcount:
            return None
        [place] = self._seen.execute("select place from ids where id = ?", row[:1]).fetchone()
        error = f"{entry.where}: id: {entry.spec.id!r} is taken by {place}; ids must differ"
        return InvalidPipeline(entry.spec.id, entry.where, error)


def _pipeline_list(path: Path, data: object) -> tuple[Loc | None, list[object]]:
    """The list of pipelines, and where in the document it stands (None: the document is one pipeline)."""
    if isinstance(data, list):
        found: tuple[Loc | None, list[object]] = ((), data)
    elif isinstance(data, dict) and isinstance(data.get("pipelines"), list):
        unknown = [str(key) for key in data if key != "pipelines"]
        if unknown:
            raise BadInput(f"{path}: unknown key {shorten(unknown[0], 60)!r} beside 'pipelines'")
        found = (("pipelines",), data["pipelines"])
    elif isinstance(data, dict):
        found = (None, [data])
    else:
        raise BadInput(f"{path}: found {shown_value(data)}; allowed: a list of pipelines, or one pipeline")
    if not found[1]:
        raise BadInput(f"{path}: holds no pipeline")
    return found


def _json_line(where: str, line: bytes) -> Entry:
    try:
        data = json.loads(line.decode(), object_pairs_hook=no_duplicates)
    except UnicodeDecodeError as error:
        return InvalidPipeline("", where, f"{where}: is not UTF-8 text (byte {error.start} of the line)")
    except (ValueError, RecursionError) as error:
        return InvalidPipeline("", where, f"{where}: is not JSON: {shorten(str(error))}")
    return _check(data, where, None)


def _check(item: object, where: str, document: Document | None) -> Entry:
    named = item.get("id") if isinstance(item, dict) else None
    pipeline_id = shorten(named, 80) if isinstance(named, str) else ""
    place = f"{where}:{document.line(())}" if document and document.node else where
    try:
        return ReadPipeline(PipelineSpec.model_validate(item), place)
    except ValidationError:
        located = document if document and document.node else None
        return InvalidPipeline(pipeline_id, place, _refused(item, where, located))


def _refused(item: object, where: str, document: Document | None) -> str:
    model = file_model()
    try:
        model.model_validate(item)
    except ValidationError as error:
        return describe(error, model, where, document)
    raise AssertionError("a pipeline is refused by one model and not by the other")


# --- saying what is wrong --------------------------------------------------------------------------------
