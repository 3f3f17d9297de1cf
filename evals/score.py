"""What a scorer says of an answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """One scorer's word on one answer. Where a scorer has nothing to say of a case there is no Score: that is not 0."""

    value: float
    """0 (wrong) to 1 (right)."""
    saw: str
    """The evidence: the words or figures the value rests on."""
    explanation: str
