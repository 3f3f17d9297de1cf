"""The gate stops every broken setup and lets the same setup through; the stand-in decides as its prompt says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.asking.requests import stage_request
from agents.asking.variant import PromptVariant, load_prompt
from agents.facts.spec import InfrastructureMetrics, PipelineSpec, QualityMetrics, Source
from agents.labels.policy import load_policy
from agents.specialists.registry import labels_for
from benchmarks.gate_proof import aa_trials, mutation_trials
from benchmarks.mutations import MUTATIONS, setup
from benchmarks.simulator_process import simulator
from benchmarks.stand_in import StandIn
from serving.simulator_request import ChatRequest

SPEC = PipelineSpec(
    id="orders",
    source=Source(type="Kafka", latency_need="5 s"),
    quality_metrics=QualityMetrics(completeness_percent=40, consistency_percent=100),
    infrastructure_metrics=InfrastructureMetrics(cpu_percent=40, memory_percent=50),
)


def answer(stage: str, prompt: PromptVariant | None = None, **changes: object) -> str:
    labels = labels_for(SPEC, load_policy("standard"))
    body = stage_request(stage, SPEC, prompt or load_prompt("write_all"), labels, "m").body
    return StandIn(slips=0)(ChatRequest.model_validate({**body, **changes}))


def decided(stage: str, prompt: PromptVariant | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer(stage, prompt))
    return found


def test_the_stand_in_decides_by_the_facts_and_the_label_it_is_told() -> None:
    assert decided("ingestion")["mode"] == "streaming"
    assert decided("quality")["handling"] == "block"
    untold = PromptVariant.model_validate(
        {**setup().prompt, "stages": {"quality": {"ask": "{{ facts }}"}}},
    )
    assert decided("quality", untold)["handling"] != "block"


def test_the_stand_in_chats_where_no_schema_holds_it_and_loses_its_thread_in_the_heat() -> None:
    assert answer("quality", response_format=None).startswith("Sure! I would go for block.")
    hot = {answer("quality", temperature=1.5, seed=seed) for seed in range(20)}
    assert len(hot) == 2
    assert {answer("quality", temperature=0.0, seed=seed) for seed in range(20)} == {answer("quality")}


def test_there_are_mutations_of_prompts_policies_and_sampling() -> None:
    kinds = [mutation.name.partition(":")[0] for mutation in MUTATIONS]
    assert {kind: kinds.count(kind) >= 3 for kind in kinds} == {"prompt": True, "policy": True, "sampling": True}


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
