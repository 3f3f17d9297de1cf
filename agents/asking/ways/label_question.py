"""Questions that are answered by one letter: the choice, then the actions, each in as many orders as a variant asks.

Letters follow the menu, which is the same for all pipelines of a stage; what is not offered keeps its letter and is
left out in reading. A catalogue of more than 26 actions is asked about in several questions of equal size.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from agents.asking.question import StageQuestion, question_for
from agents.asking.variant import PromptVariant
from agents.asking.words import (
    CONTENT_FREE,
    Message,
    check_example,
    described,
    introduction,
    joined,
    listed,
    situation,
    words_of,
)

LETTERS = string.ascii_uppercase
MOST_OPTIONS = len(LETTERS)

_CLOSING = "Answer with one letter."

Part = Literal["choice", "actions"]


@dataclass(frozen=True)
class Shown:
    """One option as it is shown."""

    id: str
    words: str


@dataclass(frozen=True)
class LabelQuestion:
    """One question, for whatever reader."""

    part: Part
    order: int
    asks: str
    introduction: str
    options: tuple[Shown, ...]
    """In the order they are shown in: the first is A."""
    offered: frozenset[str]
    """Ids among them that count."""
    state: str
    """The pipeline: its facts and label."""
    beside: tuple[str, tuple[Shown, ...]] | None = None
    """The stage's other question with its options, where both menus are shown in both questions."""
    examples: tuple[Message, ...] = ()
    reason: tuple[str, str] | None = None
    """What was asked before, and the model's sentence."""
    list_offered: bool = False

    @property
    def letters(self) -> dict[str, str]:
        """Each option's letter."""
        return {option.id: letter for option, letter in zip(self.options, LETTERS, strict=False)}

    @property
    def offered_options(self) -> tuple[Shown, ...]:
        """The options that count, as they are shown."""
        return tuple(option for option in self.options if option.id in self.offered)

    @property
    def messages(self) -> list[Message]:
        """The question as a chat: menu, examples, pipeline, and perhaps a sentence about it."""
        last = joined(self._offered_letters, closing(self.asks, self.beside is not None))
        system: Message = {"role": "system", "content": self._menus}
        if self.reason is None:
            return [system, *self.examples, {"role": "user", "content": joined(self.state, last)}]
        asked, sentence = self.reason
        before = [
            {"role": "user", "content": joined(self.state, asked)},
            {"role": "assistant", "content": sentence},
        ]
        return [system, *self.examples, *before, {"role": "user", "content": last}]

    @property
    def _menus(self) -> str:
        own = (self.asks, self.options)
        if self.beside is None:
            return "\n".join([self.introduction, "", *_menu(*own), _CLOSING])
        first, second = (own, self.beside) if self.part == "choice" else (self.beside, own)
        return "\n".join([self.introduction, "", *_menu(*first), "", *_menu(*second)])

    @property
    def _offered_letters(self) -> str:
        if not self.list_offered or len(self.offered) == len(self.options):
            return ""
        return f"Offered here: {listed([letter for name, letter in self.letters.items() if name in self.offered])}."


def closing(asks: str, several_menus: bool) -> str:
    """The last line; where several menus are shown it says which one it is about."""
    return f"{asks} {_CLOSING}" if several_menus else _CLOSING


def _menu(asks: str, options: Sequence[Shown]) -> list[str]:
    return [asks, *(f"{letter}: {option.words}" for option, letter in zip(options, LETTERS, strict=False))]


def label_questions(
    variant: PromptVariant, question: StageQuestion, reason: tuple[str, str] | None = None
) -> list[LabelQuestion]:
    """All questions of a stage: the choice's orders, then the actions'. Raises BadInput.

    A question to which one answer alone is offered is left out, unless there would be none.
    """
    state = situation(variant, question)
    asked = [replace(one, state=state, reason=reason) for one in _outlines(variant, question)]
    open_ones = [one for one in asked if _is_open(one.part, question)]
    return open_ones or [one for one in asked if one.part == "actions" and one.order == 0][:1]


def content_free(variant: PromptVariant, question: StageQuestion, asked: LabelQuestion) -> list[LabelQuestion]:
    """The same question about nothing, once for each text that says nothing. Raises BadInput."""
    return [replace(asked, state=situation(variant, question, text), reason=None) for text in CONTENT_FREE]


def _is_open(part: Part, question: StageQuestion) -> bool:
    return len(question.choices if part == "choice" else question.actions) > 1


def _outlines(variant: PromptVariant, question: StageQuestion) -> Iterator[LabelQuestion]:
    """The questions without a pipeline."""
    specialist = question.specialist
    choice = [Shown(one.value, f"{one.value}: {one.means}") for one in specialist.choice.options]
    actions = [Shown(one.id, described(variant, one)) for one in specialist.catalogue]
    asks_choice, asks_actions = f"{specialist.choice.name}: {specialist.choice.asks}", "Which action matters most?"
    parts: list[tuple[Part, Sequence[Shown], tuple[str, ...]]] = [("choice", choice, question.choices)]
    parts += [("actions", chunk, question.actions) for chunk in chunks(actions)]
    for part, options, offered in parts:
        here = frozenset(option.id for option in options).intersection(offered)
        asks, other_asks = (asks_choice, asks_actions) if part == "choice" else (asks_actions, asks_choice)
        other = chunks(actions)[0] if part == "choice" else choice
        for order in range(variant.orders if here else 0):
            shown = rotated(options, order, variant.orders)
            beside = (other_asks, rotated(other, order, variant.orders)) if variant.menus == "together" else None
            yield LabelQuestion(
                part=part,
                order=order,
                asks=asks,
                introduction=introduction(variant, specialist),
                options=shown,
                offered=here,
                state="",
                beside=beside,
                examples=tuple(_examples(variant, question, part, shown, closing(asks, beside is not None))),
                list_offered=variant.list_permitted,
            )


def chunks(options: Sequence[Shown]) -> list[Sequence[Shown]]:
    """The options in parts of as equal a size as can be, none larger than the alphabet."""
    parts = -(-len(options) // MOST_OPTIONS)
    ends = [round(len(options) * part / parts) for part in range(parts + 1)]
    return [options[first:last] for first, last in pairwise(ends)]


def rotated(options: Sequence[Shown], order: int, orders: int) -> tuple[Shown, ...]:
    """One of several cyclic orders, which lie as far apart as they can; order 0 is the menu's own."""
    by = order * len(options) // orders
    return (*options[by:], *options[:by])


def _examples(
    variant: PromptVariant, question: StageQuestion, part: Part, shown: tuple[Shown, ...], last: str
) -> Iterator[Message]:
    letters = {option.id: letter for option, letter in zip(shown, LETTERS, strict=False)}
    for number, example in enumerate(words_of(variant, question.stage).examples):
        check_example(variant, question.specialist, number, example)
        right = example.answer.choice if part == "choice" else example.answer.actions[0]
        if right in letters:  # else it is an example for another part of a long catalogue
            about = question_for(variant, question.stage, example.pipeline, example.label)
            yield {"role": "user", "content": joined(situation(variant, about), last)}
            yield {"role": "assistant", "content": letters[right]}
