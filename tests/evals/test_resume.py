"""Going on with a run: nothing lost, nothing counted twice, nothing repeated but what was in flight."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.console import BadInput, CannotJudge
from evals.running import Where, resume_command, resume_run, run_suite
from evals.scoring import score_run
from serving.simulator import Fault
from tests.evals.small_runs import CASES, FAST, new_run, rows, write_suite

ROOT = Path(__file__).parents[2]
Start = Callable[..., str]
WRITES = ["write", "write_all"]
"""One request a sample, and no probes."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def whole(folder: Path, url: str, **keys: Any) -> bytes:
    """A run that nothing interrupted; its scores."""
    folder.mkdir()
    ran = run_suite(write_suite(folder / "suite.yaml", prompts=WRITES, **keys), Where(url, out=folder / "run"))
    return (ran.folder.path / "scores.jsonl").read_bytes()


def test_damage_of_every_kind_is_mended_to_the_same_bytes(
    tmp_path: Path, start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    url = start_simulator(**FAST)
    scores = whole(tmp_path / "a", url)
    out = tmp_path / "a" / "run"
    path = out / "samples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    failed = json.loads(lines[1]) | {"replies": [], "error": "gone", "error_class": "timeout"}
    lines[1] = json.dumps(failed).encode() + b"\n"
    lines[2] = lines[2][:30] + b"\n"
    path.write_bytes(b"".join([*lines[:8], lines[4], lines[9][:-20]]))

    before = received(url)
    ran = resume_run(None, Where(out=out))
    assert ran.kept == 6
    assert received(url) - before == ran.asked.answered == 2 * CASES - 6
    assert (out / "scores.jsonl").read_bytes() == scores
    assert sorted(row["index"] for row in rows(ran.folder)) == list(range(2 * CASES))
    told = capsys.readouterr().err
    assert f"damaged, asked again: {path}:3: " in told
    assert "6 of 12 samples have their answer; 6 are asked now, 1 of them after an error" in told


def test_nothing_is_asked_of_a_run_that_is_complete(tmp_path: Path, start_simulator: Start) -> None:
    url = start_simulator(**FAST)
    scores = whole(tmp_path / "a", url)
    before = received(url)
    ran = resume_run(tmp_path / "a" / "suite.yaml", Where(url, out=tmp_path / "a" / "run"))
    assert (ran.kept, ran.asked.answered, received(url)) == (2 * CASES, 0, before)
    assert (tmp_path / "a" / "run" / "scores.jsonl").read_bytes() == scores


def test_another_suite_or_folder_is_refused(tmp_path: Path, start_simulator: Start) -> None:
    url = start_simulator(**FAST)
    whole(tmp_path / "a", url)
    other = write_suite(tmp_path / "other.yaml", prompts=WRITES, repeats=2)
    with pytest.raises(BadInput, match=r"was made from another suite: suite\.repeats was '1' and is '2'; use that"):
        resume_run(other, Where(url, out=tmp_path / "a" / "run"))
    with pytest.raises(BadInput, match="is no folder of a run"):
        resume_run(None, Where(out=tmp_path))
    with pytest.raises(BadInput, match=r"^--resume: needs --out FOLDER"):
        resume_run(None, Where())


def test_an_endpoint_may_move_and_what_it_serves_may_not_change(tmp_path: Path, start_simulator: Start) -> None:
    whole(tmp_path / "a", start_simulator(**FAST))
    out = tmp_path / "a" / "run"
    path = out / "samples.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    moved = start_simulator(**FAST)
    assert resume_run(None, Where(moved, out=out)).asked.answered == 2 * CASES - 5
    assert received(moved) == 2 * CASES - 5
    with pytest.raises(BadInput, match="'plumbline-simulator' is not served at"):
        resume_run(None, Where(start_simulator(**FAST, model="other"), out=out))


def test_what_a_resumed_run_cannot_heed_is_refused(tmp_path: Path, start_simulator: Start) -> None:
    url = start_simulator(**FAST)
    whole(tmp_path / "a", url)
    with pytest.raises(BadInput, match=r"^--model: the run says what is asked \(plumbline-simulator\); leave it out$"):
        resume_run(None, Where(model="other", out=tmp_path / "a" / "run"))
    models = [{"name": name, "base_url": url} for name in ("one", "two")]
    two = new_run(tmp_path / "b", None, models=models)
    with pytest.raises(BadInput, match=r"^--base-url: the run asks 2 models, each at its own address; give the suite"):
        resume_run(None, Where(url, out=two.path))


def test_the_way_on_can_be_pasted_whatever_the_folder_is_called(tmp_path: Path, start_simulator: Start) -> None:
    run = new_run(tmp_path / "a b; true", start_simulator())
    assert shlex.split(resume_command(run))[-2:] == ["--out", str(run.path)]


@pytest.mark.slow
def test_a_server_that_dies_is_told_with_how_to_go_on(tmp_path: Path, start_simulator: Start) -> None:
    dead = start_simulator(**FAST, fault=Fault.DISCONNECT)
    how = {"cases": {"count": 60, "seed": 3}, "max_retries": 0, "concurrency": 4}
    suite = write_suite(tmp_path / "suite.yaml", prompts=WRITES, **how)
    out = tmp_path / "run"
    with pytest.raises(CannotJudge) as given_up:
        run_suite(suite, Where(dead, out=out))
    told = str(given_up.value)
    assert told.startswith("plumbline-simulator: given up, nothing came of 50 samples in a row (the endpoint cannot")
    assert told.endswith(f"when it is up again: python -m evals run --resume --out {out}")
    ran = resume_run(None, Where(start_simulator(**FAST), out=out))
    assert (ran.asked.answered, ran.asked.errored, ran.kept) == (120, 0, 0)
    assert (out / "scores.jsonl").read_bytes() == whole(tmp_path / "b", start_simulator(**FAST), **how)


def received(url: str) -> int:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/plumbline/requests") as answer:
        return int(json.load(answer)["received"])


# --- killed ----------------------------------------------------------------------------------------------

KILLS = 20
IN_FLIGHT = 8
SAMPLES = 400


def command(*args: object, **more: Any) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "evals", "run", *map(str, args), "--no-mlflow"]
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, **more)


def count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_twenty_points_a_run_ends_as_if_it_had_not_been(tmp_path: Path, start_simulator: Start) -> None:
    url = start_simulator(ttft_ms=40, itl_ms=0)
    how = {"cases": {"count": SAMPLES // 4, "seed": 3}, "repeats": 2, "concurrency": IN_FLIGHT}
    suite = write_suite(tmp_path / "suite.yaml", prompts=WRITES, **how)
    uninterrupted, out = tmp_path / "whole", tmp_path / "run"
    with command(suite, "--base-url", url, "--out", uninterrupted) as process:
        told = process.stderr.read() if process.stderr else ""
    assert process.returncode == 0, told
    before = received(url)

    rng, ended = random.Random(7), []
    for point in sorted(rng.sample(range(SAMPLES * 3 // 4), KILLS)):
        resume = ["--resume"] if (out / "plan.json").exists() else []
        with command(suite, "--base-url", url, "--out", out, *resume) as process:
            while count(out / "samples.jsonl") < point and process.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.02)
            ended.append(process.poll())
            process.kill()
            told = process.stderr.read() if process.stderr else ""
        assert ended[-1] is None, told  # it was at work when it was killed
    with command("--out", out, "--resume") as process:
        told = process.stderr.read() if process.stderr else ""
    assert process.returncode == 0, told
    assert sorted(json.loads(line)["index"] for line in (out / "samples.jsonl").open()) == list(range(SAMPLES))
    assert SAMPLES <= received(url) - before <= SAMPLES + KILLS * IN_FLIGHT
    for name in ("plan.json", "cases.jsonl", "scores.jsonl", "results.json", "report.html"):
        assert (out / name).read_bytes() == (uninterrupted / name).read_bytes(), name


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_answered_and_names_the_way_on(tmp_path: Path, start_simulator: Start) -> None:
    url = start_simulator(ttft_ms=30, itl_ms=0)
    suite, out = write_suite(tmp_path / "suite.yaml", cases={"count": 200}, concurrency=4), tmp_path / "run"
    for number in (signal.SIGINT, signal.SIGTERM):
        resume = ["--resume"] if out.exists() else []
        with command(suite, "--base-url", url, "--out", out, *resume) as process:
            before = count(out / "samples.jsonl")
            while count(out / "samples.jsonl") < before + 5 and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(number)
            told = process.stderr.read() if process.stderr else ""
        assert process.returncode == 130, told
        assert f"stopped; what was answered is kept; go on by: python -m evals run --resume --out {out}" in told
        assert "Traceback" not in told
        assert (out / "samples.jsonl").read_bytes().endswith(b"\n")


@contextlib.contextmanager
def smaller_files(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_a_disk_that_gets_full_is_told_and_the_run_goes_on_when_it_is_mended(
    tmp_path: Path, start_simulator: Start
) -> None:
    url = start_simulator(**FAST)
    suite = write_suite(tmp_path / "suite.yaml", prompts=["write"], cases={"count": 20, "seed": 3}, repeats=4)
    out = tmp_path / "run"
    with (
        smaller_files(24_000),
        pytest.raises(CannotJudge, match=r"samples\.jsonl: cannot be written \(File too large\)"),
    ):
        run_suite(suite, Where(url, out=out))
    kept = count(out / "samples.jsonl")
    assert 0 < kept < 80
    ran = resume_run(None, Where(out=out))
    assert (ran.kept, ran.asked.answered) == (kept, 80 - kept)
    assert int(score_run(ran.folder).scored.sum()) == 80


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_stays_flat_while_samples_are_ten_times_as_many(tmp_path: Path, start_simulator: Start) -> None:
    url = start_simulator(**FAST)
    peaks_mb = {}
    for cases in (1_000, 10_000):
        suite = write_suite(tmp_path / f"{cases}.yaml", cases={"count": cases, "seed": 3})
        code = (
            "import resource, sys; from pathlib import Path; from evals.running import Where, run_suite;"
            "run_suite(Path(sys.argv[1]), Where(sys.argv[2], out=Path(sys.argv[3])));"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)"
        )
        words = [sys.executable, "-c", code, str(suite), url, str(tmp_path / str(cases))]
        ended = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=dict(os.environ))
        peaks_mb[cases] = float(ended.stdout)
    assert peaks_mb[10_000] < peaks_mb[1_000] + 40, peaks_mb
