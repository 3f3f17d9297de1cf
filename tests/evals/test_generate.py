"""Generated cases: by seed, from every row of the oracle table, agreeing with its labels, near misses side by side."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.labels.policy import load_policy
from agents.specialists import registry
from agents.specialists.oracle import Difficulty, spec_of
from agents.specialists.registry import labels_for, specialist_of, stages
from agents.specialists.rules import permitted
from common.console import BadInput
from evals.case import Case, dump_cases, load_cases
from evals.generate import NEAR_MISSES, PAIRS_A_ROUND, ROUND, ROWS, generate, generate_one, iter_cases
from evals.generate_command import generate as command
from evals.oracle_rows import BY_NUMBER, case_of, rows_of

STANDARD = load_policy("standard")
EVERY_NEAR_MISS = ROUND * (len(NEAR_MISSES) // PAIRS_A_ROUND)
"""So many cases hold every row three times, at every difficulty, and every near miss once."""


@cache
def cases() -> list[Case]:
    """Every row at every difficulty and every near miss, of three seeds."""
    return [case for seed in (0, 1, -5) for case in generate(EVERY_NEAR_MISS, seed)]


def pairs() -> Iterator[tuple[Case, Case]]:
    of_seed = [generate(EVERY_NEAR_MISS, seed) for seed in (0, 1)]
    for made in of_seed:
        yield from ((first, second) for first, second in pairwise(made) if first.pair == second.id)


# --- the stream ------------------------------------------------------------------------------------------


def test_all_34_rows_of_the_oracle_table_are_made_into_cases_once_before_any_comes_again() -> None:
    assert sorted(case.row or 0 for case in generate(len(ROWS), 3)) == list(range(1, 35))


@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 60), seed=st.integers(-(2**40), 2**40))
def test_the_same_seed_gives_the_same_bytes(count: int, seed: int) -> None:
    assert dump_cases(generate(count, seed)) == dump_cases(generate(count, seed))


def test_another_seed_gives_other_cases_of_the_same_rows() -> None:
    first, second = generate(ROUND, 1), generate(ROUND, 2)
    assert [case.row for case in first] == [case.row for case in second]
    assert all(case.spec not in [other.spec for other in second] for case in first)


@pytest.mark.parametrize("count", [1, 24, len(ROWS), len(ROWS) + 1, len(ROWS) + 2, ROUND, ROUND + 40])
def test_asking_for_more_cases_keeps_the_earlier_ones(count: int) -> None:
    fewer, more = generate(count, 7), generate(count + 30, 7)
    assert fewer[:-1] == more[: count - 1]
    assert fewer[-1].model_dump(exclude={"pair"}) == more[count - 1].model_dump(exclude={"pair"})
    assert fewer[-1].pair in (None, more[count - 1].pair)


def test_a_case_can_be_made_without_those_before_it() -> None:
    assert [generate_one(index, 9) for index in range(ROUND)] == generate(ROUND, 9)


@pytest.mark.parametrize("count", range(len(ROWS), ROUND + 2))
def test_wherever_the_stream_ends_it_names_no_case_that_is_not_there(count: int, tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(dump_cases(generate(count, 2)), "utf8")
    assert len(load_cases(path)) == count


def test_the_generator_has_not_changed_since_results_were_kept() -> None:
    """A change here makes stored results of the same suite incomparable: note it in the CHANGELOG."""
    seen = [(case.id, case.row, case.difficulty) for case in generate(3, 7)]
    assert seen == [("r01-0000", 1, "medium"), ("r06-0000", 6, "hard"), ("r17-0000", 17, "easy")]


def test_case_ids_differ() -> None:
    assert len({case.id for case in generate(300, 0)}) == 300


def test_the_first_dozen_holds_every_stage_and_every_difficulty() -> None:
    dozen = generate(12, 0)
    assert set(Counter(case.stage for case in dozen)) == set(stages())
    assert {case.difficulty for case in dozen} == set(get_args(Difficulty))


def test_each_row_comes_at_each_difficulty_within_three_rounds() -> None:
    seen = {(case.row, case.difficulty) for case in generate(3 * ROUND, 4)}
    assert len(seen) == 34 * 3


def test_every_stage_has_several_families() -> None:
    families = {stage: {case.family for case in cases() if case.stage == stage} for stage in stages()}
    assert {stage: len(names) for stage, names in families.items()} == {
        "ingestion": 15,
        "quality": 7,
        "infrastructure": 12,
    }


def test_a_stage_or_difficulty_may_be_asked_for_alone() -> None:
    made = list(iter_cases(40, 3, stage="quality", difficulty="hard"))
    assert len(made) == 40
    assert {(case.stage, case.difficulty) for case in made} == {("quality", "hard")}


def test_a_stage_without_rows_is_refused_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="stage 'cost' is not known; known: ingestion, quality, infrastructure"):
        iter_cases(3, 0, stage="cost")
    monkeypatch.setitem(registry._SPECIALISTS, "cost", replace(specialist_of("quality"), name="cost"))
    assert rows_of("cost") == ()
    with pytest.raises(BadInput, match="stage 'cost' has no oracle rows to make cases from"):
        iter_cases(3, 0, stage="cost")


# --- what is right ---------------------------------------------------------------------------------------


def test_the_standard_policy_gives_every_case_a_label_that_the_oracle_accepts() -> None:
    for case in cases():
        label = labels_for(case.spec, STANDARD)[case.stage]
        assert (label.value if label else None) in (case.acceptable_labels or (None,)), case.id


def test_the_rules_permit_a_right_choice_and_an_action_for_every_need() -> None:
    """Else an agent that may only choose what is permitted could not be right."""
    for case in cases():
        may = permitted(specialist_of(case.stage), case.spec, labels_for(case.spec, STANDARD)[case.stage])
        assert set(case.right_choices) & set(may.choices), case.id
        assert all(set(group) & set(may.actions) for group in case.right_actions), case.id


def test_no_case_leaves_nothing_to_judge() -> None:
    for case in cases():
        assert case.right_choices, case.id
        assert case.right_actions, case.id
        assert case.harmful_actions, case.id
        assert bool(case.acceptable_labels) == (specialist_of(case.stage).label is not None), case.id


def test_each_row_asks_for_what_the_oracle_table_asks_for() -> None:
    """One row by hand from each stage, so that a slip in a table does not pass for truth."""
    webhook, keys, idle = (next(case for case in cases() if case.row == row) for row in (15, 21, 32))
    assert webhook.right_choices == ("push_receiver",)
    assert webhook.wrong_choices == ("batch", "micro_batch", "cdc")
    assert (keys.right_choices, keys.acceptable_labels) == (("block", "quarantine"), ("HIGH",))
    assert keys.right_actions == (("dedupe_on_key",), ("merge_on_key",))
    assert idle.right_actions == (("shrink_slowly",),)
    assert "add_memory" in idle.harmful_actions


def test_a_case_whose_label_is_its_own_says_so() -> None:
    late = {(case.acceptable_labels) for case in cases() if case.row == 22}
    assert late == {("MEDIUM",), ("HIGH",)}


# --- difficulty ------------------------------------------------------------------------------------------


def test_only_easy_ingestion_cases_tell_the_frequency_in_words_and_hard_ones_hold_asides() -> None:
    for case in cases():
        source = case.spec.source
        if case.stage == "ingestion" and case.pair is None:
            assert (source.frequency is not None) == (case.difficulty == "easy"), case.id
        if case.difficulty == "hard":
            assert source.description, case.id


def test_descriptions_vary() -> None:
    told = Counter(case.spec.source.description for case in cases() if case.difficulty == "hard")
    assert len(told) > 0.8 * told.total() - 2 * len(NEAR_MISSES)


def test_every_description_is_filled_in() -> None:
    assert [case.id for case in cases() if re.search(r"[{}]|None", case.spec.source.description or "")] == []


def test_what_a_row_may_not_hold_is_refused() -> None:
    row = BY_NUMBER[17]
    drawn = row.draw(random.Random(0), "medium")
    with pytest.raises(ValueError, match="completeness_percent"):
        spec_of("p", drawn.facts | {"completeness_percent": 140})
    with pytest.raises(KeyError, match="colour"):
        spec_of("p", drawn.facts | {"colour": "red"})
    assert case_of(row, drawn, "name", "medium", None, "p").family == "row-17"


# --- near misses -----------------------------------------------------------------------------------------


def flat(case: Case) -> dict[str, object]:
    spec = case.spec
    return {
        name: value
        for part in (spec.source, spec.quality_metrics, spec.infrastructure_metrics)
        for name, value in part
        if value not in (None, ())
    } | {"id": spec.id}


def test_there_are_near_misses_of_every_stage() -> None:
    found = Counter(first.stage for first, _ in pairs())
    assert sum(found.values()) == 2 * len(NEAR_MISSES) >= 2 * 12
    assert min(found[stage] for stage in stages()) >= 2 * 4


def test_a_near_miss_differs_in_one_fact_and_stands_next_to_its_pair() -> None:
    for first, second in pairs():
        one, other = flat(first), flat(second)
        assert second.pair == first.id
        assert first.stage == second.stage
        assert len({name for name in {*one, *other} if one.get(name) != other.get(name)}) == 1, (first.id, second.id)


def test_the_one_fact_turns_what_is_right() -> None:
    for first, second in pairs():
        one, other = (
            (set(case.right_choices), set(case.acceptable_labels), case.right_actions) for case in (first, second)
        )
        assert one != other, (first.id, second.id)


# --- the command -----------------------------------------------------------------------------------------


def test_the_command_writes_the_same_cases_and_counts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cases.jsonl"
    command(out, ROUND, 7)
    assert load_cases(out) == generate(ROUND, 7)
    told, err = capsys.readouterr()
    assert told == ""
    assert err.startswith(f"{ROUND} cases from 34 oracle rows in {out}\n")
    rows = [re.findall(r"[\w]+", line) for line in err.splitlines() if line.startswith("│")]
    counts = {row[0]: [int(figure) for figure in row[1:]] for row in rows}
    assert {stage: figures[4] for stage, figures in counts.items()} == {
        "ingestion": 15,
        "quality": 7,
        "infrastructure": 12,
    }
    assert sum(figures[3] for figures in counts.values()) == ROUND
    assert sum(figures[5] for figures in counts.values()) == PAIRS_A_ROUND
    assert all(sum(figures[:3]) == figures[3] for figures in counts.values())


def test_the_command_says_where_it_cannot_write(tmp_path: Path) -> None:
    gone = tmp_path / "no" / "a.jsonl"
    with pytest.raises(BadInput, match=r"a\.jsonl: cannot be written \(No such file or directory\)$"):
        command(gone, 3)


@pytest.mark.slow
def test_thirty_thousand_cases_all_agree_with_the_oracle() -> None:
    ids = set()
    for case in iter_cases(30_000, 11):
        label = labels_for(case.spec, STANDARD)[case.stage]
        assert (label.value if label else None) in (case.acceptable_labels or (None,)), case.id
        ids.add(case.id)
    assert len(ids) == 30_000
