"""What a running test shows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from load_tests.arrivals import Closed, Constant
from load_tests.live import LiveCount


def profile(arrivals: Any) -> Any:
    return SimpleNamespace(arrivals=arrivals, duration_s=10.0, seed=0)


def line(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


def started(seconds_ago: float) -> str:
    return line(kind="start", start_at_s=time.time() - seconds_ago)


def test_open_loop_shows_what_was_asked_and_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    paths = [tmp_path / "rows-0.jsonl", tmp_path / "rows-1.jsonl"]
    count = LiveCount(profile(Constant(rate_per_s=10)), paths)
    count.update()
    assert (count.elapsed_s, count.told()) == (0.0, "0/s asked, 0/s ended, 0 in flight, 0 ended, 0 failed")
    # At 4.05 s 41 of 10 a second are due: 0.0, 0.1, ... 4.0.
    paths[0].write_text(started(4.05) + 30 * line(kind="request", status="ok", ttft_s=0.05))
    paths[1].write_text(started(4.05) + line(kind="request", status="timeout", ttft_s=None))
    count.update()
    assert count.told() == "10.1/s asked, 7.65/s ended, 10 in flight, 31 ended, 1 failed, TTFT p50 50 ms"


def test_row_that_is_half_written_is_counted_once_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows-0.jsonl"
    whole = line(kind="request", status="ok", ttft_s=0.05)
    count = LiveCount(profile(Closed(users=3)), [path])
    with path.open("w") as file:
        for part, expected in ((started(1) + whole[:20], 0), (whole[20:], 1), (whole, 2), ("", 2)):
            file.write(part)
            file.flush()
            count.update()
            assert count.ended == expected
    assert count.told().startswith("3 users, ")
