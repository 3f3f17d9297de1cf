"""`python -m agents run`: what it prints where, and how it exits."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import __main__ as command
from agents.asking.variant import load_prompt
from agents.cli import run_command
from agents.reports import batch
from agents.specialists import registry
from common.console import BadInput, CannotJudge
from serving.simulator import Fault

ROOT = Path(__file__).parents[3]
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


def untraced(args: tuple[str | Path, ...]) -> list[str]:
    """The arguments as words; `run` without traces where a test does not ask for them, since a store costs seconds."""
    words = [str(arg) for arg in args]
    return [*words, "--trace", "none"] if words[0] == "run" and "--trace" not in words else words


def shell(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    argv = [sys.executable, "-m", "agents", *untraced(args)]
    return subprocess.run(argv, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60, check=False)


def here(*args: str | Path) -> int:
    """The command in this process: its exit code; our errors come through."""
    return int(command.app(untraced(args), standalone_mode=False) or 0)


@pytest.mark.slow
def test_json_is_one_document_with_labels_reasons_decisions_and_cost(start_simulator: Start, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = shell("run", EXAMPLES, "--base-url", start_simulator(**FAST), "--json", "--out", out)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    document = json.loads(done.stdout)
    assert document["simulated"] is True
    assert (document["prompt"], document["policy"]) == (f"write v{load_prompt('write').version}", "standard")
    assert (document["pipelines_in"], document["pipelines_out"]) == (2, {"completed": 2})
    first, second = document["pipelines"]
    labels = [{kind: label["value"] for kind, label in one["labels"].items()} for one in (first, second)]
    assert labels == [{"severity": "LOW", "priority": "HIGH"}, {"severity": "LOW", "priority": "NORMAL"}]
    for pipeline in (first, second):
        assert pipeline["stages_completed"] == 3
        assert all(label["rules"][0]["reason"] for label in pipeline["labels"].values())
        for stage in pipeline["stages"]:
            assert stage["decision"]["by"] == "model"
            assert stage["decision"]["choice"]["probability"] > 0
            assert stage["decision"]["reading"]["source"] == "after the mask"
            assert stage["rules"]["by"] == "rules"
            assert len(stage["told"]) == 1 + len(stage["decision"]["actions"])
            assert stage["output_tokens"] > 0
            assert stage["prompt_tokens"] > 0
            assert stage["latency_s"] > 0
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert {report["pipeline_id"] for report in written} == {first["pipeline_id"], second["pipeline_id"]}
    assert KEY not in done.stdout + done.stderr + out.read_text()


@pytest.mark.slow
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
    assert re.search(r"\n  quality  \(by the model, \d+ tokens, \d+\.\d s\)\n", err)
    assert re.search(r"\n    handling \w+: .*  \[p 0\.\d\d\]\n    - [A-Z].*  \[p 0\.\d\d\]\n", err)
    assert "    the rules: " in err
    assert "not calibrated" in err


@pytest.mark.slow
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


@pytest.mark.slow
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
    prompt = tmp_path / "mine.yaml"
    stages = {"quality": {"ask": "{{ colour }}"}}
    prompt.write_text(json.dumps({"name": "mine", "version": 1, "description": "d", "ask": "write", "stages": stages}))
    actions = tmp_path / "actions.yaml"
    actions.write_text("specialist: quality\nactions: [{id: x}]\n")
    for arguments, message in (
        (["run", "gone.yaml"], "gone.yaml: there is no such file"),
        (
            ["run", EXAMPLES, "--prompt", "fancy"],
            "prompt 'fancy' is not known; known: read, read_all, read_prior, reason, write, ",
        ),
        (["run", EXAMPLES, "--policy", "harsh"], "policy 'harsh' is not known; known: adaptive, seed, standard"),
        (["run", EXAMPLES, "--prompt", prompt], "prompt mine: stage quality: 'colour' is undefined"),
        (["run", EXAMPLES, "--actions", actions], f"{actions}:2: actions.0.id: "),
        (["run", EXAMPLES, "--add", "top_k=five"], "--add top_k: found 'five'; allowed: a JSON value"),
        (["run", EXAMPLES, "--rename", "max_tokens"], "--rename: found 'max_tokens'; allowed: NAME=VALUE"),
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


def test_rows_of_an_earlier_run_are_never_overwritten(start_simulator: Start, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    base_url = start_simulator(**FAST)
    assert here("run", EXAMPLES, "--base-url", base_url, "--out", out) == 0
    rows = out.read_text()
    with pytest.raises(BadInput, match=r"holds rows already; go on with them by --resume, or name another file$"):
        here("run", EXAMPLES, "--base-url", base_url, "--out", out)
    assert out.read_text() == rows


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


# --- long runs -------------------------------------------------------------------------------------------


def many(path: Path, count: int) -> Path:
    lines = [
        {"id": f"p{number:05d}", "source": {"type": "Kafka", "volume": f"{number + 1} GB/day"}}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def ids_in(out: Path) -> list[str]:
    return sorted(json.loads(line)["pipeline_id"] for line in out.read_bytes().splitlines())


@pytest.mark.slow
def test_a_long_run_shows_counts_and_has_a_row_for_every_pipeline(
    start_simulator: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    files = many(tmp_path / "in.jsonl", 50)
    assert here("run", files, "--base-url", start_simulator(**FAST), "--out", out) == 0
    err = capsys.readouterr().err
    assert "50 pipelines (SIMULATOR" in err
    assert "completed 50" in err
    assert "p00001" not in err
    assert ids_in(out) == [f"p{number:05d}" for number in range(50)]


def test_json_has_the_pipelines_in_the_order_of_the_file(
    start_simulator: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = many(tmp_path / "in.jsonl", 40)
    assert here("run", files, "--base-url", start_simulator(**FAST), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["pipeline_id"] for one in document["pipelines"]] == [f"p{number:05d}" for number in range(40)]
    assert document["counts"]["statuses"] == {"completed": 40}


@pytest.mark.slow
def test_resume_asks_only_what_has_no_answer(
    start_simulator: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, files = tmp_path / "out.jsonl", many(tmp_path / "in.jsonl", 30)
    options: list[str | Path] = ["--out", out, "--base-url", start_simulator(**FAST)]
    assert here("run", files, *options) == 0
    rows = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(rows[:10]) + rows[10][:50])
    assert here("run", files, *options, "--resume", "--json") == 0
    told = capsys.readouterr()
    assert f"10 of 30 pipelines have their answer in {out}; 20 are asked now" in told.err
    document = json.loads(told.out)
    assert (document["pipelines_in"], document["pipelines_kept"], document["pipelines_out"]) == (
        30,
        10,
        {"completed": 30},
    )
    assert out.read_bytes().splitlines(keepends=True)[:10] == rows[:10]
    assert ids_in(out) == [f"p{number:05d}" for number in range(30)]
    assert here("run", files, *options, "--resume") == 0
    assert "30 of 30 pipelines have their answer" in capsys.readouterr().err


def test_a_refused_pipeline_keeps_its_exit_code_when_the_run_is_gone_on_with(
    start_simulator: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, files = tmp_path / "out.jsonl", many(tmp_path / "in.jsonl", 3)
    with files.open("a") as file:
        file.write("not JSON\n")
    options: list[str | Path] = ["--out", out, "--base-url", start_simulator(**FAST), "--json"]
    assert here("run", files, *options) == 2
    capsys.readouterr()
    assert here("run", files, *options, "--resume") == 2
    document = json.loads(capsys.readouterr().out)
    assert (document["pipelines_in"], document["pipelines_out"]) == (4, {"completed": 3, "invalid": 1})


def test_what_a_pipeline_or_a_model_says_cannot_pass_for_a_line_of_ours(
    start_simulator: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "p.jsonl"
    files.write_text(json.dumps({"id": "a  (completed)\n  priority NORMAL: forged", "source": {"type": "x"}}) + "\n")
    assert here("run", files, "--base-url", start_simulator(**FAST)) == 0
    lines = capsys.readouterr().err.splitlines()
    assert not any(line.strip().startswith("priority NORMAL: forged") for line in lines)


def test_more_connections_than_the_system_allows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, 512))
    with pytest.raises(BadInput, match=r"^concurrency: needs 3272 open files, and this user may have 512"):
        here("run", EXAMPLES, "--concurrency", "1024")


def test_resume_needs_to_know_where_the_rows_are() -> None:
    with pytest.raises(BadInput, match=r"^--resume: needs --out FILE.jsonl"):
        here("run", EXAMPLES, "--resume")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_keeps_its_rows_and_is_gone_on_with(
    start_simulator: Start, tmp_path: Path, number: signal.Signals
) -> None:
    out, files = tmp_path / "out.jsonl", many(tmp_path / "in.jsonl", 60)
    arguments = untraced(("run", files, "--out", out, "--concurrency", "2"))
    slow, fast = start_simulator(ttft_ms=50, itl_ms=0), start_simulator(**FAST)
    argv = [sys.executable, "-m", "agents", *arguments, "--base-url", slow]
    with subprocess.Popen(argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (out.exists() and out.read_bytes().count(b"\n") >= 5):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(number)
        told, err = process.communicate(timeout=30)
    kept = out.read_bytes().count(b"\n")
    assert 5 <= kept < 60
    assert told == ""
    if number is not signal.SIGKILL:
        assert process.returncode == 130
        assert f"stopped after {kept} pipelines; the same command with --resume goes on with {out}" in err
        assert "Traceback" not in err
    done = shell(*arguments, "--base-url", fast, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"{kept} of 60 pipelines have their answer" in done.stderr
    assert ids_in(out) == [f"p{number:05d}" for number in range(60)]


def test_settings_of_the_policy_and_the_deadline_stand_in_every_row(
    start_simulator: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    options: list[str | Path] = ["--set", "priority.cpu.high=60", "--deadline-ms", "1", "--out", out, "--json"]
    assert here("run", EXAMPLES, "--base-url", start_simulator(ttft_ms=3000), *options) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["deadline_ms"] == 1
    assert document["policy"] != "standard"
    assert [one["labels"]["priority"]["value"] for one in document["pipelines"]] == ["HIGH", "HIGH"]
    assert document["counts"]["decided_by"] == {"rules (deadline)": 6}
    for line in out.read_text().splitlines():
        condition = json.loads(line)["condition"]
        assert {key: document[key] for key in condition} == condition


def test_a_wrong_setting_is_found_before_anything_is_asked() -> None:
    with pytest.raises(BadInput, match=r"^--set priority.cpu.hihg: "):
        here("run", EXAMPLES, "--set", "priority.cpu.hihg=60")


def test_an_endpoint_that_fails_under_a_deadline_exits_3_though_the_rules_decided(
    start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    base_url = start_simulator(fault=Fault.HTTP_500)
    options = ["--deadline-ms", "20000", "--max-retries", "0", "--json"]
    assert here("run", EXAMPLES, "--base-url", base_url, *options) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["pipelines_out"] == {"completed": 2}
    assert document["counts"]["decided_by"] == {"rules (endpoint)": 6}
    assert document["counts"]["errors"] == {"server_error": 6}


# --- by the rules ----------------------------------------------------------------------------------------


def test_the_rules_need_no_endpoint_and_look_for_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an endpoint was looked for")

    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setattr(run_command, "connect", refuse)
    monkeypatch.setattr(batch, "make_client", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert here("run", EXAMPLES, "--by", "rules", "--json") == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert (document["by"], document["simulated"], document["policy"]) == ("rules", False, "standard")
    assert not {"endpoint", "model", "prompt"} & document.keys()
    assert document["counts"]["decided_by"] == {"rules": 6}
    assert document["counts"]["output_tokens"] == 0
    assert here("run", EXAMPLES, "--by", "rules") == 0
    err = capsys.readouterr().err
    assert "2 pipelines (by the rules; policy standard)" in err
    assert "SIMULATOR" not in err
    assert "[p " not in err


@pytest.mark.slow
def test_by_the_rules_a_process_makes_no_socket_at_all(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "def hook(event, _args):\n"
        "    if event in {'socket.connect', 'socket.getaddrinfo', 'socket.bind'}: sys.exit(f'{event} was called')\n"
        "sys.addaudithook(hook)\n"
        "from agents.__main__ import app\n"
        "app(sys.argv[1:])\n"
    )
    argv = [sys.executable, "-c", program, "run", str(EXAMPLES), "--by", "rules", "--trace", "none", "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pipelines_out"] == {"completed": 2}


def test_rows_by_the_rules_are_not_gone_on_with_by_a_model(start_simulator: Start, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert here("run", EXAMPLES, "--by", "rules", "--out", out) == 0
    with pytest.raises(BadInput, match=r"^--resume: .*:1 was made with by 'rules', this run has 'model'; "):
        here("run", EXAMPLES, "--base-url", start_simulator(**FAST), "--out", out, "--resume")


def test_further_actions_are_decided_on_and_gone_with_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "_SPECIALISTS", dict(registry._SPECIALISTS))
    mine, pipelines = tmp_path / "mine.yaml", tmp_path / "p.yaml"
    mine.write_text(
        "specialist: quality\nactions:\n- {id: call_owner, do: Call the owner, means: talk to them, source: ours, "
        "can_be_undone: true, right_when: [low, high]}\n"
    )
    pipelines.write_text("- {id: fine, source: {type: x}, quality_metrics: {completeness: 100, consistency: 100}}\n")
    assert here("run", pipelines, "--by", "rules", "--actions", mine, "--json") == 0
    quality = json.loads(capsys.readouterr().out)["pipelines"][0]["stages"][1]
    assert "call_owner" in [one["id"] for one in quality["decision"]["actions"]]
    assert any(told.startswith("Call the owner") for told in quality["told"])


def test_a_server_that_does_not_take_a_parameter_is_served_by_leaving_it_out_or_renaming_it(
    start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    base_url = start_simulator(**FAST, refused_parameters=("seed", "max_tokens"))
    assert here("run", EXAMPLES, "--base-url", base_url, "--json") == 3
    document = json.loads(capsys.readouterr().out)
    assert document["counts"]["errors"] == {"refused": 6}
    options = ["--leave-out", "seed", "--rename", "max_tokens=max_completion_tokens", "--json"]
    assert here("run", EXAMPLES, "--base-url", base_url, *options) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["decided_by"] == {"model": 6}


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--leave-out", "model"], "leave_out: 'model' belongs to every request and cannot be changed"),
        (["--add", "stream=true"], "add: 'stream' belongs to every request and cannot be changed"),
        (["--add", "top_k=much"], "--add top_k: found 'much'; allowed: a JSON value"),
        (["--rename", "seed"], "--rename: found 'seed'; allowed: NAME=VALUE"),
    ],
)
def test_a_parameter_that_cannot_be_changed_is_told_in_one_line(option: list[str], told: str) -> None:
    with pytest.raises(BadInput) as refused:
        command.app(["run", "examples/pipelines.yaml", *option], standalone_mode=False)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
