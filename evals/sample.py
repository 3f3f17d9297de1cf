"""A sample: one case under one variant, asked once; what came back, before anybody scores it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agents.asking.reply import Reply
from agents.schema import ErrorClass, FallbackReason, Recommendation
from common.strict import Name, Strict


class Sample(Strict):
    """One line of samples.jsonl, written when its answer arrives. Scores are worked out from it and kept elsewhere."""

    index: int = Field(ge=0)
    """Its place in the plan: names variant, case and repeat for good."""
    variant: Name
    case_id: Name
    repeat: int = Field(ge=0)
    request: str
    """Digest of the first request: model, messages, schema, sampling, seed, repeat (evals/cache.py)."""
    replies: tuple[Reply, ...] = Field((), strict=False)
    """Every answer the model gave, as it came, the last one last. A reply with `tries` 0 is from the cache."""
    source: Literal["model", "rules"] = "model"
    """rules: guardrails did not let the model's answers through, and what was given is the rules' recommendation."""
    because: FallbackReason | None = None
    recommendation: Recommendation | None = None
    """What was given, where it is the rules'; else the last reply is what was given."""
    broken_rules: tuple[str, ...] = Field((), strict=False)
    """Guardrails that an answer of the model broke, in order; empty with guardrails off."""
    error: str | None = None
    """Why there is no answer; such a sample is unscored, which is not the same as wrong."""
    error_class: ErrorClass | None = Field(None, strict=False)
