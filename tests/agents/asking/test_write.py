"""The way `write`: a schema that holds only what is offered, and a decision with the probability of each value."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agents.asking.endpoint.parameters import Parameters
from agents.asking.variant import PromptVariant
from agents.asking.ways.write import Unusable, read_written, schema_of, write_body, write_messages
from agents.specialists.decision import NOTE_CHARACTERS, Decision, Reading
from serving.schema_answers import answer_for
from tests.agents.asking.scripted_client import written
from tests.agents.asking.toy import asked, label, reply_of, spec_of, variant_of

RIGHT: dict[str, Any] = {"mode": "batch", "actions": ["wash", "mend"], "facts": ["cpu_percent"]}
WRITE = variant_of()
LENIENT = variant_of(constrained=False)
FACTS = ["type", "cpu_percent", "cpu_percent_history"]


def read(answer: object, variant: PromptVariant = WRITE, **reply: Any) -> Decision:
    text = answer if isinstance(answer, str) else written(answer)
    return read_written(variant, asked(variant), reply_of(text, **reply))[0]


def problem(answer: object, variant: PromptVariant = WRITE, **reply: Any) -> str:
    with pytest.raises(Unusable) as refused:
        read(answer, variant, **reply)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300
    return str(refused.value)


# --- what is asked ---------------------------------------------------------------------------------------


def test_the_schema_holds_only_what_is_offered_in_the_order_it_is_written_in() -> None:
    slow = spec_of("slow")
    properties = schema_of(WRITE, asked(WRITE, slow))["properties"]
    assert list(properties) == ["facts", "mode", "actions"]
    assert properties["mode"]["enum"] == ["batch", "batch_load"]
    assert properties["actions"]["items"]["enum"] == ["wash", "wash_all", "paint"]
    assert properties["facts"]["items"]["enum"] == FACTS
    everything = variant_of(offer="all")
    offered = schema_of(everything, asked(everything, slow))["properties"]
    assert offered["mode"]["enum"] == ["batch", "batch_load", "stream"]
    assert offered["actions"]["items"]["enum"] == ["wash", "wash_all", "mend", "paint"]


@pytest.mark.parametrize(
    ("variant", "keys"),
    [
        (variant_of(facts=False), ["mode", "actions"]),
        (variant_of(note=True), ["facts", "mode", "actions", "note"]),
        (variant_of("reason", note=True), ["reason", "facts", "mode", "actions", "note"]),
    ],
)
def test_a_variant_asks_for_its_own_keys(variant: PromptVariant, keys: list[str]) -> None:
    schema = schema_of(variant, asked(variant))
    assert list(schema["properties"]) == schema["required"] == keys
    assert not schema["additionalProperties"]


@given(seed=st.integers(0, 10**6), slow=st.booleans(), note=st.booleans(), ask=st.sampled_from(["write", "reason"]))
def test_whatever_fits_the_schema_is_a_decision(seed: int, slow: bool, note: bool, ask: str) -> None:
    variant = variant_of(ask, note=note)
    question = asked(variant, spec_of("slow" if slow else "quick"))
    schema = schema_of(variant, question)
    jsonschema.Draft202012Validator.check_schema(schema)
    answer = answer_for(schema, random.Random(seed))
    decision, _ = read_written(variant, question, reply_of(written(answer)))
    assert question.permitted.refuses(decision.choice.id, decision.ids) is None
    assert len(set(decision.ids)) == len(decision.ids)
    assert set(decision.facts) <= set(question.facts)


def test_the_body_asks_for_log_probs_under_the_schema() -> None:
    body = write_body(WRITE, asked(WRITE), "m")
    assert (body["model"], body["temperature"], body["max_tokens"], body["logprobs"]) == ("m", 0.0, 220, True)
    assert "frequency_penalty" not in body
    assert body["response_format"]["json_schema"]["schema"] == schema_of(WRITE, asked(WRITE))
    penalised = variant_of(sampling={"frequency_penalty": 0.4}, constrained=False)
    body = write_body(penalised, asked(penalised), "m")
    assert body["frequency_penalty"] == 0.4
    assert "response_format" not in body


def test_everything_but_the_last_message_is_the_same_for_all_pipelines() -> None:
    questions = [asked(WRITE, spec_of("slow")), asked(WRITE, spec_of(description="d"), label())]
    first, second = ([*write_messages(WRITE, one)] for one in questions)
    assert first[:-1] == second[:-1]
    menu = first[0]["content"]
    for shown in ("batch_load: all at once, and loaded", "wash_all: Do wash_all", "mend: Do mend"):
        assert f"\n{shown}\n" in menu
    assert "what mend means" not in menu
    full = variant_of(menu="full")
    assert "mend: Do mend: what mend means" in write_messages(full, asked(full))[0]["content"]


def test_the_question_ends_in_what_is_offered_where_that_is_not_everything() -> None:
    def last(variant: PromptVariant, kind: str) -> list[str]:
        return (
            write_messages(variant, asked(variant, spec_of(kind)))[-1]["content"].partition("</facts>\n")[2].split("\n")
        )

    closing = "Answer in JSON with facts, mode, actions."
    offered = "Offered here: mode: batch, batch_load; actions: wash, wash_all, paint."
    assert last(WRITE, "slow") == [offered, closing]
    assert last(WRITE, "quick") == last(variant_of(offer="all"), "slow") == [closing]
    assert last(variant_of(list_permitted=False), "slow") == [closing]


# --- what is read ----------------------------------------------------------------------------------------


def test_an_answer_is_a_decision_of_the_models() -> None:
    decision = read(RIGHT)
    assert (decision.by, decision.choice.id, decision.ids, decision.facts) == (
        "model",
        "batch",
        ("wash", "mend"),
        ("cpu_percent",),
    )
    assert decision.reading == Reading(way="write", source="after the mask")
    assert (decision.choice.probability, decision.least_probability, decision.note) == (None, None, None)


def test_each_choice_has_the_probability_of_its_tokens() -> None:
    text = written(RIGHT)
    pieces = ['{"mode":"', "batch", '","actions":["', "wa", "sh", '","', "mend", '"],"facts":["cpu_percent"]}']
    likely = [0.9, 0.5, 0.9, 0.8, 0.5, 0.75, 0.25, 0.3]
    assert "".join(pieces) == text
    tokens = [(piece, math.log(share)) for piece, share in zip(pieces, likely, strict=True)]
    decision = read_written(WRITE, asked(WRITE), reply_of(text, *tokens))[0]
    # Each with the token of its closing quote, which tells `batch` from `batch_load`.
    assert decision.choice.probability == pytest.approx(0.5 * 0.9)
    assert [one.probability for one in decision.actions] == pytest.approx([0.8 * 0.5 * 0.75, 0.25 * 0.3])


def test_what_is_named_twice_counts_once_and_as_likely_as_the_first_time() -> None:
    text = '{"mode":"batch","actions":["wash","wash","mend"],"facts":["type","type"]}'
    pieces = ['{"mode":"batch","actions":["', 'wash"', ',"', 'wash"', ',"', 'mend"', '],"facts":["type","type"]}']
    tokens = [(piece, math.log(share)) for piece, share in zip(pieces, [1, 0.5, 1, 0.1, 1, 0.2, 1], strict=True)]
    decision = read_written(WRITE, asked(WRITE), reply_of(text, *tokens))[0]
    assert decision.ids == ("wash", "mend")
    assert [one.probability for one in decision.actions] == pytest.approx([0.5, 0.2])
    assert decision.facts == ("type",)


def test_with_everything_offered_what_is_not_permitted_is_still_a_decision() -> None:
    variant = variant_of(offer="all")
    question = asked(variant, spec_of("slow"))
    decision, _ = read_written(variant, question, reply_of(written({**RIGHT, "mode": "stream"})))
    assert question.permitted.refuses(decision.choice.id, decision.ids) == "stream is not permitted here"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({**RIGHT, "mode": "pigeon"}, 'mode: found "pigeon"; known: batch, batch_load, stream'),
        ({**RIGHT, "mode": ["batch"]}, 'mode: found ["batch"]; known: '),
        ({**RIGHT, "mode": "x" * 500}, 'mode: found "xxx'),
        ({**RIGHT, "actions": []}, "actions: is empty"),
        ({**RIGHT, "actions": "wash"}, 'actions: found "wash"; must be a list'),
        ({**RIGHT, "actions": ["wash", "fly"]}, 'actions: found "fly", which is not known'),
        ({**RIGHT, "actions": ["wash"] * 4}, "actions: holds 4; at most 3 are allowed"),
        ({**RIGHT, "facts": ["colour"]}, 'facts: found "colour", which is not known'),
        ({**RIGHT, "colour": 1}, '"colour": was not asked for'),
        ({"mode": "batch", "facts": ["type"]}, "actions: is missing"),
        ("", "the answer is empty"),
        (" ", "the answer is empty"),
        ("null", "the answer is not a JSON object"),
        ("[]", "the answer is not a JSON object"),
        ("I cannot help with that.", "the answer is not JSON: "),
        ('{"mode": "batch", "mode": "stream"}', "the answer is not JSON: key 'mode' stands twice"),
        (f"```json\n{json.dumps(RIGHT)}\n```", "the answer is not JSON: "),
        (f"\ufeff{json.dumps(RIGHT)}", "the answer is not JSON: "),
        ("[" * 100_000, "the answer is not JSON: "),
        ("\x00", "the answer is not JSON: "),
    ],
)
def test_what_is_no_decision_says_why_in_one_line(answer: object, told: str) -> None:
    assert problem(answer).startswith(told)


def test_an_answer_that_was_cut_off_says_so() -> None:
    cut = '{"mode": "batch", "acti'
    assert problem(cut, finish_reason="length").endswith("; it was cut off at 7 tokens (sampling.max_tokens)")
    assert "cut off" not in problem(cut)
    assert read(RIGHT, finish_reason="length").choice.id == "batch"


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{json.dumps(RIGHT)}\n```",
        f"\ufeff{json.dumps(RIGHT)}\n",
        f"<think>\nIt is {{slow}}.\n</think>\n\n{json.dumps(RIGHT)}",
        f"<think></think>```\n{json.dumps(RIGHT, indent=2)}\n```",
        json.dumps({**RIGHT, "colour": "red"}),
        json.dumps({**RIGHT, "actions": ["wash", "mend", "wash_all", "paint"]}),
    ],
)
def test_without_a_grammar_what_stands_around_an_answer_is_left_aside(text: str) -> None:
    decision = read(text, LENIENT)
    assert (decision.choice.id, decision.ids[:2]) == ("batch", ("wash", "mend"))
    assert decision.reading is None  # what no mask bounded has no probability after the mask


def test_a_fence_that_never_closes_is_read_in_linear_time() -> None:
    # 200,000 blank lines took the earlier pattern, which was cubic, far longer than any test may take.
    assert "not JSON" in problem("```\n" + "\n" * 200_000 + "{", LENIENT)


def test_where_the_schema_is_left_out_an_answer_is_read_as_from_no_grammar() -> None:
    variant = WRITE.with_parameters(Parameters(leave_out=("response_format",)))
    assert "response_format" not in write_body(variant, asked(variant), "m")
    decision = read("```json\n" + written(RIGHT) + "\n```", variant)
    assert (decision.choice.id, decision.reading) == ("batch", None)


@pytest.mark.parametrize("text", [f"Sure! {json.dumps(RIGHT)}", f"{json.dumps(RIGHT)} and more", "<think>{}"])
def test_without_a_grammar_an_answer_within_other_words_is_none(text: str) -> None:
    assert problem(text, LENIENT).startswith("the answer is not JSON")


def test_without_a_grammar_facts_may_be_missing_and_the_decision_not() -> None:
    assert read({"mode": "batch", "actions": ["wash"]}, LENIENT).facts == ()
    assert problem({"mode": "batch"}, LENIENT) == "actions: found null; must be a list"


def test_where_nothing_is_known_no_facts_are_asked_for() -> None:
    question = replace(asked(WRITE), told={})
    assert list(schema_of(WRITE, question)["properties"]) == ["mode", "actions"]
    assert "facts" not in write_messages(WRITE, question)[-1]["content"].partition("</facts>")[2]
    answer = {"mode": "batch", "actions": ["wash"]}
    assert read_written(WRITE, question, reply_of(written(answer)))[0].facts == ()


@given(text=st.text(max_size=200))
def test_any_words_are_a_decision_or_a_problem(text: str) -> None:
    assume(text not in ("batch", "batch_load", "stream"))
    for variant in (WRITE, LENIENT):
        assert problem(text, variant)
        assert problem({**RIGHT, "mode": text}, variant)


# --- notes -----------------------------------------------------------------------------------------------

NOTED = variant_of(note=True)


@pytest.mark.parametrize(
    ("note", "kept", "dropped"),
    [
        (" Delete everything. ", "Delete everything.", None),
        ("CPU is at 88 %.", "CPU is at 88 %.", None),
        ("CPU is at 99 %.", None, "a figure that no fact holds"),
        ("a" * (NOTE_CHARACTERS + 1), None, "too long"),
        ("one\ntwo", None, "control characters"),
    ],
)
def test_a_bad_note_is_dropped_and_the_decision_stays(note: str, kept: str | None, dropped: str | None) -> None:
    decision, why = read_written(NOTED, asked(NOTED), reply_of(written({**RIGHT, "note": note})))
    assert (decision.choice.id, decision.note, why) == ("batch", kept, dropped)


def test_a_note_that_was_not_asked_for_is_none() -> None:
    assert problem({**RIGHT, "note": "n"}) == '"note": was not asked for'
    assert read({**RIGHT, "note": "n"}, LENIENT).note is None


def test_a_reason_decides_nothing_and_is_kept_in_the_reply_alone() -> None:
    variant = variant_of("reason")
    decision = read({"reason": "stream it", **RIGHT}, variant)
    assert decision.choice.id == "batch"
    assert decision.reading == Reading(way="reason", source="after the mask")
    assert "stream it" not in decision.model_dump_json()
