"""`python -m agents policies`: the numbers of every policy, and why a pipeline has its labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from agents.cli.policies_command import policies
from agents.labels.policy import load_policy
from common.console import BadInput

EXAMPLES = Path(__file__).parents[3] / "examples" / "pipelines.yaml"

SICK = """\
- id: sick
  source: {type: Kafka}
  quality_metrics: {completeness: 40, consistency: 100}
  infrastructure_metrics: {cpu: 92, memory: 40, storage_used: 990, storage_total: 1000, oom_kills: 0}
- id: unknown
  source: {type: Kafka}
  infrastructure_metrics: {memory: 95}
"""
WRONG = """\
- id: typo
  source: {type: Kafka}
  policy: {priority.cpu.hihg: 75}
- id: extra
  source: {type: Kafka}
  owner: me
- id: fine
  source: {type: Kafka}
  infrastructure_metrics: {cpu: 60, memory: 40}
  policy: {priority.cpu.high: 50}
"""


@pytest.fixture
def sick(tmp_path: Path) -> Path:
    path = tmp_path / "sick.yaml"
    path.write_text(SICK)
    return path


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    return path


def here(*args: str | Path) -> int:
    """The command in this process: its exit code; our errors come through."""
    app = typer.Typer()
    app.command()(policies)
    return int(app([str(arg) for arg in args], standalone_mode=False) or 0)


def document(capsys: pytest.CaptureFixture[str], *args: str | Path) -> Any:
    here(*args, "--json")
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


# --- the list --------------------------------------------------------------------------------------------


def test_every_rule_has_a_row_under_the_key_that_set_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert here() == 0
    out, err = capsys.readouterr()
    assert out == ""
    (row,) = [line for line in err.splitlines() if "priority.memory" in line]
    assert row.count("critical 85") == 3
    (freshness,) = [line for line in err.splitlines() if "severity.freshness" in line]
    assert [cell.strip() for cell in freshness.strip("│").split("│")] == [
        "severity.freshness",
        "medium 1, high 2",
        "off",
        "medium 1, high 2",
    ]


def test_as_json_the_list_is_the_policies_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    listed = document(capsys)
    assert listed == [load_policy(name).model_dump() for name in ("adaptive", "seed", "standard")]


def test_one_policy_with_changes_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = document(capsys, "--policy", "seed", "--set", "priority.mean.high=60", "--set", "severity.mean.low=80")
    assert one["name"] == "seed (changed: severity.mean.low=80, priority.mean.high=60)"
    assert (one["priority"]["mean"]["high"], one["severity"]["mean"]["low"]) == (60, 80)


def test_a_wrong_setting_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^--set priority\.cpu\.hihg: unknown; allowed in priority\.cpu: critical, "):
        here("--set", "priority.cpu.hihg=75")


# --- why -------------------------------------------------------------------------------------------------


def test_the_missions_examples_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("--explain", EXAMPLES) == 0
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.split("iot_sensor_pipeline_002")
    assert "ecommerce_pipeline_001  (policy standard)" in first
    assert "severity LOW" in first
    assert "priority HIGH" in first
    assert "priority NORMAL" in second
    assert "HIGH      from_high: memory_percent is 82, above 72  [memory_percent = 82]" in first
    assert "one reading does not count  [memory_percent = 71]" in second


def test_rules_that_fired_but_did_not_decide_are_told_too(sick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here("--explain", sick)
    text = capsys.readouterr().err
    assert (
        "CRITICAL  disk_full: storage is 99 % full, above 97 %  [storage_used_gb = 990, storage_total_gb = 1000]"
        in text
    )
    assert "MEDIUM    quality_mean: mean of completeness and consistency is 70, at least 70" in text
    assert "HIGH      dimension_floor: completeness_percent is 40, below 60  [completeness_percent = 40]" in text


def test_rules_without_facts_are_told_shortly(sick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here("--explain", sick)
    text = capsys.readouterr().err
    assert "freshness (freshness, freshness_sla); duplicate_keys (uniqueness_percent)" in text
    assert "weak_signal (query_latency_ms, latency_slo_ms, error_rate_percent, load_per_core)" in text
    assert "priority UNKNOWN, at least CRITICAL" in text
    assert "UNKNOWN   missing_metric: cpu_percent is missing" in text


def test_a_rule_that_is_off_is_not_said_to_lack_facts(sick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here("--explain", sick, "--policy", "seed")
    assert "freshness" not in capsys.readouterr().err


def test_as_json_an_explanation_is_one_document(sick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = document(capsys, "--explain", sick, "--set", "priority.disk=null")
    assert told["policy"] == "standard (changed: priority.disk=null)"
    assert told["refused"] == []
    ill, unknown = told["pipelines"]
    assert (ill["pipeline_id"], ill["severity"]["label"]["value"], ill["priority"]["label"]["value"]) == (
        "sick",
        "HIGH",
        "CRITICAL",
    )
    assert [rule["rule"] for rule in ill["priority"]["fired"]] == ["from_high", "above_critical"]
    assert ill["priority"]["fired"][1]["facts"] == {"cpu_percent": 92}
    assert {"rule": "error_spike", "missing": ["error_rate_percent"]} in ill["priority"]["not_judged"]
    assert (unknown["priority"]["label"]["value"], unknown["priority"]["label"]["at_least"]) == ("UNKNOWN", "CRITICAL")


def test_a_pipelines_own_policy_holds_and_a_refused_one_is_shown_with_exit_code_2(
    wrong: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("--explain", wrong) == 2
    text = capsys.readouterr().err
    assert f"refused: {wrong}:1: policy.priority.cpu.hihg: unknown; allowed in priority.cpu: critical, " in text
    assert "unknown key 'owner'" in text
    assert "standard (changed: priority.cpu.high=50)" in text.partition("fine  (")[2]
    assert "HIGH      from_high: cpu_percent is 60, above 52  [cpu_percent = 60]" in text


def test_refused_pipelines_stand_in_the_document_too(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("--explain", wrong, "--json") == 2
    told = json.loads(capsys.readouterr().out)
    assert [one["pipeline_id"] for one in told["refused"]] == ["typo", "extra"]
    assert [one["pipeline_id"] for one in told["pipelines"]] == ["fine"]


def test_a_pipelines_words_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"id": "a\x1b[2Jb [bold]c", "source": {"type": "x"}}))
    here("--explain", path)
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert "[bold]c" in text


def test_a_file_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"^nowhere\.yaml: there is no such file$"):
        here("--explain", "nowhere.yaml")
