"""The demo stops at the first step that fails, says which and what to do, and ends the server it started."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from common.console import CannotJudge
from examples import demo
from serving.state import ServerRecord, write_record


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_a_step_that_fails_stops_the_demo_says_which_and_what_to_do_and_ends_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[tuple[str, ...]] = []

    def command(*words: str, **_: str | None) -> int:
        ran.append(words)
        return 3 if words[0] == "evals" else 0

    monkeypatch.setattr(demo, "command", command)
    with pytest.raises(CannotJudge, match=r"stopped at step 3 of 4, a small evaluation.* \(exit code 3\): what was"):
        demo.main()
    assert [words[:2] for words in ran] == [
        ("serving", "start"),
        ("agents", "run"),
        ("evals", "run"),
        ("serving", "stop"),
    ]


def test_a_server_that_cannot_start_stops_the_demo_at_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "command", lambda *_, **__: 2)
    with pytest.raises(CannotJudge, match="stopped at step 1 of 4, the server"):
        demo.main()


def test_a_server_that_runs_already_is_used_and_left_running(
    monkeypatch: pytest.MonkeyPatch, start_simulator: Callable[..., str]
) -> None:
    created_s = psutil.Process().create_time()
    url = start_simulator()
    write_record(
        ServerRecord(pid=os.getpid(), created_s=created_s, base_url=url, model="m", profile="cpu", log_path="l")
    )
    ran: list[str] = []

    def command(*words: str, **_: str | None) -> int:
        ran.append(words[0])
        return 0

    monkeypatch.setattr(demo, "command", command)
    demo.main()
    assert ran == ["agents", "evals", "load_tests"]


@pytest.mark.slow
def test_the_demos_commands_do_not_see_the_users_own_endpoint_and_key(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert demo.command("agents", "run", "examples/pipelines.yaml") == 3
    assert "no endpoint is known" in capfd.readouterr().err


def test_the_small_evaluation_is_at_least_two_prompts_on_24_cases() -> None:
    suite = yaml.safe_load((demo.REPOSITORY / "examples" / "suite.yaml").read_text("utf8"))
    assert len(suite["prompts"]) >= 2
    assert suite["cases"]["count"] >= 24
