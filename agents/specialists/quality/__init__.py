"""The data quality analyst: how bad data is (a rule's label), what happens to it, and what to do about it.

Read in this order: severity.py (the label), causes.py (what the label is about), predicates.py (what holds of a
pipeline), handling.py (the choice), actions.yaml (the catalogue), oracle_rows.py (pipelines whose right answer is
known).
"""

from __future__ import annotations

from pathlib import Path

from agents.facts.spec import PipelineSpec
from agents.labels.labelling import Finding
from agents.labels.policy_model import Policy
from agents.specialists.catalogue import packaged
from agents.specialists.quality.handling import HANDLING
from agents.specialists.quality.predicates import PREDICATES
from agents.specialists.quality.severity import SEVERITIES, severity_findings
from agents.specialists.specialist import Facts, LabelRule, Specialist
from agents.specialists.told import described, known


def _told(spec: PipelineSpec) -> Facts:
    return known(spec.quality_metrics) | described(spec)


def _findings(spec: PipelineSpec, policy: Policy) -> list[Finding]:
    return severity_findings(spec.quality_metrics, policy.severity)


QUALITY = Specialist(
    name="quality",
    role="data quality analyst",
    subject="what to do about the quality of this data",
    told=_told,
    choice=HANDLING,
    predicates=PREDICATES,
    catalogue=packaged(Path(__file__).parent, "quality"),
    label=LabelRule("severity", SEVERITIES, _findings, approval_from="HIGH"),
)
