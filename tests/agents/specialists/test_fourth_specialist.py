"""A fourth specialist touches its own module and one line: with it everything runs, from files to load tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agents import __main__ as command
from agents.facts import spec as facts
from agents.facts.pipeline_files import InvalidPipeline, ReadPipeline, read_pipelines
from agents.facts.spec import PipelineSpec
from agents.labels.policy import load_policy
from agents.reports.orchestrator import AgenticDataOrchestrator
from agents.specialists import registry
from agents.specialists.registry import labels_for, register, stages
from evals import __main__ as evals_command
from evals.case import load_cases
from load_tests.profiles import LoadProfile
from load_tests.workload import plan_load
from serving.endpoint import Endpoint
from tests.agents.scripted import report_from, saying
from tests.agents.specialists.toy_cost import COST, CostMetrics

Start = Callable[..., str]
FAST = {"ttft_ms": 0, "itl_ms": 0}
STANDARD = load_policy("standard")
PIPELINES = """\
- id: dear
  source: {type: Kafka}
  quality_metrics: {completeness: 99, consistency: 99}
  infrastructure_metrics: {cpu: 40, memory: 40}
  cost_metrics: {budget_eur: 100, spend_eur: 250}
- id: cheap
  source: {type: Kafka}
  quality_metrics: {completeness: 99, consistency: 99}
  infrastructure_metrics: {cpu: 40, memory: 40}
  cost_metrics: {budget_eur: 100, spend_eur: 25}
- id: unknown
  source: {type: Kafka}
  quality_metrics: {completeness: 99, consistency: 99}
  infrastructure_metrics: {cpu: 40, memory: 40}
"""


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line; what it registers is gone after the test."""
    monkeypatch.setattr(registry, "_SPECIALISTS", dict(registry._SPECIALISTS))
    monkeypatch.setattr(facts, "_BLOCKS", dict(facts._BLOCKS))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    register(COST)


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    path = tmp_path / "pipelines.yaml"
    path.write_text(PIPELINES)
    return path


def here(app: Any, *args: str | Path) -> int:
    return int(app([str(arg) for arg in args], standalone_mode=False) or 0)


def specs(path: Path) -> list[PipelineSpec]:
    return [entry.spec for entry in read_pipelines([path]) if isinstance(entry, ReadPipeline)]


# --- its facts and its label -----------------------------------------------------------------------------


def test_its_block_is_read_from_a_file_kept_and_written_back(pipelines: Path) -> None:
    dear, _, unknown = specs(pipelines)
    assert dear.blocks == {"cost_metrics": CostMetrics(budget_eur=100, spend_eur=250)}
    assert unknown.blocks == {}
    assert dear.model_dump(mode="json")["cost_metrics"] == {"budget_eur": 100, "spend_eur": 250}
    for one in (dear, unknown):
        assert PipelineSpec.model_validate_json(one.model_dump_json()) == one
        assert PipelineSpec.model_validate(one.model_dump(mode="json", exclude_none=True)) == one


@pytest.mark.parametrize(
    ("block", "line", "told"),
    [
        ("{budget_eur: 100,\n    spend_eur: -1}", 4, "cost_metrics.spend_eur: found -1; "),
        ("{budget_eur: 100,\n    spent: 1}", 4, "unknown key 'cost_metrics.spent'; allowed: budget_eur, spend_eur"),
        ("5", 3, "cost_metrics: found 5; allowed: a mapping of budget_eur, spend_eur"),
        (
            "{}\n  owner: me",
            4,
            "unknown key 'owner'; allowed: id, source, quality_metrics, infrastructure_metrics, policy, cost_",
        ),
        ("{}\n  blocks: {cost_metrics: {budget_eur: 1}}", 4, "unknown key 'blocks'; allowed: id, source, "),
        ("{}\n  blocks: 5", 4, "unknown key 'blocks'; allowed: id, source, "),
        ("{}\n  blocks: {}", 4, "unknown key 'blocks'; allowed: id, source, "),
        ("{}\n  blocks:", 4, "unknown key 'blocks'; allowed: id, source, "),
    ],
)
def test_what_is_wrong_with_its_block_is_told_by_file_line_and_field(
    tmp_path: Path, block: str, line: int, told: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"- id: dear\n  source: {{type: Kafka}}\n  cost_metrics: {block}\n")
    (refused,) = read_pipelines([path])
    assert isinstance(refused, InvalidPipeline)
    assert refused.error.startswith(f"{path}:{line}: {told}")


def test_a_block_that_is_null_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("- {id: dear, source: {type: Kafka}, cost_metrics: null}\n")
    (spec,) = specs(path)
    assert labels_for(spec, STANDARD)["cost"] == labels_for(spec.model_copy(update={"blocks": {}}), STANDARD)["cost"]


def test_without_the_line_its_block_is_an_unknown_key(pipelines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_BLOCKS", {})
    assert sum(isinstance(entry, InvalidPipeline) for entry in read_pipelines([pipelines])) == 2


def test_its_label_comes_from_its_own_rule(pipelines: Path) -> None:
    labels = [labels_for(spec, STANDARD)["cost"] for spec in specs(pipelines)]
    assert [label.value if label else None for label in labels] == ["HIGH", "LOW", "LOW"]
    assert labels[0] is not None
    assert labels[0].rules[0].reason == "spend_eur is 250, above 100"


# --- agents run ------------------------------------------------------------------------------------------


def test_by_the_rules_a_run_has_its_stage_its_summary_column_and_its_approvals(
    pipelines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(command.app, "run", pipelines, "--by", "rules", "--trace", "none", "--json") == 0
    dear, cheap, unknown = json.loads(capsys.readouterr().out)["pipelines"]
    assert [stage["stage"] for stage in dear["stages"]] == [*stages()] == [*stages()[:3], "cost"]
    assert [one["labels"]["urgency"]["value"] for one in (dear, cheap, unknown)] == ["HIGH", "LOW", "LOW"]
    decided = [
        (one["stages"][3]["decision"]["choice"]["id"], [each["id"] for each in one["stages"][3]["decision"]["actions"]])
        for one in (dear, cheap, unknown)
    ]
    assert decided == [("cut", ["downsize"]), ("keep", ["watch_bill"]), ("keep", ["meter_spend"])]
    assert dear["stages"][3]["told"][1].startswith("Move to smaller machines: spend eur is 250, above 100")
    assert dear["approval_reasons"] == ["urgency HIGH"]
    assert cheap["requires_approval"] is False
    assert here(command.app, "run", pipelines, "--by", "rules", "--trace", "none") == 0
    assert "Urgency" in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["write", "read", "reason"])
def test_a_model_is_asked_about_it_in_every_way(
    pipelines: Path, start_simulator: Start, prompt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--base-url", start_simulator(**FAST), "--prompt", prompt, "--trace", "none", "--json"]
    assert here(command.app, "run", pipelines, *options) == 0
    for one in json.loads(capsys.readouterr().out)["pipelines"]:
        cost = one["stages"][3]
        assert (cost["stage"], cost["decision"]["by"]) == ("cost", "model"), cost
        assert cost["decision"]["choice"]["probability"] is not None
        assert cost["rules"]["by"] == "rules"


def test_an_action_of_its_own_that_cannot_be_undone_waits_for_a_person(pipelines: Path) -> None:
    dear = specs(pipelines)[0]

    async def cancels(body: dict[str, Any]) -> str:
        if "cancel_contract" in json.dumps(body["response_format"]):
            return await saying(actions=["cancel_contract"])(body)
        return await saying()(body)

    report = report_from(cancels, dear)
    assert set(report.approval_reasons) >= {"urgency HIGH", "cost: cancel_contract cannot be undone"}


def test_the_other_specialists_decide_what_they_decided_before(pipelines: Path) -> None:
    (dear, *_) = specs(pipelines)
    without = dear.model_copy(update={"blocks": {}})
    reports = [asyncio.run(AgenticDataOrchestrator(None, None).process_data_pipeline(one)) for one in (dear, without)]
    assert reports[0].stages[:3] == reports[1].stages[:3]


@pytest.mark.slow
def test_its_approvals_are_listed_with_what_it_asks_for_and_decided(
    pipelines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(command.app, "run", pipelines, "--by", "rules") == 0
    capsys.readouterr()
    here(command.app, "approvals", "list", "--json")
    (waits,) = json.loads(capsys.readouterr().out)["approvals"]
    assert (waits["pipeline_id"], waits["reasons"]) == ("dear", "urgency HIGH")
    assert "cost: cut, downsize (rules)" in waits["asks"]
    assert here(command.app, "approvals", "approve", "dear", "--by", "Ada", "--reason", "seen") == 0


@pytest.mark.parametrize(
    "arguments",
    [["actions", "--stage", "cost"], ["actions", "--on"], ["policies", "--explain"]],
    ids=" ".join,
)
def test_the_other_commands_know_it(pipelines: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    files = [pipelines] if arguments[-1].startswith("--") else []
    assert here(command.app, *arguments, *files, "--json") == 0
    out = capsys.readouterr().out
    json.loads(out)
    assert ("urgency" if arguments[0] == "policies" else "cost") in out


# --- evals run -------------------------------------------------------------------------------------------


def cases_file(folder: Path) -> Path:
    """Two cases of stage cost with their keys."""
    key = {
        "dear": {"right_choices": ["cut", "stop"], "wrong_choices": ["keep"], "acceptable_labels": ["HIGH"],
                 "right_actions": [["downsize"]], "harmful_actions": ["watch_bill"]},
        "cheap": {"right_choices": ["keep"], "wrong_choices": ["stop"], "acceptable_labels": ["LOW"],
                  "right_actions": [["watch_bill"]], "harmful_actions": ["cancel_contract"]},
    }  # fmt: skip
    source = folder / "pipelines.yaml"
    source.write_text(PIPELINES)
    lines = [
        {"id": f"cost-{spec.id}", "family": f"cost-{spec.id}", "source": "ours", "stage": "cost",
         "spec": spec.model_dump(mode="json", exclude_none=True), **key[spec.id]}
        for spec in specs(source)
        if spec.id in key
    ]  # fmt: skip
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_its_cases_are_read_with_their_keys(tmp_path: Path) -> None:
    dear, cheap = load_cases(cases_file(tmp_path))
    assert (dear.stage, dear.right_choices, cheap.harmful_actions) == ("cost", ("cut", "stop"), ("cancel_contract",))
    assert dear.spec.blocks == {"cost_metrics": CostMetrics(budget_eur=100, spend_eur=250)}


@pytest.mark.slow
def test_an_evaluation_of_its_cases_runs_and_scores_them(
    tmp_path: Path, start_simulator: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cases_file(tmp_path)
    suite = tmp_path / "suite.yaml"
    suite.write_text("name: cost\nprompts: [write, read]\ncases: {file: cases.jsonl}\n")
    assert here(evals_command.app, "run", suite, "--base-url", start_simulator(**FAST), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["samples"], document["errored"]) == (4, 0)
    for variant in document["results"]["variants"]:
        assert variant["agents"]["cost"]["n"] == 2
        assert {"headline", "choice", "actions", "harmless", "label_fit"} <= variant["scores"].keys()
        assert variant["scores"]["decided"]["mean"] == variant["scores"]["label_fit"]["mean"] == 1
    assert "cost" in (tmp_path / document["report"]).read_text("utf8")


# --- load tests ------------------------------------------------------------------------------------------


def test_a_load_test_sends_its_requests_too(pipelines: Path) -> None:
    values = {
        "name": "t",
        "arrivals": {"kind": "poisson", "rate_per_s": 5.0},
        "duration_s": 5,
        "workload": {"kind": "agents", "pipelines": str(pipelines), "prompt": "write"},
    }
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", SecretStr("k"), simulated=True)
    plan = plan_load(LoadProfile.model_validate(values), endpoint)
    sent = [(request.pipeline_id, request.stage) for request in plan.requests]
    assert sent == [(one, stage) for one in ("dear", "cheap", "unknown") for stage in stages()]
    bodies = [json.loads(request.body) for request in plan.requests if request.stage == "cost"]
    offered = [body["response_format"]["json_schema"]["schema"]["properties"]["actions"] for body in bodies]
    assert [one["items"]["enum"] for one in offered] == [
        ["meter_spend", "downsize", "cancel_contract"],
        ["downsize", "watch_bill"],
        ["meter_spend", "watch_bill", "cancel_contract"],
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"block": ("source", CostMetrics)}, "bill: block 'source' is taken"),
        ({"block": ("cost_metrics", CostMetrics)}, "bill: block 'cost_metrics' is taken"),
        ({"block": None}, "bill: a label of kind 'urgency' is given already"),
    ],
)
def test_what_another_specialist_has_cannot_be_registered_again(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        register(replace(COST, name="bill", **change))
