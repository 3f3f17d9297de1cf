"""Each scorer against cases worked out by hand: a right answer, a known-wrong one, and the evidence it gives."""

from __future__ import annotations

import json
from itertools import cycle, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.lexicon import phrases
from agents.policy import load_policy
from agents.requests import labels_for
from agents.schema import IngestionMode, Stage
from agents.spec import PipelineSpec
from evals.case import Case
from evals.generate import ROWS, generate
from evals.scorers import (
    SCORERS,
    Answered,
    facts_consistent,
    forbidden_points,
    required_points,
    schema_valid,
    score_all,
)

STANDARD = load_policy("standard")
SPEC = {
    "id": "p",
    "source": {"type": "REST API", "volume": "10GB/day", "frequency": "every 5 minutes"},
    "quality_metrics": {"completeness": 87, "consistency": 92, "issues": 15},
    "infrastructure_metrics": {
        "cpu_usage": 65,
        "memory_usage": 71,
        "storage_used": 450,
        "storage_total": 1000,
        "query_latency": 1250,
    },
}


def case(stage: Stage, **more: Any) -> Case:
    spec = PipelineSpec.model_validate(SPEC)
    return Case.model_validate({"id": "c", "row": 1, "source": "hand", "stage": stage, "spec": spec, **more})


def answered(the_case: Case, raw: str) -> Answered:
    return Answered(the_case, labels_for(the_case.spec, STANDARD)[the_case.stage], raw)


def advice(*sentences: str, mode: str | None = None) -> str:
    """An answer that fits the schema: a summary and two actions."""
    summary, first, second = (*sentences, *["-"] * 3)[:3]
    document: dict[str, Any] = {"summary": summary, "actions": [first, second]}
    return json.dumps({**document, "mode": mode} if mode else document)


MACHINES = case(Stage.INFRASTRUCTURE)
QUALITY = case(Stage.QUALITY)
INGESTION = case(
    Stage.INGESTION,
    acceptable_modes=(IngestionMode.MICRO_BATCH,),
    unacceptable_modes=(IngestionMode.CDC,),
    required=["cursor", "retry", "pagination"],
    forbidden=["kafka", "stream_engine"],
)


# --- the answer that is right by construction ------------------------------------------------------------


def perfect(the_case: Case, choice: int) -> str:
    """One sentence for each required concept, in the `choice`-th of its phrases, and a mode that is right."""
    said = [
        f"{written[choice % len(written)].replace('*', '').capitalize()}."
        for written in (phrases()[concept] for concept in the_case.required)
    ]
    parts = [" ".join(said[part::3]) or "-" for part in range(3)]
    modes = the_case.acceptable_modes
    return advice(*parts, mode=str(modes[choice % len(modes)]) if modes else None)


@pytest.mark.parametrize("choice", range(max(len(written) for written in phrases().values())))
def test_an_answer_in_the_oracles_own_words_is_perfect_in_every_generated_case(choice: int) -> None:
    for the_case in generate(3 * len(ROWS), 5):
        scores = score_all(answered(the_case, perfect(the_case, choice)))
        wrong = {name: score for name, score in scores.items() if score.value != 1.0}
        assert wrong == {}, the_case.id


@pytest.mark.parametrize("raw", ["", "   \n", "{}", "[]", '""', "..."])
def test_an_answer_that_says_nothing_earns_nothing(raw: str) -> None:
    for the_case in generate(len(ROWS), 5):
        assert {score.value for score in score_all(answered(the_case, raw)).values()} == {0.0}


def test_blank_sentences_say_nothing_though_they_fit_the_schema() -> None:
    scores = score_all(answered(QUALITY, advice(" ", " ", " ")))
    assert {name: score.value for name, score in scores.items()} == {
        "schema_valid": 1.0,
        "facts_consistent": 0.0,
        "required_points": 0.0,
        "forbidden_points": 0.0,
    }


def test_the_four_scorers_are_the_ones_asked_for() -> None:
    assert list(SCORERS) == ["schema_valid", "facts_consistent", "required_points", "forbidden_points"]


@given(raw=st.text(max_size=80), index=st.integers(0, len(ROWS) - 1))
def test_any_text_gets_scores_between_0_and_1_with_an_explanation(raw: str, index: int) -> None:
    for score in score_all(answered(generate(index + 1, 0)[index], raw)).values():
        assert 0 <= score.value <= 1
        assert score.explanation


TOO_FEW = "actions: List should have at least 2 items after validation, not 1"


# --- schema_valid ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "value", "explanation"),
    [
        (advice("a", "b", "c"), 1.0, "fits the schema"),
        (advice("a", "b", "c")[:-5], 0.0, "answer: Invalid JSON: EOF while parsing a value at line 1 column 34"),
        ('{"summary": "a", "actions": ["b"]}', 0.0, TOO_FEW),
        (advice("a", "b", "c", mode="batch"), 0.0, "mode: Extra inputs are not permitted"),
        (advice("x" * 161, "b", "c"), 0.0, "summary: String should have at most 160 characters"),
        ("The data is fine.", 0.0, "answer: Invalid JSON: expected value at line 1 column 1"),
    ],
)  # fmt: skip
def test_schema_valid(raw: str, value: float, explanation: str) -> None:
    score = schema_valid(answered(QUALITY, raw))
    assert (score.value, score.explanation) == (value, explanation)


def test_schema_valid_of_an_ingestion_answer_needs_a_known_mode() -> None:
    assert schema_valid(answered(INGESTION, advice("a", "b", "c", mode="batch"))).value == 1.0
    assert schema_valid(answered(INGESTION, advice("a", "b", "c", mode="teleport"))).value == 0.0
    assert schema_valid(answered(INGESTION, advice("a", "b", "c"))).value == 0.0


# --- facts_consistent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "strange"),
    [
        ("CPU is at 65 % and memory at 71%.", ""),
        ("Storage is 45 % full, 55 % is free.", ""),
        ("550 GB are left of 1000 GB; 450GB are used.", ""),
        ("1,000 GB in total, latency 1,250 ms, or 1250.", ""),
        ("35 % of the CPU and 29 % of the memory are free.", ""),
        ("Do these 2 things, 1 at a time.", ""),
        ("Memory is above 70, within 2 points.", ""),
        ("Look into S3, p95, EC2 and the 5xx rate.", ""),
        ("No figure at all.", ""),
        ("Storage is 23 % full.", "23"),
        ("CPU is at 66 %.", "66"),
        ("CPU is at 65.5 %.", "65.5"),
        ("Memory is at 710 %.", "710"),
        ("Add 3 nodes and 64 GB.", "3, 64"),
        ("1,001 GB in total.", "1001"),
    ],
)
def test_figures_are_given_or_follow_from_what_was_given(text: str, strange: str) -> None:
    score = facts_consistent(answered(MACHINES, advice(text)))
    assert (score.value, score.saw) == (0.0 if strange else 1.0, strange)
    if strange:
        assert score.explanation == f"not in the input and not derived from it: {strange}"


def test_figures_inside_the_sources_words_are_known() -> None:
    assert facts_consistent(answered(INGESTION, advice("10 GB each day, every 5 minutes", mode="batch"))).value == 1.0
    assert facts_consistent(answered(INGESTION, advice("50 GB each day", mode="batch"))).saw == "50"


def test_a_figure_of_another_stages_facts_was_not_given() -> None:
    assert facts_consistent(answered(QUALITY, advice("CPU is at 65 %."))).value == 0.0


def test_a_status_code_in_the_words_for_a_required_concept_is_no_strange_figure() -> None:
    raw = advice("Wait when the API answers 429.", mode="micro_batch")
    assert facts_consistent(answered(INGESTION, raw)).value == 1.0
    assert facts_consistent(answered(case(Stage.INGESTION), raw)).saw == "429"


def test_a_rounded_share_of_storage_follows() -> None:
    spec = {**SPEC, "infrastructure_metrics": {"storage_used": 390, "storage_total": 850}}  # 45.88 %
    the_case = MACHINES.model_copy(update={"spec": PipelineSpec.model_validate(spec)})
    assert facts_consistent(answered(the_case, advice("Storage is 46 % full."))).value == 1.0
    assert facts_consistent(answered(the_case, advice("Storage is 45.9 % full."))).value == 1.0
    assert facts_consistent(answered(the_case, advice("Storage is 45 % full."))).value == 0.0


@pytest.mark.parametrize(
    ("the_case", "text", "claimed"),
    [
        (MACHINES, "This is a HIGH priority.", "HIGH priority"),
        (MACHINES, "high-priority work", "high-priority"),
        (MACHINES, "The priority is CRITICAL.", "priority is CRITICAL"),
        (MACHINES, "Priority: high", "Priority: high"),
        (MACHINES, "The priority is NORMAL.", ""),
        (MACHINES, "The CPU load is high.", ""),
        (QUALITY, "Severity is MEDIUM.", "Severity is MEDIUM"),
        (QUALITY, "severity level of HIGH", "severity level of HIGH"),
        (QUALITY, "low severity", ""),
        (QUALITY, "HIGH priority for the team.", ""),
        (INGESTION, "HIGH priority", ""),
    ],
)
def test_a_label_that_the_rules_did_not_give_is_caught(the_case: Case, text: str, claimed: str) -> None:
    score = facts_consistent(answered(the_case, advice(text, mode="batch" if the_case is INGESTION else None)))
    assert (score.value, score.saw) == (0.0 if claimed else 1.0, claimed)


def test_claiming_any_label_is_wrong_where_it_cannot_be_known() -> None:
    unknown = QUALITY.model_copy(update={"spec": PipelineSpec.model_validate({"id": "a", "source": {"type": "x"}})})
    score = facts_consistent(answered(unknown, advice("The severity is LOW.")))
    assert (score.value, score.explanation) == (0.0, "claims 'severity is LOW'; the rules gave UNKNOWN")


# --- required_points -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "value", "explanation"),
    [
        (advice("Keep a cursor", "paginate", "retry", mode="micro_batch"), 1.0, "every required point is there"),
        (advice("Keep a cursor", "paginate", "retry", mode="batch"), 0.75, "missing: mode"),
        (advice("Keep a cursor", "paginate", mode="micro_batch"), 0.75, "missing: retry"),
        (advice("Keep a cursor", mode="streaming"), 0.25, "missing: retry, pagination, mode"),
        (advice("Buy more machines", mode="cdc"), 0.0, "missing: cursor, retry, pagination, mode"),
        (advice("Do not keep a cursor", mode="micro_batch"), 0.25, "missing: cursor, retry, pagination"),
        ("Keep a cursor, paginate, retry", 0.75, "missing: mode"),
    ],
)
def test_required_points_is_the_share_of_points_made(raw: str, value: float, explanation: str) -> None:
    score = required_points(answered(INGESTION, raw))
    assert (score.value, score.explanation) == (value, explanation)


def test_required_points_tells_the_words_it_rests_on() -> None:
    raw = advice("Keep a cursor", "Paginate", "Back-off", mode="micro_batch")
    saw = required_points(answered(INGESTION, raw)).saw
    assert saw == "cursor: cursor, retry: back off, pagination: paginate, mode: micro_batch"


def test_a_case_without_required_points_misses_none() -> None:
    assert required_points(answered(QUALITY, advice("anything"))).value == 1.0


# --- forbidden_points ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "value", "saw"),
    [
        (advice("Poll with a cursor", mode="micro_batch"), 1.0, ""),
        (advice("Do not use Kafka", "Avoid Flink", mode="micro_batch"), 1.0, ""),
        (advice("Put Kafka in front", mode="micro_batch"), 0.0, "kafka: kafka"),
        (advice("Poll", mode="cdc"), 0.0, "mode: cdc"),
        (advice("Kafka", "and Flink", mode="cdc"), 0.0, "kafka: kafka; stream_engine: flink; mode: cdc"),
        (advice("Do not use Kafka", "Use Kafka", mode="batch"), 0.0, "kafka: kafka"),
        ("No JSON. Use Kafka", 0.0, "kafka: kafka"),
        ('{"summary": "Avoid polling", "actions": ["Use Kafka', 0.0, "kafka: kafka"),
        ('{"summary": "Do not use \\"Kafka\\", poll", "actions": [', 1.0, ""),
    ],
)
def test_forbidden_points(raw: str, value: float, saw: str) -> None:
    score = forbidden_points(answered(INGESTION, raw))
    assert (score.value, score.saw) == (value, saw)


def test_half_an_answer_is_still_read_as_plain_text() -> None:
    """A broken bracket must not hide what was said."""
    raw = advice("Keep a cursor", "Use Kafka", "retry", mode="micro_batch")[:55]
    scores = {name: score.value for name, score in score_all(answered(INGESTION, raw)).items()}
    assert scores == {
        "schema_valid": 0.0,
        "facts_consistent": 1.0,
        "required_points": 0.25,
        "forbidden_points": 0.0,
    }


def test_perfect_really_says_each_of_a_concepts_phrases() -> None:
    the_case = case(Stage.QUALITY, required=["cursor"])
    said = [json.loads(perfect(the_case, choice))["summary"].lower() for choice in range(20)]
    wanted = [f"{phrase.replace('*', '')}." for phrase in phrases()["cursor"]]
    assert said == list(islice(cycle(wanted), 20))
