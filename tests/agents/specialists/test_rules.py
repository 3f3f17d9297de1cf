"""What the rules permit and what they decide: for any pipeline there is something, and it is always the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.facts.spec import PipelineSpec
from agents.labels.labelling import stricter
from agents.labels.policy import Policy
from agents.specialists.registry import labels_for, specialist_of, specialists, stages
from agents.specialists.rules import Permitted, permitted, rules_decision, why_not
from agents.specialists.specialist import Action
from tests.agents.made_specs import POLICY, SPECS, STANDARD
from tests.agents.scripted import GRAVE

STAGE = st.sampled_from(stages())
ADDED = Action(id="added", do="Do something else", means="nothing in particular", source="ours", can_be_undone=True)


@given(spec=SPECS, policy=POLICY)
def test_something_is_always_permitted_and_what_the_rules_decide_is_among_it(
    spec: PipelineSpec, policy: Policy
) -> None:
    for stage, label in labels_for(spec, policy).items():
        specialist = specialist_of(stage)
        may, decision = permitted(specialist, spec, label), rules_decision(specialist, spec, label)
        assert may.choices
        assert may.actions
        assert set(may.right) <= set(may.actions)
        assert may.refuses(decision.choice.id, decision.ids) is None
        assert len(set(decision.ids)) == len(decision.ids)
        assert set(decision.facts) <= specialist.told(spec).keys()
        assert (decision.by, decision.reading, decision.note) == ("rules", None, None)
        assert {picked.probability for picked in (decision.choice, *decision.actions)} == {None}


@given(spec=SPECS, policy=POLICY)
def test_the_same_facts_give_the_same_decision_however_they_were_read(spec: PipelineSpec, policy: Policy) -> None:
    again = PipelineSpec.model_validate_json(spec.model_dump_json())
    for stage, label in labels_for(spec, policy).items():
        specialist = specialist_of(stage)
        assert permitted(specialist, again, label) == permitted(specialist, spec, label)
        assert rules_decision(specialist, again, label) == rules_decision(specialist, spec, label)


@given(spec=SPECS)
def test_without_a_label_something_is_permitted_too(spec: PipelineSpec) -> None:
    for specialist in specialists():
        may = permitted(specialist, spec, None)
        assert may.actions
        assert may.refuses(rules_decision(specialist, spec, None).choice.id, may.actions) is None


@given(spec=SPECS, stage=STAGE, data=st.data())
def test_one_more_action_changes_nothing_about_the_others(spec: PipelineSpec, stage: str, data: st.DataObject) -> None:
    specialist, label = specialist_of(stage), labels_for(spec, STANDARD)[stage]
    names = st.lists(st.sampled_from(sorted(specialist.predicates)), max_size=3).map(tuple)
    added = ADDED.model_copy(update={"right_when": data.draw(names), "wrong_when": data.draw(names)})
    before, after = permitted(specialist, spec, label), permitted(specialist.with_actions((added,)), spec, label)
    assert after.choices == before.choices
    assert tuple(one for one in after.actions if one != "added") == before.actions
    assert tuple(one for one in after.right if one != "added") == before.right


@given(spec=SPECS, policy=POLICY, words=st.text(max_size=200))
def test_the_owners_description_and_the_id_change_nothing_that_is_permitted(
    spec: PipelineSpec, policy: Policy, words: str
) -> None:
    source = spec.source.model_copy(update={"description": words or None})
    told = spec.model_copy(update={"source": source, "id": words or "p"})
    labels = labels_for(spec, policy)
    assert labels_for(told, policy) == labels
    for stage, label in labels.items():
        assert permitted(specialist_of(stage), told, label) == permitted(specialist_of(stage), spec, label)


@given(spec=SPECS, stage=STAGE)
def test_an_action_is_permitted_exactly_where_nothing_rules_it_out(spec: PipelineSpec, stage: str) -> None:
    specialist, label = specialist_of(stage), labels_for(spec, STANDARD)[stage]
    may = permitted(specialist, spec, label)
    for action in specialist.catalogue:
        assert (action.id in may.actions) == (why_not(specialist, action, spec, label) == [])


@given(spec=SPECS, stage=STAGE)
def test_a_choice_that_is_ruled_out_has_a_reason_and_is_not_permitted(spec: PipelineSpec, stage: str) -> None:
    specialist, label = specialist_of(stage), labels_for(spec, STANDARD)[stage]
    ruled_out = specialist.choice.ruled_out(spec, label)
    assert ruled_out.keys() <= set(specialist.choice.values)
    assert all(ruled_out.values())
    assert specialist.choice.preferred(spec, label) not in ruled_out
    assert set(permitted(specialist, spec, label).choices) == set(specialist.choice.values) - ruled_out.keys()


@pytest.mark.parametrize(
    ("choice", "actions", "refused"),
    [
        ("batch", ("a",), None),
        ("batch", ("b", "a"), None),
        ("cdc", ("a",), "cdc is not permitted here"),
        ("batch", ("a", "c"), "c is not permitted here"),
        ("batch", ("c", "d"), "c, d is not permitted here"),
        ("cdc", ("c",), "cdc is not permitted here"),
    ],
)
def test_what_is_not_permitted_is_named(choice: str, actions: tuple[str, ...], refused: str | None) -> None:
    assert Permitted(("batch", "streaming"), ("a", "b"), ("a",)).refuses(choice, actions) == refused


def test_where_a_choice_rules_everything_out_what_the_rules_prefer_is_permitted() -> None:
    quality = specialist_of("quality")
    nothing = replace(quality.choice, ruled_out=lambda _spec, _label: dict.fromkeys(quality.choice.values, "no"))
    label = labels_for(GRAVE, STANDARD)["quality"]
    assert permitted(replace(quality, choice=nothing), GRAVE, label).choices == ("block",)


EACH_SPECIALIST = pytest.mark.parametrize("specialist", specialists(), ids=lambda one: one.name)


@EACH_SPECIALIST
def test_each_predicate_says_what_holds_and_whence_it_is_known(specialist: Any) -> None:
    for name, predicate in specialist.predicates.items():
        says = (predicate.__doc__ or "").partition("\n\n")[0]
        assert says.rstrip().endswith(")."), name  # the source, in brackets


@EACH_SPECIALIST
def test_each_predicate_is_needed_by_some_action_or_choice(specialist: Any) -> None:
    named = {name for action in specialist.catalogue for name in (*action.right_when, *action.wrong_when)}
    assert specialist.predicates.keys() - named == set()


@EACH_SPECIALIST
def test_a_catalogue_holds_plausible_wrong_actions_that_the_rules_never_advise(specialist: Any) -> None:
    assert [action for action in specialist.catalogue if not action.right_when and action.wrong_when]
    assert [action for action in specialist.catalogue if not action.can_be_undone]


@EACH_SPECIALIST
def test_what_people_read_holds_no_figure_of_its_own_and_no_full_stop(specialist: Any) -> None:
    for action in specialist.catalogue:
        assert not any(char.isdigit() for char in action.do), action.id
        assert not action.do.endswith("."), action.id


@given(spec=SPECS, policy=POLICY, own=POLICY, stage=STAGE)
def test_a_pipelines_own_policy_never_opens_up_an_action_that_the_runs_does_not(
    spec: PipelineSpec, policy: Policy, own: Policy, stage: str
) -> None:
    specialist = specialist_of(stage)
    if specialist.label is None:
        return
    by_run, by_own = (specialist.label.decide(spec, one) for one in (policy, own))
    given_label = stricter(by_run, by_own, specialist.label.rank)
    assert set(permitted(specialist, spec, given_label).actions) <= set(permitted(specialist, spec, by_run).actions)
