"""Our own command's way to run Locust; the plan is a stand-in, the senders are scripted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from load_tests import headless
from load_tests.arrivals import Closed, Poisson
from load_tests.headless import Ended, run_locust
from load_tests.live import LiveCount
from serving.endpoint import Endpoint
from tests.load_tests.locust_process import LOCUSTFILE, of_kind, rows

pytestmark = pytest.mark.slow


@dataclass
class Folder:
    """What run_locust needs of a RunFolder."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / "locust.log"

    def rows(self, worker: int) -> Path:
        return self.path / f"rows-{worker}.jsonl"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(headless, "LOCUSTFILE", LOCUSTFILE)
    return Folder(tmp_path)


def run(folder: Folder, monkeypatch: pytest.MonkeyPatch, arrivals: Any, processes: int = 1, **script: Any) -> Ended:
    loop = "closed" if isinstance(arrivals, Closed) else "open"
    monkeypatch.setenv("SCRIPT", json.dumps({"loop": loop, "duration_s": 1, **script}))
    profile = SimpleNamespace(name="test", arrivals=arrivals, duration_s=1, drain_s=3, seed=1, processes=processes)
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", SecretStr("sk-secret"))
    plan: Any = SimpleNamespace(profile=profile, endpoint=endpoint)
    path = folder.path / "load.yaml"
    path.write_text("name: test\n")
    where: Any = folder
    return run_locust(plan, path, where)


@pytest.mark.parametrize("processes", [1, 2])
def test_test_runs_to_its_end_and_the_key_is_in_no_file(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    assert run(folder, monkeypatch, Poisson(rate_per_s=20), processes, seed=1).whole
    found = rows(folder.path)
    assert len(of_kind("end", found)) == processes
    assert [row["worker"] for row in of_kind("start", found)] == list(range(processes))
    indexes = sorted(row["index"] for row in of_kind("request", found))
    assert indexes == list(range(len(indexes)))
    assert len(indexes) > 5
    assert not any("sk-secret" in path.read_text() for path in folder.path.iterdir())


def test_closed_loop_has_its_users_and_its_time(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(folder, monkeypatch, Closed(users=3, spawn_rate=100)).whole
    found = rows(folder.path)
    assert max(row["users"] for row in of_kind("request", found)) == 3
    assert of_kind("end", found)[0]["stop_ns"] >= 1e9


def test_failure_is_told_by_its_first_cause(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run(folder, monkeypatch, Poisson(rate_per_s=20), refuse=True)
    assert ended.problem.startswith("locust ended with status 3: load.yaml: seed: found -1; see ")
    assert ended.problem.endswith("locust.log")


def test_sender_that_dies_is_no_verdict(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = {"rate_per_s": 40, "duration_s": 600, "die_after": 3, "die_worker": 1}
    ended = run(folder, monkeypatch, Poisson(rate_per_s=40), 2, **dying)
    assert "the sender of worker 1 ended with status 7 before its end" in ended.problem
    assert not ended.stopped


def test_interrupted_test_ends_in_order(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(count: LiveCount) -> None:
        if len(of_kind("request", rows(folder.path))) > 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(LiveCount, "update", interrupt)
    assert run(folder, monkeypatch, Poisson(rate_per_s=20), 2, duration_s=600) == Ended(stopped=True)
    assert len(of_kind("end", rows(folder.path))) == 2


def test_slow_preparation_is_no_hang(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headless, "_SPARE_S", 0.0)  # one second of test and three of drain are over before it starts
    assert run(folder, monkeypatch, Poisson(rate_per_s=20), prepare_s=6).whole
    assert len(of_kind("end", rows(folder.path))) == 1


def test_test_that_hangs_is_ended_and_told(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headless, "_SPARE_S", -2.0)
    monkeypatch.setattr(headless, "PREPARE_LIMIT_S", 0.0)
    ended = run(folder, monkeypatch, Poisson(rate_per_s=20), prepare_s=60)
    assert "did not end" in ended.problem
