"""POST /v1/decisions in OpenAI's form: typed questions in, probabilities out, made up by seed.

Read strictly, as OpenAI and vLLM do: a key that is not in the form is refused. `confidence` is vLLM's, the likeliest
option's probability times the label mass; OpenAI does not say what its own is. Of a decision no token leaves.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, field_validator

from serving.endpoint import SIMULATOR_OWNER
from serving.faults import Fault
from serving.simulator_request import texts_of

_LABEL_MASS = (0.88, 0.92)


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


Text = str | list[dict[str, Any]]
"""A text, or parts of which some have a `text`."""


class _Option(_Form):
    value: StrictStr | StrictBool
    description: str | None = None


class _Level(_Form):
    label: str
    description: str | None = None


class Predicate(_Form):
    """Is a statement true?"""

    type: Literal["predicate"]
    instructions: Text
    name: str | None = None


class Choice(_Form):
    """Which of the options?"""

    type: Literal["choice"]
    instructions: Text
    choices: list[_Option] = Field(min_length=2, max_length=255)
    name: str | None = None

    @field_validator("choices")
    @classmethod
    def _each_once(cls, choices: list[_Option]) -> list[_Option]:
        # A text and a truth value that read alike are two options, and Python tells them apart.
        if len({option.value for option in choices}) < len(choices):
            raise ValueError("each value may stand only once")
        return choices


class Score(_Form):
    """Which of the levels, from the lowest to the highest?"""

    type: Literal["score"]
    instructions: Text
    levels: list[_Level] = Field(min_length=2, max_length=10)
    name: str | None = None


Question = Annotated[Predicate | Choice | Score, Field(discriminator="type")]


class DecisionRequest(_Form):
    """Questions about one input."""

    model: str
    input: str | list[dict[str, Any]]
    questions: list[Question] = Field(min_length=1, max_length=400)
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    safety_identifier: str | None = None

    @property
    def input_tokens(self) -> int:
        """Words between spaces, the input's counted for every question."""
        state = _words([self.input] if isinstance(self.input, str) else [item.get("content") for item in self.input])
        return sum(state + _words(_texts(question)) for question in self.questions)


def decision(asked: DecisionRequest, seed: int, fault: Fault) -> dict[str, Any]:
    """The answers, in the questions' order."""
    answers = [_answer(question, asked, seed, fault) for question in asked.questions]
    tokens = asked.input_tokens
    usage = {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }
    told = {"model": asked.model, "answers": answers, "usage": usage, "system_fingerprint": SIMULATOR_OWNER}
    if fault is Fault.NO_USAGE:
        del told["usage"]
    return told


def _answer(question: Question, asked: DecisionRequest, seed: int, fault: Fault) -> dict[str, Any]:
    if fault is Fault.REFUSAL:
        return {"type": "refusal", "name": question.name}
    key = json.dumps([asked.model_dump()["input"], question.model_dump()], sort_keys=True)
    rng = random.Random(f"{seed} decision {key}")  # noqa: S311 - not for secrets
    head = {"type": question.type, "name": question.name}
    if isinstance(question, Predicate):
        return {**head, "probability": rng.random()}
    options = question.choices if isinstance(question, Choice) else question.levels
    shares, mass = _shares(rng, len(options)), rng.uniform(*_LABEL_MASS)
    told = {**head, "confidence": max(shares) * mass}
    if isinstance(question, Choice):
        best = max(range(len(shares)), key=shares.__getitem__)
        listed = [{"value": option.value, "probability": p} for option, p in zip(question.choices, shares, strict=True)]
        return {**told, "choice": question.choices[best].value, "probabilities": listed}
    levels = [
        {"value": place, "label": level.label, "probability": p}
        for place, (level, p) in enumerate(zip(question.levels, shares, strict=True))
    ]
    return {**told, "score": sum(place * p for place, p in enumerate(shares)), "probabilities": levels}


def _shares(rng: random.Random, options: int) -> list[float]:
    weights = [rng.expovariate(1) for _ in range(options)]
    return [weight / sum(weights) for weight in weights]


def _texts(question: Question) -> list[object]:
    match question:
        case Choice():
            said: Sequence[str | None] = [text for o in question.choices for text in (str(o.value), o.description)]
        case Score():
            said = [text for level in question.levels for text in (level.label, level.description)]
        case _:
            said = []
    return [question.instructions, *(text for text in said if text)]


def _words(contents: Iterable[object]) -> int:
    return sum(len(text.split()) for content in contents for text in texts_of(content))
