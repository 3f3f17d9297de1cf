"""What a running test has to show: read from the tails of its rows files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from load_tests.arrivals import schedule
from load_tests.histogram import Histogram
from load_tests.profiles import LoadProfile


class _Tail:
    """The new lines of one file, each byte read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._part = b""

    def lines(self) -> list[bytes]:
        """Whole lines written since; none while there is no file."""
        if self._file is None:
            if not self._path.exists():
                return []
            self._file = self._path.open("rb")
        *whole, self._part = (self._part + self._file.read()).split(b"\n")
        return whole


class LiveCount:
    """Requests of all workers so far. A row is written when its request ends, so those in flight are not in it."""

    def __init__(self, profile: LoadProfile, paths: list[Path]) -> None:
        self._tails = [_Tail(path) for path in paths]
        self._arrivals = profile.arrivals
        self._due_ns = None
        if profile.arrivals.kind != "closed":
            self._due_ns = schedule(profile.arrivals, profile.duration_s, profile.seed)
        self._start_at_s: float | None = None
        self._ttft = Histogram()
        self.ended = 0
        self.failed = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first request was due; 0 before."""
        return 0.0 if self._start_at_s is None else max(0.0, time.time() - self._start_at_s)

    def update(self) -> None:
        """Take in what was written since."""
        ttft_s: list[float] = []
        for tail in self._tails:
            for line in tail.lines():
                self._take(orjson.loads(line), ttft_s)
        self._ttft.add(ttft_s)

    def told(self) -> str:
        """One line: rates, requests in flight or users, failures, TTFT."""
        median_s = self._ttft.percentile(50)
        ttft = "" if median_s is None else f", TTFT p50 {median_s * 1e3:.4g} ms"
        return f"{self._load()}, {self.ended} ended, {self.failed} failed{ttft}"

    def _load(self) -> str:
        elapsed_s = self.elapsed_s
        done_per_s = self.ended / elapsed_s if elapsed_s else 0.0
        if self._due_ns is None:
            users = getattr(self._arrivals, "users", 0)
            return f"{users} users, {done_per_s:.3g} answers/s"
        due = int(np.searchsorted(self._due_ns, elapsed_s * 1e9, side="right")) if elapsed_s else 0
        asked_per_s = due / elapsed_s if elapsed_s else 0.0
        return f"{asked_per_s:.3g}/s asked, {done_per_s:.3g}/s ended, {max(0, due - self.ended)} in flight"

    def _take(self, row: dict[str, Any], ttft_s: list[float]) -> None:
        if row["kind"] == "start":
            self._start_at_s = row["start_at_s"]
        elif row["kind"] == "request":
            self.ended += 1
            if row.get("cancel_after_chunks") is not None:
                return  # drawn to be hung up on, and in no figure
            if row["status"] != "ok":
                self.failed += 1
            elif row["ttft_s"] is not None:
                ttft_s.append(row["ttft_s"])
