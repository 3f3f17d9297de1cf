"""Starting, watching and stopping a server, on a stand-in engine: a small process tree that serves /health.

The real engine is started by tests/engine; what is tested here is what can go wrong around it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from common.console import BadInput, CannotJudge
from serving import vllm_server
from serving.profiles import Profile
from serving.state import ServerRecord, read_record, read_records, write_record
from serving.vllm_server import (
    ServerSpec,
    command,
    error_lines,
    forget_ended_servers,
    healthy,
    phase,
    refuse_taken_port,
    start,
    stop,
)

ENGINE = """
import http.server, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("Starting to load model", flush=True)
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): ...
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ServerSpec]:
    """Replace the engine's command line by a script; gives what to start."""

    def use(script: str) -> ServerSpec:
        spec = ServerSpec("tiny", Path("/nowhere"), Profile("cpu", (), {}), port=free_port(), health_timeout_s=20)
        monkeypatch.setattr(vllm_server, "command", lambda one: [sys.executable, "-c", script, str(one.port)])
        return spec

    return use


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def quiet(_text: str) -> None: ...


def session_of(pid: int) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter()
        if process.status() != psutil.STATUS_ZOMBIE and os.getsid(process.pid) == pid
    ]


@pytest.mark.slow
def test_start_records_the_server_and_stop_leaves_no_process_behind(engine: Callable[[str], ServerSpec]) -> None:
    spec = engine(ENGINE)
    record = start(spec, quiet)
    assert healthy(spec.origin)
    assert read_record() == record
    assert len(session_of(record.pid)) == 2
    assert stop(record)
    assert session_of(record.pid) == []
    assert read_record() is None
    assert not stop(record)


@pytest.mark.slow
def test_children_are_ended_even_when_the_server_itself_was_killed(engine: Callable[[str], ServerSpec]) -> None:
    record = start(engine(ENGINE), quiet)
    os.kill(record.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while record.process() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(session_of(record.pid)) == 1
    assert stop(record)
    assert session_of(record.pid) == []


def test_a_record_whose_pid_is_another_process_by_now_ends_nothing() -> None:
    """A state folder outlives a restart of the machine; its number may be the user's own shell now."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as other:
        created_s = psutil.Process(other.pid).create_time()
        for yesterday in (created_s - 86_400, psutil.boot_time() - 60):
            stale = ServerRecord(
                pid=other.pid, created_s=yesterday, base_url="http://h/v1", model="m", profile="cpu", log_path="l"
            )
            write_record(stale)
            assert not stop(stale)
            assert other.poll() is None
            assert read_record() is None
        other.kill()


@pytest.mark.slow
def test_servers_on_two_ports_live_side_by_side_and_each_is_ended_by_itself(
    engine: Callable[[str], ServerSpec],
) -> None:
    one, two = start(engine(ENGINE), quiet), start(engine(ENGINE), quiet)
    assert read_records() == sorted([one, two], key=lambda record: record.port)
    assert stop(one)
    assert session_of(one.pid) == []
    assert read_records() == [two]
    assert healthy(two.base_url.removesuffix("/v1"))
    assert stop(two)
    assert session_of(two.pid) == []


@pytest.mark.slow
def test_a_second_port_can_be_started_while_the_first_still_starts(engine: Callable[[str], ServerSpec]) -> None:
    records: list[ServerRecord] = []

    def start_another(_text: str) -> None:
        if not records:
            records.append(start(engine(ENGINE), quiet))

    records.append(start(engine(ENGINE), start_another))
    assert sorted(read_records(), key=lambda record: record.pid) == sorted(records, key=lambda record: record.pid)
    for record in records:
        stop(record)


@pytest.mark.slow
def test_a_start_ends_what_an_ended_server_on_another_port_left_behind(engine: Callable[[str], ServerSpec]) -> None:
    dead = start(engine(ENGINE), quiet)
    os.kill(dead.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while dead.process() and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = start(engine(ENGINE), quiet)
    assert session_of(dead.pid) == []
    assert read_records() == [alive]
    forget_ended_servers()
    assert healthy(alive.base_url.removesuffix("/v1"))
    stop(alive)


@pytest.mark.slow
def test_two_starts_on_one_port_at_once_are_refused_so_that_no_server_loses_its_record(
    engine: Callable[[str], ServerSpec],
) -> None:
    spec = engine(ENGINE)

    def start_another(_text: str) -> None:
        with pytest.raises(BadInput, match=rf"another `serving start` on port {spec.port} is under way"):
            start(spec, quiet)

    stop(start(spec, start_another))


def test_an_interrupt_while_waiting_leaves_no_process_and_no_record(engine: Callable[[str], ServerSpec]) -> None:
    pids: list[int] = []

    def interrupt(_text: str) -> None:
        record = read_record()
        assert record is not None
        pids.append(record.pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(engine(ENGINE), interrupt)
    assert session_of(pids[0]) == []
    assert read_record() is None


def test_an_engine_that_fails_is_told_with_its_own_last_error_lines(engine: Callable[[str], ServerSpec]) -> None:
    spec = engine("import sys; sys.exit('ValueError: No available memory for the cache blocks.')")
    with pytest.raises(
        CannotJudge, match=r"vLLM ended \(exit code 1\): ValueError: No available memory.*whole log"
    ) as failed:
        start(spec, quiet)
    assert "\n" not in str(failed.value)
    assert "Traceback" not in str(failed.value)
    assert read_record() is None


def test_an_engine_that_never_gets_healthy_is_given_up(engine: Callable[[str], ServerSpec]) -> None:
    spec = engine("import time; time.sleep(600)")
    hasty = ServerSpec(spec.model, spec.folder, spec.profile, port=spec.port, health_timeout_s=0.5)
    with pytest.raises(CannotJudge, match=r"not healthy after 0 s|not healthy after 1 s"):
        start(hasty, quiet)
    assert read_record() is None


def test_a_second_server_on_a_port_is_refused_while_the_first_lives(engine: Callable[[str], ServerSpec]) -> None:
    spec = engine(ENGINE)
    me = psutil.Process()
    write_record(
        ServerRecord(
            pid=me.pid, created_s=me.create_time(), base_url=spec.base_url, model="tiny", profile="cpu", log_path="l"
        )
    )
    said = rf"--port {spec.port}: tiny already runs at .* \(pid {me.pid}\): use it, end it with .* --port {spec.port}`"
    with pytest.raises(BadInput, match=said):
        start(spec, quiet)


def test_a_taken_port_is_refused_and_names_its_holder() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(BadInput, match=rf"--port {port}: is taken by .* \(pid {os.getpid()}\); choose another"):
            refuse_taken_port("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(BadInput, match=r"--host 192\.0\.2\.1: cannot be bound .*; 127\.0\.0\.1 always can"):
        refuse_taken_port("192.0.2.1", 8000)


def test_the_engine_is_started_by_module_on_loopback_with_the_profiles_arguments() -> None:
    spec = ServerSpec("tiny", Path("/models/tiny"), Profile("cpu", ("--dtype", "float32"), {}))
    line = command(spec)
    assert line[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert line[line.index("--host") + 1] == "127.0.0.1"
    assert line[-2:] == ["--dtype", "float32"]


LOG = """\
(APIServer pid=1) INFO 11-22 14:20:42 [api.py:1] Starting to load model
(EngineCore pid=2) ERROR 11-22 14:21:15 [core.py:842] Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-22 14:21:15 [core.py:842]   File "x.py", line 3, in load
(EngineCore pid=2) ERROR 11-22 14:21:15 [core.py:842] ValueError: requested memory (9.0 GiB) is more than is free
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
"""


def test_the_reason_is_found_among_stack_frames_and_empty_summaries() -> None:
    assert error_lines(LOG) == ["ValueError: requested memory (9.0 GiB) is more than is free"]


def test_a_log_without_error_lines_gives_its_last_lines_and_an_empty_one_none() -> None:
    assert error_lines("one\ntwo\nIllegal instruction\n", limit=2) == ["two", "Illegal instruction"]
    assert error_lines("\n") == []


def test_the_phase_is_the_latest_mark_in_the_log() -> None:
    assert phase("") == "importing vLLM"
    assert phase(LOG) == "loading weights"
    assert phase(LOG + "Application startup complete") == "answering"
