"""The way `write`: the model writes its decision as JSON, whose schema holds only what is offered.

Short keys and short ids, so that few tokens are spent on anything but the choice. The probability of a value is that of
its being spelled, its closing quote included (which tells `batch` from `batch_load`), by the tokens taken or by others
that are listed. It is one after the grammar's mask: of what was offered, however unlikely the model held all of it. An
action's is given those before it in the list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from agents.asking.endpoint.parameters import adapted
from agents.asking.endpoint.reply import Reply
from agents.asking.question import StageQuestion, question_for
from agents.asking.variant import PromptVariant
from agents.asking.ways.answer_text import as_object, unwrapped
from agents.asking.ways.note import note_problem
from agents.asking.ways.probabilities import span_probability, value_spans
from agents.asking.words import (
    Message,
    check_example,
    described,
    introduction,
    joined,
    listed,
    refused_example,
    situation,
    words_of,
)
from agents.specialists.decision import MOST_ACTIONS, MOST_FACTS, NOTE_CHARACTERS, Decision, Picked, Reading

Schema = dict[str, Any]

ACTIONS, FACTS, NOTE, REASON = "actions", "facts", "note", "reason"
"""Keys of an answer; the choice's own name is another one."""

_ALTERNATIVES = 5
"""Tokens listed at each place. More would hardly add to a value's probability: the likeliest spellings come first."""


class Unusable(Exception):
    """An answer's text is no decision; the message says why."""


# --- asking ----------------------------------------------------------------------------------------------


def write_body(variant: PromptVariant, question: StageQuestion, model: str) -> dict[str, Any]:
    """The chat completion that asks for a written decision. Raises BadInput when the prompt cannot be rendered."""
    sampling = variant.sampling.model_dump()
    if not variant.sampling.frequency_penalty:
        del sampling["frequency_penalty"]
    body = {"model": model, "messages": write_messages(variant, question), **sampling}
    body |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
    if variant.held_to_schema:
        schema = {"name": f"{question.stage}_decision", "schema": schema_of(variant, question), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return adapted(body, variant.parameters)


def write_messages(variant: PromptVariant, question: StageQuestion) -> list[Message]:
    """System text, worked examples, question."""
    return [
        {"role": "system", "content": system_text(variant, question)},
        *_examples(variant, question),
        {"role": "user", "content": _asked(variant, question)},
    ]


def system_text(variant: PromptVariant, question: StageQuestion) -> str:
    """What all pipelines of a stage have in common: role, choice, whole catalogue, the form of the answer."""
    specialist = question.specialist
    choice = specialist.choice
    told = {
        REASON: "one sentence, written first: which fact decides, and what it calls for.",
        FACTS: "the names of the one or two facts that decide.",
        NOTE: "one sentence to the pipeline's owner. Use no figure that is not among the facts.",
    }
    return "\n".join(
        [
            introduction(variant, specialist),
            "",
            f"{choice.name}: {choice.asks}",
            *(f"{option.value}: {option.means}" for option in choice.options),
            "",
            f"{ACTIONS}: what to do, one to three ids, the most important one first.",
            *(f"{action.id}: {described(variant, action)}" for action in specialist.catalogue),
            "",
            f"Answer in JSON with {listed(_keys(variant, choice.name, facts=True))}.",
            *(f"{key}: {told[key]}" for key in _keys(variant, choice.name, facts=True) if key in told),
        ]
    )


def schema_of(variant: PromptVariant, question: StageQuestion) -> Schema:
    """The JSON schema of an answer: keys in the order they are written in, enums of what is offered."""
    return _schema(
        question.specialist.choice.name,
        question.choices,
        question.actions,
        question.facts if variant.facts else (),
        variant.note,
        variant.reason_characters if variant.ask == "reason" else None,
    )


@lru_cache(maxsize=1024)
def _schema(
    name: str,
    choices: tuple[str, ...],
    actions: tuple[str, ...],
    facts: tuple[str, ...],
    note: bool,
    reason_characters: int | None,
) -> Schema:
    fields: Schema = {}
    if reason_characters:
        fields[REASON] = {"type": "string", "minLength": 1, "maxLength": reason_characters}
    if facts:
        fields[FACTS] = _some_of(facts, MOST_FACTS)
    fields[name] = {"type": "string", "enum": list(choices)}
    fields[ACTIONS] = _some_of(actions, MOST_ACTIONS)
    if note:
        fields[NOTE] = {"type": "string", "minLength": 1, "maxLength": NOTE_CHARACTERS}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _some_of(names: tuple[str, ...], most: int) -> Schema:
    # No uniqueItems: grammars do not know it, and what is named twice is read once.
    items = {"type": "string", "enum": list(names)}
    return {"type": "array", "items": items, "minItems": 1, "maxItems": min(most, len(names))}


def _keys(variant: PromptVariant, choice: str, *, facts: bool) -> list[str]:
    reason, note = variant.ask == "reason", variant.note
    return [*[REASON] * reason, *[FACTS] * (facts and variant.facts), choice, ACTIONS, *[NOTE] * note]


def _asked(variant: PromptVariant, question: StageQuestion) -> str:
    name = question.specialist.choice.name
    return joined(
        situation(variant, question),
        _offered(question) if variant.list_permitted else "",
        f"Answer in JSON with {listed(_keys(variant, name, facts=bool(question.facts)))}.",
    )


def _offered(question: StageQuestion) -> str:
    """What is offered, where that is not everything: ``Offered here: mode: batch, cdc; actions: keep_cursor.``"""
    specialist = question.specialist
    parts = {specialist.choice.name: (question.choices, specialist.choice.values)}
    parts[ACTIONS] = (question.actions, tuple(specialist.actions_by_id))
    told = [f"{key}: {listed(offered)}" for key, (offered, every) in parts.items() if len(offered) < len(every)]
    return f"Offered here: {'; '.join(told)}." if told else ""


def _examples(variant: PromptVariant, question: StageQuestion) -> list[Message]:
    messages = []
    for number, example in enumerate(words_of(variant, question.stage).examples):
        check_example(variant, question.specialist, number, example)
        asked = question_for(variant, question.stage, example.pipeline, example.label)
        answer, name = example.answer, question.specialist.choice.name
        written = {
            REASON: answer.reason,
            name: answer.choice,
            ACTIONS: answer.actions,
            FACTS: answer.facts,
            NOTE: answer.note,
        }
        wanted = _keys(variant, name, facts=bool(asked.facts))
        if missing := [key for key in wanted if not written[key]]:
            raise refused_example(variant, question.stage, number, f"{missing[0]}: is missing")
        text = json.dumps({key: written[key] for key in wanted}, ensure_ascii=False, separators=(",", ":"))
        messages += [{"role": "user", "content": _asked(variant, asked)}, {"role": "assistant", "content": text}]
    return messages


# --- reading ---------------------------------------------------------------------------------------------


def read_written(variant: PromptVariant, question: StageQuestion, reply: Reply) -> tuple[Decision, str | None]:
    """The decision in a reply, and why its note was dropped if it was. Raises Unusable."""
    strictly = variant.held_to_schema
    text = reply.text if strictly else unwrapped(reply.text)
    answer = as_object(text)
    if isinstance(answer, str):
        raise Unusable(answer + _cut(reply))
    name = question.specialist.choice.name
    if strictly:
        _check_keys(answer, _keys(variant, name, facts=bool(question.facts)), reply)
    choice = _one_of(name, answer.get(name), question.specialist.choice.values)
    ids = _each_of(ACTIONS, answer.get(ACTIONS), tuple(question.specialist.actions_by_id), MOST_ACTIONS, strictly)
    if not ids:
        raise Unusable(f"{ACTIONS}: is empty")
    facts = answer.get(FACTS) if variant.facts and question.facts else None
    named = () if facts is None else _each_of(FACTS, facts, question.facts, MOST_FACTS, strictly)
    note = answer.get(NOTE) if variant.note else None
    dropped = None if note is None else note_problem(note, question)
    offered = {name: question.choices, ACTIONS: question.actions}
    likely = _likely(text, reply, offered) if strictly else {}
    decision = Decision(
        by="model",
        choice=Picked(id=choice, probability=likely.get((name, choice))),
        actions=tuple(Picked(id=one, probability=likely.get((ACTIONS, one))) for one in ids),
        facts=named,
        note=None if dropped or note is None else note.strip(),
        reading=Reading(way=_way(variant), source="after the mask") if strictly else None,
    )
    return decision, dropped


def _way(variant: PromptVariant) -> Literal["write", "reason"]:
    return "reason" if variant.ask == "reason" else "write"


def _cut(reply: Reply) -> str:
    if reply.finish_reason != "length":
        return ""
    tokens = "the most tokens allowed" if reply.output_tokens is None else f"{reply.output_tokens} tokens"
    return f"; it was cut off at {tokens} (sampling.max_tokens)"


def _check_keys(answer: dict[str, Any], wanted: Sequence[str], reply: Reply) -> None:
    for key in wanted:
        if key not in answer:
            raise Unusable(f"{key}: is missing{_cut(reply)}")
    for key in answer:
        if key not in wanted:
            raise Unusable(f"{_shown(key)}: was not asked for")


def _one_of(key: str, found: object, known: Sequence[str]) -> str:
    if not isinstance(found, str) or found not in known:
        raise Unusable(f"{key}: found {_shown(found)}; known: {listed(known)}")
    return found


def _each_of(key: str, found: object, known: Sequence[str], most: int, strictly: bool) -> tuple[str, ...]:
    """The names of a list, each once. Without `strictly` those beyond the most allowed are left out."""
    if not isinstance(found, list):
        raise Unusable(f"{key}: found {_shown(found)}; must be a list")
    if strictly and len(found) > most:
        raise Unusable(f"{key}: holds {len(found)}; at most {most} are allowed")
    for one in found:
        if not isinstance(one, str) or one not in known:
            raise Unusable(f"{key}: found {_shown(one)}, which is not known")
    return tuple(dict.fromkeys(found))[:most]


def _shown(found: object) -> str:
    text = re.sub(r"\s+", " ", json.dumps(found, ensure_ascii=True))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _likely(text: str, reply: Reply, offered: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], float]:
    """The probability of each value of the choice and the actions; of one that stands twice, where it stands first."""
    found: dict[tuple[str, str], float] = {}
    for key, value, first, last in value_spans(text) if reply.logprobs else ():
        if key in offered and (key, value) not in found:
            probability = span_probability(reply.logprobs or (), text, first, last, offered[key])
            if probability is not None:
                found[key, value] = probability
    return found
