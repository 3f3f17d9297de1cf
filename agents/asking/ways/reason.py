"""The way `reason` with `then: read`: a bounded sentence first, then one letter a question with that sentence given.

With `then: write` the sentence is the first key of the written answer (agents/asking/ways/write.py).
"""

from __future__ import annotations

from typing import Any

from agents.asking.endpoint.parameters import adapted
from agents.asking.question import StageQuestion
from agents.asking.variant import PromptVariant
from agents.asking.ways.write import system_text
from agents.asking.words import joined, situation

ASKS = "Say in one sentence which fact decides and what it calls for."

_CHARACTERS_A_TOKEN = 4


def reason_body(variant: PromptVariant, question: StageQuestion, model: str) -> dict[str, Any]:
    """The chat completion that asks for the sentence. Raises BadInput when the prompt cannot be rendered."""
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": system_text(variant, question)},
            {"role": "user", "content": joined(situation(variant, question), ASKS)},
        ],
        "temperature": variant.sampling.temperature,
        "top_p": variant.sampling.top_p,
        "seed": variant.sampling.seed,
        "max_tokens": min(variant.sampling.max_tokens, variant.reason_characters // _CHARACTERS_A_TOKEN),
        "stop": ["\n"],
    }
    return adapted(body, variant.parameters)
