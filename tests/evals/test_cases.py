"""Cases: made from the oracle table by seed, agreeing with its labels, and read back as they were written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.lexicon import lexicon
from agents.policy import load_policy
from agents.requests import labels_for
from agents.schema import Stage
from console import BadInput
from evals.case import Case, dump_cases, load_cases
from evals.generate import ROWS, generate

STANDARD = load_policy("standard")

ORACLE_LABELS = {17: "LOW", 18: "LOW", 20: "HIGH", 23: "UNKNOWN", 32: "NORMAL", 33: "HIGH", 34: "NORMAL"}
"""Row of the oracle table to the label it must get under policy standard."""

LINE = dump_cases(generate(1, 0)).strip()


# --- generating ------------------------------------------------------------------------------------------


def test_at_least_twelve_rows_of_the_oracle_table_are_made_into_cases() -> None:
    assert len({row.number for row in ROWS}) == len(ROWS) >= 12


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 60), seed=st.integers(-(2**40), 2**40))
def test_the_same_seed_gives_the_same_bytes(count: int, seed: int) -> None:
    assert dump_cases(generate(count, seed)) == dump_cases(generate(count, seed))


def test_another_seed_gives_other_cases_of_the_same_rows() -> None:
    first, second = generate(len(ROWS), 1), generate(len(ROWS), 2)
    assert [case.row for case in first] == [case.row for case in second]
    assert dump_cases(first) != dump_cases(second)


def test_asking_for_more_cases_keeps_the_earlier_ones() -> None:
    assert generate(100, 7)[:24] == generate(24, 7)


def test_the_generator_has_not_changed_since_results_were_kept() -> None:
    """A change here makes stored results of the same suite incomparable: note it in the CHANGELOG."""
    case = generate(1, 7)[0]
    assert (case.id, case.row, case.stage) == ("r01-0000", 1, Stage.INGESTION)


def test_rows_come_in_turn_so_that_each_has_its_share() -> None:
    counts = Counter(case.row for case in generate(3 * len(ROWS), 0))
    assert set(counts.values()) == {3}


def test_case_ids_differ() -> None:
    assert len({case.id for case in generate(500, 0)}) == 500


@pytest.mark.parametrize("row", ORACLE_LABELS)
def test_a_rows_cases_get_the_label_that_the_oracle_table_gives(row: int) -> None:
    cases = [case for case in generate(40 * len(ROWS), 3) if case.row == row]
    labels = [labels_for(case.spec, STANDARD)[case.stage] for case in cases]
    assert {label.value for label in labels if label} == {ORACLE_LABELS[row]}
    assert len(labels) == 40


def test_every_row_with_a_label_is_checked_above() -> None:
    assert {row.number for row in ROWS if row.stage is not Stage.INGESTION} == set(ORACLE_LABELS)


def test_every_concept_is_in_the_lexicon() -> None:
    wanted = {concept for row in ROWS for concept in (*row.required, *row.forbidden)}
    assert wanted <= set(lexicon())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row {row.number}")
def test_no_row_contradicts_itself(row: object) -> None:
    case = next(case for case in generate(len(ROWS), 0) if case.row == getattr(row, "number", None))
    assert not set(case.acceptable_modes) & set(case.unacceptable_modes)
    assert not set(case.required) & set(case.forbidden)
    assert bool(case.acceptable_modes) == (case.stage is Stage.INGESTION)
    assert case.acceptable_modes or case.required


# --- files -----------------------------------------------------------------------------------------------


def test_cases_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    cases = generate(2 * len(ROWS), 5)
    path.write_text(dump_cases(cases), "utf8")
    assert load_cases(path) == cases


def test_a_line_separator_inside_a_case_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    case = generate(1, 0)[0].model_copy(update={"source": "a\u2028b\x85c"})
    path.write_text(dump_cases([case]), "utf8")
    assert load_cases(path) == [case]


def changed(**changes: object) -> str:
    return json.dumps({**json.loads(LINE), "id": "other", **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": holds no case"),
        ("\n\n", ": holds no case"),
        (f"{LINE}\n\n{LINE}\n", ":3: id: 'r01-0000' stands twice; ids must differ"),
        (f"{LINE}\n{{\n", ":2: entry: found '{'; invalid JSON: "),
        (f"{LINE}\n{changed(row=99)}\n", ":2: row: found 99; input should be less than or equal to 34"),
        (f"{LINE}\n{changed(stage='cooking')}\n", ":2: stage: found 'cooking'; input should be 'ingestion', 'quality'"),
        (f"{LINE}\n{changed(weight=1)}\n", ":2: unknown key 'weight'; allowed: id, row, source, stage, spec,"),
        (f"{LINE}\n{changed(spec={'id': 'a'})}\n", ":2: spec.source: is missing"),
    ],
)
def test_a_wrong_case_file_gets_one_line_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        load_cases(path)
    assert str(refused.value).startswith(f"{path}{message}")
    assert "\n" not in str(refused.value)


def test_a_case_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b"caf\xe9")
    for path, problem in ((tmp_path / "gone.jsonl", "cannot be read (No such file or directory)"),
                          (latin, "is not UTF-8 text (byte 3)")):  # fmt: skip
        with pytest.raises(BadInput) as refused:
            load_cases(path)
        assert str(refused.value) == f"{path}: {problem}"


def test_a_case_needs_neither_modes_nor_points() -> None:
    bare = {key: value for key, value in json.loads(LINE).items() if key in {"id", "row", "source", "stage", "spec"}}
    case = Case.model_validate_json(json.dumps(bare))
    assert (case.acceptable_modes, case.required, case.forbidden) == ((), (), ())


def test_a_concept_the_lexicon_does_not_hold_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    case = generate(1, 0)[0].model_dump(mode="json") | {"required": ["cursor", "telepathy"]}
    file = tmp_path / "cases.jsonl"
    file.write_text(json.dumps(case) + "\n")
    with pytest.raises(BadInput, match=r"cases\.jsonl:1: required: concept 'telepathy' is not in lexicon\.yaml"):
        load_cases(file)
