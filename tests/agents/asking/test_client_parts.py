"""The parts of a client that need no endpoint: pauses, Retry-After, and the reading of an answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.asking.endpoint.client import LONGEST_BACKOFF_S, LONGEST_RETRY_AFTER_S, pause_s, remedy
from agents.asking.endpoint.completion import NoContent, read_completion, read_other
from agents.asking.endpoint.reply import ErrorClass, Reply, TokenLogprob
from agents.asking.endpoint.transport import TryFailed, body_of, read_retry_after


@given(
    tries=st.integers(1, 10_000),
    backoff_s=st.floats(0, 100),
    retry_after_s=st.none() | st.floats(0, 1e9),
    draw=st.floats(0, 1),
)
def test_a_pause_is_what_was_asked_for_and_a_bounded_random_part(
    tries: int, backoff_s: float, retry_after_s: float | None, draw: float
) -> None:
    wait_s = pause_s(tries, backoff_s, retry_after_s, draw)
    asked_s = min(retry_after_s or 0, LONGEST_RETRY_AFTER_S)
    assert asked_s <= wait_s <= asked_s + LONGEST_BACKOFF_S
    assert wait_s <= pause_s(tries + 1, backoff_s, retry_after_s, draw)


def test_the_bound_of_the_pause_doubles() -> None:
    assert [pause_s(tries, 0.5, None, 1) for tries in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert pause_s(1, 0.5, 3.0, 0.5) == 3.25


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("7", 7),
        (" 1.5 ", 1.5),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("soon", None),
    ],
)
def test_retry_after_is_read_in_seconds(header: str | None, seconds: float | None) -> None:
    assert read_retry_after(header) == seconds


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Wed, 21 Oct 2026 07:28:00 GMT", 12),
        ("Wed, 21 Oct 2026 09:28:00 +0200", 12),
        ("Wed, 21 Oct 2026 07:28:00", 12),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
        ("Wed, 99 Oct 2026 07:28:00 GMT", None),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
    ],
)
def test_retry_after_may_be_a_date(header: str, seconds: float | None) -> None:
    assert read_retry_after(header, datetime(2026, 10, 21, 7, 27, 48, tzinfo=UTC)) == seconds


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
COMPLETION_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "choices": JSON
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "message": JSON | st.fixed_dictionaries({"content": JSON}, optional={"reasoning": JSON}),
                    "finish_reason": JSON,
                    "logprobs": JSON | st.fixed_dictionaries({"content": JSON}),
                },
            ),
            max_size=2,
        ),
        "usage": JSON | st.fixed_dictionaries({}, optional={"prompt_tokens": JSON, "completion_tokens": JSON}),
    },
)


@given(raw=st.binary(max_size=40) | (JSON | COMPLETION_LIKE).map(lambda it: json.dumps(it).encode()))
def test_whatever_is_answered_is_a_typed_reply_or_a_failure(raw: bytes) -> None:
    try:
        reply = read_completion(raw, 0.1, 1)
    except TryFailed:
        return
    assert isinstance(reply.text, str)
    assert all(type(found) is int or found is None for found in (reply.prompt_tokens, reply.output_tokens))


# --- what an answer may hold beside its text -------------------------------------------------------------


def answered(message: dict[str, Any], **more: Any) -> Reply:
    """The reply in a completion with this message."""
    choice = {"message": message, "finish_reason": "stop", **more.pop("choice", {})}
    return read_completion(json.dumps({"choices": [choice], **more}).encode(), 0.1, 1)


TOKENS = [
    {"token": "\u00e9", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": [{"token": "a", "logprob": -2}]},
    {"token": "\ufffd", "logprob": -1, "bytes": [240], "top_logprobs": None},
    {"token": "ab", "logprob": 0, "bytes": None},
]


def test_log_probs_are_kept_with_the_length_of_what_each_token_stands_for() -> None:
    reply = answered({"content": "text"}, choice={"logprobs": {"content": TOKENS}})
    assert reply.logprobs == (
        TokenLogprob("\u00e9", -0.5, 2, (("a", -2.0),)),
        TokenLogprob("\ufffd", -1.0, 1),
        TokenLogprob("ab", 0.0, 2),
    )
    assert Reply.model_validate_json(reply.model_dump_json()) == reply


@pytest.mark.parametrize("odd", [None, [], 5, {"content": 5}, {"content": [{"token": 5}]}, {"tokens": ["a"]}])
def test_log_probs_in_another_form_are_none_and_the_text_stays(odd: object) -> None:
    reply = answered({"content": "text"}, choice={"logprobs": odd})
    assert (reply.text, reply.logprobs) == ("text", None)


def test_cached_tokens_are_read_where_they_are_told() -> None:
    def cached(**usage: object) -> int | None:
        return answered({"content": "text"}, usage=usage).cached_tokens

    assert cached(prompt_tokens=9, prompt_tokens_details={"cached_tokens": 8}) == 8
    assert cached(prompt_tokens_details={"cached_tokens": None}) is None
    assert cached(prompt_tokens_details=None) is None


def test_a_decision_of_the_other_route_is_kept_as_it_came_with_its_usage() -> None:
    usage = {"input_tokens": 7, "output_tokens": 0, "input_tokens_details": {"cached_tokens": 3}}
    raw = json.dumps({"answers": [], "usage": usage}).encode()
    reply = read_other(raw, 0.1, 1)
    assert (reply.text, reply.prompt_tokens, reply.output_tokens, reply.cached_tokens) == (raw.decode(), 7, 0, 3)
    assert read_other(b"no JSON", 0.1, 1).text == "no JSON"


@pytest.mark.parametrize(
    ("message", "what", "words"),
    [
        ({"content": None, "refusal": "I cannot."}, "a refusal", "I cannot."),
        ({"refusal": "I cannot."}, "a refusal", "I cannot."),
        ({"content": "", "reasoning_content": "Let me see"}, "its reasoning", "Let me see"),
        ({"content": None, "reasoning": "Let me see"}, "its reasoning", "Let me see"),
        ({"content": None, "tool_calls": [{"function": {"name": "f"}}]}, "the call of a tool", '"name":"f"'),
    ],
)
def test_an_answer_without_text_says_what_came_instead_and_keeps_the_words(
    message: dict[str, Any], what: str, words: str
) -> None:
    with pytest.raises(NoContent) as failed:
        answered(message)
    assert failed.value.problem == f"the endpoint's answer has no text but {what}"
    assert failed.value.error_class is ErrorClass.NO_CONTENT
    assert not failed.value.again
    assert words in failed.value.reply.text


def test_reasoning_that_was_cut_off_says_what_to_raise() -> None:
    with pytest.raises(NoContent) as failed:
        answered({"reasoning": "Let me see"}, choice={"finish_reason": "length"})
    assert failed.value.problem.endswith("its reasoning, cut off by its token limit (sampling.max_tokens)")


@pytest.mark.parametrize("field", ["refusal", "reasoning", "reasoning_content", "tool_calls"])
def test_beside_a_text_other_words_do_not_matter(field: str) -> None:
    assert answered({"content": "text", field: ["anything"]}).text == "text"
    assert answered({"content": "text", field: None}).text == "text"


# --- parameters that an endpoint does not take -----------------------------------------------------------


def refused(status: int, **error: object) -> TryFailed:
    with pytest.raises(TryFailed) as failed:
        body_of(status, json.dumps({"error": {"message": "no", **error}}).encode(), None)
    return failed.value


ASKED = {"model": "m", "messages": [], "seed": 0, "max_tokens": 1}


@pytest.mark.parametrize(
    ("failure", "name"),
    [
        (refused(400, param="seed"), "seed"),
        (refused(422, message="Unsupported parameter: 'seed' is not supported"), "seed"),
        (refused(400, message="Unrecognized request argument supplied: `max_tokens`", param=None), "max_tokens"),
        (refused(400, param="messages"), None),
        (refused(400, message="'top_k' is not supported"), None),
        (refused(400, param=["seed"], message="seed"), None),
        (refused(404, param="seed"), None),
        (refused(500, param="seed"), None),
    ],
)
def test_a_parameter_that_is_not_taken_is_told_with_what_to_do(failure: TryFailed, name: str | None) -> None:
    told = remedy(failure, ASKED)
    assert told.endswith(f"by the prompt's parameters.leave_out, or --leave-out {name}") if name else told == ""
