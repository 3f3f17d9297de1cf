"""The environments that peers are installed in: made once, of exact versions, under the user's cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

from common.console import say, shorten
from requirements.install import TORCH_CPU_INDEX

_REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class PeerFailed(Exception):
    """A subject cannot be measured; its text says why in one line."""


@cache
def peers_python(requirements: Path | None = None) -> Path:
    """The interpreter of that environment, which is made when there is none for these versions. Raises PeerFailed.

    requirements: the file of exact versions; without one, that of the evaluation's peers.
    """
    folder = environment_folder(requirements)
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        file = requirements or _REQUIREMENTS
        say(f"installing {file.stem} for the comparison into {folder}, once (minutes)")
        _done([sys.executable, "-m", "venv", "--clear", str(folder)])
        _install(python, file)
        ready.touch()  # last: an installation that was interrupted is begun anew
    return python


def environment_folder(requirements: Path | None = None) -> Path:
    """Where it lies; other versions have another folder."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    version = sha256((requirements or _REQUIREMENTS).read_bytes() + sys.version.encode()).hexdigest()[:12]
    return Path(root) / "plumbline" / "peers" / version


def _install(python: Path, file: Path) -> None:
    """All of a file; builds for the CPU first, from pip's own sources or else from where PyTorch publishes them."""
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    if builds := cpu_builds(file.read_text("utf8")):
        try:
            _done([*pip, "--no-deps", *builds])
        except PeerFailed:
            _done([*pip, "--no-deps", *builds, "--index-url", TORCH_CPU_INDEX])
    _done([*pip, "-r", str(file)])


def cpu_builds(pins: str) -> list[str]:
    """The requirements among these lines that are builds without CUDA."""
    return [line for line in pins.splitlines() if line.endswith("+cpu") and not line.startswith("#")]


def _done(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise PeerFailed(f"cannot be installed: {last_line(ended.stderr)}")


def last_line(text: str) -> str:
    """The last line that is not empty, short enough to be told."""
    lines = text.strip().splitlines()
    return shorten(lines[-1], 200) if lines else "it said nothing"
