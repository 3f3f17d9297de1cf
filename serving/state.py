"""The record of the endpoint that `python -m serving start` runs, so that other commands find it and `stop` ends it.

A record is believed only while the process it names lives and is the same process: a pid alone is reused.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil
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


def record_path() -> Path:
    """Where the record of the running server is kept."""
    return state_dir() / "server.json"


def read_record() -> ServerRecord | None:
    """The record as written, whether or not its process still lives; None when there is none or it is unreadable."""
    try:
        return ServerRecord.model_validate_json(record_path().read_text("utf8"))
    except (FileNotFoundError, UnicodeDecodeError, ValidationError):
        return None


def write_record(record: ServerRecord) -> None:
    """Replace the record in one step, readable by this user alone."""
    path = record_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.touch(mode=0o600)
    partial.write_text(record.model_dump_json(indent=2) + "\n", "utf8")
    partial.replace(path)


def clear_record() -> None:
    """Forget the server."""
    record_path().unlink(missing_ok=True)
