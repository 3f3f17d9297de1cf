"""Seeded cases from the rows of the oracle table (docs/oracle.md): the answer is known because we made the question.

A row fixes what decides the answer and leaves the rest (names, volumes, figures inside the row's range) to the
seed. Cases come in rounds: every row once, the stages mixed, and then some of the near misses, both sides of each next
to each other. Same seed and count, same bytes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar, get_args

from agents.specialists.oracle import Difficulty, OracleRow, one_of
from agents.specialists.registry import specialist_of, stages
from common.console import BadInput
from evals.case import Case
from evals.near_miss import PAIRS, NearMiss
from evals.oracle_rows import BY_NUMBER, case_of

PAIRS_A_ROUND = 7
"""Three rounds hold every near miss once; of a round's 48 cases 14 are near misses."""

_LEVELS: tuple[Difficulty, ...] = get_args(Difficulty)
_DOMAINS = ("orders", "billing", "inventory", "clickstream", "shipping", "claims", "ledger", "bookings", "meters")


_Kind = TypeVar("_Kind", OracleRow, NearMiss)


def _mixed(kinds: Iterable[_Kind], stage_of: Callable[[_Kind], str]) -> tuple[_Kind, ...]:
    """In such an order that the first few hold every stage: those of each stage spread evenly over all."""
    placed: list[tuple[float, _Kind]] = []
    for stage in stages():
        own = [kind for kind in kinds if stage_of(kind) == stage]
        placed += [((place + 0.5) / len(own), kind) for place, kind in enumerate(own)]
    return tuple(kind for _, kind in sorted(placed, key=lambda one: one[0]))


ROWS = _mixed(BY_NUMBER.values(), lambda row: row.stage)
"""Every row of the table, in the order that cases are made in."""
NEAR_MISSES = _mixed(PAIRS, lambda pair: BY_NUMBER[pair.rows[0]].stage)
"""Every near miss, in the order that they are made in."""
ROUND = len(ROWS) + 2 * PAIRS_A_ROUND


def generate(count: int, seed: int) -> list[Case]:
    """The first `count` cases of a seed; see iter_cases."""
    return list(iter_cases(count, seed))


def iter_cases(
    count: int, seed: int, *, stage: str | None = None, difficulty: Difficulty | None = None
) -> Iterator[Case]:
    """The first `count` cases of a seed, made one by one; of one stage or difficulty if asked for.

    Asking for more leaves the earlier ones as they were. But where the count cuts a near miss in two, the half that is
    there stands alone and names no pair. Raises BadInput for a stage that is not known or has no oracle rows.
    """
    if stage is not None and all(row.stage != specialist_of(stage).name for row in ROWS):
        raise BadInput(f"stage {stage!r} has no oracle rows to make cases from")
    return _chosen(count, seed, stage, difficulty)


def _chosen(count: int, seed: int, stage: str | None, difficulty: Difficulty | None) -> Iterator[Case]:
    wanted = ((index, case) for index, case in _stream(seed) if _is(case, stage, difficulty))
    for number, (index, case) in enumerate(islice(wanted, count), 1):
        cut = number == count and case.pair is not None and not _is_second(index)
        yield case.model_copy(update={"pair": None}) if cut else case


def _stream(seed: int) -> Iterator[tuple[int, Case]]:
    return ((index, generate_one(index, seed)) for index in itertools.count())


def _is(case: Case, stage: str | None, difficulty: Difficulty | None) -> bool:
    return stage in (None, case.stage) and difficulty in (None, case.difficulty)


def generate_one(index: int, seed: int) -> Case:
    """The case at one place of a seed's stream, whatever was made before it."""
    turn, place = divmod(index, ROUND)
    if place < len(ROWS):
        return _single(ROWS[place], turn, _LEVELS[(place + turn + seed) % len(_LEVELS)], seed)
    number = turn * PAIRS_A_ROUND + (place - len(ROWS)) // 2
    return _half(number, seed, second=_is_second(index))


def _is_second(index: int) -> bool:
    place = index % ROUND
    return place >= len(ROWS) and (place - len(ROWS)) % 2 == 1


def _single(row: OracleRow, turn: int, difficulty: Difficulty, seed: int) -> Case:
    rng = _rng(f"{seed}/{row.number}/{turn}")
    return case_of(row, row.draw(rng, difficulty), f"r{row.number:02d}-{turn:04d}", difficulty, None, _name(rng))


def _half(number: int, seed: int, *, second: bool) -> Case:
    """One side of the near miss at this number of the stream; the other draws the same and takes the other side."""
    kind = number % len(NEAR_MISSES)
    near = NEAR_MISSES[kind]
    hard = (number // len(NEAR_MISSES) + kind + seed) % 2 == 1
    rng = _rng(f"{seed}/pair/{number}")
    drawn, name = near.draw(rng, hard=hard)[second], _name(rng)
    ids = [f"p{kind + 1:02d}-{number // len(NEAR_MISSES):04d}{side}" for side in "ab"]
    row = BY_NUMBER[near.rows[second]]
    return case_of(row, drawn, ids[second], "hard" if hard else "medium", ids[not second], name)


def _rng(key: str) -> random.Random:
    # Each case has its own stream, so that asking for more cases leaves the earlier ones as they were.
    return random.Random(key)  # noqa: S311 - reproducible, not secret


def _name(rng: random.Random) -> str:
    return f"{one_of(rng, _DOMAINS)}_{1 + int(rng.random() * 999):03d}"
