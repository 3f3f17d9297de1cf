"""MLflow runs: what was sent is what is stored, and a store that fails says so without giving secrets away."""

from __future__ import annotations

import importlib.metadata
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from common.console import CannotJudge
from tracking import runs
from tracking.runs import DatasetContent, LoggedRun, RunContent, digest, environment_tags, git_sha, log_run, ui_command

ROOT = Path(__file__).parents[2]
KEY = "sk-secret-123"
NOTE = "naïve\n{{ not a template }}"


pytestmark = pytest.mark.slow  # MLflow makes its first database in six seconds


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a SQLite store in a folder that does not exist yet."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'new' / 'mlflow.db'}"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> RunContent:
    file = tmp_path_factory.mktemp("files") / "rows.jsonl"
    file.write_text("{}\n")
    samples = file.with_name("samples.parquet")
    pd.DataFrame({"score": [0.0, 1.0, None]}).to_parquet(samples)
    return RunContent(
        name="a run",
        params={"prompt": "plain", "cases": 24, **{f"p{n:03d}": n for n in range(150)}},
        metrics={"mean": 0.1 + 0.2, "zero": 0.0, "small": 1e-300, **{f"m{n:04d}": n / 7 for n in range(1100)}},
        tags={"simulated": "true"},
        tables={"samples.json": pd.DataFrame({"case": ["a", "b"], "score": [1.0, None], "said": [NOTE, "[b]"]})},
        texts={"prompt.json": NOTE},
        files=(file,),
        row_files={samples: 3},
        dataset=DatasetContent("cases", "0123456789abcdef", {"count": 3, "seed": 7}, 3),
    )


@pytest.fixture(scope="module")
def logged(store: str, content: RunContent) -> LoggedRun:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", store)
        environment.setenv("OPENAI_API_KEY", KEY)
        return log_run("an experiment", content)


@pytest.fixture(scope="module")
def client(store: str, logged: LoggedRun) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=store)


def artifact(client: Any, logged: LoggedRun, path: str) -> str:
    return Path(client.download_artifacts(logged.run_id, path)).read_text("utf8")


# --- stored == sent --------------------------------------------------------------------------------------


def test_every_param_metric_and_tag_is_stored_as_sent(client: Any, logged: LoggedRun, content: RunContent) -> None:
    stored = client.get_run(logged.run_id)
    assert stored.data.params == {key: str(value) for key, value in content.params.items()}
    assert stored.data.metrics == dict(content.metrics)
    assert stored.data.tags["simulated"] == "true"
    assert (stored.info.run_name, stored.info.status) == ("a run", "FINISHED")


def test_tables_texts_and_files_are_stored_as_sent(client: Any, logged: LoggedRun) -> None:
    table = json.loads(artifact(client, logged, "samples.json"))
    assert table["columns"] == ["case", "score", "said"]
    assert [row[0] for row in table["data"]] == ["a", "b"]
    assert table["data"][0][2] == NOTE
    assert table["data"][1][1] is None or math.isnan(table["data"][1][1])
    assert artifact(client, logged, "prompt.json") == NOTE
    assert artifact(client, logged, "rows.jsonl") == "{}\n"


def test_the_dataset_is_listed_with_its_digest_and_how_to_get_it(client: Any, logged: LoggedRun) -> None:
    (used,) = client.get_run(logged.run_id).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("cases", "0123456789abcdef")
    assert json.loads(used.dataset.source) == {"count": 3, "seed": 7}
    assert json.loads(used.dataset.profile) == {"num_rows": 3}
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "evaluation")]


def test_a_parquet_file_is_stored_with_all_its_rows(client: Any, logged: LoggedRun) -> None:
    path = client.download_artifacts(logged.run_id, "samples.parquet")
    assert pd.read_parquet(path)["score"].tolist()[:2] == [0.0, 1.0]


def test_a_run_tells_its_commit_machine_and_versions(client: Any, logged: LoggedRun) -> None:
    tags = client.get_run(logged.run_id).data.tags
    assert {name: tags[name] for name in ("git_sha", "python", "hardware", "versions")} == environment_tags()
    assert f"mlflow {importlib.metadata.version('mlflow')}" in tags["versions"]


def test_nothing_stored_holds_the_key(client: Any, logged: LoggedRun, store: str) -> None:
    assert KEY not in repr(client.get_run(logged.run_id).to_dictionary())
    for path in Path(store.removeprefix("sqlite:///")).parent.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_artifacts_lie_beside_the_database(logged: LoggedRun, store: str, client: Any) -> None:
    folder = Path(store.removeprefix("sqlite:///")).parent
    assert logged.tracking_uri == store
    assert client.get_run(logged.run_id).info.artifact_uri.startswith(folder.as_uri())


def test_a_second_run_joins_the_same_experiment(
    client: Any, logged: LoggedRun, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    second = log_run("an experiment", RunContent("nothing in it"))
    both = [client.get_run(one.run_id).info.experiment_id for one in (logged, second)]
    assert both[0] == both[1]
    assert client.get_run(second.run_id).data.metrics == {}


def test_what_the_store_lost_is_noticed(logged: LoggedRun, client: Any, content: RunContent) -> None:
    more = RunContent("a run", metrics={**content.metrics, "lost": 1.0})
    with pytest.raises(CannotJudge, match=r"lacks 1 of what was logged, first 'lost'$"):
        runs._check_stored(client, logged.run_id, more)
    longer = RunContent("a run", tables={"samples.json": pd.DataFrame({"case": ["a", "b", "c"]})})
    with pytest.raises(CannotJudge, match=r"samples\.json holds 2 rows of 3$"):
        runs._check_stored(client, logged.run_id, longer)
    (samples,) = content.row_files
    with pytest.raises(CannotJudge, match=r"samples\.parquet holds 3 rows of 4$"):
        runs._check_stored(client, logged.run_id, RunContent("a run", row_files={samples: 4}))
    other = RunContent("a run", dataset=DatasetContent("cases", "another", {}, 3), tags={"untagged": "x"})
    with pytest.raises(CannotJudge, match=r"lacks 2 of what was logged, first 'untagged'$"):
        runs._check_stored(client, logged.run_id, other)


def test_a_run_that_breaks_off_is_marked_failed(client: Any, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with pytest.raises(CannotJudge):
        log_run("broken", RunContent("b", files=(Path("/nowhere/at/all"),)))
    experiment = client.get_experiment_by_name("broken").experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]


# --- a store that fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "shown", "reason"),
    [
        ("sqlite:////proc/x/y.db", "sqlite:////proc/x/y.db", "No such file or directory"),
        ("sqlite:////proc", "sqlite:////proc", "unable to open database file"),
        ("http://me:hunter2@127.0.0.1:9", "http://127.0.0.1:9", "Max retries exceeded"),
        ("postgresql://me:hunter2@127.0.0.1:9/db", "postgresql://127.0.0.1:9/db", ""),
        ("file:./somewhere", "file:./somewhere", "maintenance mode"),
    ],
)
def test_a_store_that_cannot_be_reached_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, shown: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(CannotJudge) as failed:
        log_run("e", RunContent("r"))
    message = str(failed.value)
    assert message.startswith(f"MLflow at {shown} did not take the run: ")
    assert reason in message
    assert "hunter2" not in message
    assert "\n" not in message
    server = f".venv/bin/mlflow server --host 127.0.0.1 --backend-store-uri {shown}"
    assert ui_command() == (f"open {shown}" if shown.startswith("http") else server)


def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes@home.db"
    path.write_text("these are notes, not a database\n" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    with pytest.raises(CannotJudge, match="file is not a database") as failed:
        log_run("e", RunContent("r"))
    assert str(failed.value).startswith(f"MLflow at sqlite:///{path} did not take the run: ")
    assert "\n" not in str(failed.value)


# --- small things ----------------------------------------------------------------------------------------


def test_without_a_setting_runs_go_under_mlruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert runs.tracking_uri() == f"sqlite:///{ROOT / 'mlruns' / 'mlflow.db'}"
    assert ui_command() == "make ui"


def test_a_digest_names_a_text_by_its_content() -> None:
    assert digest("abc") == "ba7816bf8f01cfea"  # SHA-256's published test vector
    assert digest("abd") != digest("abc")


def commit(name: str) -> str:
    argv = ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def test_the_commit_is_gits_own_or_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if commit("HEAD"):
        assert commit(git_sha().removesuffix("-dirty")) == commit("HEAD")
    monkeypatch.setattr(runs, "REPOSITORY", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_sha() == "unknown"


def test_mlflow_is_only_loaded_when_a_run_is_logged() -> None:
    """It costs seconds, and most commands never log."""
    program = "import tracking.runs, sys; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False).returncode == 0
