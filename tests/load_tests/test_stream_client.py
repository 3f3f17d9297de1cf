"""The client against servers that send exact bytes: chunked bodies, breaks, silence, refusals."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from pydantic import SecretStr

from load_tests.sse import RawStream, RequestRecord, Status, record_of
from load_tests.stream_client import StreamClient
from serving.endpoint import Endpoint

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = HEAD + b"Connection: close\r\n\r\n"
TOKEN = 'data: {"choices":[{"delta":{"content":"é"}}]}\n\n'.encode()
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
Serve = Callable[..., Endpoint]


def framed(data: bytes) -> bytes:
    """One chunk of HTTP's chunked coding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Call with what to send, packet by packet: each connection gets them, `pause_s` apart, and is then closed."""
    listeners: list[socket.socket] = []

    def start(*packets: bytes, pause_s: float = 0.0) -> Endpoint:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=answer, args=(listener, packets, pause_s), daemon=True).start()
        return endpoint(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.close()


def answer(listener: socket.socket, packets: tuple[bytes, ...], pause_s: float) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.recv(65536)
            for packet in packets:
                connection.sendall(packet)
                time.sleep(pause_s)
            connection.close()


def endpoint(port: int) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{port}/v1", "m", SecretStr("k"))


def ask(target: Endpoint, timeout_s: float = 5.0) -> RequestRecord:
    client = StreamClient(target, connections=1, request_timeout_s=timeout_s)
    raw = RawStream()
    client.fill(raw, b"{}")
    return record_of(raw, index=0, user=0, stage="quality", pipeline_id="p", intended_ns=raw.sent_ns)


@pytest.mark.parametrize(
    ("packets", "status", "tokens"),
    [
        ([CHUNKED + framed(TOKEN) + framed(TOKEN) + framed(DONE) + END], Status.OK, 2),
        ([UNTIL_CLOSE + TOKEN + DONE], Status.OK, 1),
        ([UNTIL_CLOSE + TOKEN + DONE.strip()], Status.OK, 1),  # [DONE] without its newline
        ([CHUNKED + framed(TOKEN + DONE)[:-2], b"\r\n" + END], Status.OK, 1),
        ([CHUNKED, *(framed(TOKEN[k : k + 7]) for k in range(0, len(TOKEN), 7)), framed(DONE) + END], Status.OK, 1),
        ([CHUNKED + framed(TOKEN)], Status.CUT_STREAM, 1),
        ([CHUNKED + framed(TOKEN) + END], Status.CUT_STREAM, 1),
        ([CHUNKED + framed(TOKEN) + b"40\r\ndata: {"], Status.CUT_STREAM, 1),
        ([HEAD + b"Content-Length: 999\r\n\r\n" + TOKEN], Status.CUT_STREAM, 1),
        ([CHUNKED + END], Status.EMPTY, 0),
        ([HEAD + b"Content-Length: 0\r\n\r\n"], Status.EMPTY, 0),
        ([b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nslow"], Status.HTTP_ERROR, 0),
        ([b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"], Status.HTTP_ERROR, 0),
        ([], Status.CONNECTION, 0),
        ([b"HTTP/1.1 200"], Status.CONNECTION, 0),
        ([b"not HTTP at all\r\n\r\n"], Status.CONNECTION, 0),
    ],
)
def test_each_way_to_answer_has_its_class(serve: Serve, packets: list[bytes], status: Status, tokens: int) -> None:
    found = ask(serve(*packets))
    assert (found.status, found.content_chunks) == (status, tokens), found.error


def test_character_split_over_packets_is_one_token(serve: Serve) -> None:
    middle = TOKEN.index("é".encode()) + 1
    found = ask(serve(CHUNKED, framed(TOKEN[:middle]), framed(TOKEN[middle:]), framed(DONE) + END, pause_s=0.02))
    assert (found.status, found.content_chunks, found.error) == (Status.OK, 1, "")


def test_tokens_are_stamped_as_they_come_and_not_in_blocks(serve: Serve) -> None:
    """Three small chunks 60 ms apart: reading in blocks of 1024 bytes would see them all at the end."""
    found = ask(serve(CHUNKED, framed(TOKEN), framed(TOKEN), framed(TOKEN), framed(DONE) + END, pause_s=0.06))
    assert len(found.itl_s) == 2
    assert sum(found.itl_s) > 0.06


def test_silence_is_a_timeout_also_between_tokens(serve: Serve) -> None:
    found = ask(serve(CHUNKED + framed(TOKEN), pause_s=30), timeout_s=0.3)
    assert (found.status, found.content_chunks) == (Status.TIMEOUT, 1)
    assert "0.3 s" in found.error


def test_refused_connection_is_a_failure_with_a_row() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = ask(endpoint(port))
    assert (found.status, found.ttft_s) == (Status.CONNECTION, None)


def test_status_and_words_of_an_http_error_are_kept(serve: Serve) -> None:
    found = ask(serve(b"HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nno memory"))
    assert (found.http_status, found.error) == (500, "HTTP 500: no memory")
