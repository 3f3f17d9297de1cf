"""Get Chromium, which the tests of the HTML pages open them in. Standard library only.

    python3 requirements/browser.py

Does nothing where a Chromium or Chrome is on the path. Else, as root on Debian or Ubuntu, it installs the
distribution's package; elsewhere it says what to install. Exit codes: 0 there is one, 3 there is none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import NoReturn

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium"


def main() -> None:
    """Install unless there is one."""
    if found():
        return
    if not shutil.which("apt-get"):
        stop(f"there is no Chromium here; install it so that one of {', '.join(NAMES)} is on the path")
    if os.geteuid() != 0:
        stop(f"there is no Chromium here; install it: sudo apt-get install {PACKAGE}")
    print(f"installing {PACKAGE} for the tests of the HTML pages (about a minute)", file=sys.stderr, flush=True)
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", PACKAGE]):
        run(command)
    if not found():
        stop(f"apt-get installed {PACKAGE}, and none of {', '.join(NAMES)} is on the path")


def found() -> str | None:
    """Where a browser is."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def run(command: list[str]) -> None:
    """Run a step of the installation; its last words when it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip().splitlines()
        stop(f"{' '.join(command)} failed: {said[-1] if said else 'no reason given'}")


def stop(reason: str) -> NoReturn:
    """End with one line that says why."""
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(3)


if __name__ == "__main__":
    main()
