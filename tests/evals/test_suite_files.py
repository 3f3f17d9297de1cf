"""The suite file: checked whole before the first call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.policy import policy_names
from agents.prompt import prompt_names
from console import BadInput
from evals.case import dump_cases
from evals.generate import generate
from evals.suite import load_plan

ROOT = Path(__file__).parents[2]
RIGHT = """\
name: small
prompts: [plain, grounded]
cases: {count: 4, seed: 3}
"""

PROMPTS, POLICIES = ", ".join(prompt_names()), ", ".join(policy_names())
OR_FILE = "or a path ending in .yaml"
NONE_GIVEN = "list should have at least 1 item after validation, not 0"
TOO_LOW = "input should be greater than or equal to 1"
KEYS = "name, prompts, cases, policy, concurrency, timeout_s"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(text: str) -> str:
    Path("suite.yaml").write_text(text)
    with pytest.raises(BadInput) as refused:
        load_plan(Path("suite.yaml"))
    return str(refused.value)


def prompt(name: str, user: str) -> str:
    stage = {"system": "s", "user": user}
    stages = {"ingestion": stage, "quality": stage, "infrastructure": stage}
    return json.dumps({"name": name, "version": 1, "description": "d", "stages": stages})


def test_a_plan_holds_everything_the_suite_names(folder: Path) -> None:
    Path("suite.yaml").write_text(RIGHT)
    plan = load_plan(Path("suite.yaml"))
    assert [variant.name for variant in plan.variants] == ["plain", "grounded"]
    assert list(plan.cases) == generate(4, 3)
    assert plan.policy.name == "standard"


def test_the_example_suite_is_at_least_two_prompts_on_24_cases() -> None:
    plan = load_plan(ROOT / "examples" / "suite.yaml")
    assert len(plan.variants) >= 2
    assert len(plan.cases) >= 24


def test_a_case_file_is_found_beside_the_suite(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(dump_cases(generate(3, 9)))
    suite = tmp_path / "suite.yaml"
    suite.write_text("name: a\nprompts: [plain]\ncases: {file: own.jsonl}\n")
    assert list(load_plan(suite).cases) == generate(3, 9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("plain, grounded", "plain, fancy", f"prompt 'fancy' is not known; known: {PROMPTS}, {OR_FILE}"),
        ("plain, grounded", "plain, plain", "suite.yaml:1: prompts: a prompt stands twice"),
        ("plain, grounded", "", f"suite.yaml:2: prompts: found []; {NONE_GIVEN}"),
        ("count: 4, seed: 3", "count: 4, file: a.jsonl", "suite.yaml:3: cases: give either count (and seed) or file"),
        ("count: 4, seed: 3", "seed: 3", "suite.yaml:3: cases: give either count (and seed) or file"),
        ("count: 4", "count: 0", f"suite.yaml:3: cases.count: found 0; {TOO_LOW}"),
        ("count: 4, seed: 3", "file: gone.jsonl", "gone.jsonl: cannot be read (No such file or directory)"),
        ("name: small", "name: small\npolicy: harsh", f"policy 'harsh' is not known; known: {POLICIES}, {OR_FILE}"),
        ("name: small", "name: small\nmodel: big", f"suite.yaml:2: unknown key 'model'; allowed: {KEYS}"),
        ("name: small", "name: small\nconcurrency: 0", f"suite.yaml:2: concurrency: found 0; {TOO_LOW}"),
        ("cases: {count: 4, seed: 3}", "", "suite.yaml:1: cases: is missing"),
        ("name: small", "name: [", "suite.yaml:3: is not YAML: did not find expected ',' or ']'"),
        (RIGHT, "", "suite.yaml: is empty"),
    ],
)  # fmt: skip
def test_a_wrong_suite_gets_one_line(folder: Path, old: str, new: str, message: str) -> None:
    assert refusal(RIGHT.replace(old, new)) == message


def test_ten_megabytes_where_a_name_should_be_get_a_short_line(folder: Path) -> None:
    for key in ("policy", "name"):
        assert (
            len(refusal(f"{RIGHT.replace('name: small', 'name: a' if key == 'policy' else '')}{key}: {'x' * 10**7}\n"))
            < 300
        )


def test_two_prompt_files_may_not_carry_one_name(folder: Path) -> None:
    Path("a.yaml").write_text(prompt("same", "{{ facts }}"))
    Path("b.yaml").write_text(prompt("same", "{{ facts }} b"))
    message = refusal(RIGHT.replace("plain, grounded", "a.yaml, b.yaml"))
    assert message == "suite.yaml: prompts: two files name their variant alike; names must differ"


def test_a_prompt_that_fails_on_any_case_is_refused_before_the_first_call(folder: Path) -> None:
    Path("a.yaml").write_text(prompt("mine", "{{ label.value }}"))  # ingestion has no label
    message = refusal(RIGHT.replace("plain, grounded", "a.yaml"))
    assert message.startswith("prompt mine: stage ingestion: ")
