"""The forms an agent can be asked to answer in. A prompt variant names one; its JSON schema constrains the model.

standard   summary, two actions, and for ingestion the mode
reasoned   the same after a sentence of reasoning, so that the mode follows from it
brief      shorter bounds, the mode first: fewer tokens, no room to reason
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from agents.schema import IngestionMode, Recommendation, Stage


class AnswerForm(StrEnum):
    """Which schema a prompt asks for."""

    STANDARD = "standard"
    REASONED = "reasoned"
    BRIEF = "brief"


# Bounds keep a small model from running on until its tokens end mid-sentence.
SUMMARY_CHARACTERS = {AnswerForm.STANDARD: 160, AnswerForm.REASONED: 160, AnswerForm.BRIEF: 90}
ACTION_CHARACTERS = {AnswerForm.STANDARD: 100, AnswerForm.REASONED: 100, AnswerForm.BRIEF: 60}
REASONING_CHARACTERS = 240


@cache
def answer_model(form: AnswerForm, stage: Stage) -> type[BaseModel]:
    """What the model has to write for one stage; its fields stand in the order they are written in."""
    summary = (Annotated[str, Field(min_length=1, max_length=SUMMARY_CHARACTERS[form])], ...)
    action = Annotated[str, Field(min_length=1, max_length=ACTION_CHARACTERS[form])]
    advice: dict[str, Any] = {
        "summary": summary,
        "actions": (Annotated[list[action], Field(min_length=2, max_length=2)], ...),
    }
    mode: dict[str, Any] = {"mode": (IngestionMode, ...)} if stage is Stage.INGESTION else {}
    reasoning = (Annotated[str, Field(min_length=1, max_length=REASONING_CHARACTERS)], ...)
    fields = {
        AnswerForm.STANDARD: advice | mode,
        AnswerForm.REASONED: {"reasoning": reasoning, **mode, **advice},
        AnswerForm.BRIEF: mode | advice,
    }[form]
    name = f"{stage.title()}{form.title()}Answer"
    return create_model(name, __config__=ConfigDict(extra="forbid", frozen=True), **fields)


@cache
def answer_schema(form: AnswerForm, stage: Stage) -> dict[str, Any]:
    """The JSON schema that constrains a stage's answer."""
    return answer_model(form, stage).model_json_schema()


def read_answer(text: str, form: AnswerForm, stage: Stage) -> Recommendation:
    """The recommendation in a model's answer. Raises pydantic's ValidationError when it does not fit the form."""
    return Recommendation.model_validate(answer_model(form, stage).model_validate_json(text).model_dump())
