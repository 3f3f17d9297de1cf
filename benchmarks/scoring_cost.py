"""What scoring one answer costs: CPU of this process, scorer by scorer.

    python -m benchmarks.scoring_cost [--cases 96] [--rounds 30]

The answers are the reference answers (right, whole, with figures), the answers that fall into each row's trap, plain
words that fit no schema, and lists of keywords. Each round scores every answer once; told are the median over rounds
and the middle half of them. Garbage collection is on, as in a run. Not covered: reading the samples, writing the
scores, labels; `evals rescore` does these.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import typer

from agents.asking.requests import labels_for
from agents.labels.label import Label
from agents.labels.policy import load_policy
from common import console
from evals.case import Case
from evals.generate import generate
from evals.reference import reference_answer, wrong_answer
from evals.scorers import SCORERS, Answered, score_all

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

T = TypeVar("T")
Raw = Callable[[Case], str]
Asked = tuple[Case, Label | None, str]
"""A case, its label, the raw answer."""


def _right(case: Case) -> str:
    return reference_answer(case).model_dump_json(exclude_none=True)


def _trap(case: Case) -> str:
    return wrong_answer(case).model_dump_json(exclude_none=True)


def _plain(case: Case) -> str:
    return reference_answer(case).text


def _keywords(case: Case) -> str:
    words = sorted({*reference_answer(case).text.split()})
    random.Random(0).shuffle(words)  # noqa: S311 - reproducible, not secret
    return '{"summary": "' + ", ".join(words)[:150].replace('"', "") + '", "actions": ["a, b, c", "d, e, f"]}'


KINDS: dict[str, Raw] = {
    "right": _right,
    "a row's trap": _trap,
    "plain words, no JSON": _plain,
    "keywords, mode missing": _keywords,
}


@app.command()
def main(
    cases: Annotated[int, typer.Option(min=1, help="Cases of the oracle rows.")] = 96,
    rounds: Annotated[int, typer.Option(min=2, help="Times that each answer is scored.")] = 30,
) -> None:
    """Print microseconds of CPU per sample, with n and spread."""
    policy = load_policy("standard")
    labelled = [(case, labels_for(case.spec, policy)[case.stage]) for case in generate(cases, 7)]
    rows = [
        [kind, cases, rounds, _spread(_per_sample(_scoring, asked, rounds))]
        for kind, raw in KINDS.items()
        for asked in [[(case, label, raw(case)) for case, label in labelled]]
    ]
    right = [Answered(case, label, _right(case)) for case, label in labelled]
    for name, scorer in SCORERS.items():
        rows.append([f"right: {name} alone", cases, rounds, _spread(_per_sample(scorer, right, rounds))])
    columns = ["answers", "samples", "rounds", "us of CPU per sample"]
    console.table("Scoring one answer: median (middle half of the rounds)", columns, rows, right=columns[1:])


def _scoring(asked: Asked) -> object:
    return score_all(Answered(*asked))


def _per_sample(work: Callable[[T], object], samples: Sequence[T], rounds: int) -> list[float]:
    """Microseconds of CPU per sample, a figure a round; a first round warms up and does not count."""
    figures = []
    for _ in range(rounds + 1):
        began = time.process_time()
        for sample in samples:
            work(sample)
        figures.append((time.process_time() - began) / len(samples) * 1e6)
    return figures[1:]


def _spread(figures: list[float]) -> str:
    low, middle, high = statistics.quantiles(figures, n=4)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    console.run(app)
