"""The wire against servers that send exact bytes: each way to answer, or not to, has its own class and none hangs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import uvloop
from pydantic import SecretStr

from load_tests.sse import Ending, RawStream, RequestRecord, Status
from load_tests.wire import Wire
from serving.endpoint import Endpoint
from serving.simulator import Fault
from tests.load_tests.made_load import row_of

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = HEAD + b"Connection: close\r\n\r\n"
TOKEN = 'data: {"choices":[{"delta":{"content":"é"}}]}\n\n'.encode()
ERROR = b'event: error\ndata: {"message":"no memory"}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
Serve = Callable[..., Endpoint]
Start = Callable[..., str]


def framed(data: bytes) -> bytes:
    """One chunk of HTTP's chunked coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


WHOLE = CHUNKED + framed(TOKEN) + framed(TOKEN) + framed(DONE) + END


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Call with what to send, packet by packet, to each request: `pause_s` apart, then close unless `keep`."""
    listeners: list[socket.socket] = []

    def start(*packets: bytes, pause_s: float = 0.0, keep: bool = False) -> Endpoint:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=accept, args=(listener, packets, pause_s, keep), daemon=True).start()
        return endpoint(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.close()


def accept(listener: socket.socket, packets: tuple[bytes, ...], pause_s: float, keep: bool) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection, packets, pause_s, keep), daemon=True).start()


def answer(connection: socket.socket, packets: tuple[bytes, ...], pause_s: float, keep: bool) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(OSError), connection:
        while connection.recv(65536):
            for packet in packets:
                connection.sendall(packet)
                if pause_s:
                    time.sleep(pause_s)
            if not keep:
                return


def endpoint(port: int) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{port}/v1", "m", SecretStr("k"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def ask(target: Endpoint, *, timeout_s: float = 5.0, cancel_after: int | None = None, times: int = 1) -> RequestRecord:
    """The last of `times` requests, one after the other on one wire."""

    async def run() -> RequestRecord:
        wire = Wire(target, request_timeout_s=timeout_s)
        for _ in range(times):
            raw = RawStream()
            await asyncio.wait_for(wire.fill(raw, b"{}", cancel_after), timeout_s + 5)
        wire.close()
        return row_of(raw)

    return uvloop.run(run())


@pytest.mark.parametrize(
    ("packets", "status", "tokens"),
    [
        ([WHOLE], Status.OK, 2),
        ([UNTIL_CLOSE + TOKEN + DONE], Status.OK, 1),
        ([HEAD + b"\r\n" + TOKEN + DONE], Status.OK, 1),  # neither length nor chunks: ends with the connection
        ([UNTIL_CLOSE + TOKEN + DONE.strip()], Status.OK, 1),
        ([WHOLE + b"and more"], Status.OK, 2),
        ([WHOLE + WHOLE], Status.OK, 2),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + WHOLE], Status.OK, 2),
        ([CHUNKED + framed(TOKEN.replace(b"\n", b"\r\n") + DONE.replace(b"\n", b"\r\n")) + END], Status.OK, 1),
        ([CHUNKED + framed(TOKEN + DONE)[:-2], b"\r\n" + END], Status.OK, 1),
        ([CHUNKED + framed(TOKEN)], Status.CUT_STREAM, 1),
        ([CHUNKED + framed(TOKEN) + END], Status.CUT_STREAM, 1),
        ([UNTIL_CLOSE + TOKEN], Status.CUT_STREAM, 1),
        ([CHUNKED + framed(TOKEN) + b"40\r\ndata: {"], Status.CUT_STREAM, 1),
        ([CHUNKED + framed(TOKEN) + b"no number\r\n"], Status.CUT_STREAM, 1),
        ([HEAD + b"Content-Length: 999\r\n\r\n" + TOKEN], Status.CUT_STREAM, 1),
        ([CHUNKED + framed(TOKEN) + framed(ERROR) + framed(DONE) + END], Status.STREAM_ERROR, 1),
        (
            [CHUNKED + framed(TOKEN) + framed(b'data: {"choices":[{"del\n\n') + framed(DONE) + END],
            Status.STREAM_ERROR,
            1,
        ),
        ([HEAD + b'Content-Length: 14\r\n\r\n{"error":"no"}'], Status.STREAM_ERROR, 0),
        ([HEAD + b'Content-Length: 7\r\n\r\n{"error'], Status.STREAM_ERROR, 0),
        ([CHUNKED + END], Status.EMPTY, 0),
        ([HEAD + b"Content-Length: 0\r\n\r\n"], Status.EMPTY, 0),
        ([CHUNKED + framed(DONE) + END], Status.EMPTY, 0),
        ([b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nslow"], Status.RATE_LIMITED, 0),
        ([b"HTTP/1.1 500 Oops\r\nContent-Length: 400\r\n\r\nno memory"], Status.SERVER_ERROR, 0),
        ([b"HTTP/1.1 503 Busy\r\n\r\n"], Status.SERVER_ERROR, 0),
        ([b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"], Status.HTTP_ERROR, 0),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"], Status.CONNECTION, 0),
        ([], Status.CONNECTION, 0),
        ([b"HTTP/1.1 200"], Status.CONNECTION, 0),
        ([b"not HTTP at all\r\n\r\n"], Status.CONNECTION, 0),
    ],
)
def test_each_way_to_answer_has_its_class(serve: Serve, packets: list[bytes], status: Status, tokens: int) -> None:
    found = ask(serve(*packets))
    assert (found.status, found.content_chunks) == (status, tokens), found.error
    assert found.ended_ns >= found.sent_ns


def test_answer_cut_into_single_bytes_is_the_same_answer(serve: Serve) -> None:
    found = ask(serve(*(WHOLE[place : place + 1] for place in range(len(WHOLE)))))
    assert (found.status, found.content_chunks, found.error) == (Status.OK, 2, "")


def test_chunk_of_64_kilobytes_is_one_token(serve: Serve) -> None:
    long = TOKEN.replace("é".encode(), b"word " * 13_000)
    found = ask(serve(CHUNKED + framed(TOKEN) + framed(long) + framed(DONE) + END))
    assert (found.status, found.content_chunks) == (Status.OK, 2)
    assert found.received_bytes > 65_000


def test_tokens_are_stamped_as_they_come_and_not_in_blocks(serve: Serve) -> None:
    found = ask(serve(CHUNKED, framed(TOKEN), framed(TOKEN), framed(TOKEN), framed(DONE) + END, pause_s=0.02))
    assert len(found.itl_s) == 2
    assert sum(found.itl_s) > 0.02


def test_tokens_of_one_packet_share_its_stamp(serve: Serve) -> None:
    found = ask(serve(CHUNKED + framed(TOKEN) + framed(TOKEN) + framed(TOKEN + TOKEN) + framed(DONE) + END))
    assert found.itl_s == [0, 0, 0]


@pytest.mark.parametrize(("packets", "tokens"), [([], 0), ([CHUNKED], 0), ([CHUNKED + framed(TOKEN)], 1)])
def test_silence_is_a_timeout_wherever_it_begins(serve: Serve, packets: list[bytes], tokens: int) -> None:
    found = ask(serve(*packets, b"", pause_s=3), timeout_s=0.1)
    assert (found.status, found.content_chunks) == (Status.TIMEOUT, tokens)
    assert "0.1 s" in found.error


def test_trickle_that_never_ends_is_a_timeout(serve: Serve) -> None:
    found = ask(serve(CHUNKED, *[framed(b": ping\n\n")] * 300, pause_s=0.01), timeout_s=0.1)
    assert (found.status, found.content_chunks) == (Status.TIMEOUT, 0)


def test_connection_that_is_refused_has_a_class_of_its_own() -> None:
    found = ask(endpoint(free_port()))
    assert (found.status, found.ttft_s) == (Status.REFUSED, None)


def test_name_that_nobody_knows_is_no_connection() -> None:
    target = Endpoint("http://plumbline.invalid/v1", "m", SecretStr("k"))
    assert ask(target).status is Status.CONNECTION


def test_certificate_that_cannot_be_right_is_no_connection(serve: Serve) -> None:
    plain = serve(b"no TLS here")
    target = Endpoint(plain.base_url.replace("http:", "https:"), "m", SecretStr("k"))
    assert ask(target).status in {Status.CONNECTION, Status.TIMEOUT}


def test_status_and_words_of_an_http_error_are_kept(serve: Serve) -> None:
    found = ask(serve(b"HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nno memory"))
    assert (found.http_status, found.error) == (500, "HTTP 500: no memory")


def test_connection_is_used_again(serve: Serve) -> None:
    accepted = serve(WHOLE, keep=True)
    assert ask(accepted, times=3).status is Status.OK


def test_words_that_nobody_asked_for_are_not_the_next_answer(serve: Serve) -> None:
    """The second answer comes with the first: a connection that is used again would give it to the next request."""
    other = CHUNKED + framed(TOKEN) + framed(DONE) + END
    found = ask(serve(WHOLE + other, keep=True), times=2)
    assert (found.status, found.content_chunks) == (Status.OK, 2)


def test_connection_that_the_server_closed_meanwhile_is_not_used_again(serve: Serve) -> None:
    async def run() -> list[Status]:
        wire = Wire(serve(WHOLE), request_timeout_s=5)
        found = []
        for _ in range(3):
            raw = RawStream()
            await wire.fill(raw, b"{}")
            found.append(row_of(raw).status)
            await asyncio.sleep(0.02)
        return found

    assert uvloop.run(run()) == [Status.OK] * 3


def test_cut_request_keeps_what_came(serve: Serve) -> None:
    async def run() -> RawStream:
        wire = Wire(serve(CHUNKED + framed(TOKEN), b"", pause_s=3), request_timeout_s=5)
        raw, ended = RawStream(), []
        wire.send(raw, b"{}", lambda: ended.append(True))
        while not raw.pieces:  # noqa: ASYNC110 - the wire tells only ends
            await asyncio.sleep(0.005)
        wire.stop()
        wire.stop()
        assert ended == [True]
        return raw

    raw = uvloop.run(run())
    assert raw.ending is Ending.STOPPED
    assert (row_of(raw).status, row_of(raw).content_chunks) == (Status.INCOMPLETE, 1)


def test_request_cut_before_it_is_connected_has_an_ending_too() -> None:
    async def run() -> RawStream:
        wire = Wire(endpoint(free_port()), request_timeout_s=5)
        raw, ended = RawStream(), []
        wire.send(raw, b"{}", lambda: ended.append(True))
        wire.close()
        await asyncio.sleep(0.02)
        assert ended == [True]
        return raw

    assert row_of(uvloop.run(run())).status is Status.INCOMPLETE


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_cancelled_after_so_many_tokens(serve: Serve, step: int) -> None:
    body = CHUNKED + framed(TOKEN) * 9
    packets = [body[place : place + step] for place in range(0, len(body), step)]
    found = ask(serve(*packets, b"", pause_s=0 if step == 1 else 0.001), cancel_after=3)
    assert found.status is Status.CANCELLED
    assert 3 <= found.content_chunks <= 9


def test_server_sees_that_a_request_was_cancelled(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=1, itl_ms=5, output_tokens=400)
    body = b'{"model":"plumbline-simulator","messages":[{"role":"user","content":"a b"}],"stream":true}'

    async def run() -> tuple[RawStream, bytes]:
        wire = Wire(Endpoint(base_url, "plumbline-simulator", SecretStr("k")), request_timeout_s=5)
        raw = RawStream()
        await wire.fill(raw, body, cancel_after_chunks=4)
        port = int(base_url.rpartition(":")[2].partition("/")[0])
        for _ in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /plumbline/requests HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            said = await reader.read()
            writer.close()
            if b'"cancelled": 1' in said:
                break
            await asyncio.sleep(0.01)
        return raw, said

    raw, said = uvloop.run(run())
    assert (row_of(raw).status, row_of(raw).content_chunks) == (Status.CANCELLED, 4)
    assert b'"cancelled": 1' in said


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.HTTP_429, Status.RATE_LIMITED),
        (Fault.HTTP_500, Status.SERVER_ERROR),
        (Fault.HTTP_400, Status.HTTP_ERROR),
        (Fault.DISCONNECT, Status.CONNECTION),
        (Fault.NO_ANSWER, Status.TIMEOUT),
        (Fault.HALF_BODY, Status.CUT_STREAM),
    ],
)
def test_each_fault_of_the_simulator_has_its_class(start_simulator: Start, fault: Fault, status: Status) -> None:
    base_url = start_simulator(ttft_ms=1, itl_ms=1, output_tokens=4, fault=fault)
    body = b'{"model":"plumbline-simulator","messages":[{"role":"user","content":"a b"}],"stream":true}'

    async def run() -> RawStream:
        wire = Wire(Endpoint(base_url, "plumbline-simulator", SecretStr("k")), request_timeout_s=0.15)
        raw = RawStream()
        await wire.fill(raw, body)
        wire.close()
        return raw

    assert row_of(uvloop.run(run())).status is status
