"""A run's folder as MLflow runs: one per variant, with its figures, its samples and a few traces."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from agents.asking.requests import stage_request
from agents.asking.variant import PromptVariant
from agents.labels.policy import Policy
from common.console import BadInput, CannotJudge, progress, say
from evals.decision_words import decision_lines, key_lines
from evals.gate_rules import HEADLINE
from evals.labels import case_labels
from evals.logged_rows import Gathered, Row, gather, record_of
from evals.plan import Plan
from evals.results import Comparison, Results, VariantResult
from evals.run_folder import RunFolder
from evals.score_table import ScoreTable
from evals.statistics import Estimate
from evals.variant import Variant
from tracking.prompts import RegisteredPrompt, register_prompt
from tracking.runs import DatasetContent, LoggedRun, RunContent, digest, log_run
from tracking.traces import SpanContent, TraceContent, TraceLog

EXPERIMENT = "plumbline-evals"
_NOT_KEPT = {"messages": "not kept: a further question of the same decision"}
"""A sample keeps its replies, and the first messages alone are not what the others were asked with."""


@dataclass(frozen=True)
class _Logging:
    """What all runs of one folder share."""

    folder: RunFolder
    results: Results
    gathered: dict[str, Gathered]
    report: Path
    traces: TraceLog


def log_run_folder(folder: RunFolder, table: ScoreTable, results: Results) -> dict[str, LoggedRun]:
    """Log every variant of a finished run; the run's name for each. report.html must be in the folder.

    Raises BadInput without a report, CannotJudge when the store cannot be reached or does not hold what was sent.
    """
    report = folder.path / "report.html"
    if not report.is_file():
        raise BadInput(f"{report}: is not there; make it by: python -m evals rescore {folder.path}")
    with tempfile.TemporaryDirectory(prefix="plumbline-") as made, progress("runs") as bar:
        task = bar.add_task("logging to MLflow", total=len(folder.plan.variants))
        gathered = gather(folder, table.scorers, Path(made))
        check_complete(folder, table, gathered)
        shared = _Logging(folder, results, gathered, report, TraceLog(EXPERIMENT))
        logged = {}
        for variant in folder.plan.variants:
            logged[variant.name] = _log_variant(shared, variant)
            bar.advance(task)
    return logged


def check_complete(folder: RunFolder, table: ScoreTable, gathered: dict[str, Gathered]) -> None:
    """Raises CannotJudge when rows, scores and errors of a variant are not those of the table."""
    for number, name in enumerate(table.variants):
        errored = int(table.errored[number].sum())
        scored = int((~np.isnan(table.values[number])).any(axis=-1).sum())
        found = gathered[name]
        if (found.file.rows, found.scored, found.errored) != (scored + errored, scored, errored):
            raise CannotJudge(
                f"{folder.path}: {name} has {found.file.rows} samples, {found.scored} answered and {found.errored} "
                f"errored, but scores for {scored} and {errored}: score it anew by "
                f"`python -m evals rescore {folder.path}`"
            )


def _log_variant(shared: _Logging, variant: Variant) -> LoggedRun:
    plan, gathered = shared.folder.plan, shared.gathered[variant.name]
    prompt = _register(variant.prompt)
    content = RunContent(
        name=f"{plan.suite.name}/{variant.name}",
        params=params(plan, variant, prompt.uri),
        metrics=metrics(shared.results, variant.name) | costs(gathered),
        tags=tags(shared.folder, variant) | prompt.run_tags,
        tables={"worst.json": worst_table(variant, gathered.worst.rows)} if gathered.worst.rows else {},
        texts={"prompt.yaml": prompt_text(variant.prompt), "policy.yaml": policy_text(variant.policy)},
        files=(shared.report, shared.folder.path / "cases.jsonl"),
        row_files={gathered.file.path: gathered.file.rows},
        dataset=dataset(plan),
    )
    logged = log_run(EXPERIMENT, content)
    _log_traces(shared, variant, logged.run_id)
    return logged


# --- the prompt ------------------------------------------------------------------------------------------


def prompt_text(prompt: PromptVariant) -> str:
    """A prompt's words as YAML, without how it is sampled and sent: that is the run's, and would make a version of
    every setting."""
    told = prompt.model_dump(mode="json", exclude={"sampling", "constrained", "parameters"}, exclude_none=True)
    return as_yaml(told)


def policy_text(policy: Policy) -> str:
    """A policy's numbers as YAML: two files may carry one name."""
    return as_yaml(policy.model_dump(mode="json", exclude_none=True))


def as_yaml(told: object) -> str:
    """Data as YAML that reads back as it is."""
    return yaml.dump(told, Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=1_000_000)


class _Blocks(yaml.SafeDumper):
    """Texts of several lines as blocks, as people write them."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Unquoted, PyYAML takes some characters for line ends when it reads them back.
    printable = text.replace("\n", "").isprintable()
    style = '"' if not printable else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Blocks.add_representer(str, _block)


def _register(prompt: PromptVariant) -> RegisteredPrompt:
    described = {"plumbline.prompt": prompt.name, "plumbline.prompt_version": str(prompt.version)}
    return register_prompt(EXPERIMENT, f"plumbline-{prompt.name}", prompt_text(prompt), described)


# --- params, tags, metrics -------------------------------------------------------------------------------


def params(plan: Plan, variant: Variant, prompt_uri: str) -> dict[str, object]:
    """What was asked, and how."""
    return {
        "suite": plan.suite.name,
        "variant": variant.name,
        "prompt": variant.prompt.name,
        "prompt_version": variant.prompt.version,
        "prompt_digest": digest(prompt_text(variant.prompt)),
        "prompt_uri": prompt_uri,
        "model_name": variant.model.name,
        "model": variant.model.model,
        "endpoint": variant.model.base_url,
        "policy": variant.policy.name,
        "policy_digest": digest(policy_text(variant.policy)),
        "ask": variant.prompt.ask,
        "offer": variant.prompt.offer,
        "sampling": variant.sampling_name,
        **{f"sampling_{key}": value for key, value in variant.prompt.sampling.model_dump().items()},
        "constrained": variant.prompt.constrained,
        "repeats": plan.repeats,
        "cases": plan.cases,
        "cases_digest": plan.cases_digest,
        "concurrency": plan.suite.concurrency,
        "timeout_s": plan.suite.timeout_s,
        "max_retries": plan.suite.max_retries,
        "baseline": plan.baseline,
    }


def tags(folder: RunFolder, variant: Variant) -> dict[str, str]:
    """What groups the runs of one folder; git_sha, which every run has, is the commit that scored and logged."""
    return {
        "kind": "evaluation",
        "simulated": str(variant.model.simulated).lower(),
        "plumbline.run": folder.path.resolve().name,
        "plumbline.suite": folder.plan.suite.name,
        "plumbline.baseline": str(variant.name == folder.plan.baseline).lower(),
        "asked_git_sha": folder.plan.git_sha,
    }


def metrics(results: Results, variant: str) -> dict[str, float]:
    """The figures of results.json: means with n and the bounds of their 95 % intervals, differences, rates, counts."""
    one = results.of(variant)
    found = _counts(one)
    found |= _with_bounds(f"rules_{HEADLINE}", results.rules_under(one.policy).scores[HEADLINE])
    for name, mean in one.scores.items():
        found |= _with_bounds(name, mean)
    for stage, mean in one.agents.items():
        found |= _with_bounds(f"{HEADLINE}_{stage}", mean)
    for comparison in results.comparisons:
        if (comparison.a, comparison.b) == (results.baseline, variant):
            found |= _difference(comparison)
    for rate in results.relations:
        if rate.variant == variant and rate.rate is not None:
            found |= _bounds(f"metamorphic_{rate.relation}_rate", rate.rate, rate.n, rate.low, rate.high)
    return found


def _counts(one: VariantResult) -> dict[str, float]:
    counts = {"samples": one.scored + one.errored, "samples_scored": one.scored, "samples_errored": one.errored}
    counts |= {"samples_missing": one.asked - one.scored - one.errored, "samples_undecided": one.undecided}
    counts |= {f"errors_{name}": count for name, count in one.errors.items()}
    return {name: float(count) for name, count in counts.items()}


def _with_bounds(name: str, mean: Estimate | None) -> dict[str, float]:
    return _bounds(f"{name}_mean", mean.mean, mean.n, mean.low, mean.high) if mean else {}


def _bounds(name: str, value: float, n: int, low: float | None, high: float | None) -> dict[str, float]:
    base = name.rpartition("_")[0]
    found = {name: value, f"{base}_n": float(n)}
    return found if low is None or high is None else found | {f"{base}_ci95_low": low, f"{base}_ci95_high": high}


def _difference(one: Comparison) -> dict[str, float]:
    """The difference from the baseline; without a p value where there are too few pairs for one."""
    name = f"{one.scorer}_vs_baseline"
    found = _bounds(f"{name}_difference", one.difference, one.n, one.low, one.high)
    return found if one.p_holm is None else found | {f"{name}_p_holm": one.p_holm}


def costs(gathered: Gathered) -> dict[str, float]:
    """What the answers cost: seconds over all tries of a sample, without those from the cache; tokens."""
    found = {"samples_from_cache": float(gathered.from_cache)}
    for name, values in (
        ("latency_s", gathered.latencies_s),
        ("prompt_tokens", gathered.prompt_tokens),
        ("output_tokens", gathered.output_tokens),
    ):
        if values:
            p05, median, p95 = np.quantile(values, [0.05, 0.5, 0.95])
            found |= {f"{name}_n": float(len(values)), f"{name}_median": float(median)}
            found |= {f"{name}_p05": float(p05), f"{name}_p95": float(p95)}
    for name, counts in (("prompt_tokens", gathered.prompt_tokens), ("output_tokens", gathered.output_tokens)):
        if counts:
            found[f"{name}_total"] = float(sum(counts))
    return found


def dataset(plan: Plan) -> DatasetContent:
    """The cases, by their digest."""
    source = plan.suite.model_dump(mode="json", include={"cases", "metamorphic"}, exclude_none=True)
    return DatasetContent(f"{plan.suite.name} cases", plan.cases_digest, source, plan.cases)


# --- single samples --------------------------------------------------------------------------------------


def worst_table(variant: Variant, rows: Sequence[Row]) -> pd.DataFrame:
    """The rows of samples.parquet with the lowest headline, the worst first, and with what was asked."""
    return pd.DataFrame([{"asked": _messages(variant, row)[-1]["content"], **record_of(row)} for row in rows])


def _messages(variant: Variant, row: Row) -> list[dict[str, str]]:
    case, labels = row.case, case_labels(row.case, variant.policy)
    asked = stage_request(case.stage, case.spec, variant.prompt, labels, variant.model.model)
    return list(asked.body["messages"])


def _log_traces(shared: _Logging, variant: Variant, run_id: str) -> None:
    """Traces of failures and of a few answers drawn; says how many failures were left out."""
    gathered = shared.gathered[variant.name]
    contents = list(_traces(shared, variant, run_id))
    shared.traces.write_all(contents)
    if (kept := shared.traces.count(run_id)) != len(contents):
        raise CannotJudge(f"MLflow run {run_id} holds {kept} traces of {len(contents)}")
    left_out = gathered.failed.offered - len(gathered.failed.rows)
    if left_out:
        say(f"{variant.name}: traces of {len(gathered.failed.rows)} failures are in MLflow, {left_out} were left out")


def _traces(shared: _Logging, variant: Variant, run_id: str) -> Iterator[TraceContent]:
    gathered = shared.gathered[variant.name]
    named = {"plumbline.run": shared.folder.path.resolve().name, "plumbline.variant": variant.name}
    for kind, rows in (("failure", gathered.failed.rows), ("drawn", gathered.sampled.rows)):
        for row in rows:
            yield trace(variant, row, run_id, named | {"plumbline.kind": kind})


def trace(variant: Variant, row: Row, run_id: str, named: dict[str, str]) -> TraceContent:
    """One sample as a trace, a span for each reply. A sample keeps no time of day: its trace ends when it is logged,
    and lasts as long as the replies took."""
    messages = _messages(variant, row)
    now = datetime.now(UTC)
    taken = timedelta(seconds=sum(reply.latency_s for reply in row.sample.replies))
    return TraceContent(
        name=f"{row.case.stage}: {row.case.id}",
        spans=tuple(_spans(row, messages, now - taken)),
        start=now - taken,
        end=now,
        inputs={"case": row.case.id, "asked": messages[-1]["content"]},
        outputs=outcome(row),
        tags={**named, "plumbline.case": row.case.id, "plumbline.stage": row.case.stage},
        error=row.sample.error,
        run_id=run_id,
        scores={name: (score["value"], score["explanation"]) for name, score in row.scores.items()},
    )


def outcome(row: Row) -> dict[str, object]:
    """What was decided, what the rules would have decided, and what is right, in lines."""
    decision, stage = row.sample.decision, row.case.stage
    return {
        "decided": dict(decision_lines(decision, stage)) if decision else row.sample.problem,
        "the rules": dict(decision_lines(row.rules, stage)),
        "right": dict(key_lines(row.case)),
    }


def _spans(row: Row, messages: list[dict[str, str]], start: datetime) -> Iterator[SpanContent]:
    for number, reply in enumerate(row.sample.replies, 1):
        end = start + timedelta(seconds=reply.latency_s)
        known = reply.prompt_tokens is not None and reply.output_tokens is not None
        yield SpanContent(
            f"reply {number}",
            start,
            end,
            inputs={"messages": messages} if number == 1 else _NOT_KEPT,
            outputs=reply.text,
            attributes={"plumbline.finish_reason": reply.finish_reason, "plumbline.tries": reply.tries},
            tokens=(reply.prompt_tokens or 0, reply.output_tokens or 0) if known else None,
        )
        start = end
