"""The command and plain Locust as a user runs them, against the simulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from load_tests.rows import read_rows
from load_tests.sse import Status
from serving.simulator import Fault

ROOT = Path(__file__).parents[2]
Start = Callable[..., str]


def write_profile(folder: Path, **changes: Any) -> Path:
    """A profile of two seconds, with `changes` over it."""
    fields = {"name": "tiny", "users": 4, "duration_s": 2, "spawn_rate": 50, "drain_s": 5}
    fields |= {"pipelines": "examples/pipelines.yaml", **changes}
    path = folder / "load.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return path


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")} | more


def load_test(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "load_tests", "run", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=90)


@pytest.mark.slow
def test_run_reports_what_the_simulator_really_did(tmp_path: Path, start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=50, itl_ms=10, output_tokens=16)
    rows_path = tmp_path / "rows.jsonl"
    ran = load_test(
        write_profile(tmp_path), "--base-url", base_url, "--out", rows_path, "--json", "--no-mlflow",
        OPENAI_API_KEY="sk-secret",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told, rows = json.loads(ran.stdout), read_rows(rows_path)
    assert {record.status for record in rows.records} == {Status.OK}
    assert rows.end is not None
    assert len(rows.records) == rows.end.sent == told["sent"] >= 8
    assert all(record.ttft_s is not None and record.ttft_s >= 0.05 for record in rows.records)
    assert all(record.output_tokens == record.content_chunks == 16 for record in rows.records)
    assert told["ttft_s"]["p50"] >= 0.05
    assert told["itl_s"]["n"] == 15 * told["ok"]
    assert told["lag"]["first_p50_s"] > 0
    assert told["simulated"] is True
    assert "SIMULATED" in ran.stderr
    assert "sk-secret" not in ran.stdout + ran.stderr + rows_path.read_text()


@pytest.mark.slow
def test_endpoint_that_is_not_there_cannot_be_judged(tmp_path: Path) -> None:
    ran = load_test(write_profile(tmp_path), "--base-url", "http://127.0.0.1:9/v1")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "no endpoint answers" in ran.stderr


@pytest.mark.slow
def test_bad_profile_is_bad_usage(tmp_path: Path) -> None:
    ran = load_test(write_profile(tmp_path, users=0))
    assert ran.returncode == 2
    assert "users: found 0" in ran.stderr


@pytest.mark.slow
def test_broken_streams_are_counted_by_class_and_no_success_is_no_verdict(
    tmp_path: Path, start_simulator: Start
) -> None:
    base_url = start_simulator(ttft_ms=5, itl_ms=1, output_tokens=8, fault=Fault.HALF_BODY)
    profile = write_profile(tmp_path, duration_s=1, warmup_requests=0, think_time_s=0.1)
    ran = load_test(profile, "--base-url", base_url, "--out", tmp_path / "rows.jsonl", "--json", "--no-mlflow")
    assert ran.returncode == 3
    told = json.loads(ran.stdout)
    assert told["failures"] == {"cut_stream": told["in_window"]}
    assert (told["ok"], told["lost"], told["ttft_s"]["p50"]) == (0, 0, None)
    assert "no request of" in ran.stderr


@pytest.mark.slow
def test_run_is_logged_to_mlflow_with_its_rows(tmp_path: Path, start_simulator: Start) -> None:
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    base_url = start_simulator(ttft_ms=5, itl_ms=1, output_tokens=8)
    ran = load_test(
        write_profile(tmp_path, duration_s=1), "--base-url", base_url, "--out", tmp_path / "rows.jsonl", "--json",
        MLFLOW_TRACKING_URI=store,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    client = MlflowClient(tracking_uri=store)
    run = client.get_run(told["mlflow"]["run_id"])
    assert run.data.metrics["ttft_s_p50"] == pytest.approx(told["ttft_s"]["p50"])
    assert run.data.metrics["requests_sent"] == told["sent"]
    assert run.data.params["users"] == "4"
    assert run.data.tags["simulated"] == "true"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"rows.json", "report.md", "rows.jsonl"}


@pytest.mark.slow
def test_stopped_test_reports_what_it_has(tmp_path: Path, start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=5, itl_ms=1, output_tokens=8)
    rows_path = tmp_path / "rows.jsonl"
    profile = write_profile(tmp_path, duration_s=60, think_time_s=0.1)
    argv = [sys.executable, "-m", "load_tests", "run", str(profile), "--base-url", base_url, "--out", str(rows_path)]
    running = subprocess.Popen(argv, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    while not (rows_path.exists() and rows_path.read_bytes().count(b"\n") > 5):
        assert running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "TTFT" in told
    assert read_rows(rows_path).lost == 0


@pytest.mark.slow
def test_plain_locust_takes_host_and_prints_the_percentiles(tmp_path: Path, start_simulator: Start) -> None:
    """Also from another folder: Locust puts that one and the locustfile's on the path, never the repository's root."""
    base_url = start_simulator(ttft_ms=20, itl_ms=5, output_tokens=8)
    locustfile = str(ROOT / "load_tests" / "locustfile.py")
    argv = [sys.executable, "-m", "locust", "-f", locustfile, "--headless", "-u", "2", "-t", "1s"]
    env = environment(PLUMBLINE_LOAD_PROFILE=str(write_profile(tmp_path)))
    env["PLUMBLINE_LOAD_ROWS"] = str(tmp_path / "rows.jsonl")
    argv += ["--host", base_url.removesuffix("/v1"), "--only-summary"]
    ran = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "TTFT" in ran.stderr
    rows = read_rows(tmp_path / "rows.jsonl")
    assert {record.status for record in rows.records} == {Status.OK}
    assert rows.lost == 0


@pytest.mark.slow
def test_locust_process_never_imports_mlflow() -> None:
    told = "import sys, load_tests.locustfile; print([name for name in sys.modules if name.startswith('mlflow')])"
    ran = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr
