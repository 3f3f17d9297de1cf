"""An answer to a schema is valid, repeatable, and refused rather than guessed."""

from __future__ import annotations

import random
from enum import StrEnum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from serving.schema_answers import UnsupportedSchema, answer_for, compact_json

SEEDS = st.integers(0, 2**32)


def bounds(low: str, high: str, numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """None, one or both of two keywords, in order."""
    both = st.tuples(numbers, numbers).map(lambda pair: dict(zip((low, high), sorted(pair), strict=True)))
    return st.one_of(st.just({}), numbers.map(lambda n: {low: n}), numbers.map(lambda n: {high: n}), both)


def typed(name: str, *keywords: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of one type with each of the groups of keywords."""
    return st.tuples(*keywords).map(lambda groups: {"type": name} | {k: v for g in groups for k, v in g.items()})


LEAVES = st.one_of(
    typed("string", bounds("minLength", "maxLength", st.integers(0, 60))),
    typed("integer", bounds("minimum", "maximum", st.integers(-500, 500))),
    typed("number", bounds("minimum", "maximum", st.floats(-1e6, 1e6))),
    st.tuples(st.integers(-9, 9), st.integers(2, 9)).map(
        lambda pair: {"type": "integer", "exclusiveMinimum": pair[0], "exclusiveMaximum": sum(pair)}
    ),
    st.tuples(st.integers(-9, 9), st.integers(1, 9)).map(
        lambda pair: {"type": "number", "exclusiveMinimum": pair[0], "exclusiveMaximum": sum(pair)}
    ),
    st.sampled_from([True, {}, {"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}]),
    st.lists(st.one_of(st.integers(), st.text(), st.none()), min_size=1, max_size=4).map(lambda v: {"enum": v}),
    st.text().map(lambda value: {"const": value, "type": "string"}),
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of which some properties are required."""
    fields = st.dictionaries(st.sampled_from("abcdef"), st.tuples(inner, st.booleans()), max_size=4)
    return st.tuples(fields, st.booleans()).map(
        lambda drawn: {
            "type": "object",
            "properties": {name: schema for name, (schema, _) in drawn[0].items()},
            "required": [name for name, (_, required) in drawn[0].items() if required],
            "additionalProperties": drawn[1],
        }
    )


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Arrays of one kind of item, and tuples."""
    lists = st.tuples(inner, bounds("minItems", "maxItems", st.integers(0, 5)))
    tuples = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        lists.map(lambda pair: {"type": "array", "items": pair[0], **pair[1]}),
        tuples.map(
            lambda items: {
                "type": "array",
                "prefixItems": items,
                "minItems": len(items),
                "maxItems": len(items),
            }
        ),
        tuples.map(lambda items: {"type": "array", "prefixItems": items, "items": False}),
    )


BODIES = st.recursive(
    st.one_of(LEAVES, st.just({"$ref": "#/$defs/Leaf"})),
    lambda inner: st.one_of(
        objects(inner),
        arrays(inner),
        inner.map(lambda schema: {"type": "object", "additionalProperties": schema}),
        inner.map(lambda schema: {"allOf": [schema]}),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=8,
)
SCHEMAS = st.builds(
    lambda body, leaf: {"$defs": {"Leaf": leaf}, "title": "Any"} | (body if isinstance(body, dict) else {}),
    BODIES,
    LEAVES,
)


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(gt=0, lt=10)]


class Dog(BaseModel):
    kind: Literal["dog"]
    name: Annotated[str, Field(min_length=3, max_length=3)]


class Tree(BaseModel):
    label: str
    left: Tree | None
    right: Tree | None = None
    children: list[Tree]


class Everything(BaseModel):
    """Each feature of pydantic's schemas that is supported."""

    model_config = ConfigDict(extra="forbid")

    colour: Colour
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    tree: Tree
    share: Annotated[float, Field(ge=0, lt=1)]
    level: Literal[1, 2, "many"]
    pair: tuple[int, str]
    names: Annotated[list[Annotated[str, Field(min_length=1, max_length=160)]], Field(min_length=2, max_length=2)]
    counts: dict[str, int]
    anything: JsonValue
    maybe: bool | None = None
    nothing: None = None


@settings(deadline=None)
@given(SCHEMAS, SEEDS, st.sampled_from([0, 300]))
def test_an_answer_is_valid_for_its_schema(schema: dict[str, Any], seed: int, min_characters: int) -> None:
    answer = answer_for(schema, random.Random(seed), min_characters=min_characters)
    jsonschema.validate(answer, schema, cls=jsonschema.Draft202012Validator)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_an_answer_is_valid_for_a_pydantic_model(seed: int) -> None:
    answer = answer_for(Everything.model_json_schema(), random.Random(seed))
    jsonschema.validate(answer, Everything.model_json_schema())
    Everything.model_validate_json(compact_json(answer))


DECISION = {
    "type": "object",
    "properties": {
        "mode": {"enum": ["batch", "streaming"]},
        "actions": {
            "type": "array",
            "items": {"enum": ["scale_out", "add_queue", "alert_owner", "backfill"]},
            "minItems": 1,
            "maxItems": 3,
            "uniqueItems": True,
        },
        "facts": {
            "type": "array",
            "items": {"$ref": "#/$defs/Fact"},
            "minItems": 1,
            "maxItems": 2,
            "uniqueItems": True,
        },
        "note": {"type": "string", "maxLength": 160},
    },
    "required": ["mode", "actions", "facts", "note"],
    "additionalProperties": False,
    "$defs": {"Fact": {"enum": ["late_events", "null_share"], "type": "string"}},
}
"""What a decision is asked by."""


@given(SEEDS, st.sampled_from([0, 300]))
def test_a_decision_has_distinct_actions_and_facts(seed: int, min_characters: int) -> None:
    answer = answer_for(DECISION, random.Random(seed), min_characters=min_characters)
    jsonschema.validate(answer, DECISION, cls=jsonschema.Draft202012Validator)


def test_every_number_of_distinct_values_that_is_allowed_comes_up() -> None:
    drawn = [answer_for(DECISION["properties"]["actions"], random.Random(seed)) for seed in range(50)]  # type: ignore[index]
    assert {len(actions) for actions in drawn if isinstance(actions, list)} == {1, 2, 3}


@example(0, [1, 1.0], {"minItems": 2})
@example(0, [1, True], {"minItems": 2})
@given(
    SEEDS,
    st.lists(st.sampled_from([1, 1.0, True, "1", None, 0, False, 2]), min_size=1),
    bounds("minItems", "maxItems", st.integers(0, 4)),
)
def test_distinct_is_meant_as_json_means_it(seed: int, values: list[Any], limits: dict[str, int]) -> None:
    schema = {"type": "array", "items": {"enum": values}, "uniqueItems": True, **limits}
    if limits.get("minItems", 0) > len({(isinstance(value, bool), value) for value in values}):
        with pytest.raises(UnsupportedSchema, match="minItems"):
            answer_for(schema, random.Random(seed))
        return
    jsonschema.validate(answer_for(schema, random.Random(seed)), schema, cls=jsonschema.Draft202012Validator)


def test_unique_items_that_need_not_be_are_no_constraint() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": False, "minItems": 1}
    jsonschema.validate(answer_for(schema, random.Random(0)), schema)


@pytest.mark.parametrize("model", [Everything, Tree])
def test_the_same_seed_gives_the_same_answer(model: type[BaseModel]) -> None:
    first, again, other = (answer_for(model.model_json_schema(), random.Random(seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(0, 5000))
def test_free_strings_grow_until_the_answer_is_long_enough(seed: int, min_characters: int) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string", "maxLength": 40}},
    }
    answer = answer_for(schema, random.Random(seed), min_characters=min_characters)
    assert len(compact_json(answer)) >= min_characters
    jsonschema.validate(answer, schema)


def test_a_longer_answer_takes_the_same_branches_and_as_many_items() -> None:
    schema = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "minItems": 1}
    for seed in range(20):
        short, long = (answer_for(schema, random.Random(seed), min_characters=n) for n in (0, 500))
        assert isinstance(short, list)
        assert isinstance(long, list)
        assert [type(item) for item in short] == [type(item) for item in long]


def test_where_strings_may_not_grow_the_answer_stays_short() -> None:
    schema = {"type": "string", "minLength": 2, "maxLength": 10}
    answer = answer_for(schema, random.Random(0), min_characters=1000)
    assert isinstance(answer, str)
    assert 2 <= len(answer) <= 10


@pytest.mark.parametrize(
    ("schema", "keyword", "path"),
    [
        ({"type": "string", "pattern": "^a"}, "pattern", "#"),
        ({"properties": {"at": {"type": "string", "format": "date-time"}}}, "format", "#/properties/at"),
        ({"anyOf": [{"type": "null"}, {"not": {}}]}, "not", "#/anyOf/1"),
        ({"if": {}, "then": {}}, "if", "#"),
        ({"type": "array", "items": {"multipleOf": 3}}, "multipleOf", "#/items"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"uniqueItems": True}}}, "uniqueItems", "#/$defs/A"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems", "#"),
        ({"items": {"enum": [1]}, "prefixItems": [{"enum": [1]}], "uniqueItems": True}, "uniqueItems", "#"),
        ({"items": {"enum": [1]}, "uniqueItems": 1}, "uniqueItems", "#"),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, "allOf", "#"),
        ({"anyOf": [{"type": "string"}], "minLength": 3}, "minLength", "#"),
        ({"$ref": "https://example.com/schema"}, "$ref", "#"),
        ({"$ref": "#/$defs/Missing"}, "$ref", "#"),
        ({"type": "text"}, "type", "#"),
        ({"properties": []}, "properties", "#"),
        ({"minLength": True}, "minLength", "#"),
        ({"properties": {"a": 3}}, "a", "#/properties/a"),
        ({"minimum": float("nan")}, "minimum", "#"),
    ],
)
def test_what_is_not_understood_is_refused_by_name_whatever_the_seed(
    schema: dict[str, Any], keyword: str, path: str
) -> None:
    for seed in range(3):
        with pytest.raises(UnsupportedSchema, match=r"not supported|must|nowhere") as refused:
            answer_for(schema, random.Random(seed))
        assert (refused.value.keyword, refused.value.path) == (keyword, path)
        assert repr(keyword) in str(refused.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"type": "number", "exclusiveMinimum": 1, "maximum": 1},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "array", "prefixItems": [{}], "items": False, "minItems": 2},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "string", "enum": [1, 2]},
        {"type": "array", "items": {"enum": ["a", "b", "a"]}, "uniqueItems": True, "minItems": 3},
        {"oneOf": [{"type": "integer"}, {"type": "integer"}]},
        {
            "$defs": {"A": {"required": ["a"], "properties": {"a": {"$ref": "#/$defs/A"}}}},
            "$ref": "#/$defs/A",
        },
    ],
)
def test_a_schema_that_nothing_fits_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedSchema):
        answer_for(schema, random.Random(0))


def test_a_branch_that_nothing_fits_is_passed_over() -> None:
    schema = {"anyOf": [{"type": "string", "minLength": 3, "maxLength": 2}, {"const": "fits"}]}
    assert {answer_for(schema, random.Random(seed)) for seed in range(10)} == {"fits"}
