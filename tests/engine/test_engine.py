"""The whole way on the real vLLM: start, decide, evaluate, load, stop. One server serves all of these tests.

They run in the order of this file: the last one stops the server.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from serving.endpoint import Endpoint
from serving.vllm_server import healthy
from tests.agents.asking.reader_contract import check_reader_contract

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Engine:
    """A running server and the environment in which the commands find it."""

    environment: dict[str, str]
    folder: Path

    def run(self, module: str, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """`python -m module arguments`; fails the test with its words unless it exits as expected."""
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stderr[-3000:]}\n{done.stdout[-1000:]}"
        return done

    def status(self) -> dict[str, Any]:
        """What `python -m serving status --json` says, whether the server is up or down."""
        command = [sys.executable, "-m", "serving", "status", "--json"]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, check=False
        )
        return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "MLFLOW_"))}
    environment["XDG_STATE_HOME"] = str(folder / "state")
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    running = Engine(environment, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        running.run("serving", "start", "--background", "--port", str(port))
        yield running
    finally:
        running.run("serving", "stop")


def test_the_started_server_is_up_and_serves_the_default_model_on_loopback(engine: Engine) -> None:
    status = engine.status()
    assert status["state"] == "up"
    assert status["base_url"].startswith("http://127.0.0.1:")
    assert healthy(status["base_url"].removesuffix("/v1"))


def test_the_example_pipelines_get_labels_and_a_decision_of_the_model_beside_the_rules(engine: Engine) -> None:
    document = json.loads(engine.run("agents", "run", "examples/pipelines.yaml", "--json").stdout)
    assert document["simulated"] is False
    labels = [(one["labels"]["severity"]["value"], one["labels"]["priority"]["value"]) for one in document["pipelines"]]
    assert labels == [("LOW", "HIGH"), ("LOW", "NORMAL")]
    for pipeline in document["pipelines"]:
        assert pipeline["status"] == "completed"
        assert pipeline["trace_id"]
        assert [stage["stage"] for stage in pipeline["stages"]] == ["ingestion", "quality", "infrastructure"]
        for stage in pipeline["stages"]:
            decision = stage["decision"]
            assert (decision["by"], stage["because"], stage["rules"]["by"]) == ("model", None, "rules")
            assert decision["reading"]["source"] == "after the mask"
            assert all(0 < one["probability"] <= 1 for one in (decision["choice"], *decision["actions"]))
            assert len(stage["told"]) == 1 + len(decision["actions"])
            assert min(stage["output_tokens"], stage["prompt_tokens"], stage["latency_s"]) > 0


def test_letters_are_read_from_the_engine_as_everywhere(engine: Engine) -> None:
    check_reader_contract(Endpoint(engine.status()["base_url"], engine.status()["model"], SecretStr("EMPTY")))


def test_an_answer_cut_by_max_tokens_is_no_decision_and_the_rules_decide(engine: Engine) -> None:
    short = engine.folder / "short.yaml"
    short.write_text("name: short\nversion: 1\ndescription: cut off\nask: write\nsampling: {max_tokens: 5}\n")
    arguments = ["run", "examples/pipelines.yaml", "--prompt", str(short), "--json"]
    document = json.loads(engine.run("agents", *arguments).stdout)
    stage = document["pipelines"][0]["stages"][0]
    assert (stage["decision"]["by"], stage["because"]) == ("rules", "unusable")
    assert "cut off" in stage["problem"]
    assert stage["answer"]


def test_a_suite_is_scored_and_logged_with_one_run_per_prompt(engine: Engine) -> None:
    suite = engine.folder / "suite.yaml"
    suite.write_text("name: engine\nprompts: [write, read]\ncases: {count: 4, seed: 1}\nconcurrency: 8\n")
    arguments = ["run", str(suite), "--json", "--out", str(engine.folder / "evals")]
    document = json.loads(engine.run("evals", *arguments).stdout)
    assert document["simulated"] is False
    assert [variant["prompt"] for variant in document["variants"]] == ["write", "read"]
    assert len({variant["mlflow_run_id"] for variant in document["variants"]}) == 2
    for variant in document["results"]["variants"]:
        assert (variant["asked"], variant["scored"], variant["errored"]) == (4, 4, 0)
        assert variant["scores"]["decided"]["n"] == 4
    assert len((engine.folder / "evals" / "samples.jsonl").read_text("utf8").splitlines()) == 8


def test_a_load_test_streams_and_counts_every_request(engine: Engine) -> None:
    profile = engine.folder / "load.yaml"
    pipelines = REPOSITORY / "examples" / "pipelines.yaml"
    profile.write_text(
        "name: engine\narrivals: {kind: closed, users: 2}\nduration_s: 6\nmax_tokens: 12\n"
        f"workload: {{kind: agents, pipelines: {pipelines}, validate_schema: false}}\n"
    )
    folder = engine.folder / "load"
    document = json.loads(engine.run("load_tests", "run", str(profile), "--json", "--out", str(folder)).stdout)
    lines = [json.loads(line) for line in (folder / "rows-0.jsonl").read_text("utf8").splitlines()]
    kinds = [line["kind"] for line in lines]
    sent = [line for line in lines if line["kind"] == "request"]
    assert document["simulated"] is False
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert sent
    assert {row["status"] for row in sent} == {"ok"}
    assert all(0 < row["ttft_s"] <= row["e2e_s"] for row in sent)
    assert {row["output_tokens"] for row in sent} == {12}
    # What vLLM counted over the same requests, to the token.
    assert [(check["kind"], check["equal"]) for check in document["server"]["tokens"]] == [
        ("prompt", True),
        ("output", True),
    ]
    assert 0 < document["server"]["both"]["ttft"]["server_mean_s"] < document["server"]["both"]["ttft"]["client_mean_s"]


def test_stop_leaves_no_process_behind(engine: Engine) -> None:
    pid = engine.status()["pid"]
    members = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(members) >= 3
    engine.run("serving", "stop")
    assert [member.pid for member in members if member.is_running()] == []
    assert engine.status()["state"] == "down"
