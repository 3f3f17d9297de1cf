"""The label of a case's own stage: a case asks one agent, so the other stages' labels need no working out."""

from __future__ import annotations

from agents.asking.requests import Labels
from agents.labels.policy import Policy, policy_for, priority, severity
from agents.schema import Stage
from evals.case import Case


def case_labels(case: Case, policy: Policy) -> Labels:
    """What agents.requests.labels_for gives, for the case's stage alone. Raises BadInput as it does."""
    own = policy_for(case.spec, policy)
    if case.stage is Stage.QUALITY:
        return {Stage.QUALITY: severity(case.spec.quality_metrics, own)}
    if case.stage is Stage.INFRASTRUCTURE:
        return {Stage.INFRASTRUCTURE: priority(case.spec.infrastructure_metrics, own)}
    return {Stage.INGESTION: None}
