"""What is done with a result once it is known. A store that is down or a full disk must not cost the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from common import console

T = TypeVar("T")


class Keeping:
    """Does one thing after the other, tells what fails, and goes on."""

    def __init__(self) -> None:
        self.exit_code = console.ExitCode.DONE
        """Of the first that failed."""

    def do(self, keep: Callable[[], T]) -> T | None:
        """One thing and what it gives; a PlumblineError or OSError of it is told, and then it gives None."""
        try:
            return keep()
        except console.PlumblineError as error:
            self._failed(str(error), error.exit_code)
        except OSError as error:
            told = f"{error.filename or 'a file'}: cannot be written ({error.strerror or error})"
            self._failed(told, console.ExitCode.NOT_JUDGED)
        return None

    def _failed(self, told: str, code: console.ExitCode) -> None:
        console.say(f"error: {told}")
        self.exit_code = self.exit_code or code
