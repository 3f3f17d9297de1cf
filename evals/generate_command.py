"""`python -m evals generate`: cases with known answers as a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args

import typer

from agents.specialists.oracle import Difficulty
from agents.specialists.registry import stages
from common.console import BadInput, say, table
from evals.case import Case, dump_cases
from evals.generate import ROWS, iter_cases


def generate(
    out: Annotated[Path, typer.Option(help="JSONL file to write.")],
    n: Annotated[int, typer.Option("--n", min=1, max=1_000_000, help="How many cases.")] = len(ROWS),
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    stage: Annotated[str | None, typer.Option(help=f"Cases of this stage only: {', '.join(stages())}.")] = None,
    difficulty: Annotated[Difficulty | None, typer.Option(help="Cases of this difficulty only.")] = None,
) -> None:
    """Write cases made from the oracle table: each row in turn, then near misses, over and over.

    Example: python -m evals generate --n 60 --seed 7 --out cases.jsonl
    """
    tally = _Tally()
    cases = iter_cases(n, seed, stage=stage, difficulty=difficulty)
    try:
        with out.open("w", encoding="utf8") as file:
            for case in cases:
                file.write(dump_cases([case]))
                tally.add(case)
    except OSError as error:
        raise BadInput(f"--out {out}: cannot be written ({error.strerror})") from None
    say(f"{n} cases from {len(tally.rows)} oracle rows in {out}")
    numbers = [*get_args(Difficulty), "cases", "families", "pairs"]
    table("", ["stage", *numbers], tally.lines(), right=numbers)


class _Tally:
    """What was written, by stage: a million cases must not be held to be counted."""

    def __init__(self) -> None:
        self.rows: set[int | None] = set()
        self._cases: Counter[tuple[str, Difficulty]] = Counter()
        self._halves: Counter[str] = Counter()
        self._families: dict[str, set[str]] = {}

    def add(self, case: Case) -> None:
        self.rows.add(case.row)
        self._cases[case.stage, case.difficulty] += 1
        self._halves[case.stage] += case.pair is not None
        self._families.setdefault(case.stage, set()).add(case.family)

    def lines(self) -> Iterator[list[object]]:
        """Stage, cases of each difficulty, cases, families and pairs; both sides of a pair are of one stage."""
        for stage, families in sorted(self._families.items(), key=lambda one: stages().index(one[0])):
            of_level = [self._cases[stage, level] for level in get_args(Difficulty)]
            yield [stage, *of_level, sum(of_level), len(families), self._halves[stage] // 2]
