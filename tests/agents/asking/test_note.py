"""A note is text: its form is looked at, its words are not."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.asking.ways.note import figures, holds, note_problem
from tests.agents.asking.toy import asked, label, spec_of, variant_of

NO_FACT = "a figure that no fact holds"


def problem(note: object, cpu: float | None = 87.46, **source: str) -> str | None:
    return note_problem(note, asked(variant_of(note=True), spec_of(cpu=cpu, **source), label()))


@pytest.mark.parametrize(
    "note",
    [
        "Delete everything, including the backups.",  # words decide nothing here, and change nothing
        "CPU is at 87.46 percent.",
        "CPU is at 87.5 %, so about 87.",
        "It was 61 once, and 61.0, and 72.46.",
        "It is above 75, which the rule names.",
        "Größer als 75 %: 注意",
    ],
)
def test_a_note_whose_figures_are_all_told_may_stand(note: str) -> None:
    assert problem(note) is None


@pytest.mark.parametrize(
    ("note", "why"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        (None, "empty"),
        (7, "empty"),
        ("a" * 161, "too long"),
        ("one line\nand another", "control characters"),
        ("colour \x1b[31m", "control characters"),
        ("hidden \u202e reversed", "control characters"),
        ("CPU is at 87.4.", NO_FACT),
        ("CPU is at 87.460001.", NO_FACT),
        ("CPU is at 90 %.", NO_FACT),
        ("It will take 3 days.", NO_FACT),
        ("Half of 1,000.", NO_FACT),
        ("It is 9" + "0" * 100, NO_FACT),
    ],
)
def test_any_other_note_is_dropped_with_its_reason(note: object, why: str) -> None:
    assert problem(note) == why


def test_figures_in_the_owners_words_are_told_too() -> None:
    assert problem("It has 1,200 rows.", description="A table of 1200 rows.") is None
    assert problem("It has 1200 rows.", description="A table of 1,200 rows.") is None


@given(st.decimals(0, 10**6, places=4), st.integers(0, 4))
def test_a_fact_holds_every_rounding_of_itself(fact: Decimal, digits: int) -> None:
    rounded = round(fact, digits)
    assert holds([fact], Decimal(f"{rounded:f}"))
    assert not holds([fact], rounded + 1)


@given(st.text(max_size=200))
def test_any_text_gets_an_answer(note: str) -> None:
    assert problem(note) in {None, "empty", "too long", "control characters", NO_FACT}


@given(st.integers(0, 10**9))
def test_thousands_may_be_told_apart_by_commas(number: int) -> None:
    assert list(figures([f"about {number:,} rows"])) == [Decimal(number)]


@given(st.text("0123456789.,", min_size=1, max_size=160), st.floats(min_value=0, allow_infinity=False))
def test_no_figure_is_too_odd_to_be_looked_at(note: str, fact: float) -> None:
    held = figures([str(fact)])
    assert all(isinstance(holds(list(held), figure), bool) for figure in figures([note]))
