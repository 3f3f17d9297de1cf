"""The simulator's /metrics has vLLM's names and buckets, and figures that its own stamps confirm."""

from __future__ import annotations

import importlib.util
import json
import re
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import simulator_metrics
from serving.faults import Fault
from serving.simulator_metrics import ServerMetrics
from serving.simulator_queue import Slots

Start = Callable[..., str]
MESSAGES = [{"role": "user", "content": "three words here"}]


def ask(base_url: str, **more: Any) -> bytes:
    """The body of one chat completion."""
    data = json.dumps({"model": "plumbline-simulator", "messages": MESSAGES, **more}).encode()
    with urllib.request.urlopen(f"{base_url}/chat/completions", data=data, timeout=10) as answer:
        return bytes(answer.read())


def figures(base_url: str) -> dict[str, float]:
    """Every sample by its name, with the finished reason where there is one; buckets left out."""
    with urllib.request.urlopen(base_url.replace("/v1", "/metrics"), timeout=10) as answer:
        text = answer.read().decode()
    return {
        f"{sample.name}{sample.labels.get('finished_reason', '')}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def settled(base_url: str, name: str, value: float) -> dict[str, float]:
    """The figures, once one of them has a value: a request is counted out a moment after its last byte."""
    for _ in range(200):
        if (seen := figures(base_url))[name] == value:
            return seen
        time.sleep(0.01)
    raise AssertionError(f"{name} is {seen[name]}")


def test_totals_and_sums_are_those_of_the_stamps(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=10, itl_ms=5, output_tokens=4)
    lines = ask(base_url, stream=True).splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    stamps = [chunk["plumbline"] for chunk in chunks if chunk["choices"][0]["delta"].get("content")]
    arrived, first, last = (stamps[0]["arrived_ns"], stamps[0]["sent_ns"], stamps[-1]["sent_ns"])
    seen = settled(base_url, "vllm:request_success_totalstop", 1)
    assert (seen["vllm:prompt_tokens_total"], seen["vllm:generation_tokens_total"]) == (3, 4)
    assert seen["vllm:prefix_cache_queries_total"] == 3
    for name, count, total_ns in (
        ("time_to_first_token", 1, first - arrived),
        ("inter_token_latency", 3, last - first),
        ("e2e_request_latency", 1, last - arrived),
        ("request_queue_time", 1, 0),
        ("request_prefill_time", 1, first - arrived),
        ("request_decode_time", 1, last - first),
    ):
        assert seen[f"vllm:{name}_seconds_count"] == count
        assert seen[f"vllm:{name}_seconds_sum"] == pytest.approx(total_ns / 1e9, abs=1e-12)
    assert seen["plumbline_simulated"] == 1
    assert seen["process_start_time_seconds"] <= time.time()


def test_a_whole_answer_counts_as_a_streamed_one_does(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=10, itl_ms=5, output_tokens=4)
    ask(base_url, max_tokens=3)
    seen = settled(base_url, "vllm:request_success_totallength", 1)
    assert (seen["vllm:prompt_tokens_total"], seen["vllm:generation_tokens_total"]) == (3, 3)
    assert seen["vllm:time_to_first_token_seconds_sum"] == pytest.approx(0.010, abs=1e-9)
    assert seen["vllm:inter_token_latency_seconds_sum"] == pytest.approx(0.010, abs=1e-9)


def test_waiting_running_and_use_of_places_are_told_and_fall_back(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=60, itl_ms=0, output_tokens=1, max_running=2)
    running, waiting = "vllm:num_requests_running", "vllm:num_requests_waiting"
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, base_url) for _ in range(3)]
        seen = settled(base_url, waiting, 1)
        assert (seen[running], seen["vllm:kv_cache_usage_perc"]) == (2, 1)
        for one in asked:
            one.result()
    seen = settled(base_url, running, 0)
    assert (seen[waiting], seen["vllm:kv_cache_usage_perc"]) == (0, 0)
    assert seen["vllm:request_queue_time_seconds_sum"] > 0.03


@pytest.mark.parametrize(
    ("fault", "reason", "tokens"),
    [
        (Fault.ERROR_DATA, "error", 2),
        (Fault.ERROR_EVENT, "error", 2),
        (Fault.EMPTY_BODY, "error", 0),
        (Fault.NO_USAGE, "stop", 4),
        (Fault.ODD_CHUNKS, "stop", 4),
    ],
)
def test_a_faulty_stream_is_counted_by_what_left(
    start_simulator: Start, fault: Fault, reason: str, tokens: int
) -> None:
    base_url = start_simulator(ttft_ms=0, itl_ms=0, output_tokens=4, fault=fault)
    ask(base_url, stream=True)
    seen = settled(base_url, f"vllm:request_success_total{reason}", 1)
    assert seen["vllm:generation_tokens_total"] == tokens


def test_two_simulators_in_one_process_count_apart(start_simulator: Start) -> None:
    first, second = start_simulator(ttft_ms=0, itl_ms=0), start_simulator(ttft_ms=0, itl_ms=0)
    ask(first)
    settled(first, "vllm:request_success_totalstop", 1)
    assert figures(second)["vllm:request_success_totalstop"] == 0


def test_every_name_and_bucket_is_vllms_own() -> None:
    spec = importlib.util.find_spec("vllm")  # looked up, not imported, which takes seconds
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "v1" / "metrics"
    known = set(re.findall(r'name="(vllm:[a-z_0-9]+)"', (folder / "loggers.py").read_text()))
    text = ServerMetrics("m", Slots(None, None)).text().decode()
    ours = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE vllm:")}
    assert {name.removesuffix("_total").removesuffix("_created") for name in ours} <= known
    buckets_spec = importlib.util.spec_from_file_location("vllm_buckets", folder / "buckets.py")
    assert buckets_spec is not None
    assert buckets_spec.loader is not None
    buckets = importlib.util.module_from_spec(buckets_spec)
    buckets_spec.loader.exec_module(buckets)
    assert simulator_metrics._TTFT_BUCKETS_S == buckets.TIME_TO_FIRST_TOKEN_BUCKETS
    assert simulator_metrics._ITL_BUCKETS_S == buckets.INTER_TOKEN_LATENCY_BUCKETS
    assert simulator_metrics._REQUEST_BUCKETS_S == buckets.REQUEST_LATENCY_BUCKETS
