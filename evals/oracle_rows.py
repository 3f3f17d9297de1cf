"""The oracle's rows, gathered from the specialists' folders, and the cases that are made from them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from agents.specialists.oracle import Difficulty, Drawn, OracleRow, spec_of
from agents.specialists.registry import stages
from evals.case import Case


def rows_of(stage: str) -> tuple[OracleRow, ...]:
    """The rows beside a specialist; none for one that brings none, or whose folder is elsewhere."""
    folder = f"agents.specialists.{stage}"
    if find_spec(folder) is None or find_spec(f"{folder}.oracle_rows") is None:
        return ()
    rows: tuple[OracleRow, ...] = import_module(f"{folder}.oracle_rows").ROWS
    return rows


BY_NUMBER: dict[int, OracleRow] = {row.number: row for stage in stages() for row in rows_of(stage)}
"""Every row of the table."""


def case_of(
    row: OracleRow, drawn: Drawn, case_id: str, difficulty: Difficulty, pair: str | None, pipeline: str
) -> Case:
    """A case of a row, with what was drawn of it."""
    return Case(
        id=case_id,
        row=row.number,
        family=f"row-{row.number:02d}",
        source=row.sources,
        stage=row.stage,
        spec=spec_of(pipeline, drawn.facts),
        difficulty=difficulty,
        pair=pair,
        right_choices=drawn.key.right_choices,
        wrong_choices=drawn.key.wrong_choices,
        acceptable_labels=drawn.key.labels,
        right_actions=drawn.key.right,
        harmful_actions=drawn.key.harmful,
    )
