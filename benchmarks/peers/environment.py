"""The environment that peers are installed in: made once, of exact versions, under the user's cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

from console import say, shorten

_REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class PeerFailed(Exception):
    """A subject cannot be measured; its text says why in one line."""


@cache
def peers_python() -> Path:
    """The interpreter of that environment, which is made when there is none for these versions. Raises PeerFailed."""
    folder, python = environment_folder(), environment_folder() / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        say(f"installing the peers into {folder}, once (minutes)")
        _done([sys.executable, "-m", "venv", "--clear", str(folder)])
        _done([str(python), "-m", "pip", "install", "--quiet", "-r", str(_REQUIREMENTS)])
        ready.touch()  # last: an installation that was interrupted is begun anew
    return python


def environment_folder() -> Path:
    """Where it lies; other versions have another folder."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    version = sha256(_REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    return Path(root) / "plumbline" / "peers" / version


def _done(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise PeerFailed(f"cannot be installed: {last_line(ended.stderr)}")


def last_line(text: str) -> str:
    """The last line that is not empty, short enough to be told."""
    lines = text.strip().splitlines()
    return shorten(lines[-1], 200) if lines else "it said nothing"
