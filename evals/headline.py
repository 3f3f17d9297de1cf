"""The one number per answer.

headline = required_points, the share of the points that this case's answer must make (1 where it requires none),
           if every gate that applies to the case is passed; else 0.

The gates ask whether the answer could be used as it is: it fits the schema and is whole, its mode and tools work, it
contradicts neither label nor facts, it is neither alarmed nor idle against the label, recommends nothing forbidden,
and speaks of this pipeline. It says how much of what had to be said was said, in an answer that can be used.
"""

from __future__ import annotations

from collections.abc import Mapping

from evals.score import Score

GATES = (
    "schema_valid",
    "not_truncated",
    "mode_fit",
    "tool_fit",
    "label_consistent",
    "urgency_calibrated",
    "forbidden_points",
    "grounded",
    "specific",
)


def headline(scores: Mapping[str, Score]) -> Score:
    """The headline score from the others of the same answer; a gate without a score is open."""
    shut = [gate for gate in GATES if gate in scores and scores[gate].value < 1]
    if shut:
        return Score(0.0, ", ".join(shut), f"cannot be used as it is: {', '.join(shut)}")
    points = scores.get("required_points")
    if points is None:
        return Score(1.0, "", "passes every gate; the case requires no point")
    return Score(points.value, points.saw, points.explanation)
