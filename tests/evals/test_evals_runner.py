"""Running a plan on an endpoint: rows asked are rows scored plus rows errored, whatever the endpoint does."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agents.client import make_client
from evals.record import metrics, sample_table
from evals.runner import Sample, estimates, run
from evals.scorers import SCORERS
from evals.suite import Plan, load_plan
from serving.endpoint import connect
from serving.simulator import Fault

Start = Callable[..., str]
FAST = {"ttft_ms": 0, "itl_ms": 0}
CASES = 19


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"name: small\nprompts: [plain, grounded]\ncases: {{count: {CASES}, seed: 3}}\n")
    return load_plan(suite)


def ran(plan: Plan, base_url: str) -> tuple[list[Sample], list[Sample]]:
    """The samples as returned, and as written line by line."""
    sink = io.StringIO()
    samples = asyncio.run(run(plan, connect(base_url), sink, lambda _sample: None))
    return samples, [Sample.model_validate_json(line) for line in sink.getvalue().splitlines()]


def test_every_case_is_asked_once_under_each_prompt_and_kept(start_simulator: Start, plan: Plan) -> None:
    samples, written = ran(plan, start_simulator(**FAST))
    wanted = [(variant.name, case.id) for variant in plan.variants for case in plan.cases]
    assert [(sample.variant, sample.case_id) for sample in samples] == wanted
    assert sorted(written, key=lambda one: (one.variant, one.case_id)) == sorted(
        samples, key=lambda one: (one.variant, one.case_id)
    )
    for sample in samples:
        assert sample.error is None
        assert set(sample.scores) == set(SCORERS)
        assert sample.scores["schema_valid"].value == 1.0
        assert sample.latency_s is not None


def test_the_same_plan_gets_the_same_scores_again(start_simulator: Start, plan: Plan) -> None:
    first, _ = ran(plan, start_simulator(**FAST))
    second, _ = ran(plan, start_simulator(**FAST))
    assert [sample.scores for sample in first] == [sample.scores for sample in second]


@pytest.mark.parametrize("fault", [Fault.NONE, Fault.HALF_BODY, Fault.HALF_ANSWER])
def test_rows_asked_are_rows_scored_plus_rows_errored(start_simulator: Start, plan: Plan, fault: Fault) -> None:
    plan = plan.model_copy(update={"cases": plan.cases[:2], "variants": plan.variants[:1]})
    samples, written = ran(plan, start_simulator(**FAST, fault=fault))
    assert len(samples) == len(written) == 2
    assert all(bool(sample.scores) != bool(sample.error) for sample in samples)


def test_no_answer_is_unscored_and_not_wrong(
    start_simulator: Start, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.runner.make_client", partial(make_client, max_retries=0))
    plan = plan.model_copy(update={"cases": plan.cases[:2], "variants": plan.variants[:1]})
    samples, written = ran(plan, start_simulator(fault=Fault.HTTP_500))
    assert len(written) == 2
    assert [sample.scores for sample in samples] == [{}, {}]
    assert all((sample.error or "").startswith("the endpoint answered HTTP 500") for sample in samples)
    assert estimates(samples) == dict.fromkeys(SCORERS)
    assert metrics(samples) == {"samples": 2, "samples_scored": 0, "samples_errored": 2}
    assert len(sample_table(samples)) == 2


def test_half_an_answer_is_an_answer_and_scores_zero_for_its_schema(start_simulator: Start, plan: Plan) -> None:
    samples, _ = ran(plan, start_simulator(**FAST, fault=Fault.HALF_ANSWER))
    assert {sample.scores["schema_valid"].value for sample in samples} == {0.0}
    assert all(sample.error is None and set(sample.scores) == set(SCORERS) for sample in samples)


def test_metrics_are_the_means_with_bounds_and_counts(start_simulator: Start, plan: Plan) -> None:
    samples, _ = ran(plan, start_simulator(**FAST, output_tokens=40))
    one = [sample for sample in samples if sample.variant == "plain"]
    found = metrics(one)
    assert (found["samples"], found["samples_scored"], found["samples_errored"]) == (CASES, CASES, 0)
    by_hand = sum(sample.scores["required_points"].value for sample in one) / CASES
    assert found["required_points_mean"] == pytest.approx(by_hand)
    for name in SCORERS:
        assert found[f"{name}_n"] == CASES
        assert found[f"{name}_ci95_low"] <= found[f"{name}_mean"] <= found[f"{name}_ci95_high"]
    assert found["output_tokens_median"] == 40


def test_the_table_has_the_prompt_the_answer_and_each_scores_reason(start_simulator: Start, plan: Plan) -> None:
    samples, _ = ran(plan, start_simulator(**FAST))
    table = sample_table(samples)
    assert len(table) == 2 * CASES
    row = table.iloc[0]
    assert json.loads(row["messages"])[0]["role"] == "system"
    assert row["answer"] == samples[0].answer
    for name in SCORERS:
        assert row[name] == samples[0].scores[name].value
        assert row[f"{name}_why"]
