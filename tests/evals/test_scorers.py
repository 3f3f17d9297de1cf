"""Each scorer against cases worked out by hand: a right answer, a known-wrong one, and the evidence it gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import guardrails
from agents.answers import AnswerForm
from agents.asking.requests import labels_for
from agents.facts.spec import PipelineSpec
from agents.labels.policy import load_policy
from agents.schema import IngestionMode, Recommendation, Stage
from evals import scorers
from evals.case import Case
from evals.generate import ROWS, generate
from evals.headline import GATES
from evals.score import Score
from evals.scorers import JUDGES_THE_POLICY, SCORER_NAMES, SCORERS, Answered, score_all

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
"""Severity LOW, priority NORMAL by the standard policy."""


def case(stage: Stage, spec: dict[str, Any] | None = None, **more: Any) -> Case:
    pipeline = PipelineSpec.model_validate(spec or SPEC)
    return Case.model_validate(
        {"id": "c", "row": 1, "family": "f", "source": "hand", "stage": stage, "spec": pipeline, **more}
    )


def answered(the_case: Case, raw: str, **more: Any) -> Answered:
    return Answered(the_case, labels_for(the_case.spec, STANDARD)[the_case.stage], raw, **more)


def advice(*sentences: str, mode: str | None = None) -> str:
    """An answer that fits the schema: a summary and two actions."""
    summary, first, second = (*sentences, *["-"] * 3)[:3]
    document: dict[str, Any] = {"summary": summary, "actions": [first, second]}
    return json.dumps({**document, "mode": mode} if mode else document)


def scored(name: str, the_case: Case, raw: str, **more: Any) -> Score:
    """The word of one scorer; raises KeyError where it has nothing to say."""
    return score_all(answered(the_case, raw, **more))[name]


def value(name: str, the_case: Case, raw: str, **more: Any) -> float:
    return scored(name, the_case, raw, **more).value


def with_metrics(part: str, **metrics: Any) -> dict[str, Any]:
    return {"id": "p", "source": {"type": "Kafka"}, f"{part}_metrics": metrics}


MACHINES = case(Stage.INFRASTRUCTURE)
QUALITY = case(Stage.QUALITY)
INGESTION = case(
    Stage.INGESTION,
    acceptable_modes=(IngestionMode.MICRO_BATCH,),
    unacceptable_modes=(IngestionMode.CDC,),
    required=["cursor", "retry", "pagination"],
    forbidden=["kafka", "stream_engine"],
)
BAD_DATA = case(Stage.QUALITY, with_metrics("quality", completeness=40, consistency=100))
CRITICAL = case(Stage.INFRASTRUCTURE, with_metrics("infrastructure", cpu=30, memory=96, oom_kills=3))
UNKNOWN = case(Stage.QUALITY, {"id": "a", "source": {"type": "x"}})
GOOD = advice(
    "Poll the REST API every 5 minutes.", "Keep a cursor.", "Follow the pagination and retry.", mode="micro_batch"
)


# --- all together ----------------------------------------------------------------------------------------


def test_the_scorers_are_the_ones_promised_and_the_headline_is_the_last() -> None:
    assert SCORER_NAMES == (
        "schema_valid",
        "not_truncated",
        "mode_fit",
        "tool_fit",
        "label_fit",
        "label_consistent",
        "urgency_calibrated",
        "required_points",
        "forbidden_points",
        "grounded",
        "specific",
        "headline",
    )
    assert {*GATES, *JUDGES_THE_POLICY, "required_points"} == {*SCORERS}


def test_only_what_applies_is_scored() -> None:
    assert list(score_all(answered(QUALITY, advice("Completeness is 87."))).keys()) == [
        "schema_valid",
        "not_truncated",
        "label_consistent",
        "urgency_calibrated",
        "grounded",
        "specific",
        "headline",
    ]
    assert [name for name in SCORER_NAMES if name not in score_all(answered(INGESTION, GOOD))] == [
        "label_fit",
        "label_consistent",
        "urgency_calibrated",
    ]


@given(raw=st.text(max_size=80), index=st.integers(0, len(ROWS) - 1))
def test_any_text_gets_scores_between_0_and_1_with_an_explanation(raw: str, index: int) -> None:
    scores = score_all(answered(generate(index + 1, 0)[index], raw))
    assert [name for name in SCORER_NAMES if name in scores] == list(scores)
    for score in scores.values():
        assert 0 <= score.value <= 1
        assert score.explanation


def test_the_same_answer_gets_the_same_scores_after_any_other() -> None:
    before = score_all(answered(INGESTION, GOOD))
    score_all(answered(QUALITY, GOOD))
    assert score_all(answered(INGESTION, GOOD)) == before


def test_half_an_answer_is_still_read_as_plain_text() -> None:
    """A broken bracket must not hide what was said."""
    raw = advice("Keep a cursor of the API", "Use Kafka", "retry", mode="micro_batch")[:65]
    scores = {name: score.value for name, score in score_all(answered(INGESTION, raw)).items()}
    assert scores == {
        "schema_valid": 0.0,
        "not_truncated": 0.0,
        "mode_fit": 0.0,
        "tool_fit": 1.0,
        "required_points": pytest.approx(1 / 3),
        "forbidden_points": 0.0,
        "grounded": 1.0,
        "specific": 1.0,
        "headline": 0.0,
    }


def test_what_the_rules_gave_is_scored_in_the_models_place() -> None:
    given_instead = Recommendation(summary="Poll the API.", actions=("Keep a cursor.", "Retry."), mode="micro_batch")
    scores = score_all(answered(INGESTION, "no JSON", given=given_instead, finish_reason="length"))
    assert scores["schema_valid"] == Score(1.0, "", "given by the rules")
    assert scores["not_truncated"].value == 1.0
    assert scores["mode_fit"].saw == "micro_batch"


# --- schema_valid ----------------------------------------------------------------------------------------

TOO_FEW = "actions: List should have at least 2 items after validation, not 1"


@pytest.mark.parametrize(
    ("raw", "right", "explanation"),
    [
        (advice("All is", "well", "here"), 1.0, "fits the schema"),
        (advice("a", "b", "c")[:-5], 0.0, "answer: Invalid JSON: EOF while parsing a value at line 1 column 34"),
        ('{"summary": "some", "actions": ["words"]}', 0.0, TOO_FEW),
        (advice("some", "more", "words", mode="batch"), 0.0, "mode: Extra inputs are not permitted"),
        (advice("x" * 161, "b", "c"), 0.0, "summary: String should have at most 160 characters"),
        ("The data is fine.", 0.0, "answer: Invalid JSON: expected value at line 1 column 1"),
    ],
)  # fmt: skip
def test_schema_valid(raw: str, right: float, explanation: str) -> None:
    score = scored("schema_valid", QUALITY, raw)
    assert (score.value, score.explanation) == (right, explanation)


def test_schema_valid_goes_by_the_form_that_was_asked_for() -> None:
    long = advice("x" * 91, "wait for", "it")
    assert value("schema_valid", QUALITY, long) == 1.0
    assert value("schema_valid", QUALITY, long, form=AnswerForm.BRIEF) == 0.0


def test_schema_valid_of_an_ingestion_answer_needs_a_known_mode() -> None:
    assert value("schema_valid", INGESTION, advice("Poll it", mode="batch")) == 1.0
    assert value("schema_valid", INGESTION, advice("Poll it", mode="teleport")) == 0.0
    assert value("schema_valid", INGESTION, advice("Poll it")) == 0.0


# --- not_truncated ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "saw"),
    [
        (advice("All is well", "Keep it", "Watch it"), ""),
        (advice("All is well.", "Keep it: " + "x" * 90 + ".", "Watch it"), ""),
        (advice("All is well", "Keep it and", "Watch it"), "Keep it and"),
        (advice("All is well", "Keep it,", "Watch it"), "Keep it,"),
        (advice("All is well", "Keep it", "Move data to the "), "Move data to the"),
        (advice("All is well", "Keep " + "x" * 95, "Watch it"), "x" * 40),
        (advice("All is well", "Keep it", "Watch it")[:-8], '"actions": ["Keep it", "Wat'),
    ],
)
def test_not_truncated(raw: str, saw: str) -> None:
    score = scored("not_truncated", QUALITY, raw)
    assert score.value == (0.0 if saw else 1.0)
    assert saw in score.saw


def test_running_out_of_tokens_is_truncation_even_where_the_json_ends() -> None:
    assert value("not_truncated", QUALITY, advice("All is well", "Keep it", "Watch it"), finish_reason="stop") == 1.0
    assert value("not_truncated", QUALITY, advice("All is well", "Keep it", "Watch it"), finish_reason="length") == 0.0


# --- mode_fit and tool_fit -------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "right"), [("micro_batch", 1.0), ("cdc", 0.0), ("batch", None), ("streaming", None)])
def test_mode_fit(mode: str, right: float | None) -> None:
    found = score_all(answered(INGESTION, advice("Poll the API", mode=mode))).get("mode_fit")
    assert (found.value if found else None) == right
    assert not found or found.saw == mode


def test_a_mode_that_is_missing_is_wrong_and_one_in_broken_json_is_read() -> None:
    assert value("mode_fit", INGESTION, "Poll the API in micro_batch mode") == 0.0
    assert value("mode_fit", INGESTION, '```json\n{"mode": "micro_batch", "summary": "Poll') == 1.0


def test_mode_fit_has_nothing_to_say_of_other_stages() -> None:
    assert "mode_fit" not in score_all(answered(QUALITY, advice("Measure it")))


@pytest.mark.parametrize(
    ("source", "text", "mode", "saw"),
    [
        ({"type": "REST API"}, "Poll the API.", "batch", ""),
        ({"type": "REST API"}, "Read the binlog.", "batch", "binlog"),
        ({"type": "REST API"}, "Do not read the binlog.", "batch", ""),
        ({"type": "PostgreSQL", "log_access": True}, "Read the binlog.", "cdc", ""),
        ({"type": "PostgreSQL", "log_access": False}, "Enable CDC on the table.", "batch", "enable cdc"),
        ({"type": "webhook"}, "Poll the sender every minute.", "push_receiver", "poll the sender"),
        ({"type": "Kafka"}, "Process it with Flink.", "batch", "flink"),
        ({"type": "Kafka"}, "Process it with Flink.", "streaming", ""),
    ],
)
def test_tool_fit(source: dict[str, Any], text: str, mode: str, saw: str) -> None:
    score = scored("tool_fit", case(Stage.INGESTION, {"id": "p", "source": source}), advice(text, mode=mode))
    assert (score.value, score.saw) == (0.0 if saw else 1.0, saw)


def test_tool_fit_reads_plain_words_too() -> None:
    assert value("tool_fit", INGESTION, "Read the binlog of the API.") == 0.0


def test_the_quick_look_for_tools_knows_every_tool_of_the_guardrails() -> None:
    by_source = {misfit.concept for misfit in guardrails._MISFITS}
    by_mode = {concept for _, concept, _ in guardrails._TOOLS_AND_MODES}
    assert {*scorers.TOOLS} == by_source | by_mode


# --- the label -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "right"), [(("LOW",), 1.0), (("LOW", "MEDIUM"), 1.0), (("HIGH",), 0.0)])
def test_label_fit_judges_the_policy(labels: tuple[str, ...], right: float) -> None:
    the_case = case(Stage.QUALITY, acceptable_labels=labels)
    for raw in (advice("Completeness is 87."), ""):
        score = scored("label_fit", the_case, raw)
        assert (score.value, score.saw) == (right, "LOW")


def test_a_label_that_is_missing_does_not_fit() -> None:
    the_case = case(Stage.QUALITY, acceptable_labels=("LOW",))
    assert score_all(Answered(the_case, None, advice("Fine")))["label_fit"].value == 0.0


@pytest.mark.parametrize(
    ("the_case", "text", "claimed"),
    [
        (MACHINES, "This is a HIGH priority.", "HIGH priority"),
        (MACHINES, "The priority is CRITICAL.", "priority is CRITICAL"),
        (MACHINES, "Priority: high", "Priority: high"),
        (MACHINES, "The priority is NORMAL.", ""),
        (MACHINES, "The CPU load is high.", ""),
        (MACHINES, "Move low-priority jobs to the night.", ""),
        (MACHINES, "This is not a HIGH priority.", ""),
        (QUALITY, "Severity is MEDIUM.", "Severity is MEDIUM"),
        (QUALITY, "severity level of HIGH", "severity level of HIGH"),
        (QUALITY, "low severity", ""),
        (QUALITY, "HIGH priority for the team.", ""),
        (UNKNOWN, "The severity is LOW.", "severity is LOW"),
    ],
)
def test_label_consistent(the_case: Case, text: str, claimed: str) -> None:
    score = scored("label_consistent", the_case, advice(text))
    assert (score.value, score.saw) == (0.0 if claimed else 1.0, claimed)


@pytest.mark.parametrize(
    ("the_case", "text", "saw"),
    [
        (MACHINES, "Watch the trend.", ""),
        (MACHINES, "Urgent: add machines.", "urgent"),
        (MACHINES, "Nothing is urgent here.", ""),
        (MACHINES, "Act immediately if memory passes 90.", ""),
        (QUALITY, "Halt everything right now.", "right now"),
        (CRITICAL, "Act now, raise the memory limit immediately.", ""),
        (CRITICAL, "No action is needed.", "no action"),
        (CRITICAL, "Just monitor the memory.", "just monitor"),
        (BAD_DATA, "There is nothing to do.", "nothing to do"),
        (BAD_DATA, "Block publishing.", ""),
    ],
)
def test_urgency_calibrated(the_case: Case, text: str, saw: str) -> None:
    score = scored("urgency_calibrated", the_case, advice(text))
    assert (score.value, score.saw) == (0.0 if saw else 1.0, saw)


def test_urgency_is_open_where_the_label_is_unknown_and_for_ingestion() -> None:
    for the_case, mode in ((UNKNOWN, None), (INGESTION, "micro_batch")):
        assert "urgency_calibrated" not in score_all(answered(the_case, advice("Urgent: act", mode=mode)))


# --- required_points -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "right", "explanation"),
    [
        (advice("Keep a cursor", "paginate", "retry", mode="micro_batch"), 1.0, "every required point is there"),
        (advice("Keep a cursor", "paginate", mode="micro_batch"), 2 / 3, "missing: retry"),
        (advice("Buy more machines", mode="cdc"), 0.0, "missing: cursor, retry, pagination"),
        (advice("Do not keep a cursor", mode="micro_batch"), 0.0, "missing: cursor, retry, pagination"),
        ("Keep a cursor, paginate, retry", 1.0, "every required point is there"),
    ],
)
def test_required_points_is_the_share_of_points_made(raw: str, right: float, explanation: str) -> None:
    score = scored("required_points", INGESTION, raw)
    assert score.value == pytest.approx(right)
    assert score.explanation == explanation


def test_required_points_tells_the_words_it_rests_on() -> None:
    raw = advice("Keep a cursor", "Paginate", "Back-off", mode="micro_batch")
    assert scored("required_points", INGESTION, raw).saw == "cursor: cursor, retry: back off, pagination: paginate"


@pytest.mark.parametrize(
    "text",
    [
        "Keep a cursor.",
        "Avoid duplicates by keeping a cursor.",
        "Avoid gaps with a cursor.",
        "To avoid gaps, keep a cursor.",
        "Without delay, add a cursor.",
        "Do not poll blindly, use a cursor.",
        "Do not read everything but keep a cursor.",
        "Instead of full loads use a cursor.",
        "If the API fails, resume from the cursor.",
        "Keep a cursor that does not go back.",
        "The cursor is kept, so that nothing is not read.",
        "No cursor exists. Add a cursor.",
        "Don't guess; keep a cursor.",
    ],
)
def test_a_point_is_made(text: str) -> None:
    assert value("required_points", case(Stage.INGESTION, required=["cursor"]), text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "Do not keep a cursor.",
        "Do not use a cursor.",
        "Don\u2019t use a cursor.",
        "You should not need a cursor.",
        "There is no cursor.",
        "This works without a cursor.",
        "Avoid cursors.",
        "Avoid keeping any cursor.",
        "Read everything instead of keeping a cursor.",
        "Read everything rather than from a cursor.",
        "A full load is better than a cursor.",
        "A cursor is unnecessary.",
        "A cursor is overkill.",
        "A cursor is not needed.",
        "A cursor isn't needed here.",
        "A cursor would not help.",
        "A cursor makes no sense.",
        "The cursor is too complex.",
        "Skip the cursor.",
        "Never keep a cursor.",
        "Forget the cursor.",
    ],
)
def test_a_point_that_is_denied_is_not_made(text: str) -> None:
    assert value("required_points", case(Stage.INGESTION, required=["cursor"]), text) == 0.0


def test_a_case_without_required_points_is_not_scored_for_them() -> None:
    assert "required_points" not in score_all(answered(QUALITY, advice("anything")))


# --- forbidden_points ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "saw"),
    [
        (advice("Poll with a cursor", mode="micro_batch"), ""),
        (advice("Do not use Kafka", "Avoid Flink", mode="micro_batch"), ""),
        (advice("Put Kafka in front", mode="micro_batch"), "kafka: kafka"),
        (advice("Kafka", "and Flink", mode="cdc"), "kafka: kafka; stream_engine: flink"),
        (advice("Do not use Kafka", "Use Kafka", mode="batch"), "kafka: kafka"),
        ("No JSON. Use Kafka", "kafka: kafka"),
        ('{"summary": "Avoid polling", "actions": ["Use Kafka', "kafka: kafka"),
        ('{"summary": "Do not use \\"Kafka\\", poll", "actions": [', ""),
    ],
)
def test_forbidden_points(raw: str, saw: str) -> None:
    score = scored("forbidden_points", INGESTION, raw)
    assert (score.value, score.saw) == (0.0 if saw else 1.0, saw)


@pytest.mark.parametrize(
    "text",
    [
        "Do not use Kafka.",
        "Never add Kafka.",
        "Poll the API instead of Kafka.",
        "Poll the API rather than running Kafka.",
        "Kafka is overkill.",
        "Kafka is not needed.",
        "Kafka would not help.",
        "A Kafka cluster costs too much.",
        "There is no need for Kafka.",
        "Polling is cheaper than Kafka.",
        "Replace Kafka with polling.",
        "Prefer polling over Kafka.",
        "The volume is too small for Kafka.",
        "Add Kafka if the volume grows.",
    ],
)
def test_what_is_set_aside_is_not_recommended(text: str) -> None:
    assert value("forbidden_points", INGESTION, advice(text, mode="batch")) == 1.0


@pytest.mark.parametrize(
    "text",
    ["Use Kafka.", "Put Kafka in front, since polling is slow.", "Do not poll; use Kafka.", "Kafka, not polling."],
)
def test_what_is_recommended_is_noticed(text: str) -> None:
    assert value("forbidden_points", INGESTION, advice(text, mode="batch")) == 0.0


# --- grounded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "strange"),
    [
        ("CPU is at 65 % and memory at 71%.", ""),
        ("Storage is 45 % full, 55 % is free.", ""),
        ("550 GB are left of 1000 GB; 450GB are used.", ""),
        ("1,000 GB in total, latency 1,250 ms, or 1250.", ""),
        ("35 % of the CPU and 29 % of the memory are free.", ""),
        ("Do these 2 things, 1 at a time.", ""),
        ("Look into S3, p95, EC2, HTTP 418 and the 5xx rate.", ""),
        ("Retry 3 times.", ""),
        ("No figure at all.", ""),
        ("Storage is 23 % full.", "23"),
        ("CPU is at 66 %.", "66"),
        ("CPU is at 65.5 %.", "65.5"),
        ("Memory is at 710 %.", "710"),
        ("Add 3 nodes and 64 GB.", "3, 64"),
        ("1,001 GB in total.", "1001"),
        ("Move to Spark 3, then add 7 nodes.", "7"),
    ],
)
def test_figures_are_given_or_follow_from_what_was_given(text: str, strange: str) -> None:
    score = scored("grounded", MACHINES, advice(text))
    assert (score.value, score.saw) == (0.0 if strange else 1.0, strange)
    if strange:
        assert score.explanation == f"not in the input and not derived from it: {strange}"


def test_figures_of_the_sources_words_are_known_and_those_of_another_stage_are_not() -> None:
    assert value("grounded", INGESTION, advice("10 GB each day, every 5 minutes", mode="batch")) == 1.0
    assert scored("grounded", INGESTION, advice("70 GB each day", mode="batch")).saw == "70"
    assert value("grounded", QUALITY, advice("CPU is at 65 %.")) == 0.0


def test_a_figure_in_the_words_for_a_required_concept_is_no_strange_one() -> None:
    text = advice("Batches of 1 GB or every 5 minutes")
    assert value("grounded", case(Stage.QUALITY, required=["batch_size"]), text) == 1.0
    assert scored("grounded", QUALITY, text).saw == "5"


# --- specific --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("the_case", "raw", "saw"),
    [
        (INGESTION, advice("Poll the API", "Keep a cursor", "Retry calls", mode="batch"), "api"),
        (INGESTION, advice("Load what is new", "every 5 min", "Keep a cursor", mode="batch"), "5"),
        (INGESTION, advice("Load it as 10 GB/day come in", "Keep a cursor", "Retry it", mode="batch"), "10 gb/day"),
        (QUALITY, advice("Some data is missing at 87", "Trace its cause", "Report it"), "87"),
        (
            QUALITY,
            advice("Completeness and consistency suffice", "Trace gaps", "Report them"),
            "completeness, consistency",
        ),
        (BAD_DATA, advice("Incomplete data", "Block publishing today", "Backfill it all"), "incomplete"),
    ],
)
def test_advice_that_names_something_of_this_pipeline_is_specific(the_case: Case, raw: str, saw: str) -> None:
    assert scored("specific", the_case, raw) == Score(1.0, saw, "names what is particular to this pipeline")


@pytest.mark.parametrize(
    ("the_case", "raw", "why"),
    [
        (QUALITY, advice("All looks fine today", "Keep the checks", "Trace the cause"), "names neither"),
        (QUALITY, advice("Completeness looks fine", "Keep the checks", "Trace the cause"), "names neither"),
        (BAD_DATA, advice("Consistency matters most", "Trace the cause", "Report it"), "names neither"),
        (QUALITY, advice("Completeness is 87", "Consistency is 92", "Severity is LOW"), "tells the facts again"),
        (QUALITY, advice("Fix completeness 87", "Trace the cause upstream", "Trace the cause upstream"), "same"),
        (QUALITY, advice("Fix it, " * 3 + "at 87", "fix it, fix it", "Report fix it now"), "goes in circles"),
        (QUALITY, advice("Completeness is 87 of many values", "Monitor", "Trace the cause"), "single word"),
        (QUALITY, advice("87: fix, ship, report, send, load, sort, split, act", "fix it", "do it"), "six commas"),
        (
            QUALITY,
            advice("completeness fix report ship", "load sort split send", "check rows twice daily fast"),
            "small words",
        ),
        (
            QUALITY,
            advice('{"completeness_percent": 87} asks for work', "Trace the cause", "Report gaps"),
            "as they stand",
        ),
        (
            QUALITY,
            advice(
                "Completeness 87: robust, scalable data at every step", "Leverage best practices", "Do it over time"
            ),
            "filler",
        ),
    ],
)
def test_advice_that_fits_any_pipeline_is_not_specific(the_case: Case, raw: str, why: str) -> None:
    score = scored("specific", the_case, raw)
    assert score.value == 0.0
    assert why in score.explanation


def test_more_advice_than_the_case_asks_for_is_a_list() -> None:
    raw = advice(
        "Completeness 87: block publishing and backfill the gaps.",
        "Deduplicate by key and quarantine the failing rows.",
        "Measure the missing metric and check the scheduler upstream.",
    )
    score = scored("specific", QUALITY, raw)
    assert score.value == 0.0
    assert score.explanation.startswith("a list of keywords")
    assert "backfill" in score.saw


# --- headline --------------------------------------------------------------------------------------------


def test_the_headline_is_the_share_of_points_behind_open_gates() -> None:
    assert value("headline", INGESTION, GOOD) == 1.0
    less = advice("Poll the REST API every 5 minutes.", "Keep a cursor.", "Retry what failed.", mode="micro_batch")
    assert value("headline", INGESTION, less) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("raw", "gate"),
    [
        (GOOD[:-1], "schema_valid"),
        (GOOD.replace("micro_batch", "cdc"), "mode_fit"),
        (GOOD.replace("Keep a cursor", "Keep a cursor in the binlog"), "tool_fit"),
        (GOOD.replace("Keep a cursor", "Keep a cursor in Kafka"), "forbidden_points"),
        (GOOD.replace("5 minutes", "77 minutes"), "grounded"),
        (GOOD.replace("REST API every 5 minutes", "source"), "specific"),
        (GOOD.replace("retry.", "retry, and"), "not_truncated"),
    ],
)
def test_each_gate_shuts_the_headline_and_is_named(raw: str, gate: str) -> None:
    score = scored("headline", INGESTION, raw)
    assert score.value == 0.0
    assert gate in score.saw


@pytest.mark.parametrize(
    ("text", "gate"),
    [("The priority is HIGH.", "label_consistent"), ("Add memory at once: it is urgent.", "urgency_calibrated")],
)
def test_the_labels_gates_shut_the_headline(text: str, gate: str) -> None:
    score = scored("headline", MACHINES, advice("Memory is at 71.", text, "Look for what grew lately."))
    assert (score.value, score.saw) == (0.0, gate)


def test_a_case_that_requires_nothing_is_all_gates() -> None:
    raw = advice("Memory is at 71 and CPU at 65.", "Watch both of them.", "Leave the capacity alone.")
    assert value("headline", MACHINES, raw) == 1.0


def test_the_policys_label_is_not_in_the_headline() -> None:
    raw = advice("Memory is at 71 and CPU at 65.", "Watch both of them.", "Leave the capacity alone.")
    wrong = case(Stage.INFRASTRUCTURE, acceptable_labels=("CRITICAL",))
    assert (value("label_fit", wrong, raw), value("headline", wrong, raw)) == (0.0, 1.0)
