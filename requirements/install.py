"""Set up .venv from the lock that fits this machine. Standard library only: it runs before anything is installed.

    python3 requirements/install.py [--venv DIR]

requirements/gpu.txt is chosen where nvidia-smi shows a GPU, requirements/cpu.txt elsewhere. A second run with the
same lock does nothing. Exit codes: 2 for a Python or platform that cannot work, 3 for no disk or no network.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where torch's CPU builds are published; asked only for torch, and only when pip's own sources have none."""
OLDEST, NEWEST = (3, 11), (3, 13)
NETWORK = " (is there a network, and does pip reach a package index?)"
NEVER_IMPORTED = r"/tests?/|/testing/|transformers/models/[^_/]+/"
DISK_GB = {"cpu": 5.0, "gpu": 16.0}
"""Environment plus pip's downloads while installing: 3.3 GB were measured for the CPU lock."""


def main() -> None:
    """Install unless the environment already matches the lock."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=HERE.parent / ".venv", help="where the environment goes")
    venv: Path = parser.parse_args().venv
    check_python()
    kind = hardware()
    lock = HERE / f"{kind}.txt"
    stamp = venv / "plumbline-lock"
    wanted = f"{hashlib.sha256(lock.read_bytes()).hexdigest()} {platform.python_version()}\n"
    if stamp.is_file() and stamp.read_text("ascii") == wanted:
        return
    check_disk(venv.parent, kind)
    began = time.monotonic()
    tell(f"setting up {venv} from {lock.relative_to(HERE.parent)} ({kind}; 3 to 6 minutes)")
    create(venv)
    install(venv, lock)
    compile_ahead(venv)
    stamp.write_text(wanted, "ascii")
    tell(f"ready after {time.monotonic() - began:.0f} s")


def check_python() -> None:
    """Stop on a Python or a platform for which the lock has no wheels."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        have = platform.python_version()
        can = "3.11, 3.12 or 3.13 can: give a fitting one to every make, e.g. make PYTHON=python3.11 demo"
        stop(2, f"Python {have} cannot be used; {can}")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        stop(2, f"{platform.system()} on {platform.machine()} cannot be used: the locks hold Linux x86_64 wheels")


def hardware() -> str:
    """`gpu` where nvidia-smi shows one, else `cpu`."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return "cpu"
    try:
        seen = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "gpu" if seen.returncode == 0 and "GPU 0" in seen.stdout else "cpu"


def check_disk(folder: Path, kind: str) -> None:
    """Stop when the environment would not fit."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < DISK_GB[kind]:
        stop(3, f"too little disk: {folder} has {free:.1f} GB free, the environment needs {DISK_GB[kind]:.0f} GB")


def create(venv: Path) -> None:
    """A fresh environment; one left by an interrupted run is replaced."""
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        said = (made.stderr or made.stdout).strip().splitlines()
        stop(
            3, f"python -m venv failed ({said[-1] if said else 'no reason given'}): install python3-venv, or free disk"
        )


def install(venv: Path, lock: Path) -> None:
    """Install the lock; torch first, from pip's own sources or else from PyTorch's CPU index."""
    pins = [line for line in lock.read_text("utf8").splitlines() if line and not line.startswith("#")]
    torch = [pin for pin in pins if pin.startswith("torch==") and "+cpu" in pin]
    if torch:
        tell(f"  {torch[0]}")
        if pip(venv, torch) and (errors := pip(venv, [*torch, "--index-url", TORCH_CPU_INDEX])):
            stop(3, f"{torch[0]} could not be installed: {errors[-1]}{NETWORK}")
    if errors := pip(venv, ["-r", str(lock)], total=len(pins)):
        stop(3, f"pip failed: {errors[-1]}{NETWORK}")


def pip(venv: Path, arguments: list[str], total: int = 0) -> list[str]:
    """Run pip install and show its progress; the error lines when it failed, else nothing."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--no-compile", "--progress-bar=off"]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with subprocess.Popen(
        [*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        errors = list(follow(process, total))
    return (errors or ["pip gave no reason"]) if process.returncode else []


def follow(process: subprocess.Popen[str], total: int) -> Iterator[str]:
    """Count packages as pip collects them; yield its error lines."""
    assert process.stdout  # noqa: S101 - Popen was given a pipe
    collected = 0
    for line in process.stdout:
        if match := re.match(r"(?:Collecting|Processing|Requirement already satisfied:) (\S+)", line):
            collected += 1
            show(collected, total, Path(match.group(1)).name)
        elif line.startswith("Installing collected packages") and total:
            tell(f"  unpacking {total} packages (a minute or two)")
        elif line.startswith("ERROR"):
            yield line.removeprefix("ERROR:").strip()


def show(done: int, total: int, name: str) -> None:
    """One progress line that rewrites itself on a terminal, every 40th package elsewhere."""
    if not total:
        return
    if sys.stderr.isatty():
        print(f"\r\033[K  [{done}/{total}] {name}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done % 40 == 0 or done == total:
        tell(f"  [{done}/{total}] {name}")


def compile_ahead(venv: Path) -> None:
    """Byte-compile on every core what is likely to be imported; pip would do it on one core and for everything.

    Without it the first start of the engine takes a minute longer, since its three processes wait for each other.
    """
    tell("  compiling")
    site = next((venv / "lib").glob("python*/site-packages"))
    command = [str(venv / "bin" / "python"), "-m", "compileall", "-q", "-j", "0", "-x", NEVER_IMPORTED, str(site)]
    # Some packages ship templates that are not valid Python; nothing imports them.
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def tell(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


def stop(code: int, reason: str) -> NoReturn:
    """End with one line that says why."""
    tell(f"error: {reason}")
    sys.exit(code)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        stop(130, "interrupted; the next run starts the environment afresh")
