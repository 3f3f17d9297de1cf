"""Finding the endpoint: what is given, what the environment says, what was recorded; and what is stale."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from console import BadInput, CannotJudge
from serving.endpoint import connect, find_base_url
from serving.state import ServerRecord, read_record, record_path, write_record


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def record(pid: int, created_s: float) -> ServerRecord:
    return ServerRecord(
        pid=pid, created_s=created_s, base_url="http://127.0.0.1:8123/v1", model="m", profile="cpu", log_path="log"
    )


def own_record() -> ServerRecord:
    return record(os.getpid(), psutil.Process().create_time())


def test_a_given_address_wins_over_the_environment_and_that_over_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(own_record())
    assert find_base_url() == "http://127.0.0.1:8123/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://env:1/v1/")
    assert find_base_url() == "http://env:1/v1"
    assert find_base_url("http://given:2") == "http://given:2/v1"


@pytest.mark.parametrize(
    "address",
    ["localhost:8000", "file:///etc/passwd", "ftp://host/v1", "http://", "http://h/v1?api_key=s", "http://h/v1#x"],
)
def test_an_address_that_is_not_http_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match=r"--base-url: found .*; allowed is http\(s\)://HOST:PORT/v1"):
        find_base_url(address)


def test_without_any_endpoint_the_error_names_the_command_to_start_one() -> None:
    with pytest.raises(CannotJudge, match="python -m serving start --background"):
        find_base_url()


def test_a_record_of_a_dead_process_is_not_believed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    created_s = psutil.Process(child.pid).create_time()
    child.wait()
    write_record(record(child.pid, created_s))
    with pytest.raises(CannotJudge, match=rf"pid {child.pid}\) has ended|pid {child.pid}, has ended"):
        find_base_url()


def test_a_record_whose_pid_now_belongs_to_another_process_is_not_believed() -> None:
    write_record(record(os.getpid(), psutil.Process().create_time() - 3600))
    found = read_record()
    assert found is not None
    assert found.process() is None


def test_a_half_written_record_is_no_record() -> None:
    write_record(own_record())
    record_path().write_text(record_path().read_text()[:20])
    assert read_record() is None


def test_the_record_is_readable_by_its_user_alone() -> None:
    write_record(own_record())
    assert record_path().stat().st_mode & 0o077 == 0


def test_connect_chooses_the_served_model_and_sees_that_it_is_simulated(start_simulator: Callable[..., str]) -> None:
    url = start_simulator()
    endpoint = connect(url)
    assert (endpoint.base_url, endpoint.model, endpoint.simulated) == (url, "plumbline-simulator", True)
    assert endpoint.origin == url.removesuffix("/v1")


def test_connect_refuses_a_model_that_is_not_served_and_lists_what_is(start_simulator: Callable[..., str]) -> None:
    with pytest.raises(BadInput, match=r"'other' is not served at .*; served: plumbline-simulator"):
        connect(start_simulator(), "other")


def test_the_key_is_masked_wherever_the_endpoint_is_shown(
    start_simulator: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    endpoint = connect(start_simulator())
    assert endpoint.api_key.get_secret_value() == "sk-secret-123"
    assert "sk-secret-123" not in f"{endpoint} {endpoint!r}"


@pytest.fixture
def answer_with() -> Iterator[Callable[[int, bytes], str]]:
    """A server that gives one fixed answer to everything."""
    servers: list[HTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Fixed(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None: ...

        servers.append(HTTPServer(("127.0.0.1", 0), Fixed))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, b"", "answered HTTP 500"),
        (401, b"", "answered HTTP 401: set OPENAI_API_KEY"),
        (200, b'{"data": [{"id": ', "no endpoint answers"),
        (200, b"<html>hello</html>", "no endpoint answers"),
        (200, b'{"data": [{}]}', "no endpoint answers"),
        (200, b"[1, 2]", "no endpoint answers"),
        (200, b'{"data": []}', "lists no model"),
    ],
)
def test_what_does_not_answer_as_an_endpoint_is_told_in_one_line(
    answer_with: Callable[[int, bytes], str], status: int, body: bytes, said: str
) -> None:
    with pytest.raises(CannotJudge, match=said) as failed:
        connect(answer_with(status, body))
    assert "\n" not in str(failed.value)


def test_an_endpoint_that_is_down_is_told_in_one_line() -> None:
    with pytest.raises(CannotJudge, match=r"no endpoint answers at http://127\.0\.0\.1:9/v1 .*refused"):
        connect("http://127.0.0.1:9/v1")
