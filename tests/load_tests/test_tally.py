"""One worker's latencies as histograms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from load_tests.histogram import RELATIVE_ERROR
from load_tests.tally import METRICS, merged, tally
from tests.load_tests.locust_process import ROOT

MS = 1_000_000


def row(index: int, **changes: Any) -> dict[str, Any]:
    """Due at 0, sent 3 ms later, first token after 50 ms, two gaps of 10 ms."""
    fields = {"kind": "request", "index": index, "status": "ok", "intended_ns": 0, "sent_ns": 3 * MS}
    fields |= {"first_content_ns": 53 * MS, "last_content_ns": 73 * MS, "ttft_s": 0.05, "e2e_s": 0.07}
    return fields | {"itl_s": [0.01, 0.01]} | changes


def test_latencies_are_counted_from_sending_and_from_the_intended_moment() -> None:
    found = tally([row(0)])
    expected = {"ttft": 0.05, "itl": 0.01, "e2e": 0.07, "ttft_from_intended": 0.053, "e2e_from_intended": 0.073}
    expected["scheduling_lag"] = 0.003
    assert set(found) == set(METRICS)
    assert {metric: found[metric].mean_s for metric in expected} == pytest.approx(expected)
    assert found["itl"].count == 2
    assert found["ttft"].percentile(50) == pytest.approx(0.05, rel=RELATIVE_ERROR)


def test_failed_request_has_a_lag_and_no_latency() -> None:
    failed = row(1, status="cut_stream", ttft_s=0.001, last_content_ns=54 * MS)
    found = tally([row(0), failed])
    assert (found["scheduling_lag"].count, found["ttft"].count, found["ttft_from_intended"].count) == (2, 1, 1)


def test_parts_of_workers_add_up_to_the_whole() -> None:
    rows = [row(index, ttft_s=0.001 * (1 + index)) for index in range(2500)]
    parts = [{m: h.to_dict() for m, h in tally(rows[worker::3]).items()} for worker in range(3)]
    whole = {m: h.to_dict() for m, h in tally(rows).items()}
    assert {m: h.to_dict() for m, h in merged(parts).items()} == whole


@pytest.mark.slow
def test_file_of_a_killed_worker_is_tallied_up_to_its_last_whole_row(tmp_path: Path) -> None:
    rows = tmp_path / "rows-0.jsonl"
    lines = [json.dumps(line, separators=(",", ":")) for line in ({"kind": "start"}, row(0), row(1))]
    rows.write_text("\n".join(lines)[:-20])
    argv = [sys.executable, "-m", "load_tests.tally", str(rows)]
    told = json.loads(subprocess.run(argv, cwd=ROOT, capture_output=True, check=True).stdout)
    assert sum(count for _, count in told["ttft"]["buckets"]) == 1
