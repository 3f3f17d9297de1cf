"""The choice of the infrastructure specialist: how soon something is done."""

from __future__ import annotations

from agents.facts.spec import PipelineSpec
from agents.labels.label import Label, level
from agents.specialists.infrastructure.predicates import (
    calm,
    critical,
    harm_is_certain,
    idle,
    only_busy,
    swings_only,
)
from agents.specialists.specialist import Choice, Option


def ruled_out(spec: PipelineSpec, label: Label | None) -> dict[str, str]:
    """Values that facts and priority rule out, with the reason (rows 24, 28 and 30 to 32 of docs/oracle.md)."""
    worst = level(label)
    if worst == "CRITICAL":
        return dict.fromkeys(("watch", "plan"), "at CRITICAL something has to be done at once")
    if worst == "NORMAL":
        return {"act_now": "at NORMAL nothing presses"}
    if only_busy(spec, label):
        return {"act_now": "the CPU is busy and nobody waits for it"}
    if swings_only(spec, label):
        return {"act_now": "the reading goes up and down without a trend"}
    if harm_is_certain(spec, label):
        return {"watch": "it does harm already, or will by itself"}
    return {}


def preferred(spec: PipelineSpec, label: Label | None) -> str:
    """What the rules choose, by the priority; for unknown machines a plan, since nobody knows them calm."""
    if critical(spec, label):
        return "act_now"
    if only_busy(spec, label) or (calm(spec, label) and not idle(spec, label)):
        return "watch"
    return "plan"


URGENCY = Choice(
    name="urgency",
    asks="How soon is something done about the machines?",
    options=(
        Option(value="watch", means="change nothing for now and look at the trend"),
        Option(value="plan", means="change something in the ordinary course of the next days"),
        Option(value="act_now", means="change something at once, out of hours too"),
    ),
    ruled_out=ruled_out,
    preferred=preferred,
)
