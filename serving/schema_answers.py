"""Seeded answers to a JSON schema: what a schema-constrained model might have said, without the model.

Covered is what pydantic's `model_json_schema()` emits: objects, arrays and tuples, strings and numbers with
bounds, booleans, null, enum and const, unions, and definitions by `$ref`, recursive ones too; beyond that, arrays of
distinct values of an enum (`uniqueItems`). Not covered are `pattern`, `format`, `not`, `if` and their like: these
raise, since an answer that merely looks valid would make every test that trusts it a lie.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import unquote

from jsonschema import Draft202012Validator

Schema = dict[str, Any]
Number = TypeVar("Number", int, float)

_SHORT = 24
"""Characters a free string aims for, before it is asked to be longer."""
_WINDOW = 100
"""How far from its one bound a number may lie; 0 to this without bounds."""
_ONE_OF_TRIES = 8
_LARGEST_BOUND = 1e300

_ANNOTATIONS = frozenset(
    (
        "$schema",
        "$comment",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
    )
) | {"discriminator"}
"""Keywords that speak to a reader and settle nothing about validity, as do all names that begin with x-."""

_SHAPES: dict[str, tuple[type, ...]] = {
    "$ref": (str,),
    "$defs": (dict,),
    "definitions": (dict,),
    "enum": (list,),
    "const": (object,),
    "anyOf": (list,),
    "oneOf": (list,),
    "allOf": (list,),
    "type": (str, list),
    "properties": (dict,),
    "required": (list,),
    "additionalProperties": (dict, bool),
    "prefixItems": (list,),
    "items": (dict, bool),
    "minItems": (int,),
    "maxItems": (int,),
    "uniqueItems": (bool,),
    "minLength": (int,),
    "maxLength": (int,),
    "minimum": (int, float),
    "maximum": (int, float),
    "exclusiveMinimum": (int, float),
    "exclusiveMaximum": (int, float),
}
"""The keywords that are understood, and what JSON type each one's value has."""

_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_DECIDING = ("$ref", "enum", "const", "anyOf", "oneOf", "allOf")
"""Keywords that settle the answer alone; beside one of them no other constraint is understood."""

_TYPES: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"prefixItems", "items", "minItems", "maxItems", "uniqueItems"}),
    "number": _BOUNDS,
    "string": frozenset({"minLength", "maxLength"}),
    "integer": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}
"""The types, each with the keywords that suggest it where a schema names none."""

_VOCABULARY = """
alert archive backfill batch bucket cache catalog check column compact consumer cost delay delta drift
duplicate event export field file freshness index ingest job key lag late limit load lineage log merge metric
missing monitor null offset orphan owner partition pipeline query queue quota range record refresh replay
retry row sample scan schema shard sink snapshot source split stage storage stream sync table timeout token
topic trace type update upsert validate value volume window
"""
WORDS = _VOCABULARY.split()
"""What strings are made of."""


class UnsupportedSchema(ValueError):
    """A schema that cannot be answered; `keyword` at `path` is the reason."""

    def __init__(self, keyword: str, path: str, reason: str = "is not supported") -> None:
        super().__init__(f"{path}: {keyword!r} {reason}")
        self.keyword = keyword
        self.path = path


class _NoValue(UnsupportedSchema):
    """Nothing fits here; an alternative elsewhere (another branch, an absent property) may still."""


def answer_for(schema: Schema, rng: random.Random, *, min_characters: int = 0) -> object:
    """A value that is valid for `schema`, drawn from `rng`.

    min_characters: free strings grow, as far as their maxLength allows, until the value as compact JSON is at
    least this long. Branches taken and items drawn do not depend on it.
    Raises UnsupportedSchema for a keyword that is not understood, for a malformed one, or if no value fits.
    """
    _check(schema, "#", schema, set())
    start, length = rng.getstate(), _SHORT
    while True:
        rng.setstate(start)
        draw = _Draw(schema, rng, length)
        answer = draw.value(schema, "#", frozenset())
        if not draw.can_grow or len(compact_json(answer)) >= min_characters:
            return answer
        length *= 2


def compact_json(value: object) -> str:
    """JSON without spaces between its parts."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class _Draw:
    """One pass over a schema; remembers whether any string could have been longer."""

    def __init__(self, root: Schema, rng: random.Random, length: int) -> None:
        self.root, self.rng, self.length = root, rng, length
        self.can_grow = False

    def value(self, node: Schema | bool, path: str, within: frozenset[str]) -> Any:
        """A value for the schema `node`; `within` are the definitions whose values this one is part of."""
        if isinstance(node, bool):
            if not node:
                raise _NoValue("false", path, "allows no value")
            node = {}
        for keyword in _DECIDING:
            if keyword in node:
                return self._decided(keyword, node, path, within)
        types = _types_of(node)
        if len(types) > 1:
            return self._any_of([({**node, "type": name}, path) for name in types], "type", path, within)
        return self._typed(types[0], node, path, within)

    def _decided(self, keyword: str, node: Schema, path: str, within: frozenset[str]) -> Any:
        match keyword:
            case "$ref":
                return self._referred(node["$ref"], path, within)
            case "const":
                return node["const"]
            case "enum":
                return self._enumerated(node, path)
        options = [(option, f"{path}/{keyword}/{index}") for index, option in enumerate(node[keyword])]
        if keyword == "oneOf" and len(options) > 1:
            return self._one_of(options, path, within)
        return self._any_of(options, keyword, path, within)

    def _referred(self, ref: str, path: str, within: frozenset[str]) -> Any:
        # Where any value exists, so does one without a definition inside itself: put the inner for the outer.
        if ref in within:
            raise _NoValue("$ref", path, f"to {ref!r} never ends")
        return self.value(_resolve(self.root, ref, path), ref, within | {ref})

    def _enumerated(self, node: Schema, path: str) -> Any:
        fitting = _fitting(node)
        if not fitting:
            raise _NoValue("enum", path, "allows no value")
        return self.rng.choice(fitting)

    def _any_of(self, options: list[tuple[Any, str]], keyword: str, path: str, within: frozenset[str]) -> Any:
        failure = _NoValue(keyword, path, "allows no value")
        for option, option_path in self.rng.sample(options, len(options)):
            try:
                return self.value(option, option_path, within)
            except _NoValue as none:
                failure = none
        raise failure

    def _one_of(self, options: list[tuple[Any, str]], path: str, within: frozenset[str]) -> Any:
        """A value of one option that is not by chance valid for another too."""
        validator = Draft202012Validator(self.root)
        for _ in range(_ONE_OF_TRIES):
            answer = self._any_of(options, "oneOf", path, within)
            if sum(validator.evolve(schema=option).is_valid(answer) for option, _ in options) == 1:
                return answer
        raise _NoValue("oneOf", path, "has options that could not be told apart")

    def _typed(self, name: str, node: Schema, path: str, within: frozenset[str]) -> Any:
        match name:
            case "object":
                return self._object(node, path, within)
            case "array":
                return self._array(node, path, within)
            case "string":
                return self._string(node, path)
            case "integer":
                return self._integer(node, path)
            case "number":
                return self._number(node, path)
            case "boolean":
                return self.rng.random() < 0.5
        return None

    def _object(self, node: Schema, path: str, within: frozenset[str]) -> dict[str, Any]:
        required, extra = node.get("required", []), node.get("additionalProperties", True)
        wanted = dict(node.get("properties", {}))
        wanted |= {name: extra for name in required if name not in wanted}
        if not wanted and isinstance(extra, dict):
            wanted = {self.rng.choice(WORDS): extra}
        made = {}
        for name, value_schema in wanted.items():
            try:
                made[name] = self.value(value_schema, f"{path}/properties/{name}", within)
            except _NoValue:
                if name in required:
                    raise
        return made

    def _array(self, node: Schema, path: str, within: frozenset[str]) -> list[Any]:
        prefix, rest = node.get("prefixItems", []), node.get("items", True)
        low, high = node.get("minItems", 0), node.get("maxItems", sys.maxsize)
        if low > high:
            raise _NoValue("minItems", path, f"{low} is more than maxItems {high}")
        if node.get("uniqueItems"):
            return self._distinct(_distinct_options(self.root, node, path), path, low, high)
        count = self.rng.randint(max(low, min(1, high)), min(high, max(low, 3, len(prefix))))
        made: list[Any] = []
        for index, item in enumerate([*prefix, *[rest] * (count - len(prefix))][:count]):
            try:
                made.append(self.value(item, f"{path}/items/{index}", within))
            except _NoValue:
                if index < low:
                    raise
                break
        return made

    def _distinct(self, options: list[Any], path: str, low: int, high: int) -> list[Any]:
        if low > len(options):
            raise _NoValue("minItems", path, f"{low} is more than the enum has distinct values")
        count = self.rng.randint(max(low, min(1, high, len(options))), min(high, max(low, 3), len(options)))
        return self.rng.sample(options, count)

    def _string(self, node: Schema, path: str) -> str:
        low, high = node.get("minLength", 0), node.get("maxLength", sys.maxsize)
        if low > high:
            raise _NoValue("minLength", path, f"{low} is more than maxLength {high}")
        target = max(low, min(self.length, high))
        self.can_grow |= target < high
        # One draw however long the string gets, so that its length changes nothing that is drawn after it.
        words = random.Random(self.rng.getrandbits(64))  # noqa: S311 - not for secrets
        text = words.choice(WORDS)
        while len(text) < target:
            text += f" {words.choice(WORDS)}"
        return text if len(text) <= high else _cut(text, low, high)

    def _integer(self, node: Schema, path: str) -> int:
        lows = [math.ceil(node[k]) for k in ("minimum",) if k in node]
        lows += [math.floor(node[k]) + 1 for k in ("exclusiveMinimum",) if k in node]
        highs = [math.floor(node[k]) for k in ("maximum",) if k in node]
        highs += [math.ceil(node[k]) - 1 for k in ("exclusiveMaximum",) if k in node]
        low, high = _window(max(lows, default=None), min(highs, default=None))
        if low > high:
            raise _NoValue("minimum", path, "and 'maximum' leave no integer between them")
        return self.rng.randint(low, high)

    def _number(self, node: Schema, path: str) -> float:
        lows = [float(node[k]) for k in ("minimum", "exclusiveMinimum") if k in node]
        highs = [float(node[k]) for k in ("maximum", "exclusiveMaximum") if k in node]
        low, high = _window(max(lows, default=None), min(highs, default=None))
        excluded = {node.get("exclusiveMinimum"), node.get("exclusiveMaximum")}
        for value in (round(self.rng.uniform(low, high), 2), low / 2 + high / 2, low, high):
            if low <= value <= high and value not in excluded:
                return value
        raise _NoValue("minimum", path, "and 'maximum' leave no number between them")


def _fitting(node: Schema) -> list[Any]:
    """The values of an enum that are of the type named beside it."""
    types, checker = _types_of(node) if "type" in node else [], Draft202012Validator.TYPE_CHECKER
    return [value for value in node["enum"] if not types or any(checker.is_type(value, name) for name in types)]


def _distinct_options(root: Schema, node: Schema, path: str) -> list[Any]:
    """The values that an array's items may have, each once. Raises UnsupportedSchema for items that are no enum."""
    items, seen = node.get("items"), set[str]()
    while isinstance(items, dict) and "$ref" in items and items["$ref"] not in seen:
        seen.add(items["$ref"])
        items = _resolve(root, items["$ref"], path)
    if not isinstance(items, dict) or "enum" not in items or "prefixItems" in node:
        raise UnsupportedSchema("uniqueItems", path, "of anything but an enum is not supported")
    # JSON's equality, in which 1 is 1.0 and no truth value is a number.
    return list({(isinstance(value, bool), _canonical(value)): value for value in reversed(_fitting(items))}.values())


def _canonical(value: object) -> str:
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value, sort_keys=True)


def _window(low: Number | None, high: Number | None) -> tuple[Number, Number]:
    """Both bounds, the missing ones chosen near the others."""
    if low is None:
        low = high - _WINDOW if high is not None else type(_WINDOW)(0)
    return low, high if high is not None else low + _WINDOW


def _cut(text: str, low: int, high: int) -> str:
    """At most `high` characters, ending on a whole word where that leaves at least `low`."""
    whole = text[: high + 1].rpartition(" ")[0]
    return whole if len(whole) >= max(low, 1) else text[:high]


def _types_of(node: Schema) -> list[str]:
    """The types a schema names, else the one that its keywords are about, else string."""
    named = node.get("type")
    if named is None:
        return [next((name for name, keywords in _TYPES.items() if keywords & node.keys()), "string")]
    return [named] if isinstance(named, str) else named


def _resolve(root: Schema, ref: str, path: str) -> Schema | bool:
    """What a local reference (a JSON pointer in a fragment, RFC 6901) points to."""
    node: Any = root
    if ref != "#" and not ref.startswith("#/"):
        raise UnsupportedSchema("$ref", path, f"to {ref!r} is not supported: only places in the schema itself are")
    for part in ref.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or name not in node:
            raise UnsupportedSchema("$ref", path, f"to {ref!r} points nowhere")
        node = node[name]
    return node  # type: ignore[no-any-return]  # _check looks at it next


def _check(node: object, path: str, root: Schema, seen: set[str]) -> None:
    """Refuse what is not understood anywhere an answer could go: refusal must not hang on the seed."""
    if isinstance(node, bool):
        return
    if not isinstance(node, dict):
        raise UnsupportedSchema(path.rpartition("/")[2], path, "must be a schema: an object, true or false")
    for keyword, value in node.items():
        _check_keyword(keyword, value, path)
    _check_company(node, path)
    if node.get("uniqueItems"):
        _distinct_options(root, node, path)
    for inner, inner_path in _inner_schemas(node, path, root, seen):
        _check(inner, inner_path, root, seen)


def _check_keyword(keyword: str, value: object, path: str) -> None:
    if keyword in _ANNOTATIONS or keyword.startswith("x-"):
        return
    if keyword not in _SHAPES:
        raise UnsupportedSchema(keyword, path)
    shapes = _SHAPES[keyword]
    flag_for_number = isinstance(value, bool) and bool not in shapes and object not in shapes
    if not isinstance(value, shapes) or flag_for_number:
        raise UnsupportedSchema(keyword, path, f"must be of type {' or '.join(shape.__name__ for shape in shapes)}")
    if keyword == "type" and not all(name in _TYPES for name in _as_list(value)):
        raise UnsupportedSchema("type", path, f"must be among {', '.join(sorted(_TYPES))}")
    if keyword == "type" and not value:
        raise UnsupportedSchema("type", path, "must name a type")
    if keyword == "required" and not all(isinstance(name, str) for name in _as_list(value)):
        raise UnsupportedSchema("required", path, "must list names")
    if keyword == "allOf" and len(_as_list(value)) > 1:
        raise UnsupportedSchema("allOf", path, "of more than one schema is not supported")
    if keyword in _BOUNDS and isinstance(value, int | float) and not abs(value) <= _LARGEST_BOUND:
        raise UnsupportedSchema(keyword, path, f"must be within ±{_LARGEST_BOUND:g}")


def _check_company(node: Schema, path: str) -> None:
    """A deciding keyword must be the only constraint, but for the type that goes with enum and const."""
    decided = [keyword for keyword in _DECIDING if keyword in node]
    if not decided:
        return
    free = {decided[0], "$defs", "definitions"} | ({"type"} if decided[0] in {"enum", "const"} else set())
    for keyword in node.keys() & _SHAPES.keys() - free:
        raise UnsupportedSchema(keyword, path, f"beside {decided[0]!r} is not supported")


def _inner_schemas(node: Schema, path: str, root: Schema, seen: set[str]) -> Iterator[tuple[object, str]]:
    """The schemas an answer to `node` may need, each definition once."""
    for name, inner in node.get("properties", {}).items():
        yield inner, f"{path}/properties/{name}"
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for index, inner in enumerate(node.get(keyword, [])):
            yield inner, f"{path}/{keyword}/{index}"
    for keyword in ("items", "additionalProperties"):
        yield node.get(keyword, True), f"{path}/{keyword}"
    ref = node.get("$ref")
    if ref is not None and ref not in seen:
        seen.add(ref)
        yield _resolve(root, ref, path), ref


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
