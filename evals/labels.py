"""The label of a case's own stage: a case asks one agent."""

from __future__ import annotations

from agents.labels.policy import Policy
from agents.specialists.registry import Labels, labels_for
from evals.case import Case


def case_labels(case: Case, policy: Policy) -> Labels:
    """What labels_for gives, for the case's stage alone. Raises BadInput as it does."""
    return {case.stage: labels_for(case.spec, policy)[case.stage]}
