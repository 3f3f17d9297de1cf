"""What is earned without looking at the pipeline: by chance, and by always giving the same answer.

A model that does not beat both has shown nothing, however high its mean is. The rules, which do look, are by_rules.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from agents.specialists.decision import MOST_ACTIONS
from evals.case import Case

DRAWS = 50
RANDOM_ACTIONS = 2


@dataclass(frozen=True)
class Pick:
    """An answer without a model."""

    choice: str
    actions: tuple[str, ...]


Earned = Callable[[Case, Pick], float]
"""What a pick earns on a case: the headline, say. Of the actions only those in the case's key may matter, in whatever
order they stand."""


def chance(
    case: Case, choices: Sequence[str], actions: Sequence[str], earned: Earned, *, draws: int = DRAWS, seed: int = 0
) -> float:
    """The mean of so many random answers: one of the choices and two of the actions, each as likely as any other."""
    rng = random.Random(f"{seed}/{case.id}")  # noqa: S311 - reproducible, not secret
    most = min(RANDOM_ACTIONS, len(actions))
    picks = (Pick(rng.choice(choices), tuple(rng.sample(actions, most))) for _ in range(draws))
    return sum(earned(case, pick) for pick in picks) / draws


def best_constants(
    cases: Sequence[Case], choices: Sequence[str], actions: Sequence[str], earned: Earned
) -> list[Pick | None]:
    """For each case, the answer that earns most on the cases of all other families; None where there are no others.

    cases: of one stage. choices, actions: what may be picked, the actions from one to three at a time. Of equally good
    answers the first counts, in the order given, with few actions before many.
    """
    picks = list(_picks(choices, actions))
    table = np.array([_row(case, picks, earned) for case in cases])
    families = [case.family for case in cases]
    best = {family: _best(table, [one != family for one in families]) for family in set(families)}
    return [None if (place := best[family]) is None else picks[place] for family in families]


def _picks(choices: Sequence[str], actions: Sequence[str]) -> Iterator[Pick]:
    for number in range(1, min(MOST_ACTIONS, len(actions)) + 1):
        for some in combinations(actions, number):
            yield from (Pick(choice, some) for choice in choices)


def _row(case: Case, picks: Sequence[Pick], earned: Earned) -> list[float]:
    """What each pick earns on one case; those that are the same to its key are scored once."""
    matter = {*case.harmful_actions, *(action for group in case.right_actions for action in group)}
    known: dict[Hashable, float] = {}
    row = []
    for pick in picks:
        same = pick.choice, frozenset(matter.intersection(pick.actions))
        if same not in known:
            known[same] = earned(case, pick)
        row.append(known[same])
    return row


def _best(table: NDArray[np.float64], others: Sequence[bool]) -> int | None:
    """The column with the highest mean over these rows."""
    return int(table[np.array(others)].mean(axis=0).argmax()) if any(others) else None
