"""Metamorphic relations: what they change and what they leave, which decisions agree, and the rates of a run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.asking.endpoint.reply import ErrorClass
from agents.asking.variant import load_prompt
from agents.facts.spec import PipelineSpec
from agents.labels.policy import load_policy
from agents.specialists.decision import Decision, Picked
from agents.specialists.registry import labels_for, specialist_of, stages
from agents.specialists.rules import permitted
from agents.specialists.specialist import Facts
from common.console import BadInput
from evals.case import Case, dump_cases
from evals.case_file import CaseFile
from evals.generate import generate
from evals.metamorphic import RELATIONS, RelationRate, consistent, metamorphic_cases, rates
from evals.plan import make_plan
from evals.relations import is_milder, words
from evals.run_folder import RunFolder
from evals.sample import Sample
from evals.suite import Suite
from evals.variant import ServedModel, Variant

STANDARD = load_policy("standard")
CASES = generate(96, 11)
INGESTION, QUALITY, MACHINES = stages()


def case(stage: str = INGESTION, number: int = 0, **parts: Any) -> Case:
    spec = PipelineSpec.model_validate({"id": "orders", "source": {"type": "Kafka"}, **parts})
    return Case(id=f"c{number}", family=f"f{number}", source="hand", stage=stage, spec=spec)


def source(**fields: Any) -> Case:
    return case(source={"type": "REST API", **fields})


def changed(relation: str, the_case: Case) -> PipelineSpec:
    spec = RELATIONS[relation](the_case)
    assert spec is not None
    return spec


def told(stage: str, spec: PipelineSpec) -> Facts:
    return specialist_of(stage).told(spec)


def decision(choice: str, *actions: str) -> Decision:
    return Decision(by="model", choice=Picked(id=choice), actions=tuple(Picked(id=one) for one in actions))


# --- every relation --------------------------------------------------------------------------------------


@given(number=st.integers(0, len(CASES) - 1), relation=st.sampled_from(sorted(RELATIONS)))
def test_a_changed_case_is_a_sound_case_whose_right_answer_still_holds(number: int, relation: str) -> None:
    before = CASES[number]
    for after in metamorphic_cases([before], [relation], 1):
        assert Case.model_validate_json(after.model_dump_json()) == after
        assert (after.of, after.relation, after.family, after.stage) == (
            before.id, relation, before.family, before.stage,
        )  # fmt: skip
        was, now = (labels_for(one.spec, STANDARD)[one.stage] for one in (before, after))
        if RELATIONS[relation].worsens:
            assert not is_milder(before.stage, was, now)
            assert not any(getattr(after, name) for name in KEY)
        else:
            assert (was and was.value) == (now and now.value)
            specialist = specialist_of(before.stage)
            assert permitted(specialist, before.spec, was) == permitted(specialist, after.spec, now)
            assert after.model_dump(exclude=CHANGED) == before.model_dump(exclude=CHANGED)


KEY = ("right_choices", "wrong_choices", "acceptable_labels", "right_actions", "harmful_actions")
CHANGED = {"id", "spec", "of", "relation", "pair"}
FREE_TEXT = {"type", "frequency", "description"}


@given(number=st.integers(0, len(CASES) - 1), relation=st.sampled_from(sorted(RELATIONS)))
def test_a_relation_changes_words_or_the_facts_that_it_is_about_and_no_others(number: int, relation: str) -> None:
    before = CASES[number]
    spec = RELATIONS[relation](before)
    if spec is None:
        return
    was, now = told(before.stage, before.spec), told(before.stage, spec)
    differ = {name for name in was | now if was.get(name) != now.get(name)} - FREE_TEXT
    allowed = {
        "add_irrelevant": {"column_criticality", "validity_percent", "consumer_lag", "oom_kills"},
        "scale_volume": {"volume", "storage_used_gb", "storage_total_gb", "storage_growth_gb_per_day"},
        "nudge_metric": {name for name in was if name.endswith("_percent")},
        "worsen_one_metric": set(was),
    }.get(relation, set())
    assert differ <= allowed
    if relation in {"nudge_metric", "worsen_one_metric"}:
        assert len(differ) == 1


@pytest.mark.slow
@pytest.mark.parametrize("relation", RELATIONS)
def test_the_rules_read_nearly_every_changed_pipeline_as_before(relation: str) -> None:
    """A relation whose changes are mostly thrown away would be one that changes what is right."""
    made = [one for one in generate(480, 12) if RELATIONS[relation].change(one) is not None]
    kept = [one for one in made if RELATIONS[relation](one) is not None]
    assert len(made) >= 10
    assert len(kept) >= 0.9 * len(made)


@pytest.mark.parametrize("relation", ["reorder_keys", "change_units"])
def test_what_no_prompt_shows_leaves_the_pipeline_as_it_was(relation: str) -> None:
    made = [(one, spec) for one in CASES[:30] if (spec := RELATIONS[relation](one)) is not None]
    assert len(made) >= 10
    assert all(spec == one.spec for one, spec in made)


def test_there_are_at_least_eight_relations_and_each_says_what_it_asks() -> None:
    assert len(RELATIONS) >= 8
    assert all(one.meaning.endswith(("has to stay.", "may not get milder.")) for one in RELATIONS.values())


# --- single relations ------------------------------------------------------------------------------------


def test_another_name_is_told_to_every_agent() -> None:
    known: dict[str, Any] = {
        "quality_metrics": {"completeness": 99, "consistency": 99},
        "infrastructure_metrics": {"cpu": 4, "memory": 4},
    }
    for stage in stages():
        before = case(stage, source={"type": "REST API", "description": "Pages of 100 orders."}, **known)
        spec = changed("rename_pipeline", before)
        assert spec.id in words().pipelines
        described = str(told(stage, spec)["description"])
        assert described.startswith(f"Pages of 100 orders. The pipeline is called {spec.id} and belongs to ")


def test_words_that_an_agent_is_not_told_are_left_alone() -> None:
    metrics = {"completeness": 99, "consistency": 99}
    before = case(QUALITY, source={"type": "PostgreSQL", "frequency": "daily"}, quality_metrics=metrics)
    for relation in ("paraphrase_description", "change_units_in_words", "change_source_brand"):
        assert RELATIONS[relation](before) is None


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"frequency": "every 5 minutes"}, {"frequency": "every 300 seconds"}),
        ({"frequency": "within 30 seconds"}, {"frequency": "within 0.5 minutes"}),
        ({"description": "It keeps 2 days of data."}, {"description": "It keeps 48 hours of data."}),
        ({"description": "Within half an hour."}, {"description": "Within 30 minutes."}),
        ({"description": "Up to 10 min late."}, {"description": "Up to 600 seconds late."}),
    ],
)
def test_the_same_amount_in_another_unit(fields: dict[str, str], after: dict[str, str]) -> None:
    found = changed("change_units_in_words", source(**fields)).source
    assert {name: getattr(found, name) for name in after} == after


def test_a_time_that_would_become_an_endless_fraction_is_left_alone() -> None:
    assert RELATIONS["change_units_in_words"](source(frequency="within 10 seconds")) is None


def test_ages_of_data_are_told_in_other_units_and_come_back_as_they_were() -> None:
    metrics = {"completeness": 99, "consistency": 99, "freshness": "3 h", "freshness_sla": "1 day"}
    before = case(QUALITY, quality_metrics=metrics)
    assert changed("change_units", before) == before.spec


def test_sentences_change_places_unless_one_leans_on_another() -> None:
    after = changed("reorder_sentences", source(description="Orders are final. The log may be read; deletes matter."))
    assert after.source.description == "Deletes matter. The log may be read. Orders are final."
    for leaning in ("There is a log. It may be read.", "An order database. We may read its log.", "A. So B."):
        assert RELATIONS["reorder_sentences"](source(description=leaning)) is None
    assert RELATIONS["reorder_sentences"](source(description="One sentence only.")) is None
    assert RELATIONS["reorder_sentences"](source(description="First one. A tail without an end")) is None


def test_a_brand_is_exchanged_wherever_it_is_named() -> None:
    before = case(source={"type": "PostgreSQL", "description": "Two PostgreSQL servers hold the orders."})
    after = changed("change_source_brand", before).source
    assert (after.type, after.description) == ("MySQL", "Two MySQL servers hold the orders.")


@pytest.mark.parametrize("description", ["The WAL may be read.", "A replication slot is free."])
def test_a_brand_stays_where_the_text_speaks_of_what_only_one_has(description: str) -> None:
    before = case(source={"type": "PostgreSQL", "description": description})
    assert RELATIONS["change_source_brand"](before) is None


@pytest.mark.parametrize(
    ("volume", "scaled"),
    [
        ("10 GB/day", "20 GB/day"),
        ("90 GB/day", "45 GB/day"),  # 4 GB/h is the line
        ("60 GB/day", "30 GB/day"),
        ("500 requests/min", "1K requests/min"),
    ],
)
def test_volume_is_scaled_on_its_own_side_of_each_line(volume: str, scaled: str) -> None:
    before = case(source={"type": "Kafka", "volume": volume, "latency_need": "5 s"})
    assert changed("scale_volume", before).source.volume == scaled


def test_volume_is_not_scaled_where_the_words_name_it_too() -> None:
    for description in ("About 10 GB each day.", "Partners drop 3000 files/day.", "It sends 5 files a minute."):
        assert RELATIONS["scale_volume"](source(volume="10GB/day", description=description)) is None


def test_twice_the_storage_is_as_full_and_fills_as_soon() -> None:
    history = [{"at": f"2026-11-20 0{hour}:00", "storage_used": 800 + hour} for hour in range(5)]
    metrics = {"cpu": 40, "memory": 45, "storage_used": 810, "storage_total": 1000, "history": history}
    before = case(MACHINES, infrastructure_metrics={**metrics, "storage_growth_gb_per_day": 1200})
    after = changed("scale_volume", before)
    assert [one.storage_used_gb for one in after.infrastructure_metrics.history] == [1600, 1602, 1604, 1606, 1608]
    assert labels_for(after, STANDARD)[MACHINES] == labels_for(before.spec, STANDARD)[MACHINES] or (
        labels_for(after, STANDARD)[MACHINES].value == "CRITICAL"  # type: ignore[union-attr]
    )


def test_a_metric_is_never_nudged_over_a_threshold() -> None:
    for completeness in (79.8, 80, 80.1, 59.9, 60):
        before = case(QUALITY, quality_metrics={"completeness": completeness, "consistency": 95})
        after = changed("nudge_metric", before)
        assert labels_for(after, STANDARD)[QUALITY].value == labels_for(before.spec, STANDARD)[QUALITY].value  # type: ignore[union-attr]


@given(
    completeness=st.floats(0, 100), consistency=st.floats(0, 100), cpu=st.floats(0, 100), memory=st.floats(0, 100),
    number=st.integers(0, 50),
)  # fmt: skip
def test_a_worse_metric_is_strictly_worse_and_its_label_never_milder(
    completeness: float, consistency: float, cpu: float, memory: float, number: int
) -> None:
    parts = {
        "quality_metrics": {"completeness": completeness, "consistency": consistency},
        "infrastructure_metrics": {"cpu": cpu, "memory": memory},
    }
    for stage in (QUALITY, MACHINES):
        before = case(stage, number, **parts)
        spec = RELATIONS["worsen_one_metric"].change(before)
        if spec is None:
            continue
        was, now = told(stage, before.spec), told(stage, spec)
        (name,) = {name for name in now if now[name] != was[name]}
        assert now[name] < was[name] if stage == QUALITY else now[name] > was[name]  # type: ignore[operator]
        labels = [labels_for(one, STANDARD)[stage] for one in (before.spec, spec)]
        assert not is_milder(stage, *labels)


def test_a_description_without_room_for_another_sentence_is_left_out() -> None:
    assert RELATIONS["add_irrelevant"](source(description="x" * 2000)) is None


def test_no_word_that_is_put_in_holds_a_figure() -> None:
    for put_in in (*words().irrelevant, *words().companies, *words().pipelines, *words().regions, *words().teams):
        assert not any(map(str.isdigit, put_in))


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"frequency": "hourly"}, {"frequency": "every hour"}),
        (
            {"description": "Deletes matter; the log may not be read."},
            {"description": "It matters when something is deleted; the log cannot be read."},
        ),
        ({"frequency": "weekly", "description": "Orders arrive."}, {"description": "Orders reach us."}),
    ],
)
def test_other_words_say_the_same(fields: dict[str, str], after: dict[str, str]) -> None:
    found = changed("paraphrase_description", source(**fields)).source
    assert {name: getattr(found, name) for name in after} == after


# --- which cases -----------------------------------------------------------------------------------------


def test_the_same_cases_are_made_every_time_and_each_has_its_own_id() -> None:
    first, again = (metamorphic_cases(CASES, list(RELATIONS), 4) for _ in range(2))
    assert dump_cases(first) == dump_cases(again)
    assert len({one.id for one in first}) == len(first)
    assert Counter(one.relation for one in first) == dict.fromkeys(RELATIONS, 4)


def test_a_few_cases_are_spread_over_stages_and_families() -> None:
    made = metamorphic_cases(CASES, ["add_irrelevant"], 12)
    assert Counter(one.stage for one in made) == dict.fromkeys(stages(), 4)
    assert len({one.family for one in made}) == 12


def test_no_case_is_changed_twice_over() -> None:
    made = metamorphic_cases(CASES[:20], ["rename_pipeline"], 5)
    assert metamorphic_cases(made, ["rename_pipeline"], 5) == []


def test_an_unknown_relation_is_named_with_those_that_exist() -> None:
    with pytest.raises(BadInput, match=r"relations: found 'renamed'; allowed: rename_pipeline, reorder_keys, "):
        metamorphic_cases(CASES, ["renamed"], 1)


def test_ids_that_are_as_long_as_an_id_may_be_stay_ids_and_differ() -> None:
    long = [CASES[0].model_copy(update={"id": "x" * 199 + end}) for end in "ab"]
    made = metamorphic_cases(long, ["rename_pipeline"], 2)
    assert len({one.id for one in made}) == 2
    assert all(Case.model_validate_json(one.model_dump_json()) == one for one in made)


# --- two decisions ---------------------------------------------------------------------------------------

ONE_DECIDES = "only one of the two answers holds a decision"
POLL = decision("batch", "keep_cursor", "follow_pages")


@pytest.mark.parametrize(
    ("before", "after", "holds", "why"),
    [
        (POLL, POLL, True, "the same choice and actions"),
        (POLL, decision("batch", "follow_pages", "keep_cursor"), True, "the same choice and actions"),
        (
            POLL, decision("micro_batch", "keep_cursor", "follow_pages"), False,
            "mode was batch and is micro_batch",
        ),
        (
            POLL, decision("batch", "keep_cursor", "merge_by_key"), False,
            "other actions; gone: follow_pages; new: merge_by_key",
        ),
        (POLL, decision("batch", "keep_cursor"), False, "other actions; gone: follow_pages; new: none"),
        (None, None, None, "neither answer holds a decision"),
        (None, POLL, False, f"{ONE_DECIDES}: the one before the change does not"),
        (POLL, None, False, f"{ONE_DECIDES}: the one after the change does not"),
    ],
)  # fmt: skip
def test_decisions_agree_by_choice_and_set_of_actions(
    before: Decision | None, after: Decision | None, holds: bool | None, why: str
) -> None:
    found = consistent(INGESTION, before, after)
    assert (found.holds, found.why) == (holds, why)


@pytest.mark.parametrize(
    ("before", "after", "holds"),
    [
        (("stop_downstream",), ("monitor",), False),
        (("stop_downstream", "monitor"), ("trace_cause",), False),
        (("trace_cause",), ("monitor",), False),
        (("trace_cause",), ("monitor", "stop_downstream"), True),
        (("monitor",), ("monitor",), True),
        (("trace_cause",), ("merge_on_key",), True),
        (("stop_downstream",), ("gone_from_the_catalogue",), False),
    ],
)
def test_a_worse_pipeline_may_get_another_decision_but_no_less_pressing_one(
    before: tuple[str, ...], after: tuple[str, ...], holds: bool
) -> None:
    found = consistent(QUALITY, decision("publish", *before), decision("block", *after), worsens=True)
    assert found.holds is holds
    assert found.why.startswith("the soonest action was for " if holds else "milder: the soonest action was for ")


# --- rates -----------------------------------------------------------------------------------------------

Decides = Callable[[Case, int], Decision | None]
ALWAYS = {
    INGESTION: decision("batch", "keep_cursor"),
    QUALITY: decision("block", "stop_downstream"),
    MACHINES: decision("watch", "watch_trend"),
}


def steady(the_case: Case, _repeat: int) -> Decision:
    """A model that decides the same on every pipeline of a stage."""
    return ALWAYS[the_case.stage]


def erratic(the_case: Case, repeat: int) -> Decision:
    """A model that rolls dice: its decision depends on the case's id and repeat alone."""
    rng, known = random.Random(f"{the_case.id}/{repeat}"), specialist_of(the_case.stage)
    return decision(rng.choice(known.choice.values), *rng.sample(list(known.actions_by_id), 2))


def snob(the_case: Case, _repeat: int) -> Decision:
    """A model that goes by the company's name: whoever has one gets a stream."""
    named = "belongs to" in (the_case.spec.source.description or "")
    return decision("streaming" if named else "batch", "keep_cursor")


def make_run(
    path: Path,
    cases: Sequence[Case],
    decides: Decides,
    *,
    repeats: int = 1,
    policy: str = "standard",
    silent: str = "-",
) -> RunFolder:
    """A run as if a model had answered; no answer for cases whose id ends in `silent`."""
    suite = Suite.model_validate(
        {"name": "meta", "prompts": ["write"], "repeats": repeats, "cases": {"count": len(cases)}}
    )
    served = ServedModel(name="m", base_url="http://127.0.0.1:1/v1", model="m", simulated=True)
    variant = Variant(name="write", prompt=load_prompt("write"), model=served, policy=load_policy(policy))
    plan = make_plan(suite, [variant], CaseFile.temporary(cases))
    folder = RunFolder.create(path, plan, cases)
    with folder.samples_path.open("w") as file:
        for number, one in enumerate(cases):
            for repeat in range(repeats):
                row = sample(plan.index(number, 0, repeat), one, repeat, decides, silent)
                file.write(row.model_dump_json(exclude_defaults=True) + "\n")
    return folder


def sample(index: int, one: Case, repeat: int, decides: Decides, silent: str) -> Sample:
    request = f"{told(one.stage, one.spec)}/{repeat}"
    row = Sample(index=index, variant="write", case_id=one.id, repeat=repeat, request=request)
    if one.id.endswith(silent):
        return row.model_copy(update={"error": "no answer within 1 s", "error_class": ErrorClass.TIMEOUT})
    found = decides(one, repeat)
    return row.model_copy(update={"decision": found, "problem": None if found else "not JSON"})


def by_relation(folder: RunFolder) -> dict[str, RelationRate]:
    return {one.relation: one for one in rates(folder)}


BASES = CASES[:72]
ALL = [*BASES, *metamorphic_cases(BASES, list(RELATIONS), 8)]
MADE = Counter(one.relation for one in ALL if one.relation)


def test_a_model_that_never_changes_its_mind_is_fully_consistent(tmp_path: Path) -> None:
    found = by_relation(make_run(tmp_path / "run", ALL, steady))
    assert list(found) == list(RELATIONS)
    for one in found.values():
        assert (one.rate, one.worst, one.n, one.not_judged) == (1.0, (), MADE[one.relation], 0)
        assert one.low is not None
        assert one.low < 1.0, "eight pairs do not prove certainty"
    assert found["reorder_keys"].same_prompt == 8
    assert found["add_irrelevant"].same_prompt == 0


def test_a_model_that_rolls_dice_is_not_consistent(tmp_path: Path) -> None:
    found = by_relation(make_run(tmp_path / "run", ALL, erratic, repeats=2))
    for name, one in found.items():
        if not RELATIONS[name].worsens:
            assert one.rate is not None
            assert one.rate <= 0.5, name
            assert one.n == 2 * MADE[name]
            assert one.self_rate is not None
            assert one.self_rate <= 0.5, "what the relation is held against is as low"


def test_a_model_that_goes_by_the_name_is_caught_by_that_relation_alone(tmp_path: Path) -> None:
    bases = [one for one in BASES if one.stage == INGESTION]
    cases = [*bases, *metamorphic_cases(bases, ["rename_pipeline", "change_region_or_team"], 10)]
    found = by_relation(make_run(tmp_path / "run", cases, snob))
    assert (found["rename_pipeline"].rate, found["rename_pipeline"].n) == (0.0, 10)
    assert found["change_region_or_team"].rate == 1.0
    worst = found["rename_pipeline"].worst
    assert len(worst) == 5
    assert worst[0].why == "mode was batch and is streaming"
    assert worst[0].case_id == f"{worst[0].of}~rename_pipeline"
    assert (worst[0].said_before, worst[0].said_after) == ("batch: keep_cursor", "streaming: keep_cursor")


def test_a_missing_answer_is_not_judged_and_not_wrong(tmp_path: Path) -> None:
    found = by_relation(make_run(tmp_path / "run", ALL, steady, silent="~scale_volume"))
    one = found["scale_volume"]
    assert (one.rate, one.n, one.not_judged, one.low) == (None, 0, 8, None)
    assert found["rename_pipeline"].n == 8


def test_a_pair_that_the_policy_labels_differently_is_not_judged(tmp_path: Path) -> None:
    """Under another policy the change may cross a threshold: then another decision is right."""
    before = case(QUALITY, quality_metrics={"completeness": 85, "consistency": 100})
    after = before.model_copy(
        update={
            "id": "c0~nudge_metric", "of": "c0", "relation": "nudge_metric",
            "spec": PipelineSpec.model_validate(
                {"id": "o", "source": {"type": "x"}, "quality_metrics": {"completeness": 40, "consistency": 100}}
            ),
        }
    )  # fmt: skip
    (one,) = rates(make_run(tmp_path / "run", [before, after], steady))
    assert (one.n, one.not_judged) == (0, 1)


def test_answers_of_which_none_holds_a_decision_are_not_called_consistent(tmp_path: Path) -> None:
    found = by_relation(make_run(tmp_path / "run", ALL, lambda _case, _repeat: None))
    assert {(one.rate, one.n, one.not_judged - MADE[one.relation]) for one in found.values()} == {(None, 0, 0)}


def test_with_repeats_each_repeat_is_a_pair_and_the_level_of_chance_is_told(tmp_path: Path) -> None:
    def moody(the_case: Case, repeat: int) -> Decision:
        usual, known = ALWAYS[the_case.stage], list(specialist_of(the_case.stage).actions_by_id)
        return decision(usual.choice.id, known[repeat])

    found = by_relation(make_run(tmp_path / "run", ALL, moody, repeats=2))
    for one in found.values():
        assert (one.rate, one.n) == (1.0, 2 * MADE[one.relation])
        assert (one.self_rate, one.self_n) == (0.0, MADE[one.relation])
        assert one.self_high is not None
        assert one.self_high > 0.0


def test_a_run_without_changed_cases_has_no_rates(tmp_path: Path) -> None:
    assert rates(make_run(tmp_path / "run", BASES, steady)) == []


def test_a_relation_of_the_users_own_asks_the_decision_to_stay(tmp_path: Path) -> None:
    before = source(description="A.")
    after = before.model_copy(update={"id": "mine", "of": "c0", "relation": "translated"})
    (one,) = rates(make_run(tmp_path / "run", [before, after], steady))
    assert (one.relation, one.rate, one.n) == ("translated", 1.0, 1)
    assert one.meaning == "A relation of the case file's own: the decision has to stay."


def test_the_same_run_gives_the_same_rates_in_any_order_of_arrival(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ALL, erratic)
    first = rates(folder)
    lines = folder.samples_path.read_text().splitlines(keepends=True)
    folder.samples_path.write_text("".join(reversed(lines)))
    assert rates(folder) == first
