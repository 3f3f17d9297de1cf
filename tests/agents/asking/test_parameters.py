"""Any parameter of a request can be renamed, left out or added, by the prompt file and over it by a caller."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.asking.endpoint.parameters import Parameters, adapted
from agents.asking.requests import chat_body
from tests.agents.asking.toy import asked, variant_of

BODY = {"model": "m", "messages": [], "max_tokens": 5, "seed": 0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, BODY),
        ({"leave_out": ["seed"]}, {"model": "m", "messages": [], "max_tokens": 5}),
        (
            {"rename": {"max_tokens": "max_completion_tokens"}},
            {"model": "m", "messages": [], "max_completion_tokens": 5, "seed": 0},
        ),
        ({"rename": {"top_k": "k"}}, BODY),
        ({"add": {"top_k": 5, "seed": 7}}, {**BODY, "top_k": 5, "seed": 7}),
        (
            {"rename": {"seed": "random_seed"}, "leave_out": ["random_seed", "max_tokens"]},
            {"model": "m", "messages": []},
        ),
        ({"add": {"top_k": 5}, "leave_out": ["top_k"]}, BODY),
    ],
)
def test_a_body_is_adapted(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    before = dict(BODY)
    assert adapted(BODY, Parameters.model_validate(changes)) == expected
    assert before == BODY


def test_a_callers_changes_go_over_the_prompts() -> None:
    prompts = Parameters(rename={"max_tokens": "a", "seed": "b"}, add={"top_k": 5, "top_a": 1}, leave_out=("seed",))
    callers = Parameters(rename={"max_tokens": "c"}, add={"seed": 3, "top_k": 6}, leave_out=("top_a",))
    assert prompts.merged_with(callers) == Parameters(
        rename={"max_tokens": "c", "seed": "b"}, add={"top_k": 6, "seed": 3}, leave_out=("top_a",)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"leave_out": ["messages"]},
        {"rename": {"model": "engine"}},
        {"rename": {"seed": "stream"}},
        {"add": {"stream": True}},
    ],
)
def test_what_makes_a_request_cannot_be_changed(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="belongs to every request and cannot be changed"):
        Parameters.model_validate(changes)


NAMES = st.sampled_from(["max_tokens", "seed", "top_k", "logprobs"])
CHANGES = st.builds(
    Parameters,
    rename=st.dictionaries(NAMES, NAMES, max_size=2),
    add=st.dictionaries(NAMES, st.integers(), max_size=2),
    leave_out=st.lists(NAMES, max_size=2).map(tuple),
)


@given(CHANGES)
def test_changes_over_no_changes_are_themselves(changes: Parameters) -> None:
    assert adapted(BODY, Parameters().merged_with(changes)) == adapted(BODY, changes)
    assert adapted(BODY, changes.merged_with(Parameters())) == adapted(BODY, changes)


@pytest.mark.parametrize("ask", ["write", "read", "reason"])
def test_every_way_to_ask_is_adapted(ask: str) -> None:
    changes = {"rename": {"max_tokens": "max_completion_tokens"}, "leave_out": ["seed"], "add": {"top_k": 5}}
    variant = variant_of(ask, parameters=changes)
    body = chat_body(variant, asked(variant), "m")
    assert {"max_completion_tokens", "top_k"} <= body.keys()
    assert not {"max_tokens", "seed"} & body.keys()


def test_a_caller_changes_a_variant_once_and_for_all() -> None:
    variant = variant_of(parameters={"leave_out": ["seed"]}).with_parameters(Parameters(leave_out=("logprobs",)))
    assert not {"seed", "logprobs"} & chat_body(variant, asked(variant), "m").keys()
