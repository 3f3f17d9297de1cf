"""`python -m serving` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from common import console
from serving.__main__ import app
from serving.state import ServerRecord, read_records, write_record

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def serving(tmp_path: Path) -> list[str]:
    """The command, with a state and a cache of its own."""
    return ["env", f"XDG_STATE_HOME={tmp_path}", f"XDG_CACHE_HOME={tmp_path}", sys.executable, "-m", "serving"]


def run(serving: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*serving, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_models_lists_the_catalogue_as_json_and_nothing_else_on_stdout(serving: list[str]) -> None:
    done = run(serving, "models", "--json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0
    assert [row["name"] for row in rows] == [
        "smollm2-135m-instruct",
        "qwen2.5-0.5b-instruct",
        "qwen2.5-coder-1.5b-instruct",
    ]
    assert not any(row["cached"] for row in rows)


@pytest.mark.slow
def test_status_and_stop_say_what_to_do_when_nothing_runs(serving: list[str]) -> None:
    status = run(serving, "status")
    assert status.returncode == 3
    assert "start one with `python -m serving start --background`" in status.stderr
    assert json.loads(run(serving, "status", "--json").stdout) == {"state": "down", "servers": []}
    assert run(serving, "stop").returncode == 0


@pytest.fixture
def two_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_simulator: Callable[..., str]) -> list[int]:
    """Two recorded servers, the second of which has ended; gives their ports. What ends by name here is never us."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("serving.vllm_server._family", lambda record: [])
    up = start_simulator()
    created_s = psutil.Process().create_time()
    records = [
        ServerRecord(pid=os.getpid(), created_s=created, base_url=url, model=model, profile="cpu", log_path="log")
        for created, url, model in (
            (created_s, up, "alive"),
            (created_s - 3600, "http://127.0.0.1:65535/v1", "dead"),
        )
    ]
    for record in records:
        write_record(record)
    return [record.port for record in records]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["serving", *arguments])
    with pytest.raises(SystemExit) as ended:
        console.run(app)
    return ended.value.code


def test_status_tells_every_recorded_server_and_fails_when_one_is_not_up(
    two_servers: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "status") == 3
    shown = capsys.readouterr().err
    assert f"up: alive at http://127.0.0.1:{two_servers[0]}/v1" in shown
    assert "down: dead at http://127.0.0.1:65535/v1" in shown
    assert command(monkeypatch, "status", "--json") == 3
    told = json.loads(capsys.readouterr().out)
    assert [(server["model"], server["state"]) for server in told["servers"]] == [("alive", "up"), ("dead", "down")]
    assert (told["state"], told["model"]) == ("up", "alive")
    assert command(monkeypatch, "status", "--port", str(two_servers[0])) == 0
    assert command(monkeypatch, "status", "--port", "1") == 3
    assert "no endpoint is recorded on port 1; start one with" in capsys.readouterr().err


def test_stop_ends_the_one_on_the_port_or_all(
    two_servers: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "stop", "--port", "1") == 0
    assert "nothing to stop: no endpoint is recorded on port 1" in capsys.readouterr().err
    assert command(monkeypatch, "stop", "--port", str(two_servers[0])) == 0
    assert [record.model for record in read_records()] == ["dead"]
    assert command(monkeypatch, "stop") == 0
    assert "dead at http://127.0.0.1:65535/v1" in capsys.readouterr().err
    assert read_records() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["start", "--model", "gpt"], "error: --model: 'gpt' is not known; known: smollm2-135m-instruct"),
        (["start", "--model", "./nowhere"], "error: --model: ./nowhere holds no config.json"),
        (["start", "--profile", "tpu"], "error: --profile: found 'tpu'; allowed: auto, cpu, gpu"),
        (["start", "--host", "192.0.2.1"], "error: --host 192.0.2.1: cannot be bound"),
        (["sim", "--ttft-ms", "-1"], "error: --ttft-ms: found -1"),
        (["sim", "--output-tokens", "0"], "error: --output-tokens: found 0"),
    ],
)
def test_bad_options_get_one_line_and_exit_code_2(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert shown.count("\n") == 1


@pytest.mark.slow
def test_a_bad_option_gets_the_same_as_a_command(serving: list[str]) -> None:
    done = run(serving, "start", "--model", "gpt")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: --model: 'gpt' is not known; known: smollm2-135m-instruct")


@pytest.mark.slow
def test_the_simulator_says_what_it_is_serves_and_ends_on_an_interrupt(serving: list[str]) -> None:
    port_free = ["sim", "--port", "18391", "--ttft-ms", "1", "--itl-ms", "0"]
    with subprocess.Popen(
        [*serving, *port_free], cwd=REPOSITORY, env=dict(os.environ), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        assert "SIMULATOR (no model, answers are made up) at http://127.0.0.1:18391/v1" in process.stderr.readline()
        with urllib.request.urlopen("http://127.0.0.1:18391/health", timeout=5) as answer:
            assert answer.status == 200
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) in {0, 130}
        assert time.monotonic() - began < 10
