"""The commands and plain Locust as a user runs them, against the simulator."""

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
from xml.etree import ElementTree as ET

import numpy as np
import psutil
import pytest
import yaml

from load_tests.rows import read_parquet, read_run
from load_tests.sse import Status
from serving.simulator import Fault

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Start = Callable[..., str]

SYNTHETIC = {"kind": "synthetic", "prompt_tokens": 20, "output_tokens": 8}
AGENTS = {"kind": "agents", "pipelines": "examples/pipelines.yaml", "validate_schema": False}


def closed(users: int = 4, **settings: Any) -> dict[str, Any]:
    return {"kind": "closed", "users": users, "spawn_rate": 50, **settings}


def constant(rate_per_s: float) -> dict[str, Any]:
    return {"kind": "constant", "rate_per_s": rate_per_s}


def poisson(rate_per_s: float) -> dict[str, Any]:
    return {"kind": "poisson", "rate_per_s": rate_per_s}


def write_profile(folder: Path, **changes: Any) -> Path:
    """A profile of two seconds, with `changes` over it."""
    fields = {"name": "tiny", "arrivals": closed(), "workload": AGENTS, "duration_s": 2, "drain_s": 5, **changes}
    return write_yaml(folder / "load.yaml", fields)


def write_slo(folder: Path, *objectives: dict[str, Any]) -> Path:
    return write_yaml(folder / "slo.yaml", {"name": "promise", "objectives": list(objectives)})


def write_yaml(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "PLUMBLINE_", "LOCUST_"))}
    return kept | more


def load_tests(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "load_tests", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=150)


def load_test(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return load_tests("run", *arguments, **more)


def test_run_reports_what_the_simulator_really_did(tmp_path: Path, start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=50, itl_ms=10, output_tokens=16)
    folder = tmp_path / "run"
    ran = load_test(
        write_profile(tmp_path), "--base-url", base_url, "--out", folder, "--json", "--no-mlflow",
        OPENAI_API_KEY="sk-secret",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told, rows = json.loads(ran.stdout), read_run(folder)
    assert {record.status for record in rows.records} == {Status.OK}
    assert rows.lost == 0
    assert len(rows.records) == told["sent"] >= 8
    assert all(record.ttft_s is not None and record.ttft_s >= 0.05 for record in rows.records)
    assert all(record.output_tokens == record.content_chunks == 16 for record in rows.records)
    assert told["ttft_s"]["p50"] >= 0.05
    assert told["itl_s"]["n"] == 15 * told["ok"]
    assert told["simulated"] is True
    assert "SIMULATED" in ran.stderr
    assert read_parquet(folder / "requests.parquet").records == rows.records
    assert {path.name for path in folder.iterdir()} == {
        "rows-0.jsonl", "requests.parquet", "report.json", "report.md", "report.html", "server.parquet", "locust.log",
    }  # fmt: skip
    secrets = [path for path in folder.iterdir() if b"sk-secret" in path.read_bytes()]
    assert secrets == []
    assert "sk-secret" not in ran.stdout + ran.stderr


def test_both_sides_of_the_wire_agree_to_the_token(tmp_path: Path, start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=20, itl_ms=2, output_tokens=16)
    profile = write_profile(tmp_path, arrivals=poisson(20), workload=SYNTHETIC)
    ran = load_test(profile, "--base-url", base_url, "--out", tmp_path / "run", "--json", "--no-mlflow")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    server = told["server"]
    assert {check["kind"]: (check["server"], check["client"], check["equal"]) for check in server["tokens"]} == {
        "prompt": (20 * told["sent"], 20 * told["sent"], True),
        "output": (8 * told["sent"], 8 * told["sent"], True),
    }
    assert server["both"]["ttft"]["client_n"] == server["both"]["ttft"]["server_n"] == told["sent"]
    assert 0 < server["both"]["ttft"]["difference_s"] < 0.02
    assert told["prompt_lengths"] == {"asked": 20, "counted": told["sent"], "other": 0}


def test_open_loop_sends_what_the_schedule_has_on_one_worker_and_on_two(tmp_path: Path, start_simulator: Start) -> None:
    """And the same requests: each index asks the same at the same moment, whoever sends it."""
    base_url = start_simulator(ttft_ms=50, itl_ms=5, output_tokens=8)
    found = {}
    for processes in (1, 2):
        profile = write_profile(tmp_path, arrivals=poisson(30), duration_s=4, processes=processes)
        ran = load_test(profile, "--base-url", base_url, "--out", tmp_path / f"run{processes}", "--no-mlflow")
        assert ran.returncode == 0, ran.stderr
        found[processes] = read_run(tmp_path / f"run{processes}")
    one, two = found[1], found[2]
    assert (len(one.starts), len(two.starts)) == (1, 2)
    assert (one.unsent, two.unsent, one.lost, two.lost) == (0, 0, 0, 0)
    assert [r.index for r in one.records] == [r.index for r in two.records] == list(range(len(one.records)))
    assert [(r.pipeline_id, r.stage) for r in one.records] == [(r.pipeline_id, r.stage) for r in two.records]
    # Nanoseconds of the schedule, but for the rounding of a wall-clock start in seconds.
    apart_ns = np.array([a.intended_ns - b.intended_ns for a, b in zip(one.records, two.records, strict=True)])
    assert np.abs(apart_ns).max() < 1000
    assert {record.worker for record in two.records} == {0, 1}


def test_slo_that_holds_is_met_and_one_that_does_not_is_missed(tmp_path: Path, start_simulator: Start) -> None:
    # A slow first token, so that a busy machine's own lateness stays under 5 % of it.
    base_url = start_simulator(ttft_ms=1000, itl_ms=2, output_tokens=8)
    profile = write_profile(tmp_path, arrivals=constant(40), workload=SYNTHETIC, duration_s=6)
    codes, told = {}, {}
    for limit_ms in (3000, 800):
        slo = write_slo(
            tmp_path,
            {"metric": "ttft", "percentile": 95, "at_most_ms": limit_ms},
            {"metric": "error_rate", "at_most": 0.05},
        )
        files: list[str | Path] = ["--junit", tmp_path / f"{limit_ms}.xml", "--markdown", tmp_path / f"{limit_ms}.md"]
        where: list[str | Path] = ["--base-url", base_url, "--out", tmp_path / f"run{limit_ms}"]
        ran = load_test(profile, "--slo", slo, *where, *files, "--json", "--no-mlflow")
        codes[limit_ms], told[limit_ms] = ran.returncode, json.loads(ran.stdout)["slo"]
    assert codes == {3000: 0, 800: 1}
    assert (told[3000]["status"], told[800]["status"]) == ("met", "missed")
    assert [outcome["status"] for outcome in told[800]["objectives"]] == ["missed", "met"]
    suites = {limit: ET.parse(tmp_path / f"{limit}.xml").getroot() for limit in (3000, 800)}  # noqa: S314 - ours
    assert (suites[3000].get("failures"), suites[800].get("failures")) == ("0", "1")
    assert "missed" in (tmp_path / "800.md").read_text()
    softer = write_slo(tmp_path, {"metric": "ttft", "percentile": 95, "at_most_ms": 3000})
    again = load_tests("report", tmp_path / "run800", "--slo", softer, "--baseline", tmp_path / "run3000", "--json")
    assert again.returncode in {0, 3}, again.stderr  # two runs of six seconds may be too few to be no worse
    found = json.loads(again.stdout)
    assert (found["slo"]["status"], found["sent"]) == ("met", len(read_run(tmp_path / "run800").records))
    assert found["baseline"]["verdict"] != "worse"
    assert found["server"]["tokens"][0]["equal"] is True


def test_run_too_short_for_its_slo_is_invalid(tmp_path: Path, start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=10, itl_ms=1, output_tokens=8)
    slo = write_slo(tmp_path, {"metric": "ttft", "percentile": 99, "at_most_ms": 500})
    profile = write_profile(tmp_path, arrivals=poisson(20), workload=SYNTHETIC)
    ran = load_test(profile, "--slo", slo, "--base-url", base_url, "--out", tmp_path / "run", "--json", "--no-mlflow")
    assert ran.returncode == 3
    assert json.loads(ran.stdout)["slo"]["status"] == "invalid"


def test_slower_endpoint_is_worse_than_its_baseline_and_another_profile_is_refused(
    tmp_path: Path, start_simulator: Start
) -> None:
    # Evenly spaced: in six seconds of a Poisson schedule the number in flight may well drift by chance.
    profile = write_profile(tmp_path, arrivals=constant(40), workload=SYNTHETIC, duration_s=6)
    # Slow first tokens, so that a busy machine's own lateness stays under 5 % of them.
    before, after = start_simulator(ttft_ms=1000, itl_ms=2, output_tokens=8), start_simulator(ttft_ms=1200, itl_ms=2)
    base = tmp_path / "base"
    assert load_test(profile, "--base-url", before, "--out", base, "--no-mlflow").returncode == 0
    # The Parquet file alone will do: it is what MLflow keeps of a run.
    was = base / "requests.parquet"
    ran = load_test(profile, "--base-url", after, "--out", tmp_path / "now", "--baseline", was, "--json", "--no-mlflow")
    assert ran.returncode == 1, ran.stderr
    told = json.loads(ran.stdout)["baseline"]
    ttft = next(change for change in told["changes"] if change["metric"].startswith("ttft"))
    assert told["verdict"] == ttft["verdict"] == "worse"
    assert 15 < ttft["low"] <= ttft["change"] <= ttft["high"] < 25
    other = write_profile(tmp_path, arrivals=constant(41), workload=SYNTHETIC)
    ran = load_test(other, "--base-url", after, "--out", tmp_path / "other", "--baseline", base, "--no-mlflow")
    assert ran.returncode == 3
    assert "not asked the same" in ran.stderr
    assert not (tmp_path / "other").exists()  # told before a test was run for nothing


def test_endpoint_that_is_not_there_cannot_be_judged(tmp_path: Path) -> None:
    ran = load_test(write_profile(tmp_path), "--base-url", "http://127.0.0.1:9/v1")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "no endpoint answers" in ran.stderr


@pytest.mark.parametrize(
    ("changes", "arguments", "told"),
    [
        ({"arrivals": closed(0)}, (), "users: found 0"),
        ({"arrivals": {"kind": "weekly"}}, (), "arrivals"),
        ({}, ("--junit", "x.xml"), "--junit: there is no verdict"),
        ({}, ("--baseline", "examples"), "is no folder of a load test"),
        ({}, ("--baseline", "README.md"), "README.md: is not a load test in Parquet"),
        ({}, ("--slo", "examples/slo.yaml", "--junit", "README.md/x.xml"), "--junit README.md/x.xml: "),
        ({}, ("--slo", "examples/slo.yaml", "--markdown", "examples"), "--markdown examples: is a folder"),
        ({}, ("--slo", "examples/load.yaml"), "examples/load.yaml"),
    ],
)
def test_bad_input_is_told_before_anything_is_sent(
    tmp_path: Path, changes: dict[str, Any], arguments: tuple[str, ...], told: str
) -> None:
    ran = load_test(write_profile(tmp_path, **changes), *arguments, "--base-url", "http://127.0.0.1:9/v1")
    assert ran.returncode == 2, ran.stderr
    assert told in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_folder_of_another_test_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows-0.jsonl").write_text("{}\n")
    ran = load_test(write_profile(tmp_path), "--out", tmp_path, "--base-url", "http://127.0.0.1:9/v1")
    assert ran.returncode in {2, 3}


def test_broken_streams_are_counted_by_class_and_no_success_is_no_verdict(
    tmp_path: Path, start_simulator: Start
) -> None:
    base_url = start_simulator(ttft_ms=5, itl_ms=1, output_tokens=8, fault=Fault.HALF_BODY)
    profile = write_profile(tmp_path, duration_s=1, warmup_requests=0, arrivals=closed(think_time_s=0.1))
    ran = load_test(profile, "--base-url", base_url, "--out", tmp_path / "run", "--json", "--no-mlflow")
    assert ran.returncode == 3
    told = json.loads(ran.stdout)
    assert told["failures"] == {"cut_stream": told["in_window"]}
    assert (told["ok"], told["lost"], told["ttft_s"]["p50"]) == (0, 0, None)
    assert "no request of" in ran.stderr


def test_run_is_logged_to_mlflow_with_its_files(tmp_path: Path, start_simulator: Start) -> None:
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    base_url = start_simulator(ttft_ms=5, itl_ms=1, output_tokens=8)
    ran = load_test(
        write_profile(tmp_path), "--base-url", base_url, "--out", tmp_path / "run", "--json", MLFLOW_TRACKING_URI=store
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    client = MlflowClient(tracking_uri=store)
    run = client.get_run(told["mlflow"]["run_id"])
    assert run.data.metrics["ttft_s_p50"] == pytest.approx(told["ttft_s"]["p50"])
    assert run.data.metrics["requests_sent"] == told["sent"]
    assert run.data.metrics["server_output_tokens"] == 8 * told["sent"]
    assert run.data.params["users"] == "4"
    assert run.data.tags["simulated"] == "true"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "requests.parquet", "report.md", "report.json", "report.html", "server.parquet",
    }  # fmt: skip


def test_share_that_hangs_up_loads_the_endpoint_and_is_no_error(tmp_path: Path, start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=1000, itl_ms=5, output_tokens=40)
    slo = write_slo(tmp_path, {"metric": "error_rate", "at_most": 0.1})
    hung_up = {"cancel_after_chunks": 2, "cancel_share": 0.4}
    profile = write_profile(tmp_path, arrivals=constant(30), workload=SYNTHETIC, duration_s=5, **hung_up)
    ran = load_test(profile, "--slo", slo, "--base-url", base_url, "--out", tmp_path / "run", "--json", "--no-mlflow")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert 40 < told["cancelled"] < 80  # 60 of 150 expected
    assert (told["sent"], told["failures"]) == (150, {})
    assert "were to be hung up on, as the profile has it" in ran.stderr
    every = write_profile(tmp_path, arrivals=constant(30), workload=SYNTHETIC, cancel_after_chunks=2)
    ran = load_test(every, "--base-url", base_url, "--out", tmp_path / "all", "--no-mlflow")
    assert ran.returncode == 3
    assert "give a cancel_share below 1" in ran.stderr


def test_store_that_is_down_does_not_cost_the_verdict(tmp_path: Path, start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=1000, itl_ms=1, output_tokens=8)
    slo = write_slo(tmp_path, {"metric": "ttft", "percentile": 50, "at_most_ms": 10})
    profile = write_profile(tmp_path, arrivals=constant(20), workload=SYNTHETIC, duration_s=5)
    store = f"sqlite:///{tmp_path / 'load.yaml' / 'mlflow.db'}"
    judged: list[tuple[list[str | Path], int]] = [(["--slo", slo], 1), ([], 3)]
    for asked, code in judged:
        where: list[str | Path] = ["--base-url", base_url, "--out", tmp_path / f"run{code}", "--json"]
        ran = load_test(profile, *asked, *where, MLFLOW_TRACKING_URI=store)
        assert ran.returncode == code, ran.stderr
        assert json.loads(ran.stdout)["ok"] > 20
        assert "MLflow" in ran.stderr
        assert "Traceback" not in ran.stderr


def test_stopped_test_reports_what_it_has(tmp_path: Path, start_simulator: Start) -> None:
    folder = tmp_path / "run"
    running = long_test(folder, start_simulator(ttft_ms=5, itl_ms=1, output_tokens=8))
    until_it_sends(running, folder)
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "TTFT" in told
    assert read_run(folder).lost == 0
    assert (folder / "report.html").is_file()


def test_test_that_is_stopped_before_it_sends_is_stopped_and_not_unjudged(
    tmp_path: Path, start_simulator: Start
) -> None:
    folder = tmp_path / "run"
    running = long_test(folder, start_simulator(ttft_ms=5, itl_ms=1, output_tokens=8))
    while not (folder / "locust.log").exists():
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "error" not in told


def test_test_whose_sender_dies_reports_what_it_has_and_is_not_judged(tmp_path: Path, start_simulator: Start) -> None:
    folder = tmp_path / "run"
    running = long_test(folder, start_simulator(ttft_ms=5, itl_ms=1, output_tokens=8))
    until_it_sends(running, folder)
    for process in its_processes(running, "load_tests.sender"):
        process.kill()
    _, told = running.communicate(timeout=60)
    assert running.returncode == 3, told
    assert "error: locust ended with status 3: the sender of worker 0 ended with status -9" in told
    assert json.loads((folder / "report.json").read_text())["sent"] > 5


def test_killed_test_leaves_nothing_running(tmp_path: Path, start_simulator: Start) -> None:
    folder = tmp_path / "run"
    running = long_test(folder, start_simulator(ttft_ms=5, itl_ms=1, output_tokens=8))
    until_it_sends(running, folder)
    left = its_processes(running, "load_tests.sender") + its_processes(running, "locust")
    assert len(left) == 2
    running.kill()
    running.communicate(timeout=60)
    assert psutil.wait_procs(left, timeout=20)[1] == []
    assert read_run(folder).lost == 0  # its sender wrote what it cut
    assert not (folder / "report.json").exists()
    ran = load_tests("report", folder)
    assert ran.returncode == 0, ran.stderr
    assert json.loads((folder / "report.json").read_text())["sent"] > 5
    rows_path = folder / "rows-0.jsonl"
    rows_path.write_bytes(b"".join(rows_path.read_bytes().splitlines(keepends=True)[:-1]))  # also the sender killed
    ran = load_tests("report", folder)
    assert ran.returncode == 3
    assert "rows are missing (unknown how many)" in ran.stderr


def long_test(folder: Path, base_url: str) -> subprocess.Popen[str]:
    profile = write_profile(folder.parent, duration_s=60, arrivals=closed(think_time_s=0.1))
    argv = [sys.executable, "-m", "load_tests", "run", str(profile), "--base-url", base_url, "--out", str(folder)]
    argv.append("--no-mlflow")
    return subprocess.Popen(argv, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)


def until_it_sends(running: subprocess.Popen[str], folder: Path) -> None:
    rows_path = folder / "rows-0.jsonl"
    while not (rows_path.exists() and rows_path.read_bytes().count(b"\n") > 5):
        assert running.poll() is None
        time.sleep(0.1)


def its_processes(running: subprocess.Popen[str], module: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(running.pid).children(recursive=True) if module in child.cmdline()]


def test_plain_locust_takes_host_and_keeps_its_rows(tmp_path: Path, start_simulator: Start) -> None:
    """Also from another folder: Locust puts that one and the locustfile's on the path, never the repository's root."""
    base_url = start_simulator(ttft_ms=20, itl_ms=5, output_tokens=8)
    locustfile = str(ROOT / "load_tests" / "locustfile.py")
    argv = [sys.executable, "-m", "locust", "-f", locustfile, "--headless", "-u", "2", "-t", "2s"]
    env = environment(PLUMBLINE_LOAD_PROFILE=str(write_profile(tmp_path)), PLUMBLINE_LOAD_OUT=str(tmp_path / "run"))
    argv += ["--host", base_url.removesuffix("/v1"), "--only-summary"]
    ran = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "TTFT" in ran.stderr
    rows = read_run(tmp_path / "run")
    assert {record.status for record in rows.records} == {Status.OK}
    assert rows.lost == 0


def test_locust_process_never_imports_mlflow_or_numpy() -> None:
    told = "import sys, load_tests.locustfile; print([n for n in sys.modules if n in ('mlflow', 'numpy', 'asyncio')])"
    ran = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr


def test_report_of_a_test_without_an_slo_costs_neither_pandas_nor_scipy_stats(tmp_path: Path) -> None:
    """1.9 s and 100 MB on top of every test."""
    told = (
        "import sys\nfrom pathlib import Path\nfrom load_tests.conclusion import latency_report, write_parquet\n"
        "from tests.load_tests.made_load import made_record, made_rows\n"
        "rows = made_rows([made_record(i, sent_ns=i * 10**8) for i in range(500)], stop_s=50.0)\n"
        f"latency_report(rows), write_parquet(rows, Path({str(tmp_path / 'x.parquet')!r}))\n"
        "print([n for n in ('pandas', 'scipy.stats', 'mlflow') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr
    assert len(read_parquet(tmp_path / "x.parquet").records) == 500


def test_calibration_is_kept_and_told_with_a_later_run(tmp_path: Path, start_simulator: Start) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    arguments: list[str | Path] = ["--rate", "20", "--duration-s", "3", "--out", tmp_path / "calibration", "--json"]
    ran = load_tests("calibrate", *arguments, **state)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    step = told["steps"][0]
    assert (told["simulated"], step["rate_per_s"]) == (True, 20)
    assert step["ok"] == step["sent"] > 30
    assert 0 < step["ttft_error"]["p50_s"] < 0.02
    base_url = start_simulator(ttft_ms=20, itl_ms=1, output_tokens=8)
    profile = write_profile(tmp_path, arrivals=poisson(10), workload=SYNTHETIC)
    run = load_test(profile, "--base-url", base_url, "--out", tmp_path / "run", "--json", "--no-mlflow", **state)
    bars = json.loads(run.stdout)["calibration"]
    assert (bars["rate_per_s"], bars["ttft_error_p50_s"]) == (20, step["ttft_error"]["p50_s"])


def test_stopped_capacity_search_goes_on_and_ends_in_one_mlflow_run(tmp_path: Path, start_simulator: Start) -> None:
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    base_url = start_simulator(ttft_ms=1000, itl_ms=1, output_tokens=10)
    profile = write_profile(tmp_path, arrivals=constant(20), duration_s=4, workload=SYNTHETIC)
    slo = write_slo(tmp_path, {"metric": "ttft", "percentile": 50, "at_most_ms": 1500})
    folder = tmp_path / "found"
    asked: list[str | Path] = [
        "capacity",
        "--slo",
        slo,
        "--profile",
        profile,
        "--to",
        "30",
        "--probes",
        "2",
        "--base-url",
        base_url,
    ]
    argv = [sys.executable, "-m", "load_tests", *map(str, asked), "--out", str(folder)]
    running = subprocess.Popen(argv, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    while not (folder / "probe-2" / "rows-0.jsonl").exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert f"--resume --out {folder}" in told
    assert len(json.loads((folder / "capacity.json").read_text())["probes"]) == 1
    ran = load_tests(*asked, "--resume", "--out", folder, "--json", MLFLOW_TRACKING_URI=store)
    assert ran.returncode == 3, ran.stderr  # 30/s, the highest that was to be tried, is met
    assert "probe-1: is there already" in ran.stderr
    assert "probe-2: was cut" in ran.stderr
    assert [probe["rate_per_s"] for probe in json.loads(ran.stdout)["probes"]] == [20, 30]
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("plumbline-load")
    assert experiment is not None
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.data.metrics["probes_measured"] == 2


def test_capacity_brackets_the_knee_and_leaves_its_curve(tmp_path: Path, start_simulator: Start) -> None:
    """Twenty slots of 200 + 9 x 20 ms: 52.6 requests a second; few and short probes, so a wide bracket is enough."""
    base_url = start_simulator(ttft_ms=200, itl_ms=20, output_tokens=10, max_running=20)
    profile = write_profile(
        tmp_path, arrivals={"kind": "constant", "rate_per_s": 30}, duration_s=6, drain_s=10,
        workload={"kind": "synthetic", "prompt_tokens": 20, "output_tokens": 10},
    )  # fmt: skip
    slo = write_slo(tmp_path, {"metric": "ttft", "percentile": 90, "at_most_ms": 400})
    where: list[str | Path] = ["--base-url", base_url, "--out", tmp_path / "found"]
    more = ["--probes", "5", "--json", "--no-mlflow"]
    ran = load_tests("capacity", "--slo", slo, "--profile", profile, *more, *where)
    assert ran.returncode in {0, 3}, ran.stderr  # five probes may end before it is sure
    told = json.loads(ran.stdout)
    assert 44 < told["capacity_per_s"] < 56
    assert len(told["probes"]) <= 5
    assert {"capacity.json", "capacity.html", "capacity.png", "capacity.svg"} <= {
        path.name for path in (tmp_path / "found").iterdir()
    }
    assert "SIMULATED" in ran.stderr
