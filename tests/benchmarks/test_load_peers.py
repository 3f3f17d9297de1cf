"""What the comparison of load tools concludes, from results made by hand."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.load_peers import TOOLS, chosen, spread
from benchmarks.peers import load_tools
from benchmarks.peers.environment import PeerFailed, cpu_builds, environment_folder
from benchmarks.peers.load_figures import Figures, Nominal, Reported, ServerSaw, figures_of, note_of
from benchmarks.peers.load_server import arrivals_of
from benchmarks.peers.load_tools import Load
from benchmarks.peers.process_tree import Peak, Sample, Watched, peak_of, watch
from common.console import BadInput
from load_tests.profiles import load_profile
from load_tests.sse import Status

NOMINAL = Nominal(ttft_ms=50.0, itl_ms=10.0, output_tokens=3, rate_per_s=2.0)
PEAK = Peak(pss_mb=1.0, rss_mb=2.0, one_rss_mb=1.5, processes=2)
WATCHED = Watched(began_s=90.0, ended_s=105.0, cpu_s=4.0, peak=PEAK, stolen_share=0.02)
SAW = ServerSaw(arrivals_s=(100.0, 100.5, 102.0), ttft_mean_ms=51.0)
REPORTED = Reported(ttft_ms=(51.0, 52.0, 56.0), itl_ms=(9.0, 12.0, 10.0, 10.0, 13.0, 10.0))


def figures(reported: Reported = REPORTED, saw: ServerSaw = SAW) -> Figures:
    return figures_of(reported, saw, WATCHED, NOMINAL)


def test_ttft_errors_are_to_what_the_server_was_told_and_the_mean_to_what_it_did() -> None:
    found = figures()
    assert found.ttft_p50_error_ms == pytest.approx(2.0)
    assert found.ttft_p99_error_ms == pytest.approx(5.92)  # 52 + 0.98 * 4
    assert found.ttft_mean_error_ms == pytest.approx(2.0)  # 53 - 51


def test_gaps_too_short_and_too_long_do_not_cancel_out() -> None:
    assert figures().itl_error_ms == pytest.approx(1.0)
    assert figures().gaps_per_request == 2.0


def test_the_rate_is_from_the_first_arrival_to_the_last() -> None:
    found = figures()
    assert found.sent_per_s == pytest.approx(1.0)  # two gaps in two seconds
    assert found.sent_ratio == pytest.approx(0.5)


def test_what_is_around_the_load_is_start_and_end_without_the_last_answer() -> None:
    found = figures()
    assert found.startup_s == pytest.approx(10.0)
    assert found.winddown_s == pytest.approx(105 - 102 - 0.07)
    assert found.around_s == pytest.approx(12.93)


@pytest.mark.parametrize("reported", [Reported((), (1.0,)), Reported((1.0,), ())])
def test_a_tool_that_measured_nothing_has_no_figures(reported: Reported) -> None:
    with pytest.raises(PeerFailed, match="no measured request"):
        figures(reported)


@pytest.mark.parametrize("arrivals", [(), (1.0,), (1.0, 1.0)])
def test_a_rate_needs_two_moments(arrivals: tuple[float, ...]) -> None:
    with pytest.raises(PeerFailed, match=f"saw {len(arrivals)} requests"):
        figures(saw=ServerSaw(arrivals, 50.0))


def test_notes_tell_what_is_not_alike() -> None:
    assert note_of(figures(), 3) == ""
    assert note_of(replace(figures(), itl_per_request_means=True, gaps_per_request=1.0), 3) == "ITL: per-request means"
    odd = replace(figures(), gaps_per_request=4.0, measured=2)
    assert note_of(odd, 3) == "records 4.0 gaps an answer of 2; measured 2 of 3 requests"


def test_memory_is_the_most_at_one_moment_not_the_sum_of_each_ones_most() -> None:
    samples = [Sample({1: 5_000_000}, {1: 4_000_000}), Sample({1: 2_000_000, 2: 4_000_000}), Sample({}, {})]
    assert peak_of(samples) == Peak(pss_mb=4.0, rss_mb=6.0, one_rss_mb=5.0, processes=2)
    assert peak_of([]) == Peak(0, 0, 0, 0)


@pytest.mark.slow
def test_a_child_is_watched_too(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.8: pass"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"]
    found = watch(command, tmp_path, os.environ, limit_s=30)
    assert found.cpu_s >= 0.8
    assert found.peak.processes == 2
    assert found.peak.rss_mb > found.peak.one_rss_mb > 0
    assert found.peak.pss_mb > 0


def test_a_command_that_fails_is_told_by_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match="ended with 3: no such thing"):
        watch([sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"], tmp_path, os.environ, 30)


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match="did not end in time"):
        watch([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, os.environ, limit_s=0.1)


def test_a_command_that_is_not_there_is_a_row(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match="cannot be started"):
        watch([str(tmp_path / "absent")], tmp_path, os.environ, 30)


def test_arrivals_are_read_as_they_were_noted() -> None:
    assert arrivals_of(struct.pack("<qq", 1_500_000_000, 2_000_000_000)) == [1.5, 2.0]


def test_ours_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Row:
        def __init__(self, status: Status, ttft_s: float | None, itl_s: list[float]) -> None:
            self.status, self.ttft_s, self.itl_s = status, ttft_s, itl_s

    class Run:
        records = (Row(Status.OK, 0.05, [0.01, 0.02]), Row(Status.CUT_STREAM, 0.9, [0.9]), Row(Status.OK, 0.06, []))

    monkeypatch.setattr(load_tools, "read_run", lambda _folder: Run)
    assert load_tools.read_plumbline(tmp_path) == Reported((50.0, 60.0), (10.0, 20.0))


def test_guidellm_has_means_only(tmp_path: Path) -> None:
    rows = [{"time_to_first_token_ms": 52.5, "inter_token_latency_ms": 10.25}]
    text = json.dumps({"benchmarks": [{"requests": {"successful": rows, "errored": [{}], "incomplete": []}}]})
    (tmp_path / "result.json").write_text(text)
    assert load_tools.read_guidellm(tmp_path) == Reported((52.5,), (10.25,), per_request_means=True)


def test_aiperf_lists_its_gaps_and_what_failed_has_none(tmp_path: Path) -> None:
    good = {"time_to_first_token": {"value": 51.0}, "inter_chunk_latency": {"value": [9.5, 10.5]}}
    (tmp_path / "result").mkdir()
    lines = [json.dumps({"metrics": metrics}) for metrics in (good, {"error_count": {"value": 1}})]
    (tmp_path / "result" / "profile_export.jsonl").write_text("\n".join(lines) + "\n")
    assert load_tools.read_aiperf(tmp_path) == Reported((51.0,), (9.5, 10.5))


def test_evalscope_is_read_from_its_database(tmp_path: Path) -> None:
    folder = tmp_path / "result" / "a" / "b"
    folder.mkdir(parents=True)
    with pytest.raises(PeerFailed, match="0 databases"):
        load_tools.read_evalscope(tmp_path)
    database = sqlite3.connect(folder / "benchmark_data.db")
    database.execute("CREATE TABLE result(first_chunk_latency REAL, inter_token_latencies TEXT, success INTEGER)")
    database.executemany("INSERT INTO result VALUES (?, ?, ?)", [(0.5, "[0.25, 0.125]", 1), (None, "[]", 0)])
    database.commit()
    database.close()
    assert load_tools.read_evalscope(tmp_path) == Reported((500.0,), (250.0, 125.0))


def test_vllm_tells_failures_by_their_error(tmp_path: Path) -> None:
    result = {"ttfts": [0.5, 0.0], "itls": [[0.25], []], "errors": ["", "refused"]}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert load_tools.read_vllm(tmp_path) == Reported((500.0,), (250.0,))


LOAD = Load("http://127.0.0.1:1", "m", rate_per_s=50, requests=750, output_tokens=64, seed=2)


def test_our_profile_sends_for_as_long_as_the_requests_take(tmp_path: Path) -> None:
    load_tools.start_plumbline(LOAD, tmp_path)
    profile = load_profile(tmp_path / "profile.yaml")
    assert profile.duration_s == 15
    assert profile.warmup_requests == 0


@pytest.mark.parametrize(
    "start",
    [load_tools.start_guidellm, load_tools.start_aiperf, load_tools.start_evalscope, load_tools.start_vllm],
)
def test_every_peer_is_told_the_same_load(
    start: Callable[[Load, Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_tools, "peers_python", lambda _file: Path("bin/python"))
    monkeypatch.setattr(load_tools, "tokenizer", lambda: Path("tokenizer"))
    command = " ".join(start(LOAD, tmp_path))
    assert "750" in command
    assert "50" in command
    assert LOAD.url in command
    (prompts,) = tmp_path.iterdir()
    assert len(prompts.read_text("utf8").splitlines()) == 750


def test_without_the_tokenizer_the_peer_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(PeerFailed, match="python -m serving start --model"):
        load_tools.tokenizer()


@pytest.mark.parametrize("name", ["guidellm", "aiperf", "evalscope"])
def test_pins_are_exact_and_say_the_version_that_the_table_says(name: str) -> None:
    file = Path(load_tools.__file__).with_name(f"{name}.txt")
    pins = [line for line in file.read_text("utf8").splitlines() if not line.startswith("#")]
    assert f"{name}=={TOOLS[name].version}" in pins
    assert all("==" in pin for pin in pins)
    assert not any(pin.startswith(("nvidia-cu", "nvidia-nccl", "triton")) for pin in pins)


def test_each_peer_has_an_environment_of_its_own() -> None:
    files = [Path(load_tools.__file__).with_name(f"{name}.txt") for name in ("guidellm", "aiperf", "evalscope")]
    assert len({environment_folder(), *map(environment_folder, files)}) == 4


def test_builds_without_cuda_are_found() -> None:
    assert cpu_builds("# torch==1+cpu\na==1\ntorch==2.13.0+cpu\n") == ["torch==2.13.0+cpu"]


def test_a_tool_that_is_not_known_is_refused() -> None:
    assert list(chosen("aiperf,plumbline")) == ["aiperf", "plumbline"]
    with pytest.raises(BadInput, match="'jmeter' is not known"):
        chosen("aiperf,jmeter")


def test_a_spread_is_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0 to 3.0)"
    assert spread([1.5], 1) == "1.5"
    assert spread([], 1) == "-"
