"""A fourth specialist in one module: its bill, and what to do about it. Registered by `register(COST)` alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agents.facts.spec import PipelineSpec
from agents.labels.label import Label, RuleFired
from agents.labels.labelling import Finding, NotJudged
from agents.labels.policy_model import Policy
from agents.specialists.specialist import Action, Choice, Facts, LabelRule, Option, Specialist
from agents.specialists.told import described, known
from common.strict import Strict

Euro = Annotated[float, Field(ge=0)]


class CostMetrics(Strict):
    """What a pipeline may cost and does cost, in a month."""

    budget_eur: Euro | None = None
    spend_eur: Euro | None = None


def _metrics(spec: PipelineSpec) -> CostMetrics:
    found = spec.blocks.get("cost_metrics", CostMetrics())
    assert isinstance(found, CostMetrics)
    return found


def _told(spec: PipelineSpec) -> Facts:
    return known(_metrics(spec)) | described(spec)


def _findings(spec: PipelineSpec, _policy: Policy) -> list[Finding]:
    metrics = _metrics(spec)
    budget, spend = metrics.budget_eur, metrics.spend_eur
    if budget is None or spend is None:
        return [NotJudged("budget", tuple(name for name in ("budget_eur", "spend_eur") if not getattr(metrics, name)))]
    level, bound = ("HIGH", "above") if spend > budget else ("LOW", "within")
    facts: dict[str, float | int | str] = {"spend_eur": spend, "budget_eur": budget}
    return [RuleFired(rule="budget", level=level, reason=f"spend_eur is {spend:g}, {bound} {budget:g}", facts=facts)]


def over_budget(_spec: PipelineSpec, label: Label | None) -> bool:
    """More is spent than was planned (ours)."""
    return label is not None and label.worst_known == "HIGH"


def within_budget(spec: PipelineSpec, _label: Label | None) -> bool:
    """Budget and spending are known, and no more is spent (ours)."""
    metrics = _metrics(spec)
    return None not in (metrics.budget_eur, metrics.spend_eur) and not over_budget(spec, _label)


def unmeasured(spec: PipelineSpec, _label: Label | None) -> bool:
    """The budget or the spending is not known (ours)."""
    return None in (_metrics(spec).budget_eur, _metrics(spec).spend_eur)


def _ruled_out(spec: PipelineSpec, label: Label | None) -> dict[str, str]:
    return {"keep": "more is spent than planned"} if over_budget(spec, label) else {}


def _preferred(spec: PipelineSpec, label: Label | None) -> str:
    return "cut" if over_budget(spec, label) else "keep"


def _action(
    action_id: str, do: str, *, right: tuple[str, ...] = (), wrong: tuple[str, ...] = (), **more: bool
) -> Action:
    return Action(
        id=action_id,
        do=do,
        means=f"to {do.lower()} and nothing else",
        facts=("spend_eur", "budget_eur"),
        right_when=right,
        wrong_when=wrong,
        source="ours",
        can_be_undone=more.get("can_be_undone", True),
        spends="some",
    )


COST = Specialist(
    name="cost",
    role="cost analyst",
    subject="what to do about the bill of this pipeline",
    told=_told,
    choice=Choice(
        name="stance",
        asks="What happens to the spending?",
        options=(
            Option(value="keep", means="spend as now"),
            Option(value="cut", means="spend less from now on"),
            Option(value="stop", means="spend nothing more this month"),
        ),
        ruled_out=_ruled_out,
        preferred=_preferred,
    ),
    predicates={one.__name__: one for one in (over_budget, within_budget, unmeasured)},
    catalogue=(
        _action("meter_spend", "Measure what is spent", right=("unmeasured",), wrong=("within_budget",)),
        _action("downsize", "Move to smaller machines", right=("over_budget",), wrong=("unmeasured",)),
        _action("watch_bill", "Watch the bill", right=("within_budget",), wrong=("over_budget",)),
        _action("cancel_contract", "Cancel the contract", wrong=("within_budget",), can_be_undone=False),
    ),
    label=LabelRule("urgency", ("LOW", "HIGH"), _findings, approval_from="HIGH"),
    block=("cost_metrics", CostMetrics),
)
