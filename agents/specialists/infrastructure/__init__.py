"""The infrastructure optimization specialist: how soon the machines need someone (a rule's label), and for what.

Read in this order: priority.py, disk.py and error_budget.py (the label), causes.py (what the label is about),
predicates.py (what holds of a pipeline), urgency.py (the choice), actions.yaml (the catalogue), oracle_rows.py
(pipelines whose right answer is known).
"""

from __future__ import annotations

from pathlib import Path

from agents.facts.spec import PipelineSpec
from agents.labels.labelling import Finding
from agents.labels.policy_model import Policy
from agents.specialists.catalogue import packaged
from agents.specialists.infrastructure.predicates import PREDICATES
from agents.specialists.infrastructure.priority import PRIORITIES, priority_findings
from agents.specialists.infrastructure.urgency import URGENCY
from agents.specialists.specialist import Facts, LabelRule, Specialist
from agents.specialists.told import described, known, series


def _told(spec: PipelineSpec) -> Facts:
    metrics, partitions = spec.infrastructure_metrics, spec.source.partitions
    told = known(metrics) | series(metrics.history)
    if partitions is not None and metrics.consumer_lag is not None:
        told["partitions"] = partitions  # what decides whether more consumers would help
    return told | described(spec)


def _findings(spec: PipelineSpec, policy: Policy) -> list[Finding]:
    return priority_findings(spec.infrastructure_metrics, policy.priority)


INFRASTRUCTURE = Specialist(
    name="infrastructure",
    role="infrastructure optimization specialist",
    subject="what to do about the machines that run this pipeline",
    told=_told,
    choice=URGENCY,
    predicates=PREDICATES,
    catalogue=packaged(Path(__file__).parent, "infrastructure"),
    label=LabelRule("priority", PRIORITIES, _findings, approval_from="CRITICAL"),
)
