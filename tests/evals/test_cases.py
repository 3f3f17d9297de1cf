"""Case files: read back as they were written, refused with file, line and field; and the curated cases."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from agents.labels.policy import load_policy
from agents.specialists.registry import labels_for, stages
from common.console import BadInput
from evals.case import CURATED, Case, curated_cases, dump_cases, load_cases
from evals.generate import ROUND, generate

STANDARD = load_policy("standard")
LINE = dump_cases(generate(1, 0)).strip()


# --- the curated cases -----------------------------------------------------------------------------------


def test_the_curated_cases_hold_every_row_stage_and_difficulty() -> None:
    cases = curated_cases()
    assert len(cases) >= 60
    assert {case.row for case in cases} == set(range(1, 35))
    counted = Counter((case.stage, case.difficulty) for case in cases)
    assert len(counted) == 9
    assert min(counted.values()) >= 5


def test_the_curated_cases_hold_near_misses_of_every_stage() -> None:
    pairs = Counter(case.stage for case in curated_cases() if case.pair)
    assert sum(pairs.values()) >= 2 * 12
    assert set(pairs) == set(stages())


def test_each_curated_case_is_described_in_its_own_words_except_for_its_near_miss() -> None:
    cases = curated_cases()
    told = Counter(case.spec.source.description for case in cases if case.pair is None)
    del told[None]
    assert {text for text, times in told.items() if times > 1} <= {"There is no webhook."}
    assert len({case.spec.id for case in cases}) == len(cases) - sum(case.pair is not None for case in cases) / 2


@pytest.mark.parametrize("case", curated_cases(), ids=lambda case: case.id)
def test_a_curated_case_is_labelled_as_the_oracle_says(case: Case) -> None:
    label = labels_for(case.spec, STANDARD)[case.stage]
    assert (label.value if label else None) in (case.acceptable_labels or (None,))
    assert bool(case.acceptable_labels) == (label is not None)


def test_the_curated_file_is_written_as_we_write_cases() -> None:
    assert CURATED.read_text("utf8") == dump_cases(curated_cases())


# --- files -----------------------------------------------------------------------------------------------


def test_cases_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    cases = generate(3 * ROUND, 5)
    path.write_text(dump_cases(cases), "utf8")
    assert load_cases(path) == cases


def test_a_byte_order_mark_is_no_part_of_the_first_case(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(LINE, "utf-8-sig")
    assert [case.id for case in load_cases(path)] == [json.loads(LINE)["id"]]


def test_a_line_separator_inside_a_case_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    case = generate(1, 0)[0].model_copy(update={"source": "a\u2028b\x85c"})
    path.write_text(dump_cases([case]), "utf8")
    assert load_cases(path) == [case]


def changed(**changes: object) -> str:
    """The line with fields changed; None takes one out."""
    fields = {**json.loads(LINE), "id": "other", **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": holds no case"),
        ("\n\n", ": holds no case"),
        (f"{LINE}\n\n{LINE}\n", ":3: id: 'r01-0000' stands in line 1 too; ids must differ"),
        (f"{LINE}\n{{\n", ":2: entry: found '{'; invalid JSON: "),
        (f"{LINE}\n{changed(row=0)}\n", ":2: row: found 0; input should be greater than or equal to 1"),
        (f"{LINE}\n{changed(stage='cooking')}\n", ":2: stage: found 'cooking'; allowed: ingestion, quality, infra"),
        (f"{LINE}\n{changed(weight=1)}\n", ":2: unknown key 'weight'; allowed: id, row, family, source, stage, spec,"),
        (f"{LINE}\n{changed(spec={'id': 'a'})}\n", ":2: spec.source: is missing"),
        (f"{LINE}\n{changed(difficulty='odd')}\n", ":2: difficulty: found 'odd'; input should be 'easy', 'medium' or"),
        (f"{LINE}\n{changed(family=None)}\n", ":2: family: is missing; family names the cases that are related"),
        (f"{LINE}\n{changed(pair='gone')}\n", ":2: pair: found 'gone'; must be the id of another case in this file"),
        (f"{LINE}\n{changed(pair='other')}\n", ":2: pair: found 'other'; must be the id of another case in this file"),
        (f"{LINE}\n{changed(pair='r01-0000')}\n", ":2: pair: 'r01-0000' names none as its own pair; two cases of"),
        (f"{changed(of='gone')}\n{LINE}\n", ":1: of: found 'gone'; must be the id of another case in this file"),
    ],
)
def test_a_wrong_case_file_gets_one_line_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        load_cases(path)
    assert str(refused.value).startswith(f"{path}{message}")
    assert "\n" not in str(refused.value)


def test_two_cases_may_not_share_one_near_miss(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    lines = [changed(id="a", pair="b"), changed(id="b", pair="a"), changed(id="c", pair="b")]
    path.write_text("\n".join(lines))
    with pytest.raises(
        BadInput, match=r":3: pair: 'b' names 'a' as its own pair; two cases of a pair name each other$"
    ):
        load_cases(path)


def test_a_case_of_ones_own_needs_no_row(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(changed(row=None, family="checkout"))
    assert [(case.row, case.family) for case in load_cases(path)] == [(None, "checkout")]


def test_a_case_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b"caf\xe9")
    for path, problem in ((tmp_path / "gone.jsonl", "cannot be read (No such file or directory)"),
                          (latin, "is not UTF-8 text (byte 3)")):  # fmt: skip
        with pytest.raises(BadInput) as refused:
            load_cases(path)
        assert str(refused.value) == f"{path}: {problem}"


def test_a_case_of_ones_own_needs_no_key() -> None:
    needed = {"id", "family", "source", "stage", "spec"}
    bare = {key: value for key, value in json.loads(LINE).items() if key in needed}
    case = Case.model_validate_json(json.dumps(bare))
    assert (case.right_choices, case.right_actions, case.harmful_actions) == ((), (), ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"right_choices": ["carrier_pigeon"]}, "right_choices: found 'carrier_pigeon'; allowed: batch, micro_batch, "),
        ({"wrong_choices": ["publish"]}, "wrong_choices: found 'publish'; allowed: batch, micro_batch, streaming, "),
        ({"right_choices": ["cdc"], "wrong_choices": ["cdc"]},
         "wrong_choices: found 'cdc', which stands in right_choices too"),
        ({"acceptable_labels": ["HIGH"]}, "acceptable_labels: found 'HIGH'; allowed: none"),
        ({"right_actions": [["telepathy"]]}, "right_actions: found 'telepathy'; allowed: "),
        ({"right_actions": [[]]}, "right_actions: found an empty group; allowed: one action or more in each"),
        ({"right_actions": ["backfill"]}, "right_actions.0: found 'backfill'; input should be a valid "),
        ({"harmful_actions": ["telepathy"]}, "harmful_actions: found 'telepathy'; allowed: "),
        ({"required": ["cursor"]}, "unknown key 'required'; allowed: id, row, family, "),
    ],
)  # fmt: skip
def test_a_key_speaks_of_the_specialists_choice_and_catalogue(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "cases.jsonl"
    key = dict.fromkeys(("right_choices", "wrong_choices", "right_actions", "harmful_actions"))
    path.write_text(f"{LINE}\n{changed(**{**key, **changes})}\n")
    with pytest.raises(BadInput) as refused:
        load_cases(path)
    assert str(refused.value).startswith(f"{path}:2: {message}")


def test_an_action_is_not_right_and_harmful(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    action = json.loads(LINE)["right_actions"][0][0]
    path.write_text(changed(harmful_actions=[action]))
    with pytest.raises(BadInput, match=rf":1: harmful_actions: found '{action}', which stands in right_actions too$"):
        load_cases(path)
