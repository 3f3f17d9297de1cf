"""What leaves of a streamed answer, when and how: by hand for the frames, over a bare socket for the faults."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.faults import HUGE_CHUNK_PADDING, Fault
from serving.simulator_answer import STAMP, Reply, whole_answer
from serving.simulator_stream import Frame, Sending, chunks_of, frames_of
from serving.simulator_time import Clock, Freeze, Pacer

Start = Callable[..., str]
MS = 1_000_000
FAST = {"ttft_ms": 0, "itl_ms": 0}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
MESSAGES = [{"role": "user", "content": "what to do?"}]

REPLY = Reply("chatcmpl-1", 0, "simulated", ["a", "b", "c", "d", "e", "f"], "stop", prompt_tokens=3)
CLOCK = Clock(100 * MS, 100 * MS, [50 * MS + token * 10 * MS for token in range(6)], Freeze(0, 0))


def frames(fault: Fault = Fault.NONE, tokens_per_chunk: int = 1, reply: Reply = REPLY) -> list[Frame]:
    """The frames of a six-token answer with usage."""
    return list(frames_of(reply, CLOCK, True, tokens_per_chunk, fault))


def wire(some: list[Frame]) -> bytes:
    """What is on the wire, every stamp put in."""
    return b"".join(frame.data for frame in some).replace(STAMP, b"1")


def chunks_in(data: bytes) -> list[dict[str, Any]]:
    """The JSON of every data line but [DONE]."""
    lines = (line.removeprefix(b"data: ") for line in data.splitlines() if line.startswith(b"data: {"))
    return [json.loads(line) for line in lines]


def text_in(data: bytes) -> str:
    """The whole content of a stream."""
    choices = [choice for chunk in chunks_in(data) for choice in chunk.get("choices", ())]
    return "".join(choice["delta"].get("content", "") for choice in choices)


# --- frames ----------------------------------------------------------------------------------------------


def test_a_sound_answer_has_a_frame_a_token_each_with_its_deadline_in_it() -> None:
    seen = frames()
    assert [frame.due_ns for frame in seen] == [150 * MS + token * 10 * MS for token in range(6)]
    assert [frame.tokens for frame in seen] == [1] * 6
    stamps = [chunk["plumbline"] for chunk in chunks_in(seen[3].data.replace(STAMP, b"77"))]
    wanted = {"simulated": True, "sent_ns": 77, "due_ns": 180 * MS, "arrived_ns": 100 * MS, "started_ns": 100 * MS}
    assert stamps == [wanted]
    assert seen[-1].data.endswith(b"data: [DONE]\n\n")


def test_several_tokens_in_a_chunk_leave_with_the_last_of_them_and_the_first_alone() -> None:
    seen = frames(tokens_per_chunk=2)
    assert [frame.tokens for frame in seen] == [1, 2, 2, 1]
    assert [frame.due_ns for frame in seen] == [150 * MS, 170 * MS, 190 * MS, 200 * MS]
    assert [text_in(wire([frame])) for frame in seen] == ["a", "bc", "de", "f"]
    assert chunks_in(wire(seen))[-1]["usage"]["completion_tokens"] == 6


@given(tokens=st.integers(1, 200), tokens_per_chunk=st.integers(1, 250))
def test_every_token_is_in_one_chunk(tokens: int, tokens_per_chunk: int) -> None:
    chunks = chunks_of(tokens, tokens_per_chunk)
    assert [token for chunk in chunks for token in chunk] == list(range(tokens))
    assert all(len(chunk) == tokens_per_chunk for chunk in chunks[1:-1])


STREAM_LONG_FAULTS = [Fault.CRLF, Fault.ODD_CHUNKS, Fault.SPLIT_UTF8, Fault.NO_DONE, Fault.NO_USAGE, Fault.TRICKLE]


@given(
    pieces=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12),
    tokens_per_chunk=st.integers(1, 5),
    fault=st.sampled_from([Fault.NONE, *STREAM_LONG_FAULTS]),
)
def test_no_text_and_no_token_is_lost_by_how_an_answer_is_sent(
    pieces: list[str], tokens_per_chunk: int, fault: Fault
) -> None:
    reply = replace(REPLY, pieces=pieces)
    clock = replace(CLOCK, offsets_ns=[token * MS for token in range(len(pieces))])
    seen = list(frames_of(reply, clock, True, tokens_per_chunk, fault))
    assert text_in(wire(seen)) == "".join(pieces)
    assert sum(frame.tokens for frame in seen) == len(pieces)


def test_an_error_takes_the_place_of_the_middle_and_all_after_it() -> None:
    as_event, as_data = wire(frames(Fault.ERROR_EVENT)), wire(frames(Fault.ERROR_DATA))
    assert text_in(as_event) == text_in(as_data) == "abc"
    assert b"\n\nevent: error\ndata: {" in as_event
    assert as_event.endswith(b"}\n\n")
    assert b"[DONE]" not in as_event
    assert b"event:" not in as_data
    assert as_data.endswith(b"}\n\ndata: [DONE]\n\n")
    assert "error" in chunks_in(as_data)[-1]
    assert frames(Fault.ERROR_DATA)[-1].due_ns == 180 * MS


def test_half_json_is_one_event_cut_and_everything_else() -> None:
    lines = [line for line in wire(frames(Fault.HALF_JSON)).split(b"\n\n") if line]
    sound = [line for line in wire(frames()).split(b"\n\n") if line]
    cut = [place for place, (line, right) in enumerate(zip(lines, sound, strict=True)) if line != right]
    assert cut == [4]  # the role comes first, and "d" is the middle
    assert sound[4].startswith(lines[4])
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(lines[4].removeprefix(b"data: "))


def test_half_body_hangs_up_inside_the_middle_event() -> None:
    *_, last = seen = frames(Fault.HALF_BODY)
    assert last.hang_up
    assert len(seen) == 4
    assert text_in(wire(seen[:-1])) == "abc"
    assert not last.data.endswith(b"\n")


def test_an_empty_body_is_nothing_at_the_first_tokens_deadline() -> None:
    assert frames(Fault.EMPTY_BODY) == [Frame(150 * MS, b"", 0)]


def test_a_trickle_is_a_byte_at_a_time_as_far_apart_as_tokens_and_claims_no_time_of_sending() -> None:
    seen = frames(Fault.TRICKLE)
    assert {len(frame.data) for frame in seen} == {1}
    assert [frame.due_ns for frame in seen] == [150 * MS + place * 10 * MS for place in range(len(seen))]
    assert {chunk["plumbline"]["sent_ns"] for chunk in chunks_in(wire(seen))} == {None}


def test_a_character_is_split_between_two_frames_a_millisecond_apart() -> None:
    seen = frames(Fault.SPLIT_UTF8, reply=replace(REPLY, pieces=["á", "b", "c", "d", "e", "é"]))
    assert [frame.tokens for frame in seen] == [0, 1, 1, 1, 1, 1, 0, 1]
    assert seen[0].data.endswith(b"\xc3")
    assert seen[1].data.startswith(b"\xa1")
    assert seen[1].due_ns - seen[0].due_ns == MS


def test_crlf_ends_every_line() -> None:
    data = wire(frames(Fault.CRLF))
    assert data.count(b"\r\n") == data.count(b"\n") == 2 * 9 + 2


def test_odd_chunks_count_what_has_been_sent_so_far() -> None:
    data = wire(frames(Fault.ODD_CHUNKS))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks_in(data) if "usage" in chunk]
    assert counts == [0, 1, 2, 3, 4, 5, 6]
    assert data.startswith(b": ping\n\n")
    assert data.count(b": ping\n\n") == 6


def test_what_is_left_out_is_left_out() -> None:
    assert wire(frames()).removesuffix(b"data: [DONE]\n\n") == wire(frames(Fault.NO_DONE))
    assert not any("usage" in chunk for chunk in chunks_in(wire(frames(Fault.NO_USAGE))))


@pytest.mark.parametrize("fault", Fault)
def test_whole_answers_are_sound_json_but_for_those_that_should_not_be(fault: Fault) -> None:
    body = whole_answer(REPLY, CLOCK, fault).replace(STAMP, b"1")
    if fault is Fault.EMPTY_BODY:
        assert body == b""
    elif fault in {Fault.HALF_BODY, Fault.HALF_JSON}:
        with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
            json.loads(body)
    else:
        answer = json.loads(body)
        assert ("error" in answer) == (fault in {Fault.ERROR_EVENT, Fault.ERROR_DATA})
        assert ("usage" in answer) == (fault not in {Fault.ERROR_EVENT, Fault.ERROR_DATA, Fault.NO_USAGE})


def test_a_frame_that_cannot_be_made_ends_the_answer_and_does_not_hang_it() -> None:
    class Transport(asyncio.Transport):
        def is_closing(self) -> bool:
            return False

        def write(self, data: Any) -> None:
            assert data

    def broken() -> Iterator[Frame]:
        yield frames()[0]
        raise ValueError("no second frame")

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        pacer = Pacer()
        sending = Sending(Transport(), broken(), lambda *_: None, chunked=True)
        with pytest.raises(ValueError, match="no second frame"):
            await asyncio.wait_for(sending.until_over(pacer), 10)
        pacer.close()

    asyncio.run(work())


# --- over a bare socket ----------------------------------------------------------------------------------


def packets(base_url: str, *, version: str = "1.1", **more: Any) -> Iterator[bytes]:
    """What comes for one chat completion, as it comes, until the answer is over."""
    body = json.dumps({"model": "plumbline-simulator", "messages": MESSAGES, **more}).encode()
    head = f"POST /v1/chat/completions HTTP/{version}\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}"
    url = urlsplit(base_url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        while packet := connection.recv(2**20):
            yield packet


def body_of(some: bytes) -> bytes:
    """The body of an answer, HTTP's chunks taken away."""
    head, _, rest = some.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    if b"chunked" not in head:
        return rest
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            assert rest == b"\r\n"
            return body
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]


ASKED = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("fault", [Fault.CRLF, Fault.ODD_CHUNKS, Fault.SPLIT_UTF8, Fault.HUGE_CHUNK, Fault.NO_DONE])
def test_odd_but_sound_answers_fit_their_schema(start_simulator: Start, fault: Fault, streamed: bool) -> None:
    base_url = start_simulator(**FAST, output_tokens=6, fault=fault)
    data = body_of(b"".join(packets(base_url, stream=streamed, response_format=ASKED)))
    text = text_in(data) if streamed else json.loads(data)["choices"][0]["message"]["content"]
    jsonschema.validate(json.loads(text), SCHEMA)
    assert text.isascii() == (fault is not Fault.SPLIT_UTF8)
    assert text.startswith(HUGE_CHUNK_PADDING) == (fault is Fault.HUGE_CHUNK)


def test_the_two_halves_of_a_character_are_sent_apart(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=5, itl_ms=0, output_tokens=1, fault=Fault.SPLIT_UTF8)
    assert b"\xc3\r\n" in b"".join(packets(base_url, stream=True))  # where one of HTTP's chunks ends


@pytest.mark.parametrize("streamed", [True, False])
def test_an_empty_body_is_status_200_and_no_more(start_simulator: Start, streamed: bool) -> None:
    base_url = start_simulator(**FAST, fault=Fault.EMPTY_BODY)
    assert body_of(b"".join(packets(base_url, stream=streamed))) == b""


@pytest.mark.parametrize("streamed", [True, False])
def test_a_trickle_comes_in_small_packets_and_the_simulator_is_not_hurt_by_one_who_leaves_it(
    start_simulator: Start, streamed: bool
) -> None:
    base_url = start_simulator(**FAST, fault=Fault.TRICKLE, fault_first=1)
    some = [packet for packet, _ in zip(packets(base_url, stream=streamed), range(20), strict=False)]
    assert max(map(len, some[1:])) < 100  # each of its bytes is a chunk of HTTP's
    assert len(stamps_of(base_url)) == 64


def test_an_old_client_gets_its_stream_without_chunks(start_simulator: Start) -> None:
    data = b"".join(packets(start_simulator(**FAST, output_tokens=3), version="1.0", stream=True))
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


# --- places, freezes and clients that leave, by the server's own stamps ----------------------------------


def stamps_of(base_url: str, **more: Any) -> list[dict[str, int]]:
    """The stamps of a stream's content chunks."""
    data = body_of(b"".join(packets(base_url, stream=True, **more)))
    return [chunk["plumbline"] for chunk in chunks_in(data) if text_in(b"data: " + json.dumps(chunk).encode())]


def counts(base_url: str) -> dict[str, Any]:
    """What was counted, once nothing is under way."""
    for _ in range(500):
        with urllib.request.urlopen(base_url.replace("/v1", "/plumbline/requests")) as answer:
            seen: dict[str, Any] = json.load(answer)
        if not seen["in_flight"]:
            return seen
        time.sleep(0.01)
    raise AssertionError(f"still in flight: {seen}")


def in_parallel(base_url: str, requests: int) -> list[list[dict[str, int]]]:
    """The stamps of requests sent side by side, in order of arrival."""
    with ThreadPoolExecutor(requests) as pool:
        some = list(pool.map(lambda _: stamps_of(base_url), range(requests)))
    return sorted(some, key=lambda stamps: stamps[0]["arrived_ns"])


def test_with_two_places_each_request_starts_when_an_earlier_one_is_due_to_end(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=20, itl_ms=5, output_tokens=3, max_running=2)
    first, second, third, fourth = in_parallel(base_url, 4)
    service_ns = 30 * MS
    for stamps in (first, second):
        assert stamps[0]["started_ns"] == stamps[0]["arrived_ns"]
    assert third[0]["started_ns"] == first[-1]["due_ns"] == first[0]["started_ns"] + service_ns
    assert fourth[0]["started_ns"] == second[-1]["due_ns"]
    for stamps in (third, fourth):
        assert [stamp["due_ns"] - stamp["started_ns"] for stamp in stamps] == [20 * MS, 25 * MS, 30 * MS]


def test_more_than_may_wait_are_refused_with_503(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=100, itl_ms=0, output_tokens=1, max_running=1, max_queue=1)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: b"".join(packets(base_url)), range(4)))
    assert sorted(answer.split()[1] for answer in answers) == [b"200", b"200", b"503", b"503"]
    assert sum(b"the simulator's queue is full" in answer for answer in answers) == 2
    assert counts(base_url)["answered"] == 4  # a refusal for a good reason counts


def test_in_a_freeze_nothing_leaves_and_what_was_due_leaves_at_its_end(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=10, itl_ms=10, output_tokens=8, freeze_at_s=0.025, freeze_for_s=0.04)
    stamps = stamps_of(base_url)
    begin_ns = stamps[0]["arrived_ns"]
    after = [(stamp["due_ns"] - begin_ns) // MS for stamp in stamps]
    assert after == [10, 20, 65, 65, 65, 65, 70, 80]
    assert all(stamp["sent_ns"] >= stamp["due_ns"] for stamp in stamps)


def test_a_request_that_comes_in_a_freeze_gets_nothing_before_its_end(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, output_tokens=1, freeze_for_s=0.05)
    first, second = stamps_of(base_url), stamps_of(base_url)
    assert first[0]["due_ns"] == first[0]["arrived_ns"] + 50 * MS
    assert second[0]["due_ns"] == second[0]["arrived_ns"]


def test_the_server_tells_how_far_it_had_come_when_a_client_left(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=0, itl_ms=60_000, tokens_per_chunk=3)
    for first, _ in zip(packets(base_url, stream=True), range(2), strict=False):
        if b'"content":"' in first.replace(b'"content":""', b""):
            break  # closes the connection after the first token
    seen = counts(base_url)
    assert (seen["cancelled"], seen["cancelled_after_tokens"]) == (1, {"1": 1})


def test_who_leaves_the_queue_frees_nothing_and_is_counted(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=60, itl_ms=0, output_tokens=1, max_running=1)
    url = urlsplit(base_url)
    body = json.dumps({"model": "plumbline-simulator", "messages": MESSAGES}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((url.hostname, url.port)) as stays:
        stays.sendall(head + body)
        time.sleep(0.01)
        with socket.create_connection((url.hostname, url.port)) as leaves:
            leaves.sendall(head + body)
            time.sleep(0.02)
        assert b" 200 OK" in stays.recv(2**16)
    seen = counts(base_url)
    assert (seen["answered"], seen["cancelled"], seen["cancelled_after_tokens"]) == (1, 1, {"0": 1})
    assert stamps_of(base_url)[0]["started_ns"]
