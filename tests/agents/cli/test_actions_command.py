"""`python -m agents actions`: what each specialist may decide, and what the rules permit for a file's pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents import __main__ as command
from agents.specialists import registry
from agents.specialists.registry import labels_for, specialist_of, stages
from agents.specialists.rules import permitted, rules_decision
from common.console import BadInput
from tests.agents.made_specs import STANDARD
from tests.agents.scripted import GRAVE

MINE = (
    "specialist: quality\n"
    "actions: [{id: call_owner, do: Call the owner, means: talk, source: ours, can_be_undone: true}]"
)


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `--actions` registers is gone after the test."""
    monkeypatch.setattr(registry, "_SPECIALISTS", dict(registry._SPECIALISTS))


def here(*args: str | Path) -> int:
    return int(command.app(["actions", *map(str, args)], standalone_mode=False) or 0)


def document(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> Any:
    assert here(*args, "--json") == code
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def grave(folder: Path) -> Path:
    path = folder / "grave.json"
    path.write_text(GRAVE.model_dump_json(exclude_none=True))
    return path


def test_as_json_the_list_is_the_catalogues_with_what_each_predicate_means(capsys: pytest.CaptureFixture[str]) -> None:
    listed = document(capsys)
    assert [one["specialist"] for one in listed] == list(stages())
    for one in listed:
        specialist = specialist_of(one["specialist"])
        assert [action["id"] for action in one["actions"]] == list(specialist.actions_by_id)
        assert [option["value"] for option in one["options"]] == list(specialist.choice.values)
        assert one["predicates"].keys() == specialist.predicates.keys()
        assert all(one["predicates"].values())


def test_people_see_when_an_action_is_right_and_that_it_cannot_be_undone(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("--stage", "quality") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "quality: handling is publish, quarantine, block, measure_first" in err
    assert "NO" in err
    assert "ingestion" not in err


def test_what_is_permitted_for_a_pipeline_is_told_with_what_rules_the_others_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (one,) = document(capsys, "--on", grave(tmp_path))
    for stage, label in labels_for(GRAVE, STANDARD).items():
        specialist, told = specialist_of(stage), one["stages"][stage]
        may = permitted(specialist, GRAVE, label)
        assert told["label"] == (label.value if label else None)
        assert (told["choices"], told["permitted"]) == (list(may.choices), list(may.actions))
        assert told["wrong"].keys() == specialist.actions_by_id.keys() - set(may.actions)
        assert told["ruled_out"].keys() == set(specialist.choice.values) - set(may.choices)
        assert told["rules"] == rules_decision(specialist, GRAVE, label).model_dump(mode="json")
    here("--on", grave(tmp_path), "--stage", "quality")
    err = capsys.readouterr().err
    assert "quality (HIGH)" in err
    assert "not publish: too much is wrong for the data to be used" in err
    assert "the rules: block; " in err


def test_the_policy_decides_what_is_permitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [
        document(capsys, "--on", grave(tmp_path), "--policy", name)[0]["stages"]["quality"]["label"]
        for name in ("seed", "standard")
    ]
    assert labels == ["MEDIUM", "HIGH"]


def test_actions_of_ones_own_are_among_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    (listed,) = document(capsys, "--stage", "quality", "--actions", path)
    assert listed["actions"][-1]["id"] == "call_owner"
    with pytest.raises(BadInput, match=r"mine\.yaml.*: action 'call_owner' stands twice"):
        here("--actions", path, "--actions", path)


def test_a_refused_pipeline_keeps_its_place_and_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "- {id: typo, source: {type: x}, policy: {priority.cpu.hihg: 1}}\n"
        "- {id: extra, source: {type: x}, owner: me}\n- {id: fine, source: {type: x}}\n"
    )
    typo, extra, fine = document(capsys, "--on", path, code=2)
    assert typo["error"].startswith(f"{path}:1: policy.priority.cpu.hihg: unknown")
    assert extra["error"].startswith(f"{path}:2: unknown key 'owner'")
    assert fine["stages"].keys() == set(stages())


def test_an_unknown_stage_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"^stage 'cost' is not known; known: ingestion, quality, infrastructure$"):
        here("--stage", "cost")
