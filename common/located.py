"""YAML and JSON files read safely, with errors that name file, line and field."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from common.console import BadInput, shorten

Model = TypeVar("Model", bound=BaseModel)
Loc = tuple[int | str, ...]

_MAX_DEPTH = 50


def load_yaml_model(path: Path, model: type[Model]) -> Model:
    """One YAML file as one checked object. Raises BadInput naming file, line and field."""
    document = parse_yaml(path, read_text(path))
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise BadInput(describe(error, model, str(path), document)) from None


def merged(below: dict[str, Any], above: dict[Any, Any]) -> dict[Any, Any]:
    """What stands above, key by key, and what stands below where it says nothing."""
    both = {key: value for key, value in above.items() if isinstance(value, dict) and isinstance(below.get(key), dict)}
    return {**below, **above, **{key: merged(below[key], value) for key, value in both.items()}}


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


def describe(error: ValidationError, model: type[BaseModel], where: str, document: Document | None = None) -> str:
    """A validation error as one line: where, field, what was found, what is allowed; at most three fields."""
    problems = error.errors(include_url=False, include_context=False)
    told = "; ".join(_problem(one["type"], one["loc"], one["input"], one["msg"], model) for one in problems[:3])
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    line = f":{document.line(problems[0]['loc'])}" if document else ""
    return f"{where}{line}: {told}{more}"


def read_text(path: Path) -> str:
    try:
        with opened(path) as file:
            text = file.read().decode("utf-8-sig")  # a byte order mark, as Windows writes it, is no part of the text
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise BadInput(f"{path}: is empty")
    return text


def opened(path: Path) -> BinaryIO:
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


@dataclass(frozen=True)
class Document:
    """Parsed data and, for YAML, the nodes it came from, which know their lines."""

    data: object
    node: yaml.Node | None = None

    def line(self, loc: Loc) -> int:
        """The line of the deepest part of `loc` that stands in the file."""
        node = self.node
        line = node.start_mark.line + 1 if node else 1
        for key in loc:
            key_line, node = _child(node, key)
            if node is None:
                break
            line = key_line
        return line

    def below(self, loc: Loc) -> Document:
        """The same document seen from `loc`."""
        node = self.node
        for key in loc:
            _, node = _child(node, key)
        return Document(None, node)


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


def parse_yaml(path: Path, text: str) -> Document:
    loader = yaml.CSafeLoader(text)
    try:
        _refuse_deep_nesting(text)
        node = loader.get_single_node()
        if node is None:  # nothing but comments
            raise BadInput(f"{path}: is empty")
        _refuse_duplicate_keys(node, set())
        return Document(loader.construct_document(node), node)
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


def parse_json(path: Path, text: str) -> Document:
    try:
        return Document(json.loads(text, object_pairs_hook=no_duplicates))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: is not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: is not JSON: {shorten(str(error))}") from None


def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"key {shorten(twice, 60)!r} stands twice")
    return found


def _problem(kind: str, loc: Loc, found: object, message: str, model: type[BaseModel]) -> str:
    field = ".".join(map(str, loc)) or "entry"
    if kind == "extra_forbidden":
        allowed = ", ".join(_fields_at(model, loc[:-1])) or "no more keys"
        return f"unknown key {shorten(field, 80)!r}; allowed: {allowed}"
    if kind == "missing":
        return f"{field}: is missing"
    if kind == "model_type":
        return f"{field}: found {shown_value(found)}; allowed: a mapping of {', '.join(_fields_at(model, loc))}"
    said = message.removeprefix("Value error, ")
    if kind == "value_error":
        return f"{field}: {said}" if loc else said
    return f"{field}: found {shown_value(found)}; {said[0].lower()}{said[1:]}"


def shown_value(found: object) -> str:
    """A value as a message may hold it: short, however large or deeply nested it is."""
    return shorten(reprlib.repr(found), 100)


def _fields_at(model: type[BaseModel], loc: Loc) -> Sequence[str]:
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
