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

from common.console import BadInput, CannotJudge
from serving.endpoint import connect, find_base_url
from serving.state import ServerRecord, clear_record, read_record, read_records, record_path, state_dir, write_record


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def record(pid: int, created_s: float, port: int = 8123) -> ServerRecord:
    url = f"http://127.0.0.1:{port}/v1"
    return ServerRecord(pid=pid, created_s=created_s, base_url=url, model=f"m{port}", profile="cpu", log_path="log")


def own_record(port: int = 8123) -> ServerRecord:
    return record(os.getpid(), psutil.Process().create_time(), port)


def stale_record(port: int) -> ServerRecord:
    return record(os.getpid(), psutil.Process().create_time() - 3600, port)


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
    write_record(stale_record(8123))
    found = read_record()
    assert found is not None
    assert found.process() is None


def test_a_half_written_record_is_no_record_and_hides_no_other() -> None:
    write_record(own_record())
    write_record(own_record(8124))
    record_path(8123).write_text(record_path(8123).read_text()[:20])
    assert read_records() == [own_record(8124)]


def test_every_port_has_a_record_of_its_own_and_a_later_server_replaces_it() -> None:
    for one in (own_record(9000), own_record(80), own_record(8001), stale_record(8001)):
        write_record(one)
    assert read_records() == [own_record(80), stale_record(8001), own_record(9000)]
    assert (read_record(), read_record(9000), read_record(1)) == (own_record(80), own_record(9000), None)


def test_forgetting_a_server_leaves_the_other_ports_and_a_later_server_on_its_own() -> None:
    write_record(own_record(8001))
    write_record(own_record(8002))
    clear_record(stale_record(8001))
    clear_record(own_record(8002))
    assert read_records() == [own_record(8001)]


def test_the_record_that_a_version_for_one_server_wrote_is_still_found_and_forgotten() -> None:
    state_dir().mkdir(parents=True)
    old = state_dir() / "server.json"
    old.write_text(own_record().model_dump_json())
    assert find_base_url() == "http://127.0.0.1:8123/v1"
    clear_record(own_record())
    assert not old.exists()


def test_the_only_server_that_runs_is_meant_whatever_else_is_recorded() -> None:
    write_record(stale_record(8001))
    write_record(own_record(8002))
    assert find_base_url() == "http://127.0.0.1:8002/v1"


def test_with_several_servers_the_error_names_them_and_base_url_settles_it() -> None:
    write_record(own_record(8001))
    write_record(own_record(8002))
    said = r"^2 endpoints run here \(m8001 at http://127\.0\.0\.1:8001/v1, m8002 at .*8002/v1\): .* --base-url$"
    with pytest.raises(BadInput, match=said):
        find_base_url()
    assert find_base_url("http://127.0.0.1:8002/v1") == "http://127.0.0.1:8002/v1"


def test_the_record_is_readable_by_its_user_alone() -> None:
    write_record(own_record())
    assert record_path(8123).stat().st_mode & 0o077 == 0


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


@pytest.mark.slow
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
