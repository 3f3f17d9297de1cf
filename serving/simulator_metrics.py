"""What the simulator says of itself: counts for tests, and figures under vLLM's names at /metrics.

Names and buckets are those of vLLM 0.32 (`vllm/v1/metrics/loggers.py`, `buckets.py`), so that a reader of vLLM's
metrics can be tried here against times that are known. What differs: one gap between content chunks is one inter-token
latency, KV use is the share of places taken (0 without --max-running), and there is no prefix cache, so nothing hits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from serving.faults import Fault
from serving.simulator_queue import Slots
from serving.simulator_time import Clock

_TTFT_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_ITL_BUCKETS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_BUCKETS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0),
    *(30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_LABELS = ("model_name", "engine")
_REASONS = ("stop", "length", "abort", "error")
_NS_PER_S = 1e9


@dataclass
class Progress:
    """How far one request has come."""

    tokens: int = 0
    """Tokens that have left."""


@dataclass
class RequestCounts:
    """Chat completions so far: received == in_flight + answered + cancelled + faulted at every moment."""

    received: int = 0
    in_flight: int = 0
    """Under way now, those that wait for a place included."""
    answered: int = 0
    """Answered as they should be: refused for a good reason counts too."""
    cancelled: int = 0
    """The client left before the answer."""
    faulted: int = 0
    """Hit by the fault, however they ended."""
    most_in_flight: int = 0
    """The most under way at one moment."""
    cancelled_after_tokens: dict[int, int] = field(default_factory=dict)
    """How many clients left after how many tokens had been sent to them; its values add up to `cancelled`."""

    def arrive(self) -> int:
        """Count a request in; its number, from 0."""
        self.received += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return self.received - 1

    @contextmanager
    def until_done(self, fault: Fault) -> Iterator[Progress]:
        """Count a request out when the block ends; one that ends by an exception was left by its client."""
        answered = False
        progress = Progress()
        try:
            yield progress
            answered = True
        finally:
            self.in_flight -= 1
            if fault is not Fault.NONE:
                self.faulted += 1
            elif answered:
                self.answered += 1
            else:
                self.cancelled += 1
                after = self.cancelled_after_tokens
                after[progress.tokens] = after.get(progress.tokens, 0) + 1


class ServerMetrics:
    """vLLM's figures of one simulator, in a registry of its own."""

    def __init__(self, model: str, slots: Slots) -> None:
        self._registry = CollectorRegistry()
        self._labels = (model, "0")
        ProcessCollector(registry=self._registry)
        Gauge("plumbline_simulated", "1: no model, times are made up.", registry=self._registry).set(1)
        self._gauge("num_requests_running", "Requests that hold a place.").set_function(lambda: slots.running)
        self._gauge("num_requests_waiting", "Requests that wait for a place.").set_function(lambda: slots.waiting)
        self._gauge("kv_cache_usage_perc", "Share of places taken.").set_function(lambda: slots.share_taken)
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests that gave a token.")
        self.output_tokens = self._counter("generation_tokens", "Tokens that have left.")
        self.prefix_queries = self._counter("prefix_cache_queries", "Prompt tokens looked up.")
        for name in ("prefix_cache_hits", "prompt_tokens_cached", "num_preemptions"):
            self._counter(name, "Not simulated: always 0.")
        self.finished = self._finished()
        self.ttft = self._histogram("time_to_first_token_seconds", _TTFT_BUCKETS_S)
        self.itl = self._histogram("inter_token_latency_seconds", _ITL_BUCKETS_S)
        self.e2e = self._histogram("e2e_request_latency_seconds", _REQUEST_BUCKETS_S)
        self.queue = self._histogram("request_queue_time_seconds", _REQUEST_BUCKETS_S)
        self.prefill = self._histogram("request_prefill_time_seconds", _REQUEST_BUCKETS_S)
        self.decode = self._histogram("request_decode_time_seconds", _REQUEST_BUCKETS_S)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, told: str) -> Gauge:
        return Gauge(f"vllm:{name}", told, _LABELS, registry=self._registry).labels(*self._labels)

    def _counter(self, name: str, told: str) -> Counter:
        return Counter(f"vllm:{name}", told, _LABELS, registry=self._registry).labels(*self._labels)

    def _histogram(self, name: str, buckets_s: tuple[float, ...]) -> Histogram:
        told = "Seconds, by what was sent when."
        whole = Histogram(f"vllm:{name}", told, _LABELS, registry=self._registry, buckets=buckets_s)
        return whole.labels(*self._labels)

    def _finished(self) -> dict[str, Counter]:
        told = "Requests that are over."
        whole = Counter("vllm:request_success", told, (*_LABELS, "finished_reason"), registry=self._registry)
        return {reason: whole.labels(*self._labels, reason) for reason in _REASONS}


class RequestMetrics:
    """One request's part in the figures: told of each chunk that leaves, and of the end."""

    def __init__(self, metrics: ServerMetrics, progress: Progress, clock: Clock, prompt_tokens: int) -> None:
        self._metrics, self._progress, self._clock = metrics, progress, clock
        self._prompt_tokens = prompt_tokens
        self._first_ns = self._last_ns = 0

    def sent(self, tokens: int, now_ns: int) -> None:
        """So many tokens have left in one chunk."""
        metrics = self._metrics
        if not self._first_ns:
            self._first_ns = now_ns
            metrics.ttft.observe((now_ns - self._clock.arrived_ns) / _NS_PER_S)
            metrics.prompt_tokens.inc(self._prompt_tokens)
            metrics.prefix_queries.inc(self._prompt_tokens)
        else:
            metrics.itl.observe((now_ns - self._last_ns) / _NS_PER_S)
        self._last_ns = now_ns
        self._progress.tokens += tokens
        metrics.output_tokens.inc(tokens)

    def finish(self, reason: str) -> None:
        """It is over. Without a token it has no times, and only its reason is counted."""
        metrics, clock = self._metrics, self._clock
        metrics.finished[reason].inc()
        if not self._first_ns:
            return
        metrics.e2e.observe((self._last_ns - clock.arrived_ns) / _NS_PER_S)
        metrics.queue.observe((clock.started_ns - clock.arrived_ns) / _NS_PER_S)
        metrics.prefill.observe((self._first_ns - clock.started_ns) / _NS_PER_S)
        metrics.decode.observe((self._last_ns - self._first_ns) / _NS_PER_S)
