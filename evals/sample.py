"""A sample: one case under one variant, asked once; what came back, before anybody scores it."""

from __future__ import annotations

from pydantic import Field

from agents.asking.endpoint.reply import ErrorClass, Reply
from agents.specialists.decision import Decision
from common.strict import Name, Strict


class Sample(Strict):
    """One line of samples.jsonl, written when its answer arrives. Scores are worked out from it and kept elsewhere."""

    index: int = Field(ge=0)
    """Its place in the plan: names variant, case and repeat for good."""
    variant: Name
    case_id: Name
    repeat: int = Field(ge=0)
    request: str
    """Digest of the question's first request: model, messages, schema, sampling, seed, repeat (evals/cache.py)."""
    replies: tuple[Reply, ...] = Field((), strict=False)
    """Every answer the model gave, in the order asked; without log-probs, which the decision's probabilities are read
    from. A reply with `tries` 0 is from the cache."""
    decision: Decision | None = None
    """The model's own, not yet held against what is permitted."""
    problem: str | None = None
    """Why an answer holds no decision; such a sample is scored."""
    error: str | None = None
    """Why there is no answer; such a sample is unscored, which is not the same as wrong."""
    error_class: ErrorClass | None = Field(None, strict=False)
