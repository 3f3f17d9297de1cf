"""Answers that try to score without advising: keyword lists, filler, the facts told again, silence, refusals.

Each attack knows what a public reader knows: the lexicon, the rows' required concepts, and the facts of the case it
is asked about, but not which row the case is made from. The mode is given by whoever attacks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence

from agents.answers import ACTION_CHARACTERS, SUMMARY_CHARACTERS, AnswerForm
from agents.asking.variant import PromptVariant, facts_for, render
from agents.labels.label import Label
from agents.lexicon import phrases
from agents.schema import IngestionMode, Recommendation, Stage
from evals.case import Case
from evals.specific import ADVICE

_BOUNDS = (SUMMARY_CHARACTERS[AnswerForm.STANDARD], *[ACTION_CHARACTERS[AnswerForm.STANDARD]] * 2)

SILENT = (
    "",
    "   \n",
    "{}",
    "[]",
    "null",
    '""',
    "...",
    "N/A",
    "TODO",
    '{"summary": "N/A", "actions": ["N/A", "TODO"]}',
    '{"summary": "-", "actions": ["-", "-"]}',
    '{"summary": "string", "actions": ["string", "string"], "mode": "batch"}',
)
"""Answers that say nothing, whatever the case."""

REFUSALS = (
    "I cannot help with that.",
    "I'm sorry, but I can't assist with this request.",
    "As an AI language model, I do not give advice on data pipelines.",
    "Sorry, I am not able to answer that.",
    "I\u2019m unable to provide a recommendation.",
)


def refusing(stage: Stage, words: str) -> str:
    """A refusal that fits the schema."""
    return answer((words, words, "N/A."), IngestionMode.BATCH if stage is Stage.INGESTION else None)


def answer(sentences: Sequence[str], mode: IngestionMode | None) -> str:
    """A summary and two actions as a model would write them."""
    summary, first, second = sentences
    document = {"summary": summary, "actions": [first, second]}
    return json.dumps(document | ({"mode": mode.value} if mode else {}))


def written(advice: Recommendation) -> str:
    """A recommendation as a model would write it."""
    return advice.model_dump_json(exclude_none=True)


Attack = Callable[[Case, Label | None, random.Random], tuple[str, str, str]]


def every_phrase(_case: Case, _label: Label | None, rng: random.Random) -> tuple[str, str, str]:
    """As many phrases of the whole lexicon as fit."""
    return _packed(_shuffled((one for said in phrases().values() for one in said), rng), ", ")


def every_required_concept(case: Case, _label: Label | None, rng: random.Random) -> tuple[str, str, str]:
    """A list of what some case of the stage requires, one phrase each."""
    return _packed(_required(case.stage, rng), ", ")


def required_with_facts(case: Case, _label: Label | None, rng: random.Random) -> tuple[str, str, str]:
    """The same list after the names of the facts."""
    names = [name.replace("_", " ") for name in facts_for(case.stage, case.spec)][:3]
    return _packed([case.spec.source.type, *names, *_required(case.stage, rng)], ", ")


def fluent_stuffing(case: Case, _label: Label | None, rng: random.Random) -> tuple[str, str, str]:
    """The same concepts in sentences."""
    return _fluent(_required(case.stage, rng), "It is best to plan for ")


def fluent_stuffing_about(case: Case, _label: Label | None, rng: random.Random) -> tuple[str, str, str]:
    """The same in sentences that name the source or the metrics."""
    return _fluent(_required(case.stage, rng), f"For the {_topic(case, rng)} plan for ")


def filler(_case: Case, _label: Label | None, rng: random.Random) -> tuple[str, str, str]:
    """Sentences that fit any pipeline."""
    first, second, third = (_packed(_shuffled(_FILLER, rng), " ")[part] for part in range(3))
    return first, second, third


def filler_about(case: Case, label: Label | None, rng: random.Random) -> tuple[str, str, str]:
    """Filler that names the source or a metric of the case."""
    _, first, second = filler(case, label, rng)
    return f"The {_topic(case, rng)} should be handled according to best practices.", first, second


def facts_again(case: Case, label: Label | None, rng: random.Random) -> tuple[str, str, str]:
    """The facts and the label told in sentences."""
    facts = [f"The {name.replace('_', ' ')} is {value}." for name, value in facts_for(case.stage, case.spec).items()]
    told = [f"The {label.kind} is {label.value}.", *(f"{rule.reason}." for rule in label.rules)] if label else []
    return _packed([*told, *_shuffled(facts, rng)], " ")


def prompt_again(variant: PromptVariant) -> Attack:
    """The words of the prompt, as far as they fit."""

    def attack(case: Case, label: Label | None, _rng: random.Random) -> tuple[str, str, str]:
        said = " ".join(message["content"] for message in render(variant, case.stage, case.spec, label)[-1:])
        return _packed(said.split(), " ")

    return attack


def some_points(count: int) -> Attack:
    """As many concepts of the stage as told, drawn at random, in sentences after one that tells a fact."""

    def attack(case: Case, _label: Label | None, rng: random.Random) -> tuple[str, str, str]:
        said = [rng.choice(phrases()[concept]).replace("*", "") for concept in rng.sample(ADVICE[case.stage], count)]
        first, second = " and then ".join(said[: count // 2]), " and ".join(said[count // 2 :])
        name, value = next(iter(facts_for(case.stage, case.spec).items()))
        opening = f"The {name.replace('_', ' ')} is {value} and this is what to do about it."
        return opening, f"Use {first} for it.", f"After that plan for {second} as well."

    return attack


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        every_phrase,
        every_required_concept,
        required_with_facts,
        fluent_stuffing,
        fluent_stuffing_about,
        filler,
        filler_about,
        facts_again,
    )
}


def _required(stage: Stage, rng: random.Random) -> list[str]:
    return _shuffled((rng.choice(phrases()[concept]) for concept in ADVICE[stage]), rng)


def _topic(case: Case, rng: random.Random) -> str:
    if case.stage is Stage.INGESTION:
        return case.spec.source.type
    return rng.choice([*facts_for(case.stage, case.spec)]).rsplit("_", 1)[0].replace("_", " ")


def _shuffled(ones: Iterable[str], rng: random.Random) -> list[str]:
    found = [one.replace("*", "") for one in ones]
    rng.shuffle(found)
    return found


def _packed(pieces: Sequence[str], between: str) -> tuple[str, str, str]:
    """The pieces one after the other, as many as the three sentences hold."""
    left, sentences = list(pieces), []
    for bound in _BOUNDS:
        said = left.pop(0)[: bound - 1] if left else "Proceed"
        while left and len(said) + len(between) + len(left[0]) < bound:
            said += between + left.pop(0)
        sentences.append(said.rstrip(".") + ".")
    return sentences[0], sentences[1], sentences[2]


def _fluent(concepts: list[str], opening: str) -> tuple[str, str, str]:
    left, sentences = list(concepts), []
    for bound in _BOUNDS:
        said = opening + (left.pop(0) if left else "quality")
        while left and len(said) + len(" and for ") + len(left[0]) < bound:
            said += " and for " + left.pop(0)
        sentences.append(said + ".")
    return sentences[0], sentences[1], sentences[2]


_FILLER = (
    "It is important to follow best practices.",
    "The pipeline should be robust, scalable and reliable.",
    "Make sure that everything is well documented.",
    "Work closely with all stakeholders.",
    "Consider the needs of the business at every step.",
    "Regular reviews help to keep the quality high over time.",
    "Choose modern tools that suit the team.",
    "Optimize performance where possible.",
    "Monitor the system and improve it continuously.",
    "Implement validation and error handling.",
    "Ensure data integrity, security and compliance.",
    "Design with the future in mind.",
)
