"""What every command shares: exit codes, one-line errors, and text that cannot act on the terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from common import console
from common.console import BadInput, CannotJudge, ExitCode, PlumblineError, printable, say, shorten, table

ROOT = Path(__file__).parents[2]


def ended(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> int:
    """The exit status of a command that does `work`; the test's own signal handlers are put back."""
    app = console.command_group("a test")
    app.command()(work)
    monkeypatch.setattr(sys, "argv", ["test"])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as exited:
            console.run(app)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return int(exited.value.code or 0)


# --- text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain", "plain"),
        ("two\nlines\t and  spaces", "two lines and spaces"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("a\x00b\x07c\x9bd\u202ee\ud800f", "a b c d e f"),
        ("x" * 10, "x" * 10),
        ("x" * 11, "x" * 9 + "…"),
    ],
)
def test_shorten_gives_one_short_line(text: str, shown: str) -> None:
    assert shorten(text, 10 if text.startswith("x") else 200) == shown


def test_ten_megabytes_become_two_hundred_characters() -> None:
    assert len(shorten("word " * 2_000_000)) <= 200


@given(st.text(alphabet=st.characters(), max_size=300), st.integers(2, 50))
def test_shorten_never_exceeds_its_limit_nor_lets_a_control_character_through(text: str, limit: int) -> None:
    shown = shorten(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()


def test_printable_keeps_newlines_and_letters_of_any_script() -> None:
    assert printable("naïve 日本\nλ") == "naïve 日本\nλ"


@pytest.mark.parametrize(
    "text", ["[bold]not bold[/bold]", "[/]", "[link=http://x]y[/link]", ":fire: :x:", "C:\\[b]", "100 % [0, 1]"]
)
def test_words_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], text: str) -> None:
    say(text)
    table("title", ["column"], [[text]])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count(text) == 2


def test_a_table_shows_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    table("title", ["column"], [["a\x1b[2Jb\x07"]])
    say("c\x1b[2Jd")
    err = capsys.readouterr().err
    assert "a [2Jb" in err
    assert "c [2Jd" in err
    assert "\x1b" not in err
    assert "\x07" not in err


# --- exit codes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [(PlumblineError, 1), (BadInput, 2), (CannotJudge, 3)],
)
def test_each_error_has_its_exit_code(error: type[PlumblineError], code: int) -> None:
    assert error("why").exit_code == code


def test_exit_codes_are_the_contracts() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "VERDICT_AGAINST": 1,
        "BAD_INPUT": 2,
        "NOT_JUDGED": 3,
    }


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (BadInput("f.yaml:3: [b]no[/b]"), 2, "error: f.yaml:3: [b]no[/b]\n"),
        (CannotJudge("no endpoint"), 3, "error: no endpoint\n"),
        (typer.Exit(ExitCode.NOT_JUDGED), 3, ""),
        (None, 0, ""),
    ],
)
def test_a_command_ends_with_one_line_and_the_code_of_its_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception | None, code: int, told: str
) -> None:
    def work() -> None:
        if error:
            raise error

    assert ended(monkeypatch, work) == code
    assert capsys.readouterr() == ("", told)


PROGRAM = """
import time, typer
from common import console
app = console.command_group("a test")
@app.command()
def go() -> None:
    try:
        print("up", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
console.run(app)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_told_to_stop_cleans_up_and_exits_with_130(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "cleaned up\n")
    assert "Traceback" not in err


def test_a_signal_in_a_callback_of_the_event_loop_stops_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop swallows what a protocol raises, and the work would go on as if nothing had been said."""

    class StopsUs(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            signal.raise_signal(signal.SIGTERM)

    async def work() -> None:
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().create_connection(StopsUs, sock=ours)
        theirs.send(b"x")
        await asyncio.sleep(5)

    assert ended(monkeypatch, lambda: uvloop.run(work())) == 130


def test_progress_tells_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr(console, "stderr", Console(stderr=True, width=140, highlight=False))
    with console.progress("samples") as bar:
        task = bar.add_task("asking", total=3)
        bar.advance(task)
        bar.advance(task)
    assert [line.split(" after")[0] for line in capsys.readouterr().err.splitlines()] == [
        "  asking: 1 of 3",
        "  asking: 2 of 3",
    ]


def test_a_bug_of_ours_is_no_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise KeyError("nobody thought of this")

    assert ended(monkeypatch, work) == ExitCode.NOT_JUDGED
    assert "KeyError: 'nobody thought of this'" in capsys.readouterr().err
