"""A request that is ready to be sent."""

from __future__ import annotations

from dataclasses import dataclass

from evals.case import Case


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """One streaming chat completion, serialised."""

    pipeline_id: str
    stage: str
    body: bytes
    schema: bytes | None = None
    """The JSON schema that a whole answer has to fit; None where there is none or it is not asked. One object for all
    requests with equal schemas."""
    case: Case | None = None
    """The question with its known answer, where answers are to be scored."""
    cancel_after_chunks: int | None = None
    """Hang up on the answer after so many content chunks; None: read it to its end."""
