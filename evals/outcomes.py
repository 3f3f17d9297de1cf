"""Which samples got no answer, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from evals.run_folder import RunFolder


@dataclass(frozen=True)
class Outcomes:
    """What became of a run's samples besides their scores."""

    errors: dict[str, Counter[str]]
    """Per variant: samples without an answer, by class of error."""


def outcomes_of(folder: RunFolder) -> Outcomes:
    """One pass over a run's samples. An answer counts, whatever else was tried; of several errors the last one does."""
    answered = bytearray(folder.plan.samples)
    failed = dict[int, tuple[str, str]]()
    for sample in folder.samples():
        if sample.error is None:
            answered[sample.index] = True
        else:
            failed[sample.index] = sample.variant, str(sample.error_class or "error")
    found = {variant.name: Counter[str]() for variant in folder.plan.variants}
    for index, (variant, error_class) in failed.items():
        if not answered[index]:
            found[variant][error_class] += 1
    return Outcomes(found)
