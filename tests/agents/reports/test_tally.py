"""Counts over a run: what they say, and which exit code follows from them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.asking.endpoint.reply import ErrorClass
from agents.labels.label import Label
from agents.reports.report import PipelineReport, StageReport
from agents.reports.tally import Tally
from agents.specialists.decision import Decision, Picked

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def decision(by: Any = "model", choice: str = "publish", *actions: str) -> Decision:
    return Decision(by=by, choice=Picked(id=choice), actions=tuple(Picked(id=one) for one in actions or ("monitor",)))


def stage(**changes: Any) -> StageReport:
    made = {"stage": "quality", "status": "completed", "decision": decision(), "rules": decision("rules"), **changes}
    return StageReport(**made)


def report(status: Any = "completed", *stages: StageReport, **more: Any) -> PipelineReport:
    return PipelineReport(pipeline_id="p", start_time=NOW, end_time=NOW, status=status, stages=stages, **more)


def tally(*reports: PipelineReport) -> Tally:
    counted = Tally()
    for one in reports:
        counted.add(one)
    return counted


def test_everything_is_counted_once() -> None:
    by_rules = decision("rules", "block", "backfill")
    counted = tally(
        report(
            "completed",
            stage(output_tokens=29),
            stage(decision=decision("model", "block"), output_tokens=None, note_dropped="too long"),
            stage(decision=by_rules, rules=by_rules, because="not_permitted", output_tokens=31),
            labels={"severity": Label(kind="severity", value="HIGH", policy="p", rules=())},
            requires_approval=True,
        ),
        report(
            "partial",
            stage(decision=by_rules, rules=by_rules, because="endpoint", error_class=ErrorClass.TIMEOUT),
            stage(status="failed", decision=None, rules=None, error="gone", error_class=ErrorClass.UNREACHABLE),
        ),
        report("invalid"),
    )
    assert counted.document() == {
        "statuses": {"completed": 1, "partial": 1, "invalid": 1},
        "labels": {"severity HIGH": 1},
        "decided_by": {"model": 2, "rules (not_permitted)": 1, "rules (endpoint)": 1},
        "unlike_rules": 1,
        "notes_dropped": 1,
        "errors": {"timeout": 1, "unreachable": 1},
        "need_approval": 1,
        "output_tokens": 60,
    }
    assert counted.pipelines == 3


@pytest.mark.parametrize(
    ("mine", "rules", "differs"),
    [
        (decision("model", "publish", "a", "b"), decision("rules", "publish", "b", "a"), False),
        (decision("model", "publish", "a"), decision("rules", "publish", "a", "b"), True),
        (decision("model", "block", "a"), decision("rules", "publish", "a"), True),
        (None, None, False),
    ],
)
def test_a_decision_differs_by_its_choice_or_its_actions_in_whatever_order(
    mine: Decision | None, rules: Decision | None, differs: bool
) -> None:
    assert stage(decision=mine, rules=rules).differs is differs


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([], 0),
        (["completed"], 0),
        (["completed", "partial"], 3),
        (["failed"], 3),
        (["invalid"], 2),
        (["invalid", "failed"], 2),
    ],
)
def test_exit_codes(statuses: list[Any], code: int) -> None:
    assert tally(*map(report, statuses)).exit_code() == code


def test_an_endpoint_that_failed_exits_3_though_the_rules_stood_in_and_other_reasons_do_not() -> None:
    for because, code in (("endpoint", 3), ("deadline", 0), ("unusable", 0), ("not_permitted", 0)):
        assert tally(report("completed", stage(decision=decision("rules"), because=because))).exit_code() == code


@given(number=st.integers(1, 200))
def test_counts_take_no_more_memory_for_more_reports(number: int) -> None:
    one = report("completed", stage(output_tokens=1), requires_approval=True)
    few, many = tally(one), tally(*[one] * number)
    sizes = [sum(sys.getsizeof(value) for value in vars(counted).values()) for counted in (few, many)]
    assert abs(sizes[1] - sizes[0]) < 100
    assert many.document()["output_tokens"] == number
