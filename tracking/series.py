"""Metrics over time: many values of one metric, each with its moment, added to a run that is logged already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tracking.runs import LoggedRun
from tracking.store import reaching

_BATCH = 1000
"""MLflow's most metrics in one call."""


class Point(NamedTuple):
    """A value at a moment."""

    step: int
    value: float
    at_ms: int
    """Milliseconds since 1970."""


def log_series(run: LoggedRun, series: Mapping[str, Sequence[Point]]) -> None:
    """Add the values of each metric to a run. Raises CannotJudge when the store does not take them."""
    with reaching("take metrics over time") as uri:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        metrics = [
            Metric(name, point.value, point.at_ms, point.step) for name, points in series.items() for point in points
        ]
        for start in range(0, len(metrics), _BATCH):
            client.log_batch(run.run_id, metrics=metrics[start : start + _BATCH])
