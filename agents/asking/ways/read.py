"""The way `read`: the model's next token is asked for, and what it would have been says how likely each option is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import orjson

from agents.asking.endpoint.client import ChatClient, together
from agents.asking.endpoint.reply import Reply
from agents.asking.question import StageQuestion
from agents.asking.variant import PromptVariant
from agents.asking.ways.label_question import LabelQuestion, Part, content_free, label_questions
from agents.asking.ways.label_reading import LabelReading, Reader, Unread
from agents.asking.ways.probabilities import mean, normalised, winner, without_prior
from agents.asking.ways.readers import reader_for
from agents.specialists.decision import Decision, Picked, Reading
from agents.specialists.rules import facts_answered

Scores = dict[str, float]
"""Log-probabilities by option, without the labels' own attraction where that is taken out."""


@dataclass(frozen=True)
class Read:
    """One question with what was read for it."""

    asked: LabelQuestion
    reading: LabelReading
    prior: Mapping[str, float] | None = None

    @property
    def scores(self) -> Scores:
        """Of the options that count."""
        logprobs = {name: one.value for name, one in self.reading.logprobs.items() if name in self.asked.offered}
        return logprobs if self.prior is None else without_prior(logprobs, self.prior)

    @property
    def seen(self) -> set[str]:
        """The options that count and of which more is known than how likely they are at most."""
        return {name for name in self.asked.offered if not self.reading.logprobs[name].censored}


async def read_decision(
    client: ChatClient,
    model: str,
    variant: PromptVariant,
    question: StageQuestion,
    reason: tuple[str, str] | None = None,
) -> tuple[Decision | str, tuple[Reply, ...]]:
    """The decision read off label tokens, or why there is none; and the replies it comes from.

    Raises BadInput and EndpointFailed.
    """
    asked = label_questions(variant, question, reason)
    reader = await reader_for(client, model, variant)
    came = await together(*(_read(client, model, reader, variant, question, one) for one in asked))
    reads = [one for one in came if isinstance(one, Read)]
    unread = [one for one in came if isinstance(one, Unread)]
    replies = tuple(reply for reply in (*(one.reading.reply for one in reads), *(one.reply for one in unread)) if reply)
    if unread:
        return str(unread[0]), replies
    try:
        return decided(variant, question, reads), replies
    except Unread as problem:
        return str(problem), replies


def decided(variant: PromptVariant, question: StageQuestion, reads: Sequence[Read]) -> Decision:
    """The decision in the readings of a stage's questions. Raises Unread where no label of a question was seen."""
    choices = _by_order(reads, "choice") or [dict.fromkeys(question.choices, 0.0)]
    actions = _by_order(reads, "actions") or [dict.fromkeys(question.actions, 0.0)]
    seen: set[str] = set().union(*(one.seen for one in reads))
    choice = _ranked("choice", choices, seen if _asked(reads, "choice") else set(question.choices))[:1]
    picked = _ranked("actions", actions, seen if _asked(reads, "actions") else set(question.actions))
    actions_picked = given_those_before(picked[: variant.actions_picked])
    ids = tuple(one.id for one in actions_picked)
    masses = [one.reading.mass for one in reads if one.reading.mass is not None]
    return Decision(
        by="model",
        choice=choice[0],
        actions=actions_picked,
        facts=facts_answered(question.specialist, ids, question.spec, question.label),
        reading=Reading(
            way="reason" if variant.ask == "reason" else "read",
            source=reads[0].reading.source,
            label_mass=min(masses, default=None),
            orders=variant.orders,
            orders_agree=_agree(choices) and _agree(actions) if variant.orders > 1 else None,
            prior=variant.prior,
        ),
    )


def _asked(reads: Sequence[Read], part: Part) -> bool:
    return any(one.asked.part == part for one in reads)


def _by_order(reads: Sequence[Read], part: Part) -> list[Scores]:
    """The scores of one part in each order; several questions about one catalogue are put together.

    Their log-probabilities are of all tokens, so a question that has drawn little mass to its labels weighs little.
    """
    found: dict[int, Scores] = {}
    for one in reads:
        if one.asked.part == part:
            found.setdefault(one.asked.order, {}).update(one.scores)
    return list(found.values())


def _ranked(part: str, orders: Sequence[Scores], seen: set[str]) -> list[Picked]:
    """The options that were seen, the likeliest first, with probabilities that count the others too."""
    likely = normalised(mean(orders))
    found = sorted((name for name in likely if name in seen), key=lambda name: -likely[name])
    if not found:
        raise Unread(f"no log-probs: none of the letters for the {part} is among the likely tokens")
    return [Picked(id=name, probability=min(1.0, likely[name])) for name in found]


def given_those_before(picked: Sequence[Picked]) -> tuple[Picked, ...]:
    """Each with its probability once those before it are taken, as `write` tells it: 0.5, 0.3 of 0.5, ..."""
    left, found = 1.0, []
    for one in picked:
        probability = one.probability or 0.0
        found.append(Picked(id=one.id, probability=min(1.0, probability / left) if left > 0 else 0.0))
        left -= probability
    return tuple(found)


def _agree(orders: Sequence[Scores]) -> bool:
    return len({winner(one) for one in orders}) == 1


async def _read(
    client: ChatClient,
    model: str,
    reader: Reader,
    variant: PromptVariant,
    question: StageQuestion,
    asked: LabelQuestion,
) -> Read | Unread:
    try:
        if not variant.prior:
            return Read(asked, await reader.read(asked))
        free = content_free(variant, question, asked)
        key = ("prior", model, type(reader).__name__, orjson.dumps(free[0].messages), free[0].offered)
        prior = await client.memory.once(key, partial(_prior, reader, free))
        return Read(asked, await reader.read(asked), prior)
    except Unread as problem:
        return problem


async def _prior(reader: Reader, free: Sequence[LabelQuestion]) -> dict[str, float]:
    """How likely each label is when there is nothing to go by: the mean over several such questions."""
    readings = await together(*(reader.read(one) for one in free))
    return mean([normalised({name: one.value for name, one in reading.logprobs.items()}) for reading in readings])
