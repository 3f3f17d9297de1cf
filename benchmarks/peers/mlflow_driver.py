"""mlflow.genai.evaluate on the rows: the openai SDK asks, three scorers, a sqlite store, 10 workers, no rate limits.

With its default limits it takes ten times as long and drops rows (docs/log.md), so they are off here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.peers.work import SCORERS, Row, done, job, read_rows

_SETTINGS = {
    "MLFLOW_GENAI_EVAL_MAX_WORKERS": "10",
    "MLFLOW_GENAI_EVAL_PREDICT_RATE_LIMIT": "0",
    "MLFLOW_GENAI_EVAL_SCORER_RATE_LIMIT": "0",
    "MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def main() -> None:
    """Evaluate all rows in one call; what it stored is counted, since it may lose some."""
    work = job()
    os.environ |= _SETTINGS
    import mlflow
    from openai import OpenAI

    mlflow.set_tracking_uri(f"sqlite:///{work.folder / 'mlflow.db'}")
    experiment = mlflow.create_experiment("peers", artifact_location=(work.folder / "artifacts").as_uri())
    mlflow.set_experiment(experiment_id=experiment)
    client = OpenAI(base_url=work.base_url, api_key="EMPTY")

    def predict(messages: list[dict[str, str]], options: dict[str, Any]) -> str:
        answer = client.chat.completions.create(model=work.model, messages=messages, **options)  # type: ignore[arg-type]
        return str(answer.choices[0].message.content)

    made = [mlflow.genai.scorer(scored_by(name), name=name) for name in SCORERS]
    mlflow.genai.evaluate(data=[as_data(row) for row in read_rows(work.rows)], predict_fn=predict, scorers=made)
    mlflow.flush_trace_async_logging()
    done(stored(mlflow.search_traces(locations=[experiment], max_results=100_000, return_type="list")))


def as_data(row: Row) -> dict[str, Any]:
    """A row as mlflow's record."""
    inputs = {"messages": row.messages, "options": row.options}
    return {"inputs": inputs, "expectations": {"words": row.words}}


def scored_by(name: str) -> Callable[..., float]:
    """One of the plain scorers with mlflow's arguments."""

    def score(outputs: str, expectations: dict[str, Any]) -> float:
        return SCORERS[name](outputs, expectations["words"])

    return score


def stored(traces: list[Any]) -> int:
    """Traces with every score."""
    return sum(set(SCORERS) <= {one.name for one in trace.info.assessments} for trace in traces)


if __name__ == "__main__":
    main()
