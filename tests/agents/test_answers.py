"""Forms of answers: what a model may write for each stage, and how its words become a recommendation."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.answers import (
    ACTION_CHARACTERS,
    REASONING_CHARACTERS,
    SUMMARY_CHARACTERS,
    AnswerForm,
    answer_model,
    answer_schema,
    read_answer,
)
from agents.asking.reply import Reply, UnusableReply, parse
from agents.schema import ErrorClass, IngestionMode, Recommendation, Stage
from serving.schema_answers import answer_for, compact_json

EVERY = [(form, stage) for form in AnswerForm for stage in Stage]


def right(form: AnswerForm, stage: Stage) -> dict[str, Any]:
    """An answer of that form."""
    answer: dict[str, Any] = {"summary": "a", "actions": ["b", "c"]}
    if stage is Stage.INGESTION:
        answer["mode"] = "cdc"
    if form is AnswerForm.REASONED:
        answer["reasoning"] = "since"
    return answer


def reply_of(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text=text, finish_reason=finish_reason, prompt_tokens=9, output_tokens=7, latency_s=0.5)


def problem(text: str, form: AnswerForm = AnswerForm.STANDARD, stage: Stage = Stage.QUALITY, **reply: str) -> str:
    with pytest.raises(UnusableReply) as refused:
        parse(stage, form, reply_of(text, **reply))
    assert refused.value.error_class is ErrorClass.UNUSABLE_REPLY
    assert refused.value.reply is not None
    assert refused.value.reply.text == text
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 300
    return message.removeprefix("the answer does not fit the schema: ")


# --- schemas ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "stage"), EVERY)
def test_a_schema_is_sound_and_closed_and_asks_for_all_its_fields(form: AnswerForm, stage: Stage) -> None:
    schema = answer_schema(form, stage)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == set(schema["properties"]) == set(right(form, stage))
    jsonschema.validate(right(form, stage), schema)


@pytest.mark.parametrize(
    ("form", "stage", "fields"),
    [
        (AnswerForm.STANDARD, Stage.INGESTION, ["summary", "actions", "mode"]),
        (AnswerForm.STANDARD, Stage.QUALITY, ["summary", "actions"]),
        (AnswerForm.REASONED, Stage.INGESTION, ["reasoning", "mode", "summary", "actions"]),
        (AnswerForm.REASONED, Stage.INFRASTRUCTURE, ["reasoning", "summary", "actions"]),
        (AnswerForm.BRIEF, Stage.INGESTION, ["mode", "summary", "actions"]),
    ],
)
def test_fields_are_written_in_the_order_the_form_promises(form: AnswerForm, stage: Stage, fields: list[str]) -> None:
    assert list(answer_schema(form, stage)["properties"]) == fields


def test_every_mode_may_be_answered() -> None:
    for form in AnswerForm:
        for mode in IngestionMode:
            text = json.dumps({**right(form, Stage.INGESTION), "mode": mode})
            assert read_answer(text, form, Stage.INGESTION).mode is mode


@pytest.mark.parametrize(("form", "stage"), EVERY)
def test_the_bounds_are_those_of_the_form_to_the_character(form: AnswerForm, stage: Stage) -> None:
    most = {"summary": SUMMARY_CHARACTERS[form], "actions": ACTION_CHARACTERS[form], "reasoning": REASONING_CHARACTERS}
    for field in set(right(form, stage)) - {"mode"}:
        for characters, fits in ((0, False), (1, True), (most[field], True), (most[field] + 1, False)):
            words = "\u00e9" * characters
            answer = {**right(form, stage), field: [words, "c"] if field == "actions" else words}
            assert jsonschema.Draft202012Validator(answer_schema(form, stage)).is_valid(answer) is fits
            assert readable(json.dumps(answer), form, stage) is fits


def readable(text: str, form: AnswerForm, stage: Stage) -> bool:
    try:
        parse(stage, form, reply_of(text))
    except UnusableReply:
        return False
    return True


@pytest.mark.parametrize(("form", "stage"), EVERY)
@given(seed=st.integers(0, 2**32))
def test_what_the_schema_lets_through_can_be_read(form: AnswerForm, stage: Stage, seed: int) -> None:
    text = compact_json(answer_for(answer_schema(form, stage), random.Random(seed)))
    recommendation = parse(stage, form, reply_of(text))
    assert recommendation.model_dump(mode="json", exclude_none=True) == json.loads(text)


def test_the_forms_of_one_stage_differ() -> None:
    for stage in Stage:
        assert len({json.dumps(answer_schema(form, stage)) for form in AnswerForm}) == len(AnswerForm)
        assert len({answer_model(form, stage).__name__ for form in AnswerForm}) == len(AnswerForm)


def test_a_brief_answer_has_less_room_than_the_others() -> None:
    for characters in (SUMMARY_CHARACTERS, ACTION_CHARACTERS):
        assert characters[AnswerForm.BRIEF] < min(characters[AnswerForm.STANDARD], characters[AnswerForm.REASONED])


# --- reading ---------------------------------------------------------------------------------------------


def test_a_recommendation_holds_what_was_written() -> None:
    text = json.dumps({"reasoning": "seconds matter", "mode": "streaming", "summary": "s", "actions": ["one", "two"]})
    assert read_answer(text, AnswerForm.REASONED, Stage.INGESTION) == Recommendation(
        summary="s", actions=("one", "two"), mode=IngestionMode.STREAMING, reasoning="seconds matter"
    )


def test_reasoning_is_no_part_of_the_advice() -> None:
    answer = {**right(AnswerForm.REASONED, Stage.QUALITY), "reasoning": "delete everything"}
    assert read_answer(json.dumps(answer), AnswerForm.REASONED, Stage.QUALITY).text == "a\nb\nc"


def test_the_order_in_which_fields_were_written_does_not_matter_when_reading() -> None:
    one = read_answer('{"mode":"batch","actions":["b","c"],"summary":"a"}', AnswerForm.STANDARD, Stage.INGESTION)
    other = read_answer('{"summary":"a","actions":["b","c"],"mode":"batch"}', AnswerForm.STANDARD, Stage.INGESTION)
    assert one == other


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mode": "batch"}, "mode: Extra inputs are not permitted"),
        ({"reasoning": "r"}, "reasoning: Extra inputs are not permitted"),
        ({"summary": ""}, "summary: String should have at least 1 character"),
        ({"summary": None}, "summary: Input should be a valid string"),
        ({"summary": 7}, "summary: Input should be a valid string"),
        ({"actions": ["b"]}, "actions: List should have at least 2 items"),
        ({"actions": ["b", "c", "d"]}, "actions: List should have at most 2 items"),
        ({"actions": ["b", ""]}, "actions.1: String should have at least 1 character"),
        ({"actions": "b"}, "actions: Input should be a valid "),
    ],
)
def test_an_answer_that_does_not_fit_says_which_field_and_why(changes: dict[str, Any], told: str) -> None:
    assert problem(json.dumps({**right(AnswerForm.STANDARD, Stage.QUALITY), **changes})).startswith(told)


@pytest.mark.parametrize("form", AnswerForm)
def test_ingestion_needs_a_mode_that_exists(form: AnswerForm) -> None:
    answer = right(form, Stage.INGESTION)
    wrong = json.dumps({**answer, "mode": "carrier_pigeon"})
    assert problem(wrong, form, Stage.INGESTION).startswith("mode: Input should be 'batch', 'micro_batch'")
    without = json.dumps({field: value for field, value in answer.items() if field != "mode"})
    assert problem(without, form, Stage.INGESTION) == "mode: Field required"


def test_an_answer_of_another_form_is_not_taken() -> None:
    standard = json.dumps(right(AnswerForm.STANDARD, Stage.QUALITY))
    assert problem(standard, AnswerForm.REASONED) == "reasoning: Field required"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "null",
        "[]",
        '"a"',
        "NaN",
        "I cannot help with that.",
        '```json\n{"summary": "a", "actions": ["b", "c"]}\n```',
        '{"summary": "a", "actions": ["b", "c"]} and more',
        '{"summary": "a", "actions": ["b", "c"]',
        '{"summary": "\\ud800", "actions": ["b", "c"]}',
        '{"summary": "a\nb", "actions": ["b", "c"]}',
        "[" * 100_000,
        '{"summary":' * 50_000,
        "\x00",
        "x" * 10**6,
    ],
)
def test_what_is_no_such_json_is_an_unusable_reply_in_one_short_line(text: str) -> None:
    assert problem(text)


@given(text=st.text(max_size=300))
def test_any_words_are_a_recommendation_or_an_unusable_reply(text: str) -> None:
    assert problem(text)
    assert problem(json.dumps({"summary": "a", "actions": [text, ""]}))


def test_an_answer_cut_off_by_the_token_limit_says_so() -> None:
    text = '{"summary": "The data'
    assert problem(text, finish_reason="length").endswith("; it was cut off at 7 tokens")
    assert "cut off" not in problem(text)


def test_a_whole_answer_that_just_reached_the_token_limit_is_taken() -> None:
    text = json.dumps(right(AnswerForm.STANDARD, Stage.QUALITY))
    assert parse(Stage.QUALITY, AnswerForm.STANDARD, reply_of(text, "length")).summary == "a"
