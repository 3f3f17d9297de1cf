"""What people read: rendered from templates and facts, so that no figure in it is anybody's invention."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.facts.spec import PipelineSpec
from agents.labels.label import Label, RuleFired
from agents.labels.policy import Policy
from agents.specialists.decision import MOST_ACTIONS
from agents.specialists.registry import labels_for, specialist_of, specialists, stages
from agents.specialists.wording import action_in_words, choice_in_words, fact_in_words, in_words, reason_in_words
from tests.agents.made_specs import POLICY, SPECS, STANDARD

FIGURE = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
HOT = PipelineSpec.model_validate(
    {"id": "p", "source": {"type": "x"}, "infrastructure_metrics": {"cpu": 40, "memory": 82}}
)


def figures(*texts: str) -> set[float]:
    return {float(found) for text in texts for found in FIGURE.findall(text)}


def numbers(document: object) -> Iterator[float]:
    """Every number that stands in a document, those inside its texts too."""
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        for one in document:
            yield from numbers(one)
    elif isinstance(document, str):
        yield from figures(document)
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield from figures(f"{abs(document)}", f"{abs(document):.10g}", f"{abs(document):g}")


def test_an_action_is_told_with_the_labels_reason_about_its_facts() -> None:
    infrastructure, label = specialist_of("infrastructure"), labels_for(HOT, STANDARD)["infrastructure"]
    action = infrastructure.actions_by_id["add_memory"]
    assert action_in_words(infrastructure, action, HOT, label) == "Add memory: memory is at 82 %, above 72"


def test_without_a_reason_of_the_label_the_facts_themselves_are_told() -> None:
    infrastructure = specialist_of("infrastructure")
    action = infrastructure.actions_by_id["add_memory"]
    assert action_in_words(infrastructure, action, HOT, None) == "Add memory: memory is 82 %"
    bare = PipelineSpec.model_validate({"id": "p", "source": {"type": "x"}})
    assert action_in_words(infrastructure, action, bare, None) == "Add memory"


@given(spec=SPECS, policy=POLICY, stage=st.sampled_from(stages()), data=st.data())
def test_each_figure_that_is_told_stands_in_the_facts_in_the_policy_or_in_what_its_rules_worked_out(
    spec: PipelineSpec, policy: Policy, stage: str, data: st.DataObject
) -> None:
    specialist, label = specialist_of(stage), labels_for(spec, policy)[stage]
    actions = data.draw(st.lists(st.sampled_from(specialist.catalogue), min_size=1, max_size=MOST_ACTIONS))
    choice = data.draw(st.sampled_from(specialist.choice.values))
    told = [choice_in_words(specialist, choice), *(action_in_words(specialist, one, spec, label) for one in actions)]
    known = {*numbers(spec.model_dump(mode="json")), *numbers(specialist.told(spec)), *numbers(policy.model_dump())}
    worked_out = figures(*(rule.reason for rule in label.rules)) if label else set()
    assert figures(*told) <= known | worked_out
    assert all("\n" not in sentence for sentence in told)


@given(spec=SPECS, words=st.text(max_size=100))
def test_the_owners_words_never_stand_in_a_sentence_of_ours(spec: PipelineSpec, words: str) -> None:
    mark = "\u2603"
    described = spec.model_copy(
        update={"source": spec.source.model_copy(update={"description": f"{mark}{words}{mark}"})}
    )
    for specialist in specialists():
        label = labels_for(described, STANDARD)[specialist.name]
        for action in specialist.catalogue:
            assert mark not in action_in_words(specialist, action, described, label)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("memory_percent", 82, "memory is 82 %"),
        ("latency_need", "5 min", "latency need is 5 min"),
        ("storage_growth_gb_per_day", 12.5, "storage growth is 12.5 GB a day"),
        ("storage_used_gb", 450, "storage used is 450 GB"),
        ("query_latency_ms", 250, "query latency is 250 ms"),
        ("deletes_matter", True, "deletes matter: yes"),
        ("log_access", False, "log access: no"),
        ("cpu_percent_history", [68.0, 72.5], "CPU percent history is 68, 72.5"),
        ("oom_kills", 3, "OOM kills is 3"),
    ],
)
def test_facts_in_words(name: str, value: Any, words: str) -> None:
    assert fact_in_words(name, value) == words


@pytest.mark.parametrize(
    ("reason", "facts", "words"),
    [
        ("memory_percent is 82, above 72", {"memory_percent": 82}, "memory is at 82 %, above 72"),
        ("freshness is 3 h, above its SLA of 2 h", {"freshness": "3 h"}, "freshness is 3 h, above its SLA of 2 h"),
        ("held: cpu_percent is 70, HIGH until", {"cpu_percent": 70}, "held: CPU is at 70 %, HIGH until"),
        ("storage is 99 % full, above 97 %", {"storage_used_gb": 99}, "storage is 99 % full, above 97 %"),
        ("cpu_percent is missing", {}, "cpu_percent is missing"),
    ],
)
def test_reasons_in_words(reason: str, facts: dict[str, Any], words: str) -> None:
    assert reason_in_words(RuleFired(rule="r", level="HIGH", reason=reason, facts=facts)) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [("cpu_percent", "CPU"), ("latency_slo_ms", "latency SLO"), ("issue_count", "issue count"), ("type", "type")],
)
def test_names_in_words(name: str, words: str) -> None:
    assert in_words(name) == words


@given(spec=SPECS, stage=st.sampled_from(stages()))
def test_what_is_told_is_plain_json_and_holds_no_fact_that_is_not_known(spec: PipelineSpec, stage: str) -> None:
    told = specialist_of(stage).told(spec)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert None not in told.values()


def test_a_label_of_which_nothing_is_said_leaves_the_facts() -> None:
    label = Label(
        kind="priority", value="NORMAL", policy="p", rules=(RuleFired(rule="r", level="NORMAL", reason="ok"),)
    )
    infrastructure = specialist_of("infrastructure")
    told = action_in_words(infrastructure, infrastructure.actions_by_id["add_memory"], HOT, label)
    assert told == "Add memory: memory is 82 %"
