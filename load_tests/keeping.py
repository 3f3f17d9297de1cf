"""What is done with a result once it is known. A store that is down or a full disk must not cost the result."""

from __future__ import annotations

from collections.abc import Callable

import console


class Keeping:
    """Does one thing after the other, tells what fails, and goes on."""

    def __init__(self) -> None:
        self.exit_code = console.ExitCode.DONE
        """Of the first that failed."""

    def do(self, keep: Callable[[], object]) -> None:
        """One thing; a PlumblineError of it is told."""
        try:
            keep()
        except console.PlumblineError as error:
            console.say(f"error: {error}")
            self.exit_code = self.exit_code or error.exit_code
