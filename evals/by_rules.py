"""The rules as an answerer: what they decide on a run's cases without a model, scored by the same scorers.

No request is made. Every variant is held against what the rules alone earn under its policy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.specialists.decision import Decision
from agents.specialists.registry import Labels, specialist_of
from agents.specialists.rules import rules_decision
from common import console
from evals.case import Case
from evals.run_folder import RunFolder
from evals.sample import Sample
from evals.scorers import SCORER_NAMES, score_all
from evals.scoring import answered

RULES = "rules"
_MANY_CASES = 5_000
"""From here on it takes long enough to show how far it is."""


def decided_by_rules(case: Case, labels: Labels) -> Decision:
    """What the rules decide on a case with these labels."""
    return rules_decision(specialist_of(case.stage), case.spec, labels[case.stage])


def rules_scores(folder: RunFolder) -> dict[str, NDArray[np.float64]]:
    """By name of each policy of a run, what the scorers say of the rules' decisions.

    Arrays of shape (cases, scorers); NaN where a scorer has nothing to say.
    """
    policies = {policy.name: policy for policy in folder.plan.policies}
    found = {name: np.full((len(folder.cases), len(SCORER_NAMES)), np.nan) for name in policies}
    with console.progress("cases") as bar:
        task = bar.add_task("the rules", total=len(folder.cases), visible=len(folder.cases) > _MANY_CASES)
        for number, case in enumerate(folder.cases):
            for name, policy in policies.items():
                scores = _scores(case, folder.cases.labels(number, policy))
                found[name][number] = [scores.get(scorer, np.nan) for scorer in SCORER_NAMES]
            bar.advance(task)
    return found


def _scores(case: Case, labels: Labels) -> dict[str, float]:
    sample = Sample(
        index=0, variant=RULES, case_id=case.id, repeat=0, request=RULES, decision=decided_by_rules(case, labels)
    )
    return {name: score.value for name, score in score_all(answered(case, sample, labels)).items()}
