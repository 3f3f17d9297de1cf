"""Locust around the senders: one process, forked workers, workers on their own; what ends a test and who is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from load_tests.arrivals import Poisson, schedule
from tests.load_tests.locust_process import (
    ROOT,
    free_port,
    headless,
    locust,
    of_kind,
    processes,
    rows,
    scripted,
    sending,
    until,
    words,
)

pytestmark = pytest.mark.slow
RATE_PER_S = 40


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def master_and_workers(folder: Path, count: int, env: dict[str, str]) -> list[subprocess.Popen[str]]:
    """Processes that know of each other by address only; the workers name no folder, as on another host."""
    port = str(free_port())
    bind = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
    master = headless(folder, "-u", str(count), "-r", "9", *bind, "--expect-workers", str(count), env=env)
    alone = {key: value for key, value in env.items() if key not in {"PLUMBLINE_LOAD_OUT", "SCRIPTED_FACTS"}}
    join = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
    return [master, *(locust(folder, *join, env=alone) for _ in range(count))]


def histograms(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "test-1" / "histograms.json").read_text())
    return found


def test_one_schedule_is_sent_once_by_one_process_by_forked_workers_and_by_workers_of_a_master(tmp_path: Path) -> None:
    merged = {}
    for name in ("one", "forked", "joined"):
        folder = tmp_path / name
        folder.mkdir()
        env = scripted(folder, rate_per_s=RATE_PER_S, seed=7)
        if name == "joined":
            started = master_and_workers(folder, 2, env)
        else:
            started = [headless(folder, "-u", "2", *(processes(2) if name == "forked" else []), env=env)]
        assert [ended(process)[0] for process in started] == [0] * len(started), words(folder)
        found = rows(folder / "test-1")
        due_ns = schedule(Poisson(rate_per_s=RATE_PER_S), 1.0, 7)
        requests = sorted(of_kind("request", found), key=lambda row: row["index"])
        assert [row["index"] for row in requests] == list(range(len(due_ns)))
        assert [row["intended_ns"] for row in requests] == due_ns.tolist()
        assert {start["workers"] for start in of_kind("start", found)} == {1 if name == "one" else 2}
        assert len({start["start_at_s"] for start in of_kind("start", found)}) == 1
        assert "TTFT from intended" in words(folder)
        merged[name] = histograms(folder)
    # The scripted latencies depend on the index alone.
    for metric in ("ttft", "itl", "e2e"):
        assert merged["one"][metric] == merged["forked"][metric] == merged["joined"][metric]
    assert merged["one"]["ttft_from_intended"]["sum_ns"] > merged["one"]["ttft"]["sum_ns"]


@pytest.mark.parametrize("workers", [1, 2])
def test_locust_counts_each_request_once_with_its_failures_by_class(tmp_path: Path, workers: int) -> None:
    env = scripted(tmp_path, rate_per_s=RATE_PER_S, fail=[3, 8, 9])
    forked = processes(workers) if workers > 1 else []
    process = headless(tmp_path, "-u", str(workers), *forked, env=env)
    status, said = ended(process)
    assert status == 0, words(tmp_path)
    (stats,) = json.loads(said.replace("[]\n", ""))  # forked workers print theirs too: nothing
    requests = of_kind("request", rows(tmp_path / "test-1"))
    assert (stats["name"], stats["num_requests"], stats["num_failures"]) == ("placement", len(requests), 3)
    assert histograms(tmp_path)["ttft"]["buckets"] != []
    assert sum(count for _, count in histograms(tmp_path)["ttft"]["buckets"]) == len(requests) - 3


def test_time_of_a_closed_loop_runs_from_its_start_and_locusts_users_are_the_senders(tmp_path: Path) -> None:
    env = scripted(tmp_path, loop="closed", duration_s=1)
    assert ended(headless(tmp_path, "-u", "5", "-r", "50", *processes(2), env=env))[0] == 0, words(tmp_path)
    found = rows(tmp_path / "test-1")
    assert all(end["stop_ns"] >= 1e9 for end in of_kind("end", found))
    users: dict[int, int] = {}
    for row in of_kind("request", found):
        users[row["worker"]] = max(users.get(row["worker"], 0), row["users"])
    assert sorted(users.values()) == [2, 3]


def test_killed_worker_is_told_and_the_test_is_not_judged(tmp_path: Path) -> None:
    env = scripted(tmp_path, rate_per_s=RATE_PER_S, duration_s=600)
    process = headless(tmp_path, "-u", "2", *processes(2), env=env)
    until(sending(tmp_path / "test-1"))
    workers = [child for child in psutil.Process(process.pid).children() if "locust" in child.cmdline()]
    senders = [sender for worker in workers for sender in worker.children()]
    assert (len(workers), len(senders)) == (2, 2)
    workers[1].kill()
    assert ended(process)[0] == 3
    assert "of 2 is gone" in words(tmp_path)
    _, alive = psutil.wait_procs([*workers, *senders], timeout=10)
    assert alive == []
    assert len(of_kind("end", rows(tmp_path / "test-1"))) == 1


def test_sender_that_dies_ends_the_test_at_once_and_is_told(tmp_path: Path) -> None:
    env = scripted(tmp_path, rate_per_s=RATE_PER_S, duration_s=600, die_after=3, die_worker=1)
    assert ended(headless(tmp_path, "-u", "2", *processes(2), env=env))[0] == 3
    assert "the sender of worker 1 ended with status 7" in words(tmp_path)
    assert len(of_kind("end", rows(tmp_path / "test-1"))) == 1


def test_sender_that_refuses_its_orders_starts_nothing(tmp_path: Path) -> None:
    assert ended(headless(tmp_path, env=scripted(tmp_path, refuse=True)))[0] == 3
    assert "error: load.yaml: seed: found -1" in words(tmp_path)
    assert rows(tmp_path / "test-1") == []


def test_worker_with_another_profile_is_refused(tmp_path: Path) -> None:
    env = scripted(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text("name: other\n")
    port = str(free_port())
    bind = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--expect-workers", "1"]
    master = headless(tmp_path, "-u", "1", *bind, env=env)
    join = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
    worker = locust(tmp_path, *join, env=env | {"PLUMBLINE_LOAD_PROFILE": str(other)})
    assert ended(master)[0] == 3
    ended(worker)
    assert "worker 0: has another profile" in words(tmp_path)
    assert of_kind("request", rows(tmp_path / "test-1")) == []


def test_worker_that_joins_during_a_closed_loop_ends_it_since_locust_moves_users_there(tmp_path: Path) -> None:
    env = scripted(tmp_path, loop="closed", duration_s=600)
    port = str(free_port())
    bind = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--expect-workers", "1"]
    join = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
    master = headless(tmp_path, "-u", "4", "-r", "50", *bind, env=env)
    first = locust(tmp_path, *join, env=env)
    until(users_are(4, tmp_path / "test-1"))
    late = locust(tmp_path, *join, env=env)
    assert [ended(process)[0] for process in (master, first, late)] == [3, 0, 0]
    assert "a worker joined during the test" in words(tmp_path)
    assert len(of_kind("end", rows(tmp_path / "test-1"))) == 1


@pytest.mark.parametrize("signalled", [signal.SIGTERM, signal.SIGINT])
def test_stopped_test_ends_in_order(tmp_path: Path, signalled: signal.Signals) -> None:
    env = scripted(tmp_path, rate_per_s=RATE_PER_S, duration_s=600)
    process = headless(tmp_path, "-u", "2", *processes(2), env=env)
    until(sending(tmp_path / "test-1"))
    process.send_signal(signalled)
    assert ended(process)[0] == 0, words(tmp_path)
    found = rows(tmp_path / "test-1")
    assert sum(end["sent"] for end in of_kind("end", found)) == len(of_kind("request", found))
    assert len(of_kind("end", found)) == 2


def test_sender_ends_when_locust_is_killed(tmp_path: Path) -> None:
    process = headless(tmp_path, env=scripted(tmp_path, rate_per_s=RATE_PER_S, duration_s=600))
    until(sending(tmp_path / "test-1"))
    senders = psutil.Process(process.pid).children()
    process.kill()
    ended(process)
    assert psutil.wait_procs(senders, timeout=10)[1] == []
    assert len(of_kind("hung_up", rows(tmp_path / "test-1"))) == 1


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_sender_that_does_not_end_is_cut_after_the_drain(tmp_path: Path, loop: str) -> None:
    env = scripted(tmp_path, loop=loop, rate_per_s=RATE_PER_S, drain_s=600)
    process = headless(tmp_path, env=env)
    assert ended(process)[0] == 3
    assert "before its end" in words(tmp_path)


class WebUi:
    """What a browser does."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self._base + path, timeout=30) as answer:
            return json.load(answer)

    def is_up(self) -> bool:
        try:
            return bool(self.get("/stats/requests"))
        except OSError:
            return False

    def post(self, path: str, **fields: int) -> None:
        form = urllib.parse.urlencode(fields).encode()
        with urllib.request.urlopen(self._base + path, form, timeout=60) as answer:
            assert json.load(answer)["success"]

    def swarm(self, users: int) -> None:
        self.post("/swarm", user_count=users, spawn_rate=50)

    def requests(self, name: str) -> int | None:
        counts = {entry["name"]: entry["num_requests"] for entry in self.get("/stats/requests")["stats"]}
        return counts.get(name)

    @property
    def state(self) -> str:
        return str(self.get("/stats/requests")["state"])


@pytest.mark.parametrize("workers", [1, 2])
def test_web_ui_starts_changes_users_stops_and_starts_again(tmp_path: Path, workers: int) -> None:
    env = scripted(tmp_path, loop="closed", duration_s=600)
    port = free_port()
    forked = processes(workers) if workers > 1 else []
    process = locust(tmp_path, "--web-host", "127.0.0.1", "--web-port", str(port), *forked, env=env)
    try:
        ui = WebUi(port)
        until(ui.is_up)
        if workers > 1:
            until(lambda: len(ui.get("/stats/requests")["workers"]) == workers)
        for number in (1, 2):
            folder = tmp_path / f"test-{number}"
            ui.swarm(4)
            until(users_are(4, folder))
            ui.swarm(6)
            until(users_are(6, folder))
            ui.swarm(2)
            until(users_are(2, folder))
            ui.post("/stop")
            until(ended_are(workers, folder))
            found = rows(folder)
            assert len(of_kind("end", found)) == workers
            until(counted_are(ui, len(of_kind("request", found))))
            assert (folder / "histograms.json").exists()
    finally:
        process.terminate()
        ended(process)


def ended_are(expected: int, folder: Path) -> Callable[[], bool]:
    """True once so many workers have ended."""
    return lambda: len(of_kind("end", rows(folder))) == expected


def counted_are(ui: WebUi, expected: int) -> Callable[[], bool]:
    """True once Locust shows so many requests and a stopped test; it keeps its page for two seconds."""
    return lambda: ui.requests("placement") == expected and ui.state == "stopped"


def users_are(expected: int, folder: Path) -> Callable[[], bool]:
    """True once the users in each worker's last row add up to so many."""

    def found() -> bool:
        last = {row["worker"]: row["users"] for row in of_kind("request", rows(folder))}
        return bool(sum(last.values()) == expected)

    return found


def test_locust_processes_import_neither_numpy_nor_mlflow() -> None:
    told = "import sys, load_tests.locustfile; print([n for n in ('numpy', 'pandas', 'mlflow') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", told], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr
