"""`python -m agents`: what it prints where, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agents import __main__ as command
from agents.schema import PipelineReport
from console import BadInput, CannotJudge
from serving.simulator import Fault

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "pipelines.yaml"
KEY = "sk-secret-123"
FAST = {"ttft_ms": 0, "itl_ms": 0}
Start = Callable[..., str]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No endpoint and no key but the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def shell(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    argv = [sys.executable, "-m", "agents", *map(str, args)]
    return subprocess.run(argv, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60, check=False)


def here(*args: str | Path) -> int:
    """The command in this process: its exit code; our errors come through."""
    return int(command.app([str(arg) for arg in args], standalone_mode=False) or 0)


def test_json_is_one_document_with_labels_reasons_recommendations_and_cost(
    start_simulator: Start, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    done = shell("run", EXAMPLES, "--base-url", start_simulator(**FAST), "--json", "--out", out)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    document = json.loads(done.stdout)
    assert document["simulated"] is True
    assert (document["prompt"], document["policy"]) == ("grounded v1", "standard")
    assert (document["pipelines_in"], document["pipelines_out"]) == (2, {"completed": 2})
    first, second = document["pipelines"]
    assert (first["severity"]["value"], first["priority"]["value"]) == ("LOW", "HIGH")
    assert (second["severity"]["value"], second["priority"]["value"]) == ("LOW", "NORMAL")
    for pipeline in (first, second):
        assert pipeline["stages_completed"] == 3
        assert pipeline["severity"]["rules"][0]["reason"]
        assert pipeline["priority"]["rules"][0]["reason"]
        for stage in pipeline["stages"]:
            assert len(stage["recommendation"]["actions"]) == 2
            assert stage["output_tokens"] > 0
            assert stage["prompt_tokens"] > 0
            assert stage["latency_s"] > 0
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert {report["pipeline_id"] for report in written} == {first["pipeline_id"], second["pipeline_id"]}
    assert KEY not in done.stdout + done.stderr + out.read_text()


def test_people_read_tables_on_stderr_that_say_the_answers_are_made_up(
    start_simulator: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipelines = tmp_path / "p.yaml"
    pipelines.write_text("- {id: good, source: {type: x}}\n- {id: bad, source: {type: x}, owner: me}\n")
    assert here("run", pipelines, EXAMPLES, "--base-url", start_simulator(**FAST)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "SIMULATOR" in err
    assert f"refused: {pipelines}:2: unknown key 'owner'" in err
    assert "good  (completed)" in err
    assert "ecommerce_pipeline_001  (completed)" in err


def test_an_endpoint_that_fails_exits_3_and_keeps_every_row_and_the_key(
    start_simulator: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    base_url = start_simulator(fault=Fault.HTTP_500)
    assert here("run", EXAMPLES, "--base-url", base_url, "--json", "--out", out) == 3
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["pipelines_out"] == {"failed": 2}
    assert [len(pipeline["stages"]) for pipeline in document["pipelines"]] == [3, 3]
    assert len(out.read_text().splitlines()) == 2
    assert KEY not in told.out + told.err + out.read_text()


def test_no_endpoint_exits_3_with_one_line_that_names_the_command_to_start_one() -> None:
    done = shell("run", EXAMPLES)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: no endpoint is known: start one with `python -m serving start --background`")


def test_an_endpoint_that_is_down_is_named_with_the_command_to_start_one() -> None:
    with pytest.raises(
        CannotJudge, match=r"^no endpoint answers at http://127\.0\.0\.1:9/v1 .*: start one with `python"
    ):
        here("run", EXAMPLES, "--base-url", "http://127.0.0.1:9/v1")


def test_bad_input_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    """No endpoint is there: it is never reached."""
    template = {stage: {"system": "s", "user": "{{ colour }}"} for stage in ("ingestion", "quality", "infrastructure")}
    prompt = tmp_path / "mine.yaml"
    prompt.write_text(json.dumps({"name": "mine", "version": 1, "description": "d", "stages": template}))
    for arguments, message in (
        (["run", "gone.yaml"], "gone.yaml: there is no such file"),
        (["run", EXAMPLES, "--prompt", "fancy"], "prompt 'fancy' is not known; known: grounded, plain"),
        (["run", EXAMPLES, "--policy", "harsh"], "policy 'harsh' is not known; known: seed, standard"),
        (["run", EXAMPLES, "--prompt", prompt], "prompt mine: stage ingestion: 'colour' is undefined"),
        (["run", EXAMPLES, "--base-url", "ftp://x"], "--base-url: found 'ftp://x'; allowed is http(s)://HOST:PORT/v1"),
        (["run", EXAMPLES, "--base-url", "http://x:port"], "--base-url: found 'http://x:port'; allowed is"),
        (["run", EXAMPLES, "--base-url", f"http://me:{KEY}@h/v1"], "--base-url: holds a user or password"),
    ):
        with pytest.raises(BadInput) as refused:
            here(*arguments)
        assert str(refused.value).startswith(message)
        assert KEY not in str(refused.value)


def test_an_endpoint_that_is_down_leaves_an_earlier_output_file_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("an earlier run\n")
    with pytest.raises(CannotJudge):
        here("run", EXAMPLES, "--base-url", "http://127.0.0.1:9/v1", "--out", out)
    assert out.read_text() == "an earlier run\n"


def test_an_output_file_that_cannot_be_written_is_refused_before_the_first_call(
    start_simulator: Start, tmp_path: Path
) -> None:
    out = tmp_path / "no" / "folder.jsonl"
    with pytest.raises(BadInput) as refused:
        here("run", EXAMPLES, "--base-url", start_simulator(**FAST), "--out", out)
    assert str(refused.value) == f"--out {out}: cannot be written (No such file or directory)"


def test_a_model_that_is_not_served_names_those_that_are(start_simulator: Start) -> None:
    with pytest.raises(BadInput, match=r"--model: 'gpt-9' is not served at .*; served: plumbline-simulator"):
        here("run", EXAMPLES, "--base-url", start_simulator(**FAST), "--model", "gpt-9")


@pytest.mark.parametrize("ending", ["\n", "\r\n", " "])
def test_a_line_end_on_the_key_is_taken_off(
    start_simulator: Start, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + ending)
    assert here("run", EXAMPLES, "--base-url", start_simulator(**FAST), "--json") == 0


@pytest.mark.parametrize("key", ["sk-\nsecret-123", "sk-secret-123é"])
def test_a_key_that_no_header_can_hold_is_refused_without_telling_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(BadInput, match=r"^OPENAI_API_KEY: ") as refused:
        here("run", EXAMPLES, "--base-url", "http://127.0.0.1:9/v1")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([], 0),
        (["completed"], 0),
        (["completed", "partial"], 3),
        (["failed"], 3),
        (["invalid"], 2),
        (["invalid", "failed"], 2),
    ],
)
def test_exit_codes(statuses: list[Any], code: int) -> None:
    now = datetime.now(UTC)
    reports = [PipelineReport(pipeline_id="p", start_time=now, end_time=now, status=status) for status in statuses]
    assert command.exit_code(reports) == code


@pytest.mark.parametrize(("what", "names"), [("policies", ["seed", "standard"]), ("prompts", ["grounded", "plain"])])
def test_presets_are_listed_for_people_and_as_json(
    capsys: pytest.CaptureFixture[str], what: str, names: list[str]
) -> None:
    here(what)
    out, err = capsys.readouterr()
    assert out == ""
    assert all(name in err for name in names)
    here(what, "--json")
    out, err = capsys.readouterr()
    assert err == ""
    assert [one["name"] for one in json.loads(out)] == names
