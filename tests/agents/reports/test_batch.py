"""A run of any length: which pipelines become traces, what waits replaced by what comes anew, and memory that stays."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import __main__ as command
from agents.asking.variant import load_prompt
from agents.facts.pipeline_files import Entry, ReadPipeline
from agents.labels.policy import load_policy
from agents.reports.approvals import TraceMode
from agents.reports.batch import FAILURES_TRACED, Outcome, Setup, decide_all
from agents.reports.report import PipelineReport
from agents.specialists import registry
from common.console import BadInput, CannotJudge
from serving.simulator import Fault
from tests.agents.scripted import CALM, GRAVE

ROOT = Path(__file__).parents[3]
FAST = {"ttft_ms": 0, "itl_ms": 0}
Start = Callable[..., str]
HOT = "- {id: hot, source: {type: Kafka}, infrastructure_metrics: {cpu: 99, memory: 99}}\n"
CALM_TEXT = "- {id: calm, source: {type: Kafka}, infrastructure_metrics: {cpu: 40, memory: 40}}\n"


def by_rules(**changes: Any) -> Setup:
    made = {"endpoint": None, "variant": load_prompt("write"), "policy": load_policy("standard"), **changes}
    return Setup(**made)


def run_all(setup: Setup, entries: Iterator[Entry], *, small: bool = False) -> tuple[Outcome, list[PipelineReport]]:
    reports: list[PipelineReport] = []
    ended = lambda _number, _entry, report: reports.append(report)  # noqa: E731
    return asyncio.run(decide_all(setup, entries, ended, small=small)), reports


def entries(count: int) -> Iterator[Entry]:
    return (ReadPipeline(CALM.model_copy(update={"id": f"p{number}"}), f"f:{number}") for number in range(count))


def test_every_entry_has_its_report_and_is_counted() -> None:
    outcome, reports = run_all(by_rules(trace=TraceMode.NONE), entries(50))
    assert sorted(report.pipeline_id for report in reports) == sorted(f"p{number}" for number in range(50))
    assert outcome.tally.document()["decided_by"] == {"rules": 150}
    assert (outcome.trace_problem, outcome.failures_untraced) == (None, 0)


def test_a_condition_says_who_decides_and_by_which_policy() -> None:
    condition = by_rules().condition()
    assert (condition["by"], condition["simulated"], condition["policy"]) == ("rules", False, "standard")
    other = by_rules(policy=load_policy("seed")).condition()
    assert other["policy_digest"] != condition["policy_digest"]


def test_a_run_with_further_actions_is_another_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    before = by_rules().condition()
    monkeypatch.setattr(registry, "_SPECIALISTS", dict(registry._SPECIALISTS))
    quality = registry.specialist_of("quality")
    registry.register(quality.with_actions((quality.catalogue[0].model_copy(update={"id": "added"}),)))
    after = by_rules().condition()
    assert {key for key in before if before[key] != after[key]} == {"actions_digest"}


def test_entries_are_drawn_as_there_is_room_for_them() -> None:
    drawn = 0

    def counting() -> Iterator[Entry]:
        nonlocal drawn
        for entry in entries(100):
            drawn += 1
            yield entry

    most_ahead = done = 0

    def ended(_number: int, _entry: Entry, _report: PipelineReport) -> None:
        nonlocal most_ahead, done
        done += 1
        most_ahead = max(most_ahead, drawn - done)

    asyncio.run(decide_all(by_rules(trace=TraceMode.NONE, concurrency=4), counting(), ended, small=False))
    assert most_ahead <= 4


# --- traces ----------------------------------------------------------------------------------------------

needs_mlflow = pytest.mark.slow  # it is imported in two seconds and makes its first database in four


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def here(*args: str | Path) -> int:
    return int(command.app([str(arg) for arg in args], standalone_mode=False) or 0)


def waiting(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    here("approvals", "list", "--json")
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["approvals"]
    return found


@needs_mlflow
def test_a_second_ordinary_run_replaces_what_waits_and_then_the_pipelines_id_is_enough(
    store: Path, start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    pipelines = store / "p.yaml"
    pipelines.write_text(HOT + CALM_TEXT)
    endpoint = start_simulator(**FAST)
    assert here("run", pipelines, "--base-url", endpoint) == 0
    (first,) = waiting(capsys)
    assert (first["pipeline_id"], first["simulated"]) == ("hot", True)
    assert first["reasons"].startswith("priority CRITICAL")
    assert all(f"{stage}: " in first["asks"] for stage in ("ingestion", "quality", "infrastructure"))
    assert " 0." in first["asks"]  # a probability
    assert here("run", pipelines, "--by", "rules") == 0
    (second,) = waiting(capsys)
    assert (second["pipeline_id"], second["simulated"]) == ("hot", False)
    assert "(rules)" in second["asks"]
    assert second["id"] != first["id"]
    with pytest.raises(BadInput, match="needs no decision: the pipeline was asked again"):
        here("approvals", "approve", first["id"], "--by", "Ada", "--reason", "seen")
    # The simulator takes the place of nothing real.
    assert here("run", pipelines, "--base-url", endpoint) == 0
    assert {one["id"] for one in waiting(capsys)} > {second["id"]}
    assert here("approvals", "approve", second["id"], "--by", "Ada", "--reason", "seen") == 0
    assert here("approvals", "approve", "hot", "--by", "Ada", "--reason", "seen") == 0
    assert waiting(capsys) == []
    # What was decided stays so; a third run waits anew and replaces nothing that was decided.
    assert here("run", pipelines, "--by", "rules") == 0
    (third,) = waiting(capsys)
    assert third["id"] not in {first["id"], second["id"]}
    here("approvals", "list", "--all", "--json")
    decided = {one["id"]: one["decision"] for one in json.loads(capsys.readouterr().out)["approvals"]}
    assert decided[second["id"]] == "approved"
    assert first["id"] not in decided


@needs_mlflow
def test_a_run_that_finds_it_calm_or_fails_takes_away_only_what_it_has_decided_anew(
    store: Path, start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    pipelines = store / "p.yaml"
    pipelines.write_text(HOT)
    assert here("run", pipelines, "--by", "rules") == 0
    (first,) = waiting(capsys)
    down = start_simulator(**FAST, fault=Fault.HTTP_500)
    assert here("run", pipelines, "--base-url", down, "--max-retries", "0") == 3
    assert [one["id"] for one in waiting(capsys)] == [first["id"]]  # what failed asks for nothing
    assert here("run", pipelines, "--by", "rules", "--trace", "none") == 0
    assert waiting(capsys)
    pipelines.write_text(HOT.replace("cpu: 99, memory: 99", "cpu: 40, memory: 40"))
    assert here("run", pipelines, "--by", "rules") == 0
    assert waiting(capsys) == []


@needs_mlflow
def test_a_resumed_pipeline_waits_once_and_under_its_new_trace(
    store: Path, start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pipelines = store / "out.jsonl", store / "p.yaml"
    pipelines.write_text(HOT)
    options: list[str | Path] = ["--trace", "auto", "--out", out, "--max-retries", "0"]
    down, up = start_simulator(**FAST, fault=Fault.HTTP_500), start_simulator(**FAST)
    assert here("run", pipelines, *options, "--base-url", down) == 3
    first = json.loads(out.read_text())["trace_id"]
    assert here("run", pipelines, *options, "--base-url", up, "--resume") == 0
    second = json.loads(out.read_text())["trace_id"]
    assert second not in (None, first)
    assert [one["id"] for one in waiting(capsys)] == [second]


@needs_mlflow
def test_in_a_long_run_what_needs_a_person_and_the_first_failures_become_traces(store: Path) -> None:
    def mixed() -> Iterator[Entry]:
        for number in range(FAILURES_TRACED + 5):
            yield ReadPipeline(CALM.model_copy(update={"id": f"p{number}"}), "f")
        yield ReadPipeline(GRAVE.model_copy(update={"id": "grave"}), "f")

    outcome, reports = run_all(by_rules(), mixed())
    assert {report.pipeline_id for report in reports if report.trace_id} == {"grave"}
    assert outcome.failures_untraced == 0
    every, reports = run_all(by_rules(trace=TraceMode.ALL), entries(3))
    assert all(report.trace_id for report in reports)
    assert every.trace_problem is None


@needs_mlflow
def test_a_store_that_cannot_be_reached_costs_no_decision_and_exits_3(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no/mlflow.db")
    out, pipelines = store / "out.jsonl", store / "p.yaml"
    pipelines.write_text(HOT + CALM_TEXT)
    with pytest.raises(CannotJudge, match=r"^traces are missing, and with them what a person could decide on: "):
        here("run", pipelines, "--by", "rules", "--trace", "all", "--out", out)
    assert len(out.read_text().splitlines()) == 2


# --- memory ----------------------------------------------------------------------------------------------

FEW = 1_000
_PROGRAM = """
import json, resource, sys
from agents.__main__ import app
try:
    app(sys.argv[1:], standalone_mode=False)
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mb(pipelines: Path, out: Path, *options: str) -> float:
    """Peak memory of a run in a process of its own."""
    argv = [sys.executable, "-c", _PROGRAM, "run", str(pipelines), "--trace", "none", "--out", str(out), *options]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1]) / 1024


def write_many(path: Path, count: int) -> Path:
    with path.open("w") as file:
        for number in range(count):
            metrics = {"cpu": number % 100, "memory": number * 7 % 100}
            line = {"id": f"p{number:06d}", "source": {"type": "Kafka", "volume": f"{number % 900 + 1} GB/day"}}
            file.write(json.dumps({**line, "infrastructure_metrics": metrics}) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("by", "count"), [("rules", 100_000), ("simulator", 6_000)])
def test_many_pipelines_take_no_more_memory_than_a_thousand(
    by: str, count: int, start_simulator: Start, tmp_path: Path
) -> None:
    """With a hundred thousand on the simulator it takes a quarter of an hour: benchmarks/batch_memory.py."""
    options = ["--by", "rules"] if by == "rules" else ["--base-url", start_simulator(**FAST, output_tokens=8)]
    few, many = (write_many(tmp_path / f"{number}.jsonl", number) for number in (FEW, count))
    small, large = (peak_mb(path, tmp_path / f"{path.stem}.out.jsonl", *options) for path in (few, many))
    assert large - small < 30, (small, large)
    with (tmp_path / f"{count}.out.jsonl").open("rb") as rows:
        assert sum(1 for _ in rows) == count
