"""The sender as a process against the real simulator: nothing that was sent lacks its row, on the schedule's times."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvloop

from common.console import CannotJudge, shorten
from load_tests.arrivals import Poisson, schedule
from load_tests.dispatch import without_key
from load_tests.profiles import ROOT, load_profile
from load_tests.rows import LoadRows, read_run
from load_tests.sse import RawStream, Status
from load_tests.stolen_time import stolen_share
from load_tests.warm_up import warm_up
from load_tests.wire import Wire
from load_tests.workload import plan_load
from serving.alarm import Alarm, SpinAlarm, TimerAlarm
from serving.endpoint import connect
from serving.simulator import Fault, SimulatorSettings
from tests.load_tests.made_load import made_record

Start = Callable[..., str]
OPEN = {"kind": "poisson", "rate_per_s": 40}
CLOSED = {"kind": "closed", "users": 2}
SYNTHETIC = {"kind": "synthetic", "prompt_tokens": 8, "output_tokens": 4}


class Sender:
    """A sender process and what it said."""

    def __init__(self, folder: Path, base_url: str, worker: int, workers: int, profile: dict[str, Any]) -> None:
        values = {"name": "t", "arrivals": OPEN, "duration_s": 1, "drain_s": 5, "workload": SYNTHETIC} | profile
        folder.mkdir(exist_ok=True)
        (folder / "load.yaml").write_text(json.dumps(values))
        self.folder = folder
        environment = {
            "OPENAI_BASE_URL": base_url,
            "OPENAI_API_KEY": "sk-secret-123",
            "PLUMBLINE_LOAD_PROFILE": str(folder / "load.yaml"),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "load_tests.sender"],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.order(prepare=True, worker=worker, workers=workers, rows=str(self.rows_of(worker)), client="test 1")

    def rows_of(self, worker: int) -> Path:
        return self.folder / f"rows-{worker}.jsonl"

    def order(self, **fields: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(fields) + "\n")
        self.process.stdin.flush()

    def line(self) -> dict[str, Any]:
        assert self.process.stdout
        found: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        return found

    def end(self) -> list[dict[str, Any]]:
        """What it says until it ends, which it must do with status 0."""
        assert self.process.stdout
        said = [json.loads(line) for line in self.process.stdout]
        assert self.process.wait(20) == 0
        return said


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Sender]]:
    """Call with a base URL and fields of the profile; each sender is gone when the test ends."""
    running: list[Sender] = []

    def start(base_url: str, worker: int = 0, workers: int = 1, **profile: Any) -> Sender:
        running.append(Sender(tmp_path / "run", base_url, worker, workers, profile))
        return running[-1]

    yield start
    for sender in running:
        sender.process.kill()
        sender.process.wait()


Begin = Callable[..., Sender]


def run(*senders: Sender) -> LoadRows:
    """Start an open loop on all of them and wait for the end."""
    assert [sender.line() for sender in senders] == [{"kind": "ready"}] * len(senders)
    at_s = time.time() + 0.2
    for sender in senders:
        sender.order(start_at_s=at_s)
    for sender in senders:
        sender.end()
    return read_run(senders[0].folder)


@pytest.mark.slow
def test_open_loop_sends_exactly_its_schedule_and_never_early(start_simulator: Start, begin: Begin) -> None:
    rows = run(begin(start_simulator(ttft_ms=5, itl_ms=1), seed=3))
    due_ns = schedule(Poisson(rate_per_s=40), 1, 3)
    assert [record.intended_ns for record in rows.records] == due_ns.tolist()
    assert [record.index for record in rows.records] == list(range(len(due_ns)))
    assert all(record.scheduling_lag_s >= 0 for record in rows.records)
    assert {record.status for record in rows.records} == {Status.OK}
    assert (rows.lost, rows.unsent) == (0, 0)
    assert rows.ends[0] is not None
    assert rows.ends[0].stop_ns == 1_000_000_000
    assert all(record.output_tokens == record.content_chunks == 4 for record in rows.records)


@pytest.mark.slow
def test_open_loop_does_not_wait_for_answers(start_simulator: Start, begin: Begin) -> None:
    """Each answer takes 0.6 s; one request at a time would send two in the second."""
    rows = run(begin(start_simulator(ttft_ms=600, itl_ms=0)))
    assert rows.unsent == 0
    assert max(record.scheduling_lag_s for record in rows.records) < 0.3


@pytest.mark.slow
def test_two_workers_send_what_one_does(start_simulator: Start, begin: Begin) -> None:
    base_url = start_simulator(ttft_ms=5, itl_ms=1)
    rows = run(begin(base_url, 0, 2), begin(base_url, 1, 2))
    assert [record.intended_ns for record in rows.records] == schedule(Poisson(rate_per_s=40), 1, 0).tolist()
    assert {record.worker for record in rows.records} == {0, 1}
    assert (rows.lost, rows.unsent) == (0, 0)


@pytest.mark.slow
def test_every_request_is_told_once_and_the_count_at_the_end(start_simulator: Start, begin: Begin) -> None:
    sender = begin(start_simulator(ttft_ms=1, itl_ms=1, fault=Fault.HTTP_500, fault_rate=0.5))
    sender.line()
    sender.order(start_at_s=time.time())
    *told, end = sender.end()
    records = read_run(sender.folder).records
    assert (end["kind"], end["sent"], end["rows"]) == ("end", len(records), len(records))
    assert [line["kind"] for line in told] == ["request"] * len(records)
    failed = [line["error"] for line in told if line["error"]]
    assert 0 < len(failed) == sum(record.status is Status.SERVER_ERROR for record in records) < len(records)
    assert failed[0].startswith("server_error: HTTP 500")


@pytest.mark.slow
def test_users_come_and_go_and_think(start_simulator: Start, begin: Begin) -> None:
    arrivals = CLOSED | {"think_time_s": 0.05}
    sender = begin(start_simulator(ttft_ms=20, itl_ms=1), 1, 3, arrivals=arrivals)
    sender.line()
    sender.order(start_at_s=time.time())
    for users in (2, 0, 1):
        sender.order(users=users)
        time.sleep(0.4)
    sender.order(stop=True)
    sender.order(users=5)
    sender.end()
    records = read_run(sender.folder).records
    by_user = {user: [r for r in records if r.user == user] for user in (1, 4, 7)}
    # n-th of this worker * 3 + 1: a number is never given twice.
    assert {record.user for record in records} == {1, 4, 7}
    assert [record.index for record in records] == [3 * place + 1 for place in range(len(records))]
    for own in by_user.values():
        assert len(own) > 1
        for before, after in pairwise(own):
            assert after.intended_ns == before.ended_ns + 50_000_000
    left_ns = max(record.sent_ns for record in by_user[1] + by_user[4])
    assert min(record.sent_ns for record in by_user[7]) > left_ns


@pytest.mark.slow
def test_user_of_a_server_that_fails_at_once_does_not_hammer_it(start_simulator: Start, begin: Begin) -> None:
    sender = begin(start_simulator(fault=Fault.HTTP_429), arrivals=CLOSED)
    sender.line()
    sender.order(start_at_s=time.time())
    sender.order(users=1)
    time.sleep(0.55)
    sender.order(stop=True)
    sender.end()
    assert 3 <= len(read_run(sender.folder).records) <= 7


@pytest.mark.slow
def test_stop_lets_answers_end_and_the_drain_cuts_the_rest(start_simulator: Start, begin: Begin) -> None:
    sender = begin(start_simulator(ttft_ms=20, itl_ms=5_000), arrivals=CLOSED, drain_s=1)
    sender.line()
    sender.order(start_at_s=time.time())
    sender.order(users=2)
    time.sleep(0.3)
    sender.order(stop=True)
    sender.end()
    rows = read_run(sender.folder)
    assert [record.status for record in rows.records] == [Status.INCOMPLETE] * 2
    assert all(record.ttft_s is not None for record in rows.records)
    assert rows.ends[0] is not None
    assert (rows.ends[0].end_ns - rows.ends[0].stop_ns) / 1e9 == pytest.approx(1.0, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("loop", [OPEN, CLOSED])
def test_end_of_orders_cuts_at_once_and_loses_nothing(
    start_simulator: Start, begin: Begin, loop: dict[str, Any]
) -> None:
    sender = begin(start_simulator(ttft_ms=20, itl_ms=5_000), arrivals=loop, duration_s=30)
    sender.line()
    sender.order(start_at_s=time.time())
    sender.order(users=2)
    time.sleep(0.3)
    assert sender.process.stdin
    sender.process.stdin.close()
    asked = time.monotonic()
    sender.end()
    assert time.monotonic() - asked < 3
    rows = read_run(sender.folder)
    assert {record.status for record in rows.records} == {Status.INCOMPLETE}
    assert rows.lost == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["end", "stop", "term"])
def test_ends_before_the_start_when_it_is_told_to(start_simulator: Start, begin: Begin, how: str) -> None:
    sender = begin(start_simulator())
    sender.line()
    if how == "stop":
        sender.order(stop=True)
    elif how == "term":
        sender.process.terminate()
    else:
        assert sender.process.stdin
        sender.process.stdin.close()
    assert sender.end() == []


@pytest.mark.slow
def test_reader_that_does_not_read_keeps_nothing_waiting(start_simulator: Start, begin: Begin) -> None:
    """More lines than a pipe holds (64 KiB): the last request must not have been sent late."""
    sender = begin(
        start_simulator(ttft_ms=0, itl_ms=0),
        arrivals={"kind": "constant", "rate_per_s": 300},
        duration_s=3,
        workload=SYNTHETIC | {"output_tokens": 1},
    )
    sender.line()
    sender.order(start_at_s=time.time())
    for _ in range(100):
        time.sleep(0.1)
        if sender.rows_of(0).read_bytes().count(b"\n") >= 902:
            break
    assert read_run(sender.folder).unsent == 0
    assert len(sender.end()) == 901


@pytest.mark.slow
def test_what_cannot_be_prepared_is_said_in_one_line_with_its_status(tmp_path: Path, begin: Begin) -> None:
    sender = begin("http://127.0.0.1:9/v1")
    assert sender.process.wait(20) == 3
    assert sender.process.stderr
    said = sender.process.stderr.read()
    assert said.startswith("error: ")
    assert "sk-secret" not in said
    sender = begin("http://127.0.0.1:9/v1", duration_s=0)
    assert sender.process.wait(20) == 2


@pytest.mark.slow
def test_requests_are_cancelled_where_the_profile_has_it(start_simulator: Start, begin: Begin) -> None:
    rows = run(begin(start_simulator(ttft_ms=5, itl_ms=20), cancel_after_chunks=2))
    assert {record.status for record in rows.records} == {Status.CANCELLED}
    assert all(record.content_chunks >= 2 for record in rows.records)


@pytest.mark.slow
def test_disk_that_is_full_ends_the_test_with_a_reason(start_simulator: Start, begin: Begin) -> None:
    sender = begin(start_simulator(ttft_ms=1, itl_ms=0), duration_s=30)
    sender.line()
    resource.prlimit(sender.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    sender.order(start_at_s=time.time())
    assert sender.process.wait(20) == 3
    assert sender.process.stderr
    assert "cannot be written" in sender.process.stderr.read()


@pytest.mark.slow
def test_rows_of_two_tests_never_share_a_file(start_simulator: Start, begin: Begin) -> None:
    base_url = start_simulator(ttft_ms=1, itl_ms=0)
    run(begin(base_url))
    again = begin(base_url)
    assert again.process.wait(20) == 2


@pytest.mark.slow
def test_answers_are_held_against_their_schema_and_scored(start_simulator: Start, begin: Begin) -> None:
    cases = {"kind": "agents", "cases": {"count": 6}, "score": True}
    rows = run(begin(start_simulator(ttft_ms=1, itl_ms=0), workload=cases))
    assert {record.schema_valid for record in rows.records} == {True}
    scored = [record.headline for record in rows.records]
    assert all(value is not None and 0 <= value <= 1 for value in scored)
    assert rows.lost == 0


@pytest.mark.slow
def test_wrong_answers_are_counted_as_answers_that_do_not_fit(start_simulator: Start, begin: Begin) -> None:
    asked = {"kind": "agents", "pipelines": "examples/pipelines.yaml"}
    rows = run(begin(start_simulator(ttft_ms=1, itl_ms=0, fault=Fault.WRONG_SCHEMA, fault_rate=0.5), workload=asked))
    assert {record.schema_valid for record in rows.records} == {True, False}
    assert {record.headline for record in rows.records} == {None}


@pytest.mark.slow
def test_frozen_server_raises_latency_from_intended_start_by_the_freeze(begin: Begin) -> None:
    """A client that waits for answers asks a frozen server nothing, and so hides the freeze; a schedule does not."""
    with simulator_process(SimulatorSettings(ttft_ms=5, itl_ms=0, output_tokens=4)) as (base_url, server):
        sender = begin(base_url, arrivals={"kind": "constant", "rate_per_s": 50}, duration_s=5)
        sender.line()
        sender.order(start_at_s=time.time())
        time.sleep(1.5)
        server.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        time.sleep(2)
        server.send_signal(signal.SIGCONT)
        frozen_s = time.monotonic() - frozen
        sender.end()
    rows = read_run(sender.folder)
    assert (rows.unsent, rows.lost, len(rows.records)) == (0, 0, 250)
    found = sorted(record.ttft_from_intended_s or 0.0 for record in rows.records)
    # One more each 20 ms of the freeze, the first of them waiting for all of it: the third longest is near p99 of 250.
    assert found[-3] == pytest.approx(frozen_s - 2.5 / 50 + 0.005, rel=0.05)
    # More are late than came in the freeze, since the server then has to work off what waited.
    assert sum(value > frozen_s / 2 for value in found) >= frozen_s / 2 * 50 - 3


@contextmanager
def simulator_process(settings: SimulatorSettings) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A simulator in a process of its own, which can be stopped and continued."""
    times = f"ttft_ms={settings.ttft_ms}, itl_ms={settings.itl_ms}, output_tokens={settings.output_tokens}"
    code = (
        "from serving.simulator import SimulatorSettings, serve\n"
        f"serve(SimulatorSettings({times}), '127.0.0.1', 0, lambda url: print(url, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield server.stdout.readline().strip(), server
        finally:
            server.kill()


def profile_of(folder: Path, **values: Any) -> Path:
    path = folder / "load.yaml"
    asked = {"name": "t", "arrivals": OPEN, "duration_s": 1, "workload": SYNTHETIC}
    path.write_text(json.dumps(asked | values))
    return path


def test_endpoint_that_fails_every_warm_up_is_not_load_tested(start_simulator: Start, tmp_path: Path) -> None:
    asked = {"kind": "agents", "pipelines": "examples/pipelines.yaml"}
    profile = load_profile(profile_of(tmp_path, workload=asked))
    plan = plan_load(profile, connect(start_simulator(fault=Fault.HTTP_500)))
    with pytest.raises(CannotJudge, match="no warm-up request succeeded: server_error: HTTP 500"):
        warm_up(plan)


def test_warm_up_asks_once_per_stage(start_simulator: Start, tmp_path: Path) -> None:
    asked = {"kind": "agents", "pipelines": "examples/pipelines.yaml"}
    plan = plan_load(load_profile(profile_of(tmp_path, workload=asked)), connect(start_simulator(ttft_ms=0, itl_ms=0)))
    assert sorted(record.stage for record in warm_up(plan)) == ["infrastructure", "ingestion", "quality"]


def test_key_that_a_server_quotes_does_not_get_into_a_row() -> None:
    quoted = made_record(0, error="HTTP 401: wrong key sk-secret-123")
    assert without_key(quoted, "sk-secret-123").error == "HTTP 401: wrong key ***"


def test_key_that_was_cut_with_the_error_is_not_left_in_part() -> None:
    key = "sk-" + "a1b2c3d4" * 40
    quoted = made_record(0, error=shorten(f"HTTP 401: wrong key {key}, said the server"))
    assert "sk-a" in quoted.error
    assert without_key(quoted, key).error == "HTTP 401: wrong key ***…"
    assert without_key(made_record(0, error="sketchy…"), "sk-secret").error == "sketchy…"


def test_warm_up_that_is_stopped_ends_as_stopped(start_simulator: Start) -> None:
    async def stopped() -> None:
        wire = Wire(connect(start_simulator(fault=Fault.NO_ANSWER)), request_timeout_s=60)
        try:
            await asyncio.wait_for(wire.fill(RawStream(), b"{}"), 0.3)
        finally:
            wire.close()

    with pytest.raises(TimeoutError):
        uvloop.run(stopped())


def test_stolen_time_is_its_share_of_all_the_machines_time() -> None:
    """80 s of two cores passed between the readings, 8 s of them given to others; guests' time is in the user's."""
    Times = namedtuple("Times", ["user", "system", "idle", "steal", "guest"])
    before, after = Times(10, 5, 100, 1, 3), Times(40, 15, 132, 9, 20)
    assert stolen_share(before, after) == pytest.approx(0.1)
    Untold = namedtuple("Untold", ["user", "system", "idle"])
    assert stolen_share(Untold(0, 0, 0), Untold(1, 1, 1)) is None


def test_locusts_web_ui_stays_on_this_machine() -> None:
    """Its page has a field for the host, and whoever opens it could have our key sent anywhere."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
    assert settings["tool"]["locust"]["web-host"] == "127.0.0.1"


@contextmanager
def alarm_of(kind: Callable[[Callable[[], None]], Alarm], ring: Callable[[], None]) -> Iterator[Alarm]:
    alarm = kind(ring)
    yield alarm
    alarm.close()


@pytest.mark.parametrize("kind", [TimerAlarm, SpinAlarm])
@pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")
def test_alarm_never_rings_early_and_forgets_what_was_set_before(
    kind: Callable[[Callable[[], None]], Alarm],
) -> None:
    async def rung(*delays_ns: int) -> list[int]:
        rings: list[int] = []
        with alarm_of(kind, lambda: rings.append(time.perf_counter_ns())) as alarm:
            begun = time.perf_counter_ns()
            for delay_ns in delays_ns:
                alarm.set(begun + delay_ns)
            await asyncio.sleep(0.04)
        return [ring - begun for ring in rings]

    assert uvloop.run(rung(-5_000_000)) != []
    (once,) = uvloop.run(rung(200_000_000, 8_000_000))
    assert once >= 8_000_000
