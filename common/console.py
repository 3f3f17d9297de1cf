"""What the four commands share: exit codes, one-line errors, tables, progress.

    PlumblineError     what a user can act on; printed as one line, never as a stack
    ├── BadInput       exit 2: a file, field or option is wrong, and the message says which
    └── CannotJudge    exit 3: endpoint down, too little evidence, the client was the bottleneck

People read stderr; with ``--json``, stdout is one JSON document and nothing else.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

# A file or a pipe has no width of its own; 80 columns would fold every table.
stderr = Console(stderr=True, highlight=False, emoji=False, width=None if sys.stderr.isatty() else 140)


_PROGRESS_EVERY_S = 10.0


class ExitCode(IntEnum):
    """What every command's exit status means."""

    DONE = 0
    VERDICT_AGAINST = 1
    BAD_INPUT = 2
    NOT_JUDGED = 3


class PlumblineError(Exception):
    """Something the user can act on; its text is one line that says what, where and what to do."""

    exit_code = ExitCode.VERDICT_AGAINST


class BadInput(PlumblineError):
    """A file, field or option is not allowed."""

    exit_code = ExitCode.BAD_INPUT


class CannotJudge(PlumblineError):
    """The work could not be done or judged: no endpoint, no memory, no network, too little evidence."""

    exit_code = ExitCode.NOT_JUDGED


def shorten(text: str, limit: int = 200) -> str:
    """One line of at most `limit` characters, so that a 10 MB value cannot become a 10 MB message."""
    head = " ".join(printable(text[: 4 * limit]).split())
    return head if len(head) <= limit and len(text) <= 4 * limit else head[: limit - 1] + "…"


def printable(text: str) -> str:
    """`text` without control characters but newlines: a name must not move the cursor or colour the terminal."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def one_line(text: str) -> str:
    """`text` with its line ends and other control characters as spaces: data must not look like a line of ours."""
    return " ".join(printable(text).split())


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> None:
    """Print rows for people on stderr; `right` names the columns of numbers."""
    numbers = set(right)
    out = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        out.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        # Cells are data (a model's words, a file's names): rich must not read them as markup.
        out.add_row(*(escape(printable(str(cell))) for cell in row))
    stderr.print(out)


def say(text: str) -> None:
    """One line for people on stderr, taken literally."""
    stderr.print(printable(text), markup=False, soft_wrap=True)


def progress(unit: str) -> Progress:
    """A progress bar on stderr; where stderr is a file or a pipe, a line every ten seconds instead."""
    kind = Progress if stderr.is_terminal else _PlainProgress
    return kind(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _Rate(),
        _Told(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
    )


class _Rate(ProgressColumn):
    """How many a second, lately."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.3g}/s" if task.speed else "")


class _Told(ProgressColumn):
    """What the task's field `told` says: `bar.update(task, told="3 errors")`."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("told", ""))


class _PlainProgress(Progress):
    """Says how far the tasks are in lines, since a bar that rewrites itself is lost in a log."""

    _told_s = 0.0

    def start(self) -> None:
        self._told_s = time.monotonic()

    def stop(self) -> None: ...

    def refresh(self) -> None: ...

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._tell()

    def _tell(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < _PROGRESS_EVERY_S:
            return
        self._told_s = now_s
        for task in self.tasks:
            total = "" if task.total is None else f" of {task.total:.0f}"
            rate = f", {task.speed:.3g}/s" if task.speed else ""
            left = f", {task.time_remaining:.0f} s left" if task.time_remaining else ""
            told = f", {task.fields['told']}" if task.fields.get("told") else ""
            say(f"  {task.description}: {task.completed:.0f}{total} after {task.elapsed or 0:.0f} s{rate}{told}{left}")


def run(app: Callable[[], None]) -> None:
    """Run a typer application; our errors become one line and their exit code. Ctrl-C exits with 130."""
    # A terminal that closes or a supervisor that stops us must clean up exactly as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish is kept
            signal.signal(number, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except OSError as error:
        # Nobody expected this file or folder to fail: no disk, no permission.
        say(f"error: {error.filename or 'input/output'}: {error.strerror or error}")
        sys.exit(ExitCode.NOT_JUDGED)
    except PlumblineError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except Exception:  # noqa: BLE001 - a bug of ours: Python's own exit status for it, 1, would read as a verdict
        traceback.print_exc()
        sys.exit(ExitCode.NOT_JUDGED)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    if callable(on_ctrl_c):
        # While asyncio runs this is its own, which cancels the work: what we raised in a callback would be swallowed.
        on_ctrl_c(signal.SIGINT, frame)
    else:  # Ctrl-C is ignored, as under nohup, and asyncio takes no note of it
        raise KeyboardInterrupt


def command_group(help_text: str) -> typer.Typer:
    """A typer application with the settings all four commands use."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
