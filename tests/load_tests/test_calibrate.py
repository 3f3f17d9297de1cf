"""Calibration: errors worked out by hand, how far they hold, and what later runs are told."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from common.console import BadInput, CannotJudge
from load_tests.calibrate import (
    Calibration,
    calibrate,
    calibration_path,
    error_bars,
    last_calibration,
    step_of,
    store,
)
from load_tests.calibrate_command import (
    as_json,
    calibrate_machine,
    print_calibration,
    simulator_process,
    summary,
)
from load_tests.rows import LoadRows
from load_tests.sse import Status
from serving.endpoint import Endpoint
from serving.simulator import SimulatorSettings
from tests.load_tests.made_load import NS, made_record, made_rows

ROOT = Path(__file__).parents[2]
HOST = "this-machine"
MS = 1e-3


def stamped(n: int, error_s: float, rate: float = 10.0, **changes: Any) -> LoadRows:
    """Requests whose first chunk is stamped `error_s` late, and whose later chunks are exact."""
    lag_s = [error_s, 0.0, 0.0, 0.0]
    return made_rows(
        [made_record(i, sent_ns=round(i / rate * NS), lag_s=lag_s, **changes) for i in range(n)], stop_s=n / rate
    )


def made_calibration(*errors_ms: float) -> Calibration:
    """One step per error: 10, 20, 30, ... requests/s."""
    errors = iter(errors_ms)
    return calibrate(
        lambda _rate: stamped(200, next(errors) * MS),
        [10.0 * (i + 1) for i in range(len(errors_ms))],
        ttft_s=0.05,
        itl_s=0.01,
        output_tokens=4,
        hostname=HOST,
        environment={"hardware": "2 cores"},
    )


@pytest.fixture(autouse=True)
def own_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_errors_of_one_rate_are_as_worked_out_by_hand() -> None:
    records = [
        made_record(0, lag_s=[0.004, 0.001, 0.001, 0.003], ttft_s=0.051, intended_ns=-2_000_000),
        made_record(1, lag_s=[0.002, 0.002, 0.002, 0.002], ttft_s=0.053),
    ]
    step = step_of(1.0, made_rows(records, stop_s=2.0), ttft_s=0.05)
    assert (step.ttft_error.n, step.ttft_error.p99_s) == (2, None)
    assert step.ttft_error.mean_s == pytest.approx(0.003)
    assert step.ttft_over_nominal.mean_s == pytest.approx(0.002)
    # |1-4|, |1-1|, |3-1| and three times nothing, in milliseconds.
    assert step.itl_error.n == 6
    assert step.itl_error.mean_s == pytest.approx(5 * MS / 6)
    assert step.scheduling_lag.mean_s == pytest.approx(0.001)
    # 8 chunks from 0 s to the end of the second request at 1 s + 53 ms + 3 gaps.
    assert step.chunks_per_s == pytest.approx(8 / 1.083)
    assert step.whole


def test_a_p99_needs_a_hundred_samples() -> None:
    assert step_of(1.0, stamped(99, 0.001), 0.05).ttft_error.p99_s is None
    assert step_of(1.0, stamped(100, 0.001), 0.05).ttft_error.p99_s == pytest.approx(0.001)


def test_a_rate_holds_only_while_all_lower_ones_do() -> None:
    assert made_calibration(0.2, 0.9, 1.1, 0.5).holds_until_per_s("p50_s") == 20.0
    few = made_calibration(0.2, 0.9, 1.1)
    unknown = few.steps[0].ttft_error.model_copy(update={"p99_s": None})
    steps = (few.steps[0].model_copy(update={"ttft_error": unknown}), *few.steps[1:])
    assert few.model_copy(update={"steps": steps}).holds_until_per_s("p99_s") == 20.0
    assert few.model_copy(update={"steps": steps[:1]}).holds_until_per_s("p99_s") is None
    assert made_calibration(1.0, 0.2).holds_until_per_s("p99_s") is None, "a millisecond is not under a millisecond"


def test_the_first_rate_that_loses_requests_is_the_last_and_does_not_hold() -> None:
    answered = stamped(150, 0.0002)
    failed = made_record(150, status=Status.TIMEOUT, ttft_s=None, itl_s=[], sent_ns=15 * NS)
    broken = made_rows([*answered.records, failed], stop_s=16.0)
    runs = iter([answered, broken, answered])
    found = calibrate(
        lambda _rate: next(runs),
        [30.0, 10.0, 20.0],
        ttft_s=0.05,
        itl_s=0.01,
        output_tokens=4,
        hostname=HOST,
        environment={},
    )
    assert [step.rate_per_s for step in found.steps] == [10.0, 20.0]
    assert found.holds_until_per_s("p50_s") == 10.0


def test_rows_that_were_lost_or_never_sent_count_as_unanswered() -> None:
    rows = stamped(150, 0.0002)
    end = rows.ends[0]
    assert end is not None
    lost = LoadRows(rows.starts, rows.records[:-1], (end,))
    assert not step_of(10.0, lost, 0.05).whole
    unsent = LoadRows((replace(rows.starts[0], scheduled=151),), rows.records, rows.ends)
    assert not step_of(10.0, unsent, 0.05).whole


def test_a_server_without_stamps_and_one_without_answers_are_told_apart() -> None:
    with pytest.raises(CannotJudge, match="carry no stamps"):
        step_of(1.0, made_rows([made_record(0)]), 0.05)
    refused = made_record(0, status=Status.CONNECTION, error="refused", ttft_s=None, itl_s=[])
    with pytest.raises(CannotJudge, match="no request was answered: refused"):
        step_of(1.0, made_rows([refused]), 0.05)


def test_a_later_run_is_told_the_errors_at_the_next_measured_rate_and_their_age() -> None:
    found = made_calibration(0.2, 0.4, 1.5)
    now = found.measured_at + timedelta(days=3)
    bars = error_bars(found, 15.0, now)
    assert (bars["rate_per_s"], bars["n"], bars["age_days"]) == (20.0, 200, 3.0)
    assert bars["ttft_error_p50_s"] == pytest.approx(0.4 * MS)
    assert bars["holds_until_per_s_p99"] == 20.0
    assert error_bars(found, 31.0, now)["rate_per_s"] is None, "no error bar is made up beyond what was measured"
    assert "3.0 days ago" in " ".join(summary(found, now))


def test_what_was_stored_is_read_back_on_this_machine_alone() -> None:
    assert last_calibration(HOST) is None
    found = made_calibration(0.2, 0.4)
    assert store(found) == calibration_path()
    assert last_calibration(HOST) == found
    assert last_calibration("another-machine") is None
    assert store(made_calibration(0.3)).is_file(), "a new one takes the old one's place"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": []}', "\x00"])
def test_a_damaged_file_is_no_calibration(text: str) -> None:
    store(made_calibration(0.2))
    calibration_path().write_text(text, "utf8")
    assert last_calibration(HOST) is None


def test_the_table_tells_that_the_server_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    found = made_calibration(0.2, 1.5)
    print_calibration(found)
    told = capsys.readouterr().err
    assert "SIMULATED" in told
    assert "up to 10 requests/s" in told
    assert json.loads(as_json(found))["holds_until_per_s_p50"] == 10.0


def test_rates_and_durations_that_cannot_be_are_refused(tmp_path: Path) -> None:
    def never(_endpoint: Endpoint, _profile: Path, _folder: Path) -> LoadRows:
        raise AssertionError("nothing may be run")

    for rates, duration_s, named in [((), 1, "--rate"), ((0.0,), 1, "--rate"), ((1.0,), 0, "--duration-s")]:
        with pytest.raises(BadInput, match=named):
            calibrate_machine(never, tmp_path / "out", rates, duration_s)


@pytest.mark.slow
def test_every_rate_is_run_against_a_simulator_of_its_own_that_ends_with_it(tmp_path: Path) -> None:
    seen: list[tuple[str, float, bool]] = []

    def run(endpoint: Endpoint, profile: Path, folder: Path) -> LoadRows:
        asked = yaml.safe_load(profile.read_text("utf8"))
        seen.append((endpoint.base_url, asked["arrivals"]["rate_per_s"], endpoint.simulated))
        assert not folder.exists()
        return stamped(120, 0.0002)

    found = calibrate_machine(run, tmp_path / "out", (20.0, 10.0), 1)
    assert [(rate, simulated) for _, rate, simulated in seen] == [(10.0, True), (20.0, True)]
    assert found.environment["hardware"]
    host, port = seen[0][0].removeprefix("http://").removesuffix("/v1").split(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0, "the simulator still listens"


@pytest.mark.slow
@pytest.mark.slow
def test_the_simulator_ends_also_when_its_caller_is_killed() -> None:
    told = (
        "from load_tests.calibrate_command import simulator_process\n"
        "from serving.simulator import SimulatorSettings\nimport time\n"
        "with simulator_process(SimulatorSettings()) as url:\n    print(url, flush=True)\n    time.sleep(60)\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", told], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert caller.stdout
    assert caller.stdout.readline().startswith("http://127.0.0.1:")
    simulators = psutil.Process(caller.pid).children()
    assert len(simulators) == 1
    caller.kill()
    caller.communicate(timeout=10)
    assert psutil.wait_procs(simulators, timeout=10)[1] == []


def test_the_simulator_ends_also_when_the_run_fails() -> None:
    with pytest.raises(RuntimeError), simulator_process(SimulatorSettings()) as url:
        raise RuntimeError
    port = int(url.removesuffix("/v1").rsplit(":", 1)[1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_age_is_counted_from_the_measurement() -> None:
    found = made_calibration(0.2)
    assert 0 <= found.age_days(datetime.now(UTC)) < 1
