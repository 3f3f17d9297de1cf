"""Catalogue files: further actions of one's own, and one line for what is wrong with a file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from agents.specialists import registry
from agents.specialists.catalogue import packaged
from agents.specialists.registry import add_actions, labels_for, specialist_of
from agents.specialists.rules import permitted, rules_decision
from common.console import BadInput
from tests.agents.made_specs import STANDARD
from tests.agents.scripted import GRAVE

ACTION = (
    "- {id: call_owner, do: Call the owner, means: talk to whoever made the data, source: ours, can_be_undone: true"
)


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_SPECIALISTS", dict(registry._SPECIALISTS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def catalogue(path: Path, *actions: str, specialist: str = "quality") -> Path:
    path.write_text("\n".join([f"specialist: {specialist}", "actions:", *actions]) + "\n")
    return path


def test_a_users_action_comes_last_and_is_permitted_where_its_predicates_say(path: Path) -> None:
    before = permitted(specialist_of("quality"), GRAVE, labels_for(GRAVE, STANDARD)["quality"])
    add_actions(
        catalogue(path, ACTION + ", right_when: [high]}", ACTION.replace("call", "ask") + ", wrong_when: [high]}")
    )
    quality = specialist_of("quality")
    assert [action.id for action in quality.catalogue[-2:]] == ["call_owner", "ask_owner"]
    after = permitted(quality, GRAVE, labels_for(GRAVE, STANDARD)["quality"])
    assert after.actions == (*before.actions, "call_owner")
    assert after.right == (*before.right, "call_owner")


def test_the_rules_advise_a_users_action_where_there_is_nothing_better(path: Path) -> None:
    add_actions(catalogue(path, ACTION + ", right_when: [high]}"))
    quality = specialist_of("quality")
    only = replace(quality, catalogue=quality.catalogue[-1:])
    assert rules_decision(only, GRAVE, labels_for(GRAVE, STANDARD)["quality"]).ids == ("call_owner",)


@pytest.mark.parametrize(
    ("action", "line", "told"),
    [
        (ACTION + ", right_when: [hihg]}", None, "action 'call_owner': predicate 'hihg' is not known; allowed: "),
        (ACTION + ", wrong_when: [__import__('os')]}", None, "action 'call_owner': predicate \"__import__('os')\""),
        (ACTION.replace("call_owner", "backfill") + "}", None, "action 'backfill' stands twice"),
        (ACTION.replace("id: call_owner", "id: Call Owner") + "}", 3, "actions.0.id: found 'Call Owner'; "),
        (ACTION.replace("id: call_owner, ", "") + "}", 3, "actions.0.id: is missing"),
        (ACTION + ", right_if: [high]}", 3, "unknown key 'actions.0.right_if'; allowed: id, do, means, facts, "),
        (ACTION + ", spends: lots}", 3, "actions.0.spends: found 'lots'; input should be 'little', 'some' or 'much'"),
        (ACTION.replace("true", "yes please") + "}", 3, "actions.0.can_be_undone: found 'yes please'; "),
        (ACTION + ", when: later}", 3, "actions.0.when: found 'later'; "),
    ],
)
def test_what_is_wrong_with_a_file_is_told_by_file_line_and_field(
    path: Path, action: str, line: int | None, told: str
) -> None:
    with pytest.raises(BadInput) as refused:
        add_actions(catalogue(path, action))
    where = rf":{line}" if line else r"(:\d+)?"
    assert re.match(rf"{re.escape(str(path))}{where}: {re.escape(told)}", str(refused.value))
    assert "\n" not in str(refused.value)
    assert specialist_of("quality") is registry._SPECIALISTS["quality"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "specialist: nobody\nactions:\n" + ACTION + "}\n",
            ": stage 'nobody' is not known; known: ingestion, quality, ",
        ),
        ("specialist: quality\nactions: []\n", ":2: actions: found []; "),
        ("specialist: quality\n", ":1: actions: is missing"),
        ("- 1\n", ":1: entry: found [1]; allowed: a mapping of specialist, actions"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused(path: Path, text: str, told: str) -> None:
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        add_actions(path)
    assert str(refused.value).startswith(f"{path}{told}")


def test_a_folder_with_another_specialists_actions_is_refused(tmp_path: Path) -> None:
    catalogue(tmp_path / "actions.yaml", ACTION + "}", specialist="ingestion")
    with pytest.raises(BadInput, match=r"actions.yaml: specialist: found 'ingestion'; must be 'quality'$"):
        packaged(tmp_path, "quality")
