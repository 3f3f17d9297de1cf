"""One stream's lines become one honest row: what is a token, what stops the clock, what is a failure."""

from __future__ import annotations

import json
from array import array
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.sse import Ending, RawStream, RequestRecord, Status, answer_of
from tests.load_tests.made_load import row_of

MS = 1_000_000
DONE = b"data: [DONE]\n"


def chunk(delta: dict[str, Any] | None = None, **more: Any) -> bytes:
    """A line with one chunk."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": more.pop("finish", None)}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n"


def token(text: str = "x") -> bytes:
    return chunk({"content": text})


ROLE = chunk({"role": "assistant", "content": ""})
FINISH = chunk({}, finish="stop")
USAGE = chunk(usage={"prompt_tokens": 7, "completion_tokens": 2})


def row(*lines: bytes, ending: Ending = Ending.WHOLE, step_ms: int = 10, http_status: int = 200) -> RequestRecord:
    """The row of a stream sent at 0 whose k-th line came at (k + 1) * step_ms."""
    stamps = array("q", [(index + 1) * step_ms * MS for index in range(len(lines))])
    return row_of(RawStream(0, list(lines), stamps, ending, "", http_status, (len(lines) + 1) * step_ms * MS))


def test_role_chunk_does_not_stop_the_clock() -> None:
    found = row(ROLE, token(), token(), FINISH, USAGE, DONE)
    assert found.status is Status.OK
    assert found.ttft_s == pytest.approx(0.020)
    assert found.itl_s == pytest.approx([0.010])


def test_usage_and_finish_and_done_are_neither_tokens_nor_part_of_the_latency() -> None:
    found = row(ROLE, token(), token(), FINISH, USAGE, DONE)
    assert found.e2e_s == pytest.approx(0.030)
    assert (found.content_chunks, found.prompt_tokens, found.output_tokens) == (2, 7, 2)
    assert found.finish_reason == "stop"


def test_content_in_the_finish_chunk_is_a_token() -> None:
    found = row(ROLE, token(), chunk({"content": "end"}, finish="length"), DONE)
    assert (found.content_chunks, found.finish_reason) == (2, "length")
    assert found.e2e_s == pytest.approx(0.030)


def test_usage_on_every_chunk_takes_the_last() -> None:
    lines = [chunk({"content": "x"}, usage={"prompt_tokens": 7, "completion_tokens": n}) for n in (1, 2, 3)]
    assert row(*lines, DONE).output_tokens == 3


def test_several_tokens_in_one_chunk_keep_both_counts() -> None:
    found = row(token("four tokens in one"), chunk(usage={"prompt_tokens": 1, "completion_tokens": 4}), DONE)
    assert (found.content_chunks, found.output_tokens) == (1, 4)


def test_log_probabilities_are_no_text_and_a_chunk_of_them_alone_is_no_token() -> None:
    told = {
        "content": [{"token": "x", "logprob": -0.1, "bytes": [120], "top_logprobs": [{"token": "y", "logprob": -9}]}]
    }

    def choice(delta: dict[str, Any]) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": told, "finish_reason": None}]
        return b"data: " + json.dumps({"choices": choices}).encode() + b"\n"

    lines = [ROLE, choice({"content": "x"}), choice({"content": ""}), choice({"content": "z"}), FINISH, USAGE, DONE]
    found = row(*lines)
    assert (found.status, found.content_chunks) == (Status.OK, 2)
    assert found.itl_s == pytest.approx([0.020])
    stamps = array("q", range(1, len(lines) + 1))
    assert answer_of(RawStream(0, lines, stamps, Ending.WHOLE, "", 200, 9)).texts == ["x", "z"]


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_is_output_too(key: str) -> None:
    assert row(chunk({key: "hm"}), token(), DONE).ttft_s == pytest.approx(0.010)


@pytest.mark.parametrize(
    "noise",
    [b": ping\n", b": ping - 2026-01-01\r\n", b"event: message\n", b"id: 7\n", b"retry: 100\n"],
)
def test_comments_and_other_fields_change_nothing(noise: bytes) -> None:
    found = row(noise, token(), noise, token(), DONE)
    assert (found.status, found.content_chunks) == (Status.OK, 2)
    assert found.itl_s == pytest.approx([0.020])


def test_carriage_returns_and_missing_space_after_the_colon_are_read() -> None:
    lines = [line.replace(b"data: ", b"data:").replace(b"\n", b"\r\n") for line in (ROLE, token("é"), USAGE, DONE)]
    found = row(*lines)
    assert (found.status, found.content_chunks, found.output_tokens) == (Status.OK, 1, 2)


@pytest.mark.parametrize(
    ("lines", "ending", "status"),
    [
        ([ROLE, token(), DONE], Ending.WHOLE, Status.OK),
        ([ROLE, token(), DONE], Ending.BROKEN, Status.OK),  # the answer was whole before the connection broke
        ([ROLE, token(), DONE], Ending.STOPPED, Status.OK),
        ([ROLE, token()], Ending.WHOLE, Status.CUT_STREAM),
        ([ROLE, token()], Ending.BROKEN, Status.CUT_STREAM),
        ([ROLE, token(), FINISH, USAGE], Ending.WHOLE, Status.CUT_STREAM),
        ([ROLE, token()], Ending.TIMEOUT, Status.TIMEOUT),
        ([ROLE, token()], Ending.STOPPED, Status.INCOMPLETE),
        ([], Ending.STOPPED, Status.INCOMPLETE),
        ([], Ending.CONNECTION, Status.CONNECTION),
        ([], Ending.TIMEOUT, Status.TIMEOUT),
        ([], Ending.BROKEN, Status.CUT_STREAM),
        ([], Ending.WHOLE, Status.EMPTY),
        ([ROLE, FINISH, USAGE, DONE], Ending.WHOLE, Status.EMPTY),
        ([token(), b"event: error\n", b'data: {"message":"no memory"}\n', DONE], Ending.WHOLE, Status.STREAM_ERROR),
        ([token(), b'data: {"error":{"message":"no memory"}}\n', DONE], Ending.WHOLE, Status.STREAM_ERROR),
        ([b'data: {"error":"no memory"}\n'], Ending.BROKEN, Status.STREAM_ERROR),
        ([b'{"error":{"message":"no memory"}}'], Ending.WHOLE, Status.STREAM_ERROR),
        ([token(), b'data: {"choices":[{"del\n'], Ending.WHOLE, Status.STREAM_ERROR),
        ([token(), b'data: {"choices":[{"del'], Ending.WHOLE, Status.STREAM_ERROR),  # the server ended it so
        ([token(), b'data: {"choices":[{"del'], Ending.BROKEN, Status.CUT_STREAM),
        ([token(), b'data: {"choices":[{"del'], Ending.TIMEOUT, Status.TIMEOUT),
        ([token(), chunk({}, finish="abort"), DONE], Ending.WHOLE, Status.STREAM_ERROR),
        ([], Ending.REFUSED, Status.REFUSED),
        ([ROLE, token()], Ending.CANCELLED, Status.CANCELLED),
    ],
)
def test_every_ending_has_its_class(lines: list[bytes], ending: Ending, status: Status) -> None:
    assert row(*lines, ending=ending).status is status


def test_every_failure_says_why() -> None:
    assert "no memory" in row(token(), b"event: error\n", b'data: {"message":"no memory"}\n', DONE).error
    assert row(token()).error == "the stream ended without [DONE]"
    assert row(ROLE, DONE).error == "the answer holds no token"
    assert row(ending=Ending.STOPPED).error == "cut by the end of the test"


def test_answer_without_tokens_has_no_latency() -> None:
    found = row(ROLE, FINISH, USAGE, DONE)
    assert (found.ttft_s, found.e2e_s, found.itl_s) == (None, None, [])


def test_server_stamps_give_the_clients_lag_only_when_every_chunk_has_one() -> None:
    stamped = chunk({"content": "x"}, plumbline={"sent_ns": 9 * MS})
    assert row(stamped, DONE).lag_s == pytest.approx([0.001])
    assert row(stamped, token(), DONE).lag_s is None


@pytest.mark.parametrize(
    ("http_status", "status"),
    [
        (429, Status.RATE_LIMITED),
        (500, Status.SERVER_ERROR),
        (503, Status.SERVER_ERROR),
        (400, Status.HTTP_ERROR),
        (302, Status.HTTP_ERROR),
    ],
)
def test_http_errors_have_classes(http_status: int, status: Status) -> None:
    assert row(ending=Ending.HTTP_ERROR, http_status=http_status).status is status


def test_latency_from_intended_start_holds_the_clients_own_lag() -> None:
    raw = RawStream(30 * MS, [token(), token(), DONE], array("q", [80 * MS, 90 * MS, 90 * MS]), Ending.WHOLE, "", 200)
    found = row_of(raw, intended_ns=10 * MS)
    assert found.scheduling_lag_s == pytest.approx(0.020)
    assert found.ttft_s == pytest.approx(0.050)
    assert found.ttft_from_intended_s == pytest.approx(0.070)
    assert found.e2e_s == pytest.approx(0.060)
    assert found.e2e_from_intended_s == pytest.approx(0.080)


def test_request_without_tokens_has_no_latency_from_intended_start_either() -> None:
    found = row(ending=Ending.CONNECTION)
    assert (found.ttft_from_intended_s, found.e2e_from_intended_s) == (None, None)


def unescaped(text: str) -> bytes:
    """A token whose characters are UTF-8, as vLLM sends them, and not escapes."""
    return f'data: {{"choices":[{{"delta":{{"content":"{text}"}}}}]}}'.encode()


WHOLE_STREAM = b"\r\n".join(
    [
        b": ping",
        ROLE,
        unescaped("Zoë") + b"\n",
        unescaped("漢字"),
        unescaped("end") + b"\n" + FINISH,
        USAGE,
        DONE.strip(),
    ]
)


@given(st.lists(st.integers(1, len(WHOLE_STREAM) - 1), max_size=12))
def test_stream_cut_into_packets_anywhere_gives_the_same_row(cuts: list[int]) -> None:
    """The packet that ends a line is the one that it came with, so only the stamps may differ."""
    bounds = [0, *sorted(set(cuts)), len(WHOLE_STREAM)]
    pieces = [WHOLE_STREAM[start:end] for start, end in pairwise(bounds)]
    raw = RawStream(0, pieces, array("q", [end * MS for end in bounds[1:]]), Ending.WHOLE, "", 200, 9)
    found = row_of(raw)
    assert (found.status, found.content_chunks, found.output_tokens, found.finish_reason) == (Status.OK, 3, 2, "stop")
    assert found.received_bytes == len(WHOLE_STREAM)
    assert "".join(answer_of(raw).texts) == "Zoë漢字end"
    ends = [WHOLE_STREAM.index(b"\n", WHOLE_STREAM.index(text)) + 1 for text in ("Zoë".encode(), b'"end"')]
    came = [min(bound for bound in bounds if bound >= end) for end in ends]
    assert (found.first_content_ns, found.last_content_ns) == (came[0] * MS, came[1] * MS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "delta", "usage", "content", "error", "plumbline"]), inner)
    ),
    max_leaves=8,
)


@given(st.lists(st.binary(max_size=30) | JSON.map(lambda value: b"data: " + json.dumps(value).encode()), max_size=6))
def test_no_server_can_keep_a_request_from_having_its_row(lines: list[bytes]) -> None:
    found = row(*lines)
    assert (found.status is Status.OK) <= (found.ttft_s is not None)
