"""The records of the endpoints that `python -m serving start` runs, so that other commands find them and `stop` ends
them: one file per port.

A record is believed only while the process it names lives and is the same process: a pid alone is reused.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError


class ServerRecord(BaseModel):
    """One running server, as written to the state folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    pid: int
    """Process id of the server, which also leads its process group."""
    created_s: float
    """When that process started (seconds since the epoch, from the kernel); tells it from a later owner of the pid."""
    base_url: str
    model: str
    profile: str
    log_path: str

    @property
    def port(self) -> int:
        """The TCP port it serves on: what tells servers apart."""
        return urlsplit(self.base_url).port or 80

    def process(self) -> psutil.Process | None:
        """The process this record names, or None if it has ended or the pid now belongs to something else."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created_s) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def state_dir() -> Path:
    """Plumbline's folder for this user's state (XDG base directory specification)."""
    root = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(root) / "plumbline"


def record_path(port: int) -> Path:
    """Where the record of the server on `port` is kept."""
    return state_dir() / f"server-{port}.json"


def read_records() -> list[ServerRecord]:
    """The records as written, by port, whether or not their processes still live; unreadable ones are left out."""
    found = [record for path in _files() if (record := _read(path))]
    return sorted(found, key=lambda record: record.port)


def running() -> list[ServerRecord]:
    """The records whose processes live, by port."""
    return [record for record in read_records() if record.process()]


def read_record(port: int | None = None) -> ServerRecord | None:
    """The record of the server on `port`, else of the one on the lowest port; None when there is none."""
    return next((record for record in read_records() if port in {None, record.port}), None)


def write_record(record: ServerRecord) -> None:
    """Replace the record of its port in one step, readable by this user alone."""
    path = record_path(record.port)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.touch(mode=0o600)
    partial.write_text(record.model_dump_json(indent=2) + "\n", "utf8")
    with _alone():
        partial.replace(path)


def clear_record(record: ServerRecord) -> None:
    """Forget this server, and no later one on its port."""
    state_dir().mkdir(parents=True, exist_ok=True)
    with _alone():
        for path in _files():
            if _read(path) == record:
                path.unlink()


def _files() -> list[Path]:
    """Also `server.json`, which versions that knew one server wrote: such a server may still run."""
    return sorted(state_dir().glob("server*.json"))


def _read(path: Path) -> ServerRecord | None:
    try:
        return ServerRecord.model_validate_json(path.read_text("utf8"))
    except (FileNotFoundError, UnicodeDecodeError, ValidationError):
        return None


def _alone() -> FileLock:
    """Between reading a record and removing it, no other process may put a new one in its place."""
    return FileLock(state_dir() / "records.lock")
