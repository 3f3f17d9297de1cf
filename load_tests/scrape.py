"""What the server says of itself while a load test runs: vLLM's `/metrics`, read once a second into a Parquet file.

Only the lines of figures that a report uses are parsed, so that a reading costs 2 ms. Gauges, counters and the
histograms' counts and sums are kept of every second; whole histograms only before and after, since their difference is
the test's own. Figures of several engines (data parallel) are added up, but KV use: that is the fullest engine's.

server.parquet   one line per reading, columns as in Reading.line; `plumbline` in the schema's metadata is a Scraped
                 without its lines, as JSON

Names are those of vLLM 0.32, `vllm/v1/metrics/loggers.py`.
"""

from __future__ import annotations

import math
import threading
import time
import urllib.request
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import orjson
from pydantic import TypeAdapter, ValidationError

from common.console import BadInput, say, shorten
from load_tests.gpu import Gpus, find_gpus
from load_tests.parquet import table_of
from serving.endpoint import is_loopback, origin_of

GAUGES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_use": "vllm:kv_cache_usage_perc",
}
COUNTERS = {
    "prompt_tokens": "vllm:prompt_tokens_total",
    "cached_prompt_tokens": "vllm:prompt_tokens_cached_total",
    "output_tokens": "vllm:generation_tokens_total",
    "prefix_queries": "vllm:prefix_cache_queries_total",
    "prefix_hits": "vllm:prefix_cache_hits_total",
    "preemptions": "vllm:num_preemptions_total",
}
HISTOGRAMS = {
    "ttft": "vllm:time_to_first_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
    "queue": "vllm:request_queue_time_seconds",
    "prefill": "vllm:request_prefill_time_seconds",
    "decode": "vllm:request_decode_time_seconds",
}
FINISHED = "vllm:request_success_total"
STARTED = "process_start_time_seconds"
METADATA_KEY = b"plumbline"

_PARTS = ("_bucket", "_count", "_sum")
_WANTED_EACH_SECOND = (
    *(*GAUGES.values(), *COUNTERS.values(), FINISHED, STARTED),
    *(f"{whole}{part}" for whole in HISTOGRAMS.values() for part in ("_count", "_sum")),
)
_WANTED = (*_WANTED_EACH_SECOND, *(f"{whole}_bucket" for whole in HISTOGRAMS.values()))
_PLACE = {whole: name for names in (GAUGES, COUNTERS) for name, whole in names.items()}
_HISTOGRAM_PLACE = {f"{whole}{part}": (name, part) for name, whole in HISTOGRAMS.items() for part in _PARTS}

_TIMEOUT_S = 5.0
_MOST_BYTES = 8_000_000
_SETTLE_S, _SETTLE_EVERY_S = 5.0, 0.1
"""vLLM counts a request a moment after its last chunk went out: how long to wait until nothing moves any more."""


@dataclass(frozen=True)
class Cumulative:
    """A Prometheus histogram of seconds at one moment."""

    count: float
    sum_s: float
    bounds_s: tuple[float, ...]
    """Upper bounds of the buckets, rising, without the last one, which has none."""
    counts: tuple[float, ...]
    """Samples at or below each bound."""


@dataclass(frozen=True)
class Reading:
    """The server's figures at one moment; what it did not say is absent, not 0."""

    at_s: float
    """Wall clock, seconds since 1970."""
    gauges: dict[str, float]
    counters: dict[str, float]
    finished: dict[str, float]
    """Requests by the reason they finished for."""
    histograms: dict[str, Cumulative]
    started_s: float | None
    """When the server's process started."""

    @property
    def idle(self) -> bool:
        """Whether no request is running or waiting."""
        return not (self.gauges.get("running") or self.gauges.get("waiting"))

    def same_counts(self, other: Reading) -> bool:
        """Whether nothing was counted between two readings."""
        return (self.counters, self.finished, self.histograms) == (other.counters, other.finished, other.histograms)

    def line(self, gpus: Gpus | None) -> dict[str, Any]:
        """This reading as a line of the file."""
        found: dict[str, Any] = {"at_s": self.at_s, "started_s": self.started_s, **self.gauges, **self.counters}
        found["finished"] = sum(self.finished.values())
        for name, histogram in self.histograms.items():
            found |= {f"{name}_count": histogram.count, f"{name}_sum_s": histogram.sum_s}
        return found | (gpus.read() if gpus else {})


NUMBERS = (
    *("at_s", "started_s", *GAUGES, *COUNTERS, "finished"),
    *(f"{name}_{part}" for name in HISTOGRAMS for part in ("count", "sum_s")),
)
"""Columns of server.parquet with one number per reading; those of the GPUs are lists, one value per GPU."""
GPU_LISTS = ("gpu_busy", "gpu_memory_bytes", "gpu_power_w")


@dataclass(frozen=True)
class Scraped:
    """Everything that was read of one server during one test."""

    before: Reading
    after: Reading
    busy_before: bool
    """Whether requests were running, or being counted, before the test's first: somebody else's."""
    settled: bool
    """Whether the last reading was taken when nothing moved any more; else the totals may lack the last requests."""
    missed: int
    """Readings that failed."""
    missed_because: str
    """Of the last one that did."""
    cpu_s: float
    """Processor time the reading took."""
    gpus: tuple[str, ...]
    """Names of this machine's NVIDIA GPUs, where the server runs here."""
    lines: list[dict[str, Any]] = field(default_factory=list)


# --- one reading -----------------------------------------------------------------------------------------


def parse_metrics(text: str, at_s: float, *, buckets: bool = True) -> Reading:
    """The figures we keep, of a page in Prometheus' text format. Raises ValueError when it is not such a page.

    buckets: whether the histograms' buckets are wanted; without them a reading costs a fifth.
    """
    from prometheus_client.parser import text_string_to_metric_families

    names = _WANTED if buckets else _WANTED_EACH_SECOND
    wanted = "\n".join(line for line in text.splitlines() if line.startswith(names))
    gauges: dict[str, float] = {}
    counters: dict[str, float] = {}
    finished: dict[str, float] = defaultdict(float)
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    started_s: float | None = None
    for family in text_string_to_metric_families(wanted + "\n"):
        for name, labels, value, *_ in family.samples:
            if not math.isfinite(value):
                continue
            if name == FINISHED:
                finished[labels.get("finished_reason", "unknown")] += value
            elif name == STARTED:
                started_s = value
            elif name == GAUGES["kv_use"]:
                gauges["kv_use"] = max(value, gauges.get("kv_use", 0.0))
            elif place := _PLACE.get(name):
                totals = gauges if place in GAUGES else counters
                totals[place] = totals.get(place, 0.0) + value
            elif histogram := _HISTOGRAM_PLACE.get(name):
                kind, part = histogram
                parts[kind][labels["le"] if part == "_bucket" else part] += value
    histograms = {kind: _cumulative(found) for kind, found in parts.items()}
    return Reading(at_s, gauges, counters, dict(finished), histograms, started_s)


def _cumulative(found: dict[str, float]) -> Cumulative:
    count, sum_s = found.pop("_count", 0.0), found.pop("_sum", 0.0)
    buckets = sorted((float(bound), number) for bound, number in found.items())
    finite = [(bound, number) for bound, number in buckets if math.isfinite(bound)]
    return Cumulative(count, sum_s, tuple(bound for bound, _ in finite), tuple(number for _, number in finite))


class MetricsPage:
    """GET of one `/metrics` page. No key is sent: vLLM asks for none there, and a redirect could lead elsewhere."""

    def __init__(self, base_url: str) -> None:
        self.url = f"{origin_of(base_url)}/metrics"
        # Our own machine is never behind a proxy, whatever the environment says.
        proxies = [urllib.request.ProxyHandler({})] if is_loopback(base_url) else []
        self._open = urllib.request.build_opener(*proxies).open

    def read(self, *, buckets: bool = True) -> Reading:
        """One reading. Raises OSError, HTTPException or ValueError when no figures come."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        body = b""
        with self._open(self.url, timeout=_TIMEOUT_S) as answer:
            while piece := answer.read1(1 << 16):
                body += piece
                if len(body) > _MOST_BYTES or time.monotonic() > deadline_s:
                    raise ValueError(f"the page is above {_MOST_BYTES} bytes or takes over {_TIMEOUT_S:g} s")
        return parse_metrics(body.decode("utf8", "replace"), time.time(), buckets=buckets)


_FAILURES = (OSError, HTTPException, ValueError, KeyError)


# --- during a test ---------------------------------------------------------------------------------------


class Scraper:
    """Reads a server's figures from `start` (after the warm-up) to `stop` (after the drain), in a thread.

    An endpoint without such figures is told of once on stderr, and the test goes on without them.
    """

    def __init__(self, base_url: str, path: Path, *, every_s: float = 1.0) -> None:
        """base_url: the endpoint's; its origin has `/metrics`. path: server.parquet."""
        self._page = MetricsPage(base_url)
        self._path = path
        self._every_s = every_s
        self._gpus = find_gpus() if is_loopback(base_url) else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="server-metrics", daemon=True)
        self._readings: list[dict[str, Any]] = []
        self._before: Reading | None = None
        self._last: Reading | None = None
        self._busy_before = False
        self._missed, self._missed_because = 0, ""
        self._cpu_s = 0.0

    def start(self) -> None:
        """Take the reading that the totals are counted from, then one every second."""
        try:
            self._before, settled = self._settle()
        except _FAILURES as error:
            say(f"no figures of the server: {self._page.url}: {_said(error)}")
            return
        if not (self._before.gauges or self._before.counters):
            say(f"no figures of the server: {self._page.url} holds none of vLLM's")
            self._before = None
            return
        self._busy_before = not settled
        self._keep(self._before)
        self._thread.start()

    def stop(self) -> bool:
        """Take the last reading and write the file; False when there is nothing to write."""
        if self._before is None or self._last is None:
            return False
        self._over.set()
        self._thread.join(2 * _TIMEOUT_S)
        settled = False
        try:
            after, settled = self._settle()
            self._keep(after)
        except _FAILURES as error:
            self._miss(error)
        scraped = Scraped(
            before=self._before,
            after=self._last,
            busy_before=self._busy_before,
            settled=settled,
            missed=self._missed,
            missed_because=self._missed_because,
            cpu_s=self._cpu_s,
            gpus=self._gpus.names if self._gpus else (),
            lines=self._readings,
        )
        write_scraped(scraped, self._path)
        return True

    def _watch(self) -> None:
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + self._every_s, time.monotonic())
            if self._over.wait(due_s - time.monotonic()):
                break
            try:
                self._keep(self._page.read(buckets=False))
            except _FAILURES as error:
                self._miss(error)
            self._cpu_s = time.thread_time()

    def _settle(self) -> tuple[Reading, bool]:
        """A reading, and whether it was taken with no request there and nothing being counted any more."""
        deadline_s = time.monotonic() + _SETTLE_S
        reading = self._page.read()
        while time.monotonic() < deadline_s:
            time.sleep(_SETTLE_EVERY_S)
            before, reading = reading, self._page.read()
            if reading.idle and reading.same_counts(before):
                return reading, True
        return reading, False

    def _keep(self, reading: Reading) -> None:
        self._last = reading
        self._readings.append(reading.line(self._gpus))

    def _miss(self, error: Exception) -> None:
        self._missed, self._missed_because = self._missed + 1, _said(error)


def _said(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}"
    return shorten(str(getattr(error, "reason", "") or error) or type(error).__name__)


# --- the file --------------------------------------------------------------------------------------------


def write_scraped(scraped: Scraped, path: Path) -> None:
    """Write the file; it appears under its name when it is whole."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    columns = [pa.field(name, pa.float64()) for name in NUMBERS]
    columns += [pa.field(name, pa.list_(pa.float64())) for name in GPU_LISTS]
    told = {key: value for key, value in asdict(scraped).items() if key != "lines"}
    schema = pa.schema(columns, metadata={METADATA_KEY: orjson.dumps(told)})
    part = path.with_name(f"{path.name}.part")
    pq.write_table(table_of(scraped.lines, schema), part, compression="zstd")
    part.replace(path)


def read_scraped(path: Path) -> Scraped:
    """What write_scraped was given. Raises BadInput when the file is missing or is none of ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        told = orjson.loads((table.schema.metadata or {})[METADATA_KEY])
        return _SCRAPED.validate_python({**told, "lines": table.to_pylist()})
    except (OSError, KeyError, ValueError, TypeError, ValidationError, pa.ArrowException) as error:
        raise BadInput(f"{path}: holds no figures of a server: {shorten(str(error))}") from None


_SCRAPED = TypeAdapter(Scraped)
