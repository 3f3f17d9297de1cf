"""The parts of a client that need no endpoint: pauses, Retry-After, and the reading of an answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.asking.client import LONGEST_BACKOFF_S, LONGEST_RETRY_AFTER_S, pause_s
from agents.asking.completion import read_completion
from agents.asking.transport import TryFailed, read_retry_after


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
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_seconds(header: str | None, seconds: float | None) -> None:
    assert read_retry_after(header) == seconds


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
                optional={"message": JSON | st.fixed_dictionaries({"content": JSON}), "finish_reason": JSON},
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
