"""The choice of the data quality analyst: what happens to the data until it is repaired."""

from __future__ import annotations

from agents.facts.spec import PipelineSpec
from agents.labels.label import UNKNOWN, Label, level
from agents.specialists.quality.predicates import age_only, nothing_fails, rows_fail
from agents.specialists.specialist import Choice, Option


def ruled_out(spec: PipelineSpec, label: Label | None) -> dict[str, str]:
    """Values that facts and severity rule out, with the reason (S23: keep, quarantine or halt by severity)."""
    found: dict[str, str] = {}
    worst = level(label)
    if worst == "HIGH":
        found["publish"] = "too much is wrong for the data to be used"
    if worst == "LOW":
        found["block"] = "data of severity LOW is not halted"
    if worst == "HIGH":
        found["measure_first"] = "what is known is bad enough to judge by"
    elif label is not None and label.value != UNKNOWN:
        found["measure_first"] = "no metric is missing that the severity needs"
    if age_only(spec, label):
        found["quarantine"] = "the age is that of the whole load, and no row of it fails"
    elif nothing_fails(spec, label):
        found["quarantine"] = "no row fails"
    return found


def preferred(spec: PipelineSpec, label: Label | None) -> str:
    """What the rules choose: by the severity, and where only the age is wrong, late data is shown as late."""
    worst = level(label)
    if worst == "HIGH":
        return "block"
    if label is None or label.value == UNKNOWN:
        return "measure_first"
    if (worst == "MEDIUM" or rows_fail(spec, label)) and not age_only(spec, label):
        return "quarantine"
    return "publish"


HANDLING = Choice(
    name="handling",
    asks="What happens to this data now?",
    options=(
        Option(value="publish", means="let the data flow"),
        Option(value="quarantine", means="hold the failing rows back and publish the rest"),
        Option(value="block", means="publish nothing until it is repaired"),
        Option(value="measure_first", means="a metric is missing, measure it before judging"),
    ),
    ruled_out=ruled_out,
    preferred=preferred,
)
