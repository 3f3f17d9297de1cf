"""MLflow's own server, as a team would run it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running_server(store: str, artifacts: Path | None = None) -> Iterator[str]:
    """A server on the database `store`, on loopback, for as long as the block lasts; gives its address.

    artifacts: the folder in which it keeps what clients send.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base_url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    keep = ["--artifacts-destination", str(artifacts)] if artifacts else []
    running = subprocess.Popen(
        [*argv, "--backend-store-uri", store, *keep],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(f"{base_url}/health")
        yield base_url
    finally:
        os.killpg(running.pid, 15)
        running.wait(timeout=30)


def _wait_for(url: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"nothing answers at {url}")
