"""The gate stops every broken setup and lets the same setup through; the stand-in answers as its prompt says."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.asking.requests import labels_for, stage_request
from agents.asking.variant import load_prompt
from agents.facts.spec import InfrastructureMetrics, PipelineSpec, QualityMetrics, Source
from agents.labels.policy import load_policy
from agents.schema import Stage
from benchmarks.gate_proof import aa_trials, mutation_trials
from benchmarks.mutations import MUTATIONS
from benchmarks.simulator_process import simulator
from benchmarks.stand_in import StandIn
from serving.simulator_request import ChatRequest

SPEC = PipelineSpec(
    id="orders",
    source=Source(type="Kafka", latency_need="5 s"),
    quality_metrics=QualityMetrics(completeness_percent=40, consistency_percent=100),
    infrastructure_metrics=InfrastructureMetrics(cpu_percent=40, memory_percent=50),
)


def answer(stage: Stage, prompt: str = "grounded", **changes: object) -> str:
    labels = labels_for(SPEC, load_policy("standard"))
    body = stage_request(stage, SPEC, load_prompt(prompt), labels, "m").body
    return StandIn(slips=0)(ChatRequest.model_validate({**body, **changes}))


def test_the_stand_in_takes_the_mode_from_its_definition_and_the_advice_from_what_the_label_asks_for() -> None:
    assert '"mode": "streaming"' in answer(Stage.INGESTION)
    assert "Block publishing the data until it is repaired." in answer(Stage.QUALITY)
    assert "Block publishing" in answer(Stage.QUALITY, "few_shot")


def test_the_stand_in_chats_where_no_schema_holds_it_and_loses_its_thread_in_the_heat() -> None:
    assert answer(Stage.QUALITY, response_format=None).startswith("Sure, here is my advice")
    hot = {answer(Stage.QUALITY, temperature=1.5, seed=seed) for seed in range(20)}
    assert len(hot) == 2
    assert {answer(Stage.QUALITY, temperature=0.0, seed=seed) for seed in range(20)} == {answer(Stage.QUALITY)}


def test_there_are_at_least_twelve_mutations_of_prompts_policies_guardrails_and_sampling() -> None:
    kinds = [mutation.name.partition(":")[0] for mutation in MUTATIONS]
    assert len(kinds) >= 12
    assert set(kinds) == {"prompt", "policy", "guardrails", "sampling"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_mutation_is_caught(tmp_path: Path) -> None:
    with simulator(stand_in=True) as base_url:
        passed = [one for one in mutation_trials(base_url, tmp_path, MUTATIONS) if one.outcome != "fail"]
    assert not passed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_setup_against_itself_passes(tmp_path: Path) -> None:
    with simulator(stand_in=True) as base_url:
        stopped = [one for one in aa_trials(base_url, tmp_path, 5) if one.outcome != "pass"]
    assert not stopped
