"""An evaluation as MLflow runs: one per prompt variant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import median

import pandas as pd

from agents.prompt import PromptVariant
from evals.case import dump_cases
from evals.runner import Sample, estimates
from evals.statistics import Estimate
from evals.suite import Plan
from serving.endpoint import Endpoint
from tracking.runs import LoggedRun, RunContent, digest, log_run

EXPERIMENT = "plumbline-evals"


def log_variant(plan: Plan, variant: PromptVariant, samples: Sequence[Sample], endpoint: Endpoint) -> LoggedRun:
    """Log one variant: params, metrics with interval bounds, the per-sample table, the prompt. Raises CannotJudge."""
    prompt_text = json.dumps(variant.model_dump(mode="json"), indent=2, ensure_ascii=False)
    params = {
        "suite": plan.suite.name,
        "prompt": variant.name,
        "prompt_version": variant.version,
        "prompt_digest": digest(prompt_text),
        "model": endpoint.model,
        "endpoint": endpoint.base_url,
        "policy": plan.policy.name,
        "cases": len(plan.cases),
        "cases_digest": digest(dump_cases(plan.cases)),
        "cases_seed": plan.suite.cases.seed if plan.suite.cases.file is None else "from file",
        "concurrency": plan.suite.concurrency,
        **{f"sampling_{key}": value for key, value in variant.sampling.model_dump().items()},
    }
    content = RunContent(
        name=f"{plan.suite.name}/{variant.name}",
        params=params,
        metrics=metrics(samples),
        tags={"simulated": str(endpoint.simulated).lower(), "kind": "evaluation"},
        tables={"samples.json": sample_table(samples)},
        texts={"prompt.json": prompt_text, "cases.jsonl": dump_cases(plan.cases)},
    )
    return log_run(EXPERIMENT, content)


def metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """Mean and interval per scorer, counts, and what the answers cost."""
    found: dict[str, float] = {
        "samples": len(samples),
        "samples_scored": sum(bool(sample.scores) for sample in samples),
        "samples_errored": sum(sample.error is not None for sample in samples),
    }
    for name, estimate in estimates(samples).items():
        if estimate:
            found |= _with_bounds(name, estimate)
    for field in ("latency_s", "output_tokens", "prompt_tokens"):
        values = [value for sample in samples if (value := getattr(sample, field)) is not None]
        if values:
            found[f"{field}_median"] = median(values)
    return found


def sample_table(samples: Sequence[Sample]) -> pd.DataFrame:
    """One row per sample: case_id, row, stage, messages, answer, error, tokens, latency_s, and per scorer the value
    and its explanation."""
    rows = []
    for sample in samples:
        row: dict[str, object] = sample.model_dump(mode="json", exclude={"scores", "messages"})
        row["messages"] = json.dumps(sample.messages, ensure_ascii=False)
        for name, score in sample.scores.items():
            row[name] = score.value
            row[f"{name}_why"] = score.explanation
        rows.append(row)
    return pd.DataFrame(rows)


def _with_bounds(name: str, estimate: Estimate) -> dict[str, float]:
    found = {f"{name}_mean": estimate.mean, f"{name}_n": float(estimate.n)}
    if estimate.low is not None and estimate.high is not None:
        found |= {f"{name}_ci95_low": estimate.low, f"{name}_ci95_high": estimate.high}
    return found
