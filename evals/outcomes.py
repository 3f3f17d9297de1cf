"""What became of each sample besides its scores: whose answer was given, what guardrails found, what failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agents.guardrails import GuardrailMode
from evals.run_folder import RunFolder
from evals.sample import Sample


@dataclass(frozen=True)
class Outcomes:
    """Per sample, arrays of shape (variants, cases, repeats) as in ScoreTable; NaN where there is nothing to say."""

    from_model: NDArray[np.float64]
    """1 when the answer given is the model's own, 0 when it is the rules'; NaN without an answer."""
    unbroken: NDArray[np.float64]
    """1 when no answer of the model broke a guardrail; NaN without an answer or with guardrails off."""
    broken_rules: dict[str, Counter[str]] = field(default_factory=dict)
    """Per variant: in how many samples each guardrail was broken."""
    errors: dict[str, Counter[str]] = field(default_factory=dict)
    """Per variant: samples without an answer, by class of error."""


def outcomes_of(folder: RunFolder) -> Outcomes:
    """One pass over a run's samples; memory is two numbers a sample."""
    variants = {variant.name: variant for variant in folder.plan.variants}
    shape = (len(variants), len(folder.cases), folder.plan.repeats)
    found = Outcomes(np.full(shape, np.nan), np.full(shape, np.nan))
    for name in variants:
        found.broken_rules[name] = Counter()
        found.errors[name] = Counter()
    failed = dict[int, Sample]()
    for sample in folder.samples():
        case, variant, repeat = folder.plan.place(sample.index)
        if sample.error is not None:
            failed[sample.index] = sample
        elif np.isnan(found.from_model[variant, case, repeat]):  # the first answer counts, as in scoring
            checked = variants[sample.variant].guardrails is not GuardrailMode.OFF
            _count(found, sample, (variant, case, repeat), checked)
    for sample in failed.values():
        case, variant, repeat = folder.plan.place(sample.index)
        if np.isnan(found.from_model[variant, case, repeat]):
            found.errors[sample.variant][sample.error_class or "error"] += 1
    return found


def _count(found: Outcomes, sample: Sample, place: tuple[int, int, int], checked: bool) -> None:
    found.from_model[place] = sample.source == "model"
    found.broken_rules[sample.variant].update(set(sample.broken_rules))
    if checked:
        found.unbroken[place] = not sample.broken_rules
