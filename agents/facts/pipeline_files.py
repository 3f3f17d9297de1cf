"""Files that come in: YAML, JSON and JSONL, read safely and checked, with errors that name file, line and field.

A pipeline that is refused is an entry like the others (InvalidPipeline), so nothing that came in is lost.
"""

from __future__ import annotations

import codecs
import json
import os
import reprlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from agents.facts.spec import PipelineSpec
from common.console import BadInput, shorten

Model = TypeVar("Model", bound=BaseModel)
_Loc = tuple[int | str, ...]

PIPELINE_SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")
_MAX_DEPTH = 50
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


def load_yaml_model(path: Path, model: type[Model]) -> Model:
    """One YAML file as one checked object. Raises BadInput naming file, line and field."""
    document = _parse_yaml(path, _read(path))
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise BadInput(describe(error, model, str(path), document)) from None


def preset_names(folder: Path) -> list[str]:
    """The presets of a folder, sorted: its YAML files without their ending."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_preset(kind: str, folder: Path, name: str, model: type[Model]) -> Model:
    """A preset of `folder` by name, or a YAML file of the user's own by path. Raises BadInput."""
    if name.endswith((".yaml", ".yml")):
        return load_yaml_model(Path(name), model)
    if name not in preset_names(folder):
        known = ", ".join(preset_names(folder))
        raise BadInput(f"{kind} {shorten(name, 80)!r} is not known; known: {known}, or a path ending in .yaml")
    return load_yaml_model(folder / f"{name}.yaml", model)


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
                _opened(path).close()
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


def describe(error: ValidationError, model: type[BaseModel], where: str, document: _Document | None = None) -> str:
    """A validation error as one line: where, field, what was found, what is allowed; at most three fields."""
    problems = error.errors(include_url=False, include_context=False)
    told = "; ".join(_problem(one["type"], one["loc"], one["input"], one["msg"], model) for one in problems[:3])
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    line = f":{document.line(problems[0]['loc'])}" if document else ""
    return f"{where}{line}: {told}{more}"


# --- reading ---------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        with _opened(path) as file:
            text = file.read().decode("utf-8-sig")  # a byte order mark, as Windows writes it, is no part of the text
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise BadInput(f"{path}: is empty")
    return text


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise BadInput(f"{path}: is a folder; give a file") from None
    except PermissionError:
        raise BadInput(f"{path}: may not be read by this user") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _by_lines(path: Path) -> bool:
    if path.suffix not in PIPELINE_SUFFIXES:
        raise BadInput(f"{path}: ends in {path.suffix!r}; allowed: {', '.join(PIPELINE_SUFFIXES)}")
    return path.suffix == ".jsonl"


def _count_entries(path: Path) -> int:
    """How many lines of a JSONL file hold something. Raises BadInput when none does."""
    with _opened(path) as file:
        count = sum(1 for _ in _filled_lines(file))
    if not count:
        raise BadInput(f"{path}: is empty")
    return count


def _lines(path: Path) -> Iterator[Entry]:
    with _opened(path) as file:
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
    text = _read(path)
    document = _parse_json(path, text) if path.suffix == ".json" else _parse_yaml(path, text)
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


def _pipeline_list(path: Path, data: object) -> tuple[_Loc | None, list[object]]:
    """The list of pipelines, and where in the document it stands (None: the document is one pipeline)."""
    if isinstance(data, list):
        found: tuple[_Loc | None, list[object]] = ((), data)
    elif isinstance(data, dict) and isinstance(data.get("pipelines"), list):
        unknown = [str(key) for key in data if key != "pipelines"]
        if unknown:
            raise BadInput(f"{path}: unknown key {shorten(unknown[0], 60)!r} beside 'pipelines'")
        found = (("pipelines",), data["pipelines"])
    elif isinstance(data, dict):
        found = (None, [data])
    else:
        raise BadInput(f"{path}: found {_shown(data)}; allowed: a list of pipelines, or one pipeline")
    if not found[1]:
        raise BadInput(f"{path}: holds no pipeline")
    return found


def _json_line(where: str, line: bytes) -> Entry:
    try:
        data = json.loads(line.decode(), object_pairs_hook=_no_duplicates)
    except UnicodeDecodeError as error:
        return InvalidPipeline("", where, f"{where}: is not UTF-8 text (byte {error.start} of the line)")
    except (ValueError, RecursionError) as error:
        return InvalidPipeline("", where, f"{where}: is not JSON: {shorten(str(error))}")
    return _check(data, where, None)


def _check(item: object, where: str, document: _Document | None) -> Entry:
    named = item.get("id") if isinstance(item, dict) else None
    pipeline_id = shorten(named, 80) if isinstance(named, str) else ""
    place = f"{where}:{document.line(())}" if document and document.node else where
    try:
        return ReadPipeline(PipelineSpec.model_validate(item), place)
    except ValidationError as error:
        located = document if document and document.node else None
        return InvalidPipeline(pipeline_id, place, describe(error, PipelineSpec, where, located))


@dataclass(frozen=True)
class _Document:
    """Parsed data and, for YAML, the nodes it came from, which know their lines."""

    data: object
    node: yaml.Node | None = None

    def line(self, loc: _Loc) -> int:
        """The line of the deepest part of `loc` that stands in the file."""
        node = self.node
        line = node.start_mark.line + 1 if node else 1
        for key in loc:
            key_line, node = _child(node, key)
            if node is None:
                break
            line = key_line
        return line

    def below(self, loc: _Loc) -> _Document:
        """The same document seen from `loc`."""
        node = self.node
        for key in loc:
            _, node = _child(node, key)
        return _Document(None, node)


def _child(node: yaml.Node | None, key: int | str) -> tuple[int, yaml.Node | None]:
    """A node's child and the line its key stands on."""
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        child = node.value[key]
        return child.start_mark.line + 1, child
    if isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            if name.value == str(key):
                return name.start_mark.line + 1, child
    return 0, None


def _parse_yaml(path: Path, text: str) -> _Document:
    loader = yaml.CSafeLoader(text)
    try:
        _refuse_deep_nesting(text)
        node = loader.get_single_node()
        if node is None:  # nothing but comments
            raise BadInput(f"{path}: is empty")
        _refuse_duplicate_keys(node, set())
        return _Document(loader.construct_document(node), node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{line}: is not YAML: {shorten(error.problem or str(error))}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: is not YAML: {shorten(str(error))}") from None
    except (AttributeError, LookupError, TypeError):
        # What the safe loader's constructors raise for `!!int ''`, `!!bool x` and the like.
        raise BadInput(f"{path}: is not YAML: a value does not fit the tag (!!...) before it") from None
    finally:
        loader.dispose()


def _refuse_deep_nesting(text: str) -> None:
    """The reader of nodes recurses in C: 100 000 levels would not raise there but end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested deeper than {_MAX_DEPTH} levels",
                problem_mark=event.start_mark,  # type: ignore[arg-type] # the C reader's mark; it has a line too
            )


def _refuse_duplicate_keys(node: yaml.Node | None, seen: set[int]) -> None:
    # An alias makes one node stand in many places; each is walked once, or a small file could cost hours.
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"key {shorten(key.value, 60)!r} stands twice", problem_mark=key.start_mark
                )
            if key.value == "<<" and isinstance(value, yaml.SequenceNode):
                # Each mapping that merges ten others grows tenfold: a few lines would fill the memory.
                raise yaml.MarkedYAMLError(
                    problem="'<<' may merge one mapping, not a list", problem_mark=key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                keys.add(key.value)
            _refuse_duplicate_keys(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicate_keys(value, seen)


def _parse_json(path: Path, text: str) -> _Document:
    try:
        return _Document(json.loads(text, object_pairs_hook=_no_duplicates))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: is not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: is not JSON: {shorten(str(error))}") from None


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"key {shorten(twice, 60)!r} stands twice")
    return found


# --- saying what is wrong --------------------------------------------------------------------------------


def _problem(kind: str, loc: _Loc, found: object, message: str, model: type[BaseModel]) -> str:
    field = ".".join(map(str, loc)) or "entry"
    if kind == "extra_forbidden":
        allowed = ", ".join(_fields_at(model, loc[:-1])) or "no more keys"
        return f"unknown key {shorten(field, 80)!r}; allowed: {allowed}"
    if kind == "missing":
        return f"{field}: is missing"
    if kind == "model_type":
        return f"{field}: found {_shown(found)}; allowed: a mapping of {', '.join(_fields_at(model, loc))}"
    said = message.removeprefix("Value error, ")
    if kind == "value_error":
        return f"{field}: {said}" if loc else said
    return f"{field}: found {_shown(found)}; {said[0].lower()}{said[1:]}"


def _shown(found: object) -> str:
    """A value as a message may hold it: short, however large or deeply nested it is."""
    return shorten(reprlib.repr(found), 100)


def _fields_at(model: type[BaseModel], loc: _Loc) -> Sequence[str]:
    """The names allowed at a place in a model; empty where the place is no model."""
    found = [model]
    for key in loc:
        # Of several models a tag chooses one, before any name: a tag may be another model's field.
        tagged = [one for one in found if len(found) > 1 and _is_tag(key, one)]
        holders = [one for one in found if key in one.model_fields]
        if tagged:
            found = tagged
        elif holders:
            found = _models_in(holders[0].model_fields[str(key)].annotation)
        # else an index into a list
    return list(found[0].model_fields) if found else []


def _is_tag(key: int | str, model: type[BaseModel]) -> bool:
    return any(key in get_args(field.annotation) for field in model.model_fields.values())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]
