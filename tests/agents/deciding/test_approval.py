"""What a person has to approve: it follows from labels, the catalogue and probabilities, and from no words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.deciding.approval import approval_reasons
from agents.facts.pipeline_files import ReadPipeline, read_pipelines
from agents.facts.spec import PipelineSpec
from agents.labels.label import Label
from agents.labels.policy import Policy, load_policy, with_settings
from agents.reports.orchestrator import AgenticDataOrchestrator
from agents.reports.report import PipelineReport
from agents.specialists.decision import Decision, Picked
from agents.specialists.registry import labels_for, specialists
from tests.agents.made_specs import POLICY, SPECS, STANDARD
from tests.agents.scripted import CALM, Body, report_from, saying, stage_of, written

EXAMPLES = Path(__file__).parents[3] / "examples"
NO_LABELS: dict[str, Label | None] = {one.name: None for one in specialists()}
UNDONE = next(one.id for one in specialists()[2].catalogue if one.can_be_undone and one.spends != "much")


def decided(
    *actions: str, by: Any = "model", probabilities: tuple[float | None, ...] = (), choice: float | None = None
) -> Decision:
    likely = probabilities or (None,) * len(actions)
    picked = tuple(Picked(id=one, probability=value) for one, value in zip(actions, likely, strict=True))
    return Decision(by=by, choice=Picked(id="watch", probability=choice), actions=picked)


def label(kind: str, value: str, at_least: str | None = None) -> Label:
    return Label(kind=kind, value=value, policy="p", rules=(), at_least=at_least)


def by_rules(spec: PipelineSpec, policy: Policy = STANDARD) -> PipelineReport:
    return asyncio.run(AgenticDataOrchestrator(None, None, policy=policy).process_data_pipeline(spec))


# --- the four reasons ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("severity", "priority", "reasons"),
    [
        (("LOW", None), ("NORMAL", None), []),
        (("MEDIUM", None), ("HIGH", None), []),
        (("HIGH", None), ("NORMAL", None), ["severity HIGH"]),
        (("LOW", None), ("CRITICAL", None), ["priority CRITICAL"]),
        (("HIGH", None), ("CRITICAL", None), ["severity HIGH", "priority CRITICAL"]),
        (("UNKNOWN", None), ("UNKNOWN", None), []),
        (("UNKNOWN", "MEDIUM"), ("UNKNOWN", "HIGH"), []),
        (("UNKNOWN", "HIGH"), ("UNKNOWN", "CRITICAL"), ["severity HIGH", "priority CRITICAL"]),
    ],
)
def test_a_grave_label_waits_and_so_does_what_is_known_to_be_grave_by_half(
    severity: tuple[str, str | None], priority: tuple[str, str | None], reasons: list[str]
) -> None:
    labels = {**NO_LABELS, "quality": label("severity", *severity), "infrastructure": label("priority", *priority)}
    assert approval_reasons(labels, [], None) == reasons


def test_an_action_that_cannot_be_undone_or_spends_much_waits_whoever_decided() -> None:
    for by in ("model", "rules"):
        decision = decided("delete_old_data", UNDONE, "grow_cpu", by=by)
        assert approval_reasons(NO_LABELS, [("infrastructure", decision)], None) == [
            "infrastructure: delete_old_data cannot be undone",
            "infrastructure: grow_cpu spends much",
        ]
    assert approval_reasons(NO_LABELS, [("infrastructure", decided(UNDONE))], None) == []


@pytest.mark.parametrize(
    ("choice", "action", "ask_below", "reasons"),
    [
        (0.9, 0.8, None, []),
        (0.9, 0.8, 0.8, []),
        (0.9, 0.8, 0.81, ["infrastructure: probability 0.80 is below 0.81"]),
        (0.3, 0.8, 0.5, ["infrastructure: probability 0.30 is below 0.5"]),
        (None, 0.8, 0.5, ["infrastructure: the probability is not known, and below 0.5 a person is asked"]),
        (0.9, None, 0.5, ["infrastructure: the probability is not known, and below 0.5 a person is asked"]),
        (0.3, None, None, []),
    ],
)
def test_a_models_decision_waits_below_the_policys_probability(
    choice: float | None, action: float | None, ask_below: float | None, reasons: list[str]
) -> None:
    decision = decided(UNDONE, probabilities=(action,), choice=choice)
    assert approval_reasons(NO_LABELS, [("infrastructure", decision)], ask_below) == reasons
    by_the_rules = decision.model_copy(update={"by": "rules"})
    assert approval_reasons(NO_LABELS, [("infrastructure", by_the_rules)], ask_below) == []


def test_the_reasons_of_a_report_are_those_of_all_its_stages() -> None:
    async def deletes(body: Body) -> str:
        if stage_of(body) == "infrastructure":
            return written(body, choice="act_now", actions=["cut_retention"])
        return written(body)

    full = CALM.model_copy(
        update={
            "quality_metrics": CALM.quality_metrics.model_copy(update={"completeness_percent": 82.0, "issue_count": 5}),
            "infrastructure_metrics": CALM.infrastructure_metrics.model_copy(
                update={"storage_used_gb": 98.0, "storage_total_gb": 100.0}
            ),
        }
    )
    report = report_from(deletes, full, prompt="write_all")
    given = [(stage.stage, stage.decision) for stage in report.stages if stage.decision]
    assert list(report.approval_reasons) == approval_reasons(labels_for(full, STANDARD), given, None)
    assert "infrastructure: cut_retention cannot be undone" in report.approval_reasons
    assert "priority CRITICAL" in report.approval_reasons


def test_by_a_policys_threshold_a_doubtful_model_waits_and_the_rules_do_not() -> None:
    unsure = with_settings(STANDARD, ["approval.ask_below=0.9"])
    report = report_from(saying(), policy=unsure)
    assert len([reason for reason in report.approval_reasons if "is below 0.9" in reason]) == len(specialists())
    assert by_rules(CALM, unsure).approval_reasons == ()
    assert report_from(saying()).approval_reasons == ()


# --- a pipeline's own policy may tighten and never relax ---------------------------------------------------


def disk_on_fire() -> PipelineSpec:
    """A disk that is nearly full: CRITICAL by `standard`, nothing by `seed`."""
    return CALM.model_copy(
        update={
            "infrastructure_metrics": CALM.infrastructure_metrics.model_copy(
                update={"storage_used_gb": 985.0, "storage_total_gb": 1000.0}
            )
        }
    )


@pytest.mark.parametrize(
    "own",
    [
        "seed",
        {"priority.disk": None},
        {"priority": {"disk": None}},
        {"priority.disk.critical_percent": 100},
        {"priority.damping": None, "priority.disk": None, "severity.floors": None},
    ],
    ids=str,
)
def test_a_pipeline_cannot_take_its_own_approval_away(own: Any) -> None:
    spec = disk_on_fire()
    assert by_rules(spec).approval_reasons == ("priority CRITICAL",)
    relaxed = by_rules(spec.model_copy(update={"policy": own}))
    assert relaxed.approval_reasons == ("priority CRITICAL",)
    assert relaxed.labels["priority"].policy == "standard"
    assert relaxed.stages == by_rules(spec).stages


@pytest.mark.parametrize("own", ["seed", {"priority.disk": None}], ids=str)
def test_the_examples_critical_pipelines_keep_their_approval_whatever_they_ask_for(own: Any) -> None:
    specs = [
        entry.spec
        for path in sorted(EXAMPLES.glob("*pipelines*.yaml"))
        for entry in read_pipelines([path])
        if isinstance(entry, ReadPipeline)
    ]
    assert specs
    for spec in [*specs, disk_on_fire()]:
        before, after = by_rules(spec), by_rules(spec.model_copy(update={"policy": own}))
        assert set(before.approval_reasons) <= set(after.approval_reasons)


def test_a_pipeline_may_ask_for_an_approval_that_the_run_does_not() -> None:
    strict = CALM.model_copy(update={"policy": {"approval.ask_below": 0.9}})
    assert len(report_from(saying(), strict).approval_reasons) == len(specialists())
    graver = CALM.model_copy(update={"policy": {"priority.cpu.critical": 30, "priority.cpu.high": None,
                                                "priority.mean": None}})  # fmt: skip
    assert by_rules(graver).approval_reasons == ("priority CRITICAL",)
    assert by_rules(graver).labels["priority"].policy.startswith("standard (changed: ")


@pytest.mark.parametrize("own", [{"approval.ask_below": 0.1}, {"approval.ask_below": None}, "seed"], ids=str)
def test_a_pipeline_cannot_lower_the_runs_threshold(own: Any) -> None:
    unsure = with_settings(STANDARD, ["approval.ask_below=0.9"])
    report = report_from(saying(), CALM.model_copy(update={"policy": own}), policy=unsure)
    assert len(report.approval_reasons) == len(specialists())


@given(
    spec=SPECS,
    policy=POLICY,
    own=st.sampled_from(
        ["seed", "standard", "adaptive", {"priority.disk": None}, {"severity.floors": None, "severity.mean.low": 70},
         {"priority.cpu.critical": 99, "priority.memory.critical": 99}, {"severity.uniqueness": None}]
    ),
)  # fmt: skip
def test_no_policy_of_a_pipelines_own_makes_a_label_milder_or_an_approval_vanish(
    spec: PipelineSpec, policy: Policy, own: Any
) -> None:
    asked = spec.model_copy(update={"policy": own})
    before, after = labels_for(spec, policy), labels_for(asked, policy)
    for one in specialists():
        given, mine = before[one.name], after[one.name]
        assert (given is None) == (mine is None)
        if one.label and given and mine:
            assert one.label.rank(mine) >= one.label.rank(given)
    of_labels = approval_reasons(before, [], None)
    kept = {reason.split()[0] for reason in approval_reasons(after, [], None)}
    assert {reason.split()[0] for reason in of_labels} <= kept


def test_the_runs_policy_alone_may_relax() -> None:
    assert by_rules(disk_on_fire(), load_policy("seed")).approval_reasons == ()
