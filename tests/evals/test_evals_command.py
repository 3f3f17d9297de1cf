"""`python -m evals`, end to end on the simulator: what is printed, what MLflow holds, and how it exits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents.client import make_client
from console import BadInput, CannotJudge
from evals import __main__ as command
from evals.case import load_cases
from evals.generate import generate
from evals.scorers import SCORERS
from serving.simulator import Fault

KEY = "sk-secret-123"
CASES = 19
SUITE = f"name: small\nprompts: [plain, grounded]\ncases: {{count: {CASES}, seed: 3}}\n"
Start = Callable[..., str]


@dataclass(frozen=True)
class Store:
    """A folder with a suite and an MLflow store; making the store takes seconds, so tests share it."""

    folder: Path

    @property
    def suite(self) -> Path:
        return self.folder / "suite.yaml"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("evals"))
    made.suite.write_text(SUITE)
    return made


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder from which no endpoint is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return tmp_path


def here(*args: str) -> None:
    command.app(list(args), standalone_mode=False)


def client(store: Store) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=store.uri)


# --- end to end ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_suite_becomes_one_mlflow_run_per_prompt_with_all_that_was_asked(
    start_simulator: Start,
    store: Store,
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    base_url = start_simulator(ttft_ms=0, itl_ms=0)
    out = store.folder / "right"
    here("run", str(store.suite), "--base-url", base_url, "--json", "--out", str(out))
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert (document["simulated"], document["cases"], document["policy"]) == (True, CASES, "standard")
    assert [variant["prompt"] for variant in document["variants"]] == ["plain", "grounded"]
    assert len((out / "samples.jsonl").read_text().splitlines()) == 2 * CASES
    assert KEY not in told.out + told.err + (out / "samples.jsonl").read_text()
    assert list(alone.iterdir()) == []  # nothing strays into the working folder

    mlflow = client(store)
    for variant in document["variants"]:
        run = mlflow.get_run(variant["mlflow_run_id"])
        assert (run.info.run_name, run.info.status) == (f"small/{variant['prompt']}", "FINISHED")
        assert (run.data.tags["simulated"], run.data.tags["kind"]) == ("true", "evaluation")
        assert {"git_sha", "hardware", "python"} <= set(run.data.tags)
        params = run.data.params
        assert (params["prompt"], params["cases"], params["cases_seed"]) == (variant["prompt"], str(CASES), "3")
        assert (params["model"], params["endpoint"], params["policy"]) == ("plumbline-simulator", base_url, "standard")
        assert {"prompt_digest", "cases_digest", "sampling_temperature", "sampling_seed"} <= set(params)
        assert run.data.metrics["samples_scored"] == CASES
        for name in SCORERS:
            told, metrics = variant["scores"][name], run.data.metrics
            assert metrics[f"{name}_mean"] == told["mean"]
            assert [metrics[f"{name}_ci95_low"], metrics[f"{name}_ci95_high"]] == told["ci95"]
        artifacts = {file.path for file in mlflow.list_artifacts(run.info.run_id)}
        assert {"samples.json", "prompt.json", "cases.jsonl"} <= artifacts
        samples = json.loads(Path(mlflow.download_artifacts(run.info.run_id, "samples.json")).read_text())
        assert len(samples["data"]) == CASES
        assert {"messages", "answer", "error", *SCORERS} <= set(samples["columns"])
        prompt = json.loads(Path(mlflow.download_artifacts(run.info.run_id, "prompt.json")).read_text())
        assert prompt["name"] == variant["prompt"]
        assert load_cases(Path(mlflow.download_artifacts(run.info.run_id, "cases.jsonl"))) == generate(CASES, 3)


@pytest.mark.slow
def test_an_endpoint_that_fails_exits_3_and_every_sample_is_an_unscored_row(
    start_simulator: Start, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("evals.runner.make_client", partial(make_client, max_retries=0))
    suite, out = store.folder / "tiny.yaml", store.folder / "failed"
    suite.write_text("name: tiny\nprompts: [plain]\ncases: {count: 2}\n")
    with pytest.raises(CannotJudge) as failed:
        here("run", str(suite), "--base-url", start_simulator(fault=Fault.HTTP_500), "--out", str(out))
    assert failed.value.exit_code == 3
    assert str(failed.value).startswith("2 of 2 samples got no answer; first: the endpoint answered HTTP 500: ")
    told = capsys.readouterr()
    assert told.out == ""
    assert "SIMULATOR" in told.err
    assert "unscored" in told.err
    assert KEY not in told.err
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [(bool(row["error"]), row["scores"]) for row in rows] == [(True, {}), (True, {})]

    [run] = [run for run in runs(store) if run.info.run_name == "tiny/plain"]
    assert run.data.metrics == {"samples": 2, "samples_scored": 0, "samples_errored": 2}


def runs(store: Store) -> list[Any]:
    mlflow = client(store)
    experiment = mlflow.get_experiment_by_name("plumbline-evals")
    return list(mlflow.search_runs([experiment.experiment_id])) if experiment else []


# --- without a run ---------------------------------------------------------------------------------------


def test_no_endpoint_is_told_before_anything_is_written(alone: Path) -> None:
    Path("suite.yaml").write_text(SUITE)
    with pytest.raises(CannotJudge, match="python -m serving start --background"):
        here("run", "suite.yaml")
    assert [path.name for path in alone.iterdir()] == ["suite.yaml"]


def test_a_bad_suite_is_found_before_the_endpoint_is_asked(alone: Path) -> None:
    Path("suite.yaml").write_text(SUITE.replace("plain", "fancy"))
    with pytest.raises(BadInput, match=r"^prompt 'fancy' is not known"):
        here("run", "suite.yaml", "--base-url", "http://127.0.0.1:9/v1")


def test_generate_writes_the_same_bytes_for_the_same_seed(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("a.jsonl", "b.jsonl"):
        here("generate", "--n", "40", "--seed", "7", "--out", out)
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()
    assert load_cases(Path("a.jsonl")) == generate(40, 7)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("40 cases from 19 oracle rows in a.jsonl\n")


def test_generate_says_where_it_cannot_write(alone: Path) -> None:
    with pytest.raises(BadInput, match=r"^--out no/a\.jsonl: cannot be written \(No such file or directory\)$"):
        here("generate", "--out", "no/a.jsonl")
