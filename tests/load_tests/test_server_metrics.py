"""The server's side of a load test: read while it runs, subtracted, compared with the client's, and doubted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from common.console import BadInput
from load_tests import gpu, scrape
from load_tests.gpu import Gpus
from load_tests.scrape import Cumulative, Scraped, Scraper, parse_metrics, read_scraped
from load_tests.server_metrics import (
    bounded,
    report_of,
    server_json,
    server_metrics,
    server_report,
    server_sentences,
)
from load_tests.sse import Status
from tests.load_tests.made_load import START_AT_S, made_record, made_rows


class Engine:
    """vLLM's figures as its own library keeps them; `serve` answers one request of made_record's."""

    def __init__(self, *, already: float = 0.0, started_s: float = 1000.0) -> None:
        self.registry = CollectorRegistry()
        keep: dict[str, Any] = {"registry": self.registry, "labelnames": ["model_name", "engine"]}
        self.labels = {"model_name": 'm"x\\', "engine": "0"}
        self.gauges = {name: Gauge(full, name, **keep) for name, full in scrape.GAUGES.items()}
        self.counters = {name: Counter(full, name, **keep) for name, full in scrape.COUNTERS.items()}
        self.histograms = {
            name: Histogram(full, name, buckets=(0.02, 0.05, 0.1, 1.0), **keep)
            for name, full in scrape.HISTOGRAMS.items()
        }
        self.finished = Counter(
            scrape.FINISHED, "finished", registry=self.registry, labelnames=["model_name", "engine", "finished_reason"]
        )
        Gauge(scrape.STARTED, "start", registry=self.registry).set(started_s)
        Counter("vllm:iteration_tokens", "none of ours", registry=self.registry).inc(5)
        for gauge in self.gauges.values():
            gauge.labels(**self.labels).set(0)
        for counter in self.counters.values():
            counter.labels(**self.labels).inc(already)

    def serve(self, *, ttft_s: float = 0.040, prompt: int = 100, output: int = 4, engine: str = "0") -> None:
        labels = {**self.labels, "engine": engine}
        self.counters["prompt_tokens"].labels(**labels).inc(prompt)
        self.counters["output_tokens"].labels(**labels).inc(output)
        self.counters["prefix_queries"].labels(**labels).inc(prompt)
        self.counters["prefix_hits"].labels(**labels).inc(prompt / 4)
        self.histograms["ttft"].labels(**labels).observe(ttft_s)
        for _ in range(output - 1):
            self.histograms["itl"].labels(**labels).observe(0.010)
        self.histograms["e2e"].labels(**labels).observe(ttft_s + 0.010 * (output - 1))
        self.histograms["queue"].labels(**labels).observe(0.001)
        self.histograms["prefill"].labels(**labels).observe(0.030)
        self.finished.labels(**labels, finished_reason="stop").inc()

    def page(self) -> str:
        return generate_latest(self.registry).decode()

    def read(self, at_s: float) -> scrape.Reading:
        return parse_metrics(self.page(), at_s)


@contextmanager
def serving(answer: Callable[[], tuple[int, str]]) -> Iterator[str]:
    """A server on loopback whose `/metrics` is what `answer` says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answer() if self.path == "/metrics" else (404, "")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "_SETTLE_EVERY_S", 0.005)
    monkeypatch.setattr(scrape, "_SETTLE_S", 0.05)


def scraped(before: scrape.Reading, *later: scrape.Reading, **changes: Any) -> Scraped:
    readings = [before, *later]
    values: dict[str, Any] = {
        "before": before,
        "after": readings[-1],
        "busy_before": False,
        "settled": True,
        "missed": 0,
        "missed_because": "",
        "cpu_s": 0.01,
        "gpus": (),
        "lines": [reading.line(None) for reading in readings],
    }
    return Scraped(**{**values, **changes})


# --- reading a page --------------------------------------------------------------------------------------


def test_a_page_gives_what_was_counted_and_nothing_else() -> None:
    engine = Engine()
    engine.serve()
    engine.gauges["running"].labels(**engine.labels).set(3)
    reading = engine.read(12.5)
    assert reading.at_s == 12.5
    assert reading.gauges == {"running": 3, "waiting": 0, "kv_use": 0}
    assert reading.counters["prompt_tokens"] == 100
    assert reading.counters["output_tokens"] == 4
    assert reading.finished == {"stop": 1}
    assert reading.started_s == 1000
    ttft = reading.histograms["ttft"]
    assert (ttft.count, ttft.bounds_s, ttft.counts) == (1, (0.02, 0.05, 0.1, 1.0), (0, 1, 1, 1))
    assert ttft.sum_s == pytest.approx(0.040)


def test_engines_add_up_but_the_fullest_cache_counts() -> None:
    engine = Engine()
    engine.serve(engine="0")
    engine.serve(engine="1")
    for number, (running, kv) in enumerate(((2, 0.2), (5, 0.7))):
        engine.gauges["running"].labels(model_name="m", engine=str(number)).set(running)
        engine.gauges["kv_use"].labels(model_name="m", engine=str(number)).set(kv)
    reading = engine.read(0.0)
    assert reading.gauges["running"] == 7
    assert reading.gauges["kv_use"] == 0.7
    assert reading.counters["output_tokens"] == 8
    assert reading.histograms["ttft"].count == 2
    assert reading.histograms["ttft"].counts[-1] == 2


def test_what_is_no_number_is_missing_and_not_zero() -> None:
    reading = parse_metrics("vllm:num_requests_running NaN\nvllm:kv_cache_usage_perc +Inf\n", 0.0)
    assert reading.gauges == {}
    assert reading.line(None).get("running") is None


def test_a_page_that_is_none_raises_value_error() -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_metrics('vllm:num_requests_running{engine="0" twelve\n', 0.0)


@pytest.mark.slow
@given(st.data())
def test_a_damaged_page_is_a_failed_reading_and_nothing_worse(data: st.DataObject) -> None:
    """Pieces of a real page, cut and glued anywhere, with odd characters between."""
    page = "\n".join(line for line in Engine().page().splitlines() if "_created" not in line)  # they hold the time
    pieces = []
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(page)))
        pieces.append(page[start : start + data.draw(st.integers(0, 300))])
        pieces.append(data.draw(st.text(alphabet='{}",=\\ \n#0+eNan\u2028', max_size=6)))
    with suppress(*scrape._FAILURES):
        parse_metrics("\n".join((*pieces, "vllm:num_requests_running", *pieces)), 0.0)


def test_without_buckets_only_they_are_missing() -> None:
    engine = Engine()
    engine.serve()
    whole, lean = engine.read(0.0), parse_metrics(engine.page(), 0.0, buckets=False)
    assert lean.line(None) == whole.line(None)
    assert lean.histograms["ttft"] == Cumulative(1, whole.histograms["ttft"].sum_s, (), ())


# --- percentiles from buckets ----------------------------------------------------------------------------


def test_a_percentile_is_interpolated_in_its_bucket_and_names_the_buckets_bounds() -> None:
    """10 samples up to 1 s, 10 more up to 2 s: rank 15 is half way through the second bucket."""
    found = bounded((1.0, 2.0), np.array([10.0, 20.0]), 20, 75)
    assert (found.value_s, found.low_s, found.high_s) == (1.5, 1.0, 2.0)
    first = bounded((1.0, 2.0), np.array([10.0, 20.0]), 20, 25)
    assert (first.value_s, first.low_s, first.high_s) == (0.5, 0.0, 1.0)


def test_above_the_last_bound_nobody_knows() -> None:
    found = bounded((1.0,), np.array([1.0]), 10, 95)
    assert (found.value_s, found.low_s, found.high_s) == (None, 1.0, None)


@pytest.mark.slow
@given(
    st.lists(st.floats(0.001, 0.999), min_size=1, max_size=80),
    st.sampled_from((50, 90, 95, 99)),
)
def test_the_true_percentile_lies_in_the_bucket_that_is_named(samples: list[float], p: int) -> None:
    bounds = (0.05, 0.1, 0.3, 0.5, 1.0)
    counts = np.array([sum(one <= bound for one in samples) for bound in bounds], float)
    found = bounded(bounds, counts, len(samples), p)
    true = float(np.percentile(samples, p, method="inverted_cdf"))
    assert found.high_s is not None
    assert found.value_s is not None
    assert found.low_s <= true <= found.high_s
    assert found.low_s <= found.value_s <= found.high_s


# --- both sides ------------------------------------------------------------------------------------------


def run_of(count: int, engine: Engine | None = None) -> Scraped:
    """A server that served somebody before, then `count` requests of ours, read every ten of them."""
    engine = engine or Engine(already=1000.0)
    engine.serve(ttft_s=0.9)
    readings = [engine.read(START_AT_S - 1)]
    for number in range(count):
        engine.serve()
        if number % 10 == 9:
            engine.gauges["running"].labels(**engine.labels).set(number % 7)
            readings.append(engine.read(START_AT_S + number))
    return scraped(*readings, engine.read(START_AT_S + count))


def test_only_the_tests_own_share_is_reported_and_tokens_agree_exactly() -> None:
    report = report_of(run_of(40), made_rows(made_record(n) for n in range(40)))
    assert [(check.kind, check.server, check.client, check.equal) for check in report.tokens] == [
        ("prompt", 4000, 4000, True),
        ("output", 160, 160, True),
    ]
    assert report.finished == {"stop": 40}
    assert report.latencies["ttft"].n == 40
    assert report.latencies["ttft"].mean_s == pytest.approx(0.040)  # without the 0.9 s of before
    assert report.prefix_hit_rate == pytest.approx(0.25)
    assert report.latencies["ttft"].percentiles[99] is None  # 40 samples carry no p99
    p50 = report.latencies["ttft"].percentiles[50]
    assert p50 is not None
    assert (p50.low_s, p50.high_s) == (0.02, 0.05)
    assert report.series["at_s"][0] == -1
    assert report.levels["running"].n == len(report.series["at_s"])
    assert not report.notes


def test_client_minus_server_is_the_difference_of_exact_means() -> None:
    rows = made_rows(made_record(n, ttft_s=0.050 if n % 2 else 0.070) for n in range(20))
    both = report_of(run_of(20), rows).both["ttft"]
    assert (both.client_n, both.server_n) == (20, 20)
    assert both.client_mean_s == pytest.approx(0.060)
    assert both.difference_s == pytest.approx(0.020)


def test_e2e_is_not_compared_where_the_server_has_answers_that_were_hung_up_on() -> None:
    whole = [made_record(n) for n in range(20)]
    cut = [replace(one, status=Status.CANCELLED, cancel_after_chunks=1) if one.index % 2 else one for one in whole]
    assert {"ttft", "e2e"} <= set(report_of(run_of(20), made_rows(whole)).both)
    found = report_of(run_of(20), made_rows(cut)).both
    assert "ttft" in found
    assert "e2e" not in found


def test_other_clients_are_named_when_tokens_differ() -> None:
    """The server served 12, this test sent 10."""
    report = report_of(run_of(12), made_rows(made_record(n) for n in range(10)))
    prompt, output = report.tokens
    assert not prompt.equal
    assert prompt.server - prompt.client == 200
    assert "beyond those this test sent: 2," in prompt.because
    assert "other clients" in output.because
    assert any("12 first tokens" in note for note in report.notes)


def test_requests_without_usage_are_named_but_not_those_that_never_arrived() -> None:
    cut = made_record(9, status=Status.CUT_STREAM, prompt_tokens=None, output_tokens=None)
    refused = made_record(
        10, status=Status.CONNECTION, prompt_tokens=None, output_tokens=None, ttft_s=None, itl_s=[], content_chunks=0
    )
    report = report_of(run_of(10), made_rows([*(made_record(n) for n in range(9)), cut, refused]))
    prompt = report.tokens[0]
    assert prompt.without_usage == 1
    assert "without usage: 1 requests" in prompt.because
    assert "other clients" not in prompt.because


def test_a_restart_is_noticed_and_nothing_is_subtracted_over_it() -> None:
    old = Engine(already=1000.0)
    before = old.read(START_AT_S)
    for _ in range(5):
        old.serve()
    middle = old.read(START_AT_S + 1)
    new = Engine(started_s=2000.0)
    new.serve()
    report = report_of(scraped(before, middle, new.read(START_AT_S + 2)), made_rows(made_record(n) for n in range(6)))
    assert report.restarted
    assert report.counters["prompt_tokens"] == 600  # 500 before the fall, 100 after it
    assert report.latencies == {}
    assert report.both == {}
    assert any("restarted" in note for note in report.notes)


def test_a_restart_that_has_already_counted_past_the_old_figures_shows_by_its_start() -> None:
    old, new = Engine(), Engine(already=500.0, started_s=2000.0)
    assert report_of(scraped(old.read(0.0), new.read(1.0)), made_rows([made_record(0)])).restarted


def test_what_the_server_does_not_tell_is_absent_and_not_zero() -> None:
    page = "vllm:num_requests_running 1\nvllm:prompt_tokens_total 7\n"
    report = report_of(scraped(parse_metrics(page, 0.0), parse_metrics(page, 1.0)), made_rows([made_record(0)]))
    assert set(report.levels) == {"running"}
    assert set(report.counters) == {"prompt_tokens"}
    assert [check.kind for check in report.tokens] == ["prompt"]
    assert report.prefix_hit_rate is None
    told = server_metrics(report)
    assert "server_kv_use_mean" not in told
    assert "server_prefix_hit_rate" not in told


def test_doubts_are_told() -> None:
    run = replace(run_of(3), busy_before=True, settled=False, missed=2, missed_because="timed out")
    told = " | ".join(server_sentences(report_of(run, made_rows(made_record(n) for n in range(3)))))
    for words in ("busy before", "last reading", "2 of 4 readings failed: timed out", "the same on both sides"):
        assert words in told


def test_a_server_gone_at_the_end_has_exact_means_and_no_percentiles() -> None:
    run = run_of(20)
    left = {name: replace(one, bounds_s=(), counts=()) for name, one in run.after.histograms.items()}
    found = report_of(replace(run, after=replace(run.after, histograms=left)), made_rows([made_record(0)]))
    assert found.latencies["ttft"].mean_s == pytest.approx(0.040)
    assert set(found.latencies["ttft"].percentiles.values()) == {None}


def test_a_histogram_whose_buckets_changed_is_not_subtracted_bucket_by_bucket() -> None:
    run = run_of(20)
    changed = Cumulative(0.0, 0.0, (0.5,), (0.0,))
    run = replace(run, before=replace(run.before, histograms={**run.before.histograms, "ttft": changed}))
    assert report_of(run, made_rows([made_record(0)])).latencies["ttft"].n == 21


# --- reading during a test -------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_whole_test_is_read_and_comes_back_from_the_file(tmp_path: Path) -> None:
    engine = Engine(already=50.0)
    with serving(lambda: (200, engine.page())) as base_url:
        scraper = Scraper(base_url, tmp_path / "server.parquet", every_s=0.01)
        scraper.start()
        for _ in range(10):
            engine.serve()
        while len(scraper._readings) < 4:
            time.sleep(0.005)
        assert scraper.stop()
    found = read_scraped(tmp_path / "server.parquet")
    assert len(found.lines) >= 5
    assert found.settled
    assert not found.busy_before
    assert found.missed == 0
    assert found.cpu_s > 0
    report = server_report(tmp_path / "server.parquet", made_rows(made_record(n) for n in range(10)))
    assert all(check.equal for check in report.tokens)
    assert server_json(report)["tokens"][0]["equal"] is True
    assert "series" not in server_json(report)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (404, "", "404"),
        (200, "go_threads 5\n", "none of vLLM's"),
        (200, "<html>{not metrics", "none of vLLM's"),
        (200, "vllm:num_requests_running{", "/metrics"),
    ],
)
def test_an_endpoint_without_figures_is_told_once_and_the_test_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int, text: str, said: str
) -> None:
    with serving(lambda: (status, text)) as base_url:
        scraper = Scraper(base_url, tmp_path / "server.parquet")
        scraper.start()
        assert not scraper.stop()
    told = capsys.readouterr().err
    assert "no figures of the server" in told
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "server.parquet").exists()


@pytest.mark.usefixtures("quick")
def test_a_server_that_dies_leaves_what_was_read_and_says_so(tmp_path: Path) -> None:
    engine = Engine()
    with serving(lambda: (200, engine.page())) as base_url:
        scraper = Scraper(base_url, tmp_path / "server.parquet", every_s=0.01)
        scraper.start()
    while not scraper._missed:
        time.sleep(0.005)
    assert scraper.stop()
    found = read_scraped(tmp_path / "server.parquet")
    assert found.missed >= 2
    assert not found.settled
    assert "refused" in found.missed_because


@pytest.mark.usefixtures("quick")
def test_somebody_elses_requests_before_the_test_are_noticed(tmp_path: Path) -> None:
    engine = Engine()

    def busy() -> tuple[int, str]:
        engine.serve()
        return 200, engine.page()

    with serving(busy) as base_url:
        scraper = Scraper(base_url, tmp_path / "server.parquet")
        scraper.start()
        scraper.stop()
    assert read_scraped(tmp_path / "server.parquet").busy_before


def test_a_file_that_is_none_of_ours_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "server.parquet").write_bytes(b"not parquet")
    with pytest.raises(BadInput, match=r"server\.parquet: holds no figures"):
        read_scraped(tmp_path / "server.parquet")
    with pytest.raises(BadInput, match=r"gone\.parquet"):
        read_scraped(tmp_path / "gone.parquet")


# --- GPUs ------------------------------------------------------------------------------------------------


class NvmlError(Exception):
    """As pynvml.NVMLError."""


def nvml(power: Callable[[int], int]) -> Any:
    """The calls we use of nvidia-ml-py, for two GPUs."""
    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda place: place,
        nvmlDeviceGetName=lambda place: b"NVIDIA H100" if place else "NVIDIA L4",
        nvmlDeviceGetUtilizationRates=lambda place: SimpleNamespace(gpu=25 + 50 * place, memory=1),
        nvmlDeviceGetMemoryInfo=lambda place: SimpleNamespace(total=80 << 30, used=(place + 1) << 30),
        nvmlDeviceGetPowerUsage=power,
    )


def test_a_gpu_is_read_in_shares_bytes_and_watts_and_what_it_does_not_tell_is_missing() -> None:
    def power(place: int) -> int:
        if place:
            raise NvmlError
        return 71_500

    gpus = Gpus(nvml(power))
    assert gpus.names == ("NVIDIA L4", "NVIDIA H100")
    assert gpus.read() == {
        "gpu_busy": [0.25, 0.75],
        "gpu_memory_bytes": [float(1 << 30), float(2 << 30)],
        "gpu_power_w": [71.5, None],
    }


def test_several_gpus_are_one_line_of_the_report() -> None:
    gpus = Gpus(nvml(lambda _: 100_000))
    reading = Engine().read(START_AT_S)
    run = scraped(reading, gpus=gpus.names, lines=[reading.line(gpus)])
    levels = report_of(run, made_rows([made_record(0)])).levels
    assert levels["gpu_busy"].mean == 0.5
    assert levels["gpu_memory_bytes"].most == 3 << 30
    assert levels["gpu_power_w"].mean == 200.0


def test_without_the_binding_or_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert gpu.find_gpus() is None

    def no_driver() -> None:
        raise NvmlError

    monkeypatch.setitem(
        __import__("sys").modules, "pynvml", SimpleNamespace(**{**vars(nvml(lambda _: 1)), "nvmlInit": no_driver})
    )
    assert gpu.find_gpus() is None
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml(lambda _: 1))
    assert gpu.find_gpus() is not None
