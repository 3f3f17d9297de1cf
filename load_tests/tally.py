"""python -m load_tests.tally ROWS.jsonl: one worker's latencies as histograms, one line of JSON on stdout.

A process of its own, run when the test is over: Locust's workers never import numpy, and a long file does not keep
them from answering their master. Histograms, not rows, travel to the master: a worker may be on another host.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from load_tests.histogram import Histogram

METRICS = ("ttft", "itl", "e2e", "ttft_from_intended", "e2e_from_intended", "scheduling_lag")
_NS_PER_S = 1e9
_AT_ONCE = 1000


def tally(rows: Iterable[dict[str, Any]]) -> dict[str, Histogram]:
    """Histograms of the `ok` requests among rows as they are in the file; of a failed request nothing is a latency."""
    found = {metric: Histogram() for metric in METRICS}
    waiting: dict[str, list[float]] = defaultdict(list)
    for number, row in enumerate(rows, 1):
        for metric, values in _values(row):
            waiting[metric] += values
        if number % _AT_ONCE == 0:
            _add(found, waiting)
    _add(found, waiting)
    return found


def merged(parts: Iterable[dict[str, Any]]) -> dict[str, Histogram]:
    """Several workers' histograms, each as `to_dict` gives it, as one."""
    found = {metric: Histogram() for metric in METRICS}
    for part in parts:
        for metric, data in part.items():
            found[metric].merge(Histogram.from_dict(data))
    return found


def _values(row: dict[str, Any]) -> Iterator[tuple[str, list[float]]]:
    intended_ns, sent_ns = row["intended_ns"], row["sent_ns"]
    lag_s = max(0, sent_ns - intended_ns) / _NS_PER_S
    yield "scheduling_lag", [lag_s]
    if row["status"] != "ok":
        return
    yield "ttft", [row["ttft_s"]]
    yield "itl", row["itl_s"]
    yield "e2e", [row["e2e_s"]]
    yield "ttft_from_intended", [(row["first_content_ns"] - intended_ns) / _NS_PER_S]
    yield "e2e_from_intended", [(row["last_content_ns"] - intended_ns) / _NS_PER_S]


def _add(found: dict[str, Histogram], waiting: dict[str, list[float]]) -> None:
    for metric, values in waiting.items():
        found[metric].add(values)
    waiting.clear()


def _requests(path: Path) -> Iterator[dict[str, Any]]:
    """The request lines of a worker's file; a last line that a kill tore is not one."""
    with path.open("rb") as file:
        for line in file:
            if line.startswith(b'{"kind":"request"') and line.endswith(b"\n"):
                yield orjson.loads(line)


def main() -> None:
    """Print the histograms of the file that is named."""
    found = tally(_requests(Path(sys.argv[1])))
    sys.stdout.buffer.write(orjson.dumps({metric: histogram.to_dict() for metric, histogram in found.items()}) + b"\n")


if __name__ == "__main__":
    main()
