"""`python -m agents approvals`: what it prints where, and how it exits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agents.cli import approvals_command as command
from agents.reports.approvals import EXPERIMENT
from common import console
from common.console import BadInput, CannotJudge
from tracking.traces import TraceContent, TraceLog

ROOT = Path(__file__).parents[3]
START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def here(*args: str) -> None:
    """The command in this process; our errors come through."""
    command.approvals(list(args), standalone_mode=False)


def waiting(pipeline_id: str, *, simulated: bool = False) -> TraceContent:
    return TraceContent(
        name=pipeline_id,
        spans=(),
        start=START,
        end=START + timedelta(seconds=1),
        tags={
            "plumbline.pipeline_id": pipeline_id,
            "plumbline.approval": "pending",
            "plumbline.asks": "infrastructure: act_now 0.83, add_memory 0.41 (model)",
            "plumbline.reasons": "priority CRITICAL",
            "plumbline.simulated": str(simulated).lower(),
        },
    )


# --- without a store -------------------------------------------------------------------------------------


@pytest.fixture
def no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    return path


@pytest.mark.usefixtures("no_store")
def test_before_the_first_run_nothing_waits(capsys: pytest.CaptureFixture[str]) -> None:
    here("list")
    here("list", "--all")
    here("list", "--json")
    told = capsys.readouterr()
    assert told.err == "nothing waits for a person\nnothing was ever to be decided\n"
    assert json.loads(told.out)["approvals"] == []


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_an_unknown_id_exits_2_with_one_line(no_store: Path, verb: str) -> None:
    program = "from common import console; from agents.cli.approvals_command import approvals; console.run(approvals)"
    argv = [sys.executable, "-c", program, verb, "orders", "--by", "Ada", "--reason", "r"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: 'orders' is not known; nothing waits for a person\n"
    assert not no_store.exists()


@pytest.mark.usefixtures("no_store")
@pytest.mark.parametrize(("missing", "told"), [("--by", ["--reason", "r"]), ("--reason", ["--by", "Ada"])])
def test_who_and_why_must_be_told(missing: str, told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.approvals(["approve", "orders", *told])
    assert ended.value.code == 2
    assert missing in capsys.readouterr().err
    with pytest.raises(BadInput, match=f"^{missing}: is blank"):
        here("approve", "orders", *told, missing, " ")


@pytest.mark.slow
def test_the_commands_load_no_mlflow_before_they_need_it() -> None:
    program = "import agents.cli.approvals_command, sys; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False).returncode == 0


# --- with a store ----------------------------------------------------------------------------------------

needs_mlflow = pytest.mark.slow  # it is imported in two seconds and makes its first database in four


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceLog]:
    """One SQLite store for all tests here; each uses pipelines of its own."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('command') / 'mlflow.db'}")
        yield TraceLog(EXPERIMENT)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table wide enough that no cell is folded."""
    monkeypatch.setattr(console.stderr, "width", 300)


@needs_mlflow
def test_a_person_sees_what_waits_decides_and_sees_who_decided(
    log: TraceLog, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = log.write(waiting("orders", simulated=True)), log.write(waiting("stock"))
    here("list")
    told = capsys.readouterr()
    assert told.out == ""
    for row in (
        rf"{mine}.*orders \(SIMULATOR\).*act_now 0\.83, add_memory 0\.41 \(model\).*priority CRITICAL.*2026-11-22",
        rf"{other}.*stock .*priority CRITICAL",
    ):
        assert re.search(row, told.err)
    assert "decide with `python -m agents approvals approve|reject ID --by NAME --reason TEXT`" in told.err

    here("approve", "orders", "--by", "Ada", "--reason", "disk [bold]was[/bold] ordered")
    done = capsys.readouterr()
    expected = f"approved: orders (SIMULATOR) ({mine}), by Ada: disk [bold]was[/bold] ordered\n"
    assert (done.out, done.err.startswith(expected)) == ("", True)
    assert f"experiment {EXPERIMENT}" in done.err
    here("reject", other, "--by", "Bo", "--reason", "would drop a table")
    assert capsys.readouterr().err.startswith(f"rejected: stock ({other}), by Bo: would drop a table\n")

    here("list", "--all")
    all_of_it = capsys.readouterr().err
    assert re.search(rf"{mine}.*approved.*Ada.*20\d\d-.*disk \[bold\]was\[/bold\] ordered", all_of_it)
    assert re.search(rf"{other}.*rejected.*Bo.*would drop a table", all_of_it)
    assert "0 waiting for a person, 2 decided" in all_of_it
    with pytest.raises(BadInput, match=r"^orders .* was approved by Ada at .*; nothing is decided twice$"):
        here("reject", mine, "--by", "Bo", "--reason", "r")


@needs_mlflow
def test_json_is_one_document_with_everything_a_program_needs(
    log: TraceLog, capsys: pytest.CaptureFixture[str]
) -> None:
    decided, waits = log.write(waiting("json-1")), log.write(waiting("json-2", simulated=True))
    here("approve", "json-1", "--by", "Ada", "--reason", "r")
    capsys.readouterr()
    here("list", "--all", "--json")
    told = capsys.readouterr()
    assert told.err == ""
    document = json.loads(told.out)
    assert document["experiment"] == EXPERIMENT
    found = {one["id"]: one for one in document["approvals"]}
    assert found[waits] == {
        "id": waits,
        "pipeline_id": "json-2",
        "asks": "infrastructure: act_now 0.83, add_memory 0.41 (model)",
        "reasons": "priority CRITICAL",
        "since": START.isoformat(),
        "simulated": True,
        "decision": None,
        "by": None,
        "reason": None,
        "at": None,
    }
    assert (found[decided]["decision"], found[decided]["by"], found[decided]["reason"]) == ("approved", "Ada", "r")
    assert datetime.fromisoformat(found[decided]["at"]).tzinfo is not None
    here("list", "--json")
    listed = {one["id"] for one in json.loads(capsys.readouterr().out)["approvals"]}
    assert waits in listed
    assert decided not in listed


@needs_mlflow
def test_what_a_pipeline_or_a_person_wrote_cannot_steer_the_terminal(
    log: TraceLog, capsys: pytest.CaptureFixture[str]
) -> None:
    trace_id = log.write(waiting("\x1b[2J[red]evil[/red]"))
    log.assess(trace_id, name="approval", value="approved", by="\x1b]0;title\x07", reason="\x1b[31mred")
    here("list", "--all")
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert "[red]evil[/red]" in told


@needs_mlflow
@pytest.mark.parametrize("args", [["list"], ["approve", "orders", "--by", "Ada", "--reason", "r"]])
def test_a_store_that_is_down_cannot_be_judged(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(CannotJudge, match=r"^MLflow at http://127\.0\.0\.1:9 did not open the traces: ") as failed:
        here(*args)
    assert "hunter2" not in str(failed.value)
