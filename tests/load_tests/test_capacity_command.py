"""From the rows of probes to a capacity, its files and its exit status, on an endpoint made of arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pydantic import SecretStr

from common.console import BadInput, CannotJudge, ExitCode
from common.strict import Strict
from load_tests.arrivals import Arrivals, Closed, Poisson, Spike, schedule
from load_tests.capacity import Ask, Capacity, Probe
from load_tests.capacity_command import (
    CapacityOrder,
    as_json,
    curve_files,
    even_seed,
    find_capacity,
    latency_limits_s,
    needed_requests,
    print_capacity,
    refuse_unfound,
    search_limits,
    sentence,
)
from load_tests.capacity_command import asked as ordered
from load_tests.capacity_folder import CapacityFolder
from load_tests.capacity_logged import log_capacity, series
from load_tests.capacity_page import capacity_page
from load_tests.capacity_probe import probe_of
from load_tests.plots import draw_capacity
from load_tests.profiles import LoadProfile
from load_tests.rows import LoadRows, write_parquet
from load_tests.run_folder import RunFolder
from load_tests.slo_file import Slo
from load_tests.sse import Status
from serving.endpoint import Endpoint
from tests.load_tests.made_load import NS, made_record, made_rows
from tests.load_tests.queue_model import Queue, evenly

ENDPOINT = Endpoint("http://127.0.0.1:1/v1", "made-model", SecretStr("not-needed"), simulated=True)
QUEUE = Queue(slots=16, service_s=0.08, ttft_s=0.05)
"""200 requests/s."""


class Profile(Strict):
    """What a capacity search needs of a profile."""

    name: str = "made"
    arrivals: Arrivals = Poisson(rate_per_s=60.0)
    duration_s: int = 4
    seed: int = 7


def slo(*objectives: dict[str, Any]) -> Slo:
    return Slo.model_validate({"name": "made", "objectives": list(objectives)})


TTFT = {"metric": "ttft", "percentile": 95, "at_most_ms": 300}


def queue_rows(at_s: NDArray[np.float64], stop_s: float, **changes: Any) -> LoadRows:
    """Rows of an open-loop test against QUEUE."""
    ttft_s = QUEUE.waits_s(at_s) + QUEUE.ttft_s
    records = [
        made_record(i, sent_ns=round(at * NS), ttft_s=float(ttft), **changes)
        for i, (at, ttft) in enumerate(zip(at_s, ttft_s, strict=True))
    ]
    return made_rows(records, stop_s=stop_s)


def run(_endpoint: Endpoint, path: Path, _folder: Path) -> LoadRows:
    profile = Profile.model_validate(yaml.safe_load(path.read_text("utf8")))
    arrivals = Poisson(rate_per_s=120.0) if isinstance(profile.arrivals, Closed) else profile.arrivals
    at_s = schedule(arrivals, profile.duration_s, profile.seed) / NS
    return queue_rows(at_s, float(profile.duration_s))


def window_of(rows: LoadRows) -> tuple[tuple[float, float] | None, str]:
    end = rows.ends[0]
    assert end is not None
    return (1.0, end.stop_ns / NS), ""


def order(tmp_path: Path, **changes: Any) -> CapacityOrder:
    values = {"slo": slo(TTFT), "profile": cast(LoadProfile, Profile()), "folder": tmp_path / "found", **changes}
    return CapacityOrder(endpoint=ENDPOINT, **values)


# --- one probe -------------------------------------------------------------------------------------------

ASK = Ask(100.0, 4.0)


def test_a_probe_far_below_the_knee_meets_and_tells_what_came_out() -> None:
    probe = probe_of(slo(TTFT), ASK, queue_rows(evenly(100, 4.0), 4.0), (1.0, 4.0))
    assert (probe.verdict, probe.leans, probe.requests) == ("met", "met", 300)
    assert probe.throughput_per_s == pytest.approx(100, rel=0.01)
    assert probe.goodput_per_s == pytest.approx(100, rel=0.01)
    assert probe.latencies_s["ttft"][95] == pytest.approx(0.05)
    assert probe.latencies_s["itl"][50] == pytest.approx(0.01)


def test_beyond_the_knee_without_a_steady_state_is_a_miss_that_tells_the_ceiling() -> None:
    probe = probe_of(slo(TTFT), ASK, queue_rows(evenly(400, 4.0), 4.0), None, "requests in flight grew")
    assert probe.verdict == "missed"
    assert probe.throughput_per_s == pytest.approx(200, rel=0.05)
    assert "requests in flight grew" in probe.because


def test_without_a_steady_state_an_endpoint_that_keeps_up_is_undecided() -> None:
    probe = probe_of(slo(TTFT), ASK, queue_rows(evenly(100, 4.0), 4.0), None, "too short")
    assert (probe.verdict, probe.leans) == ("undecided", "met")
    assert "too short" in probe.because


def test_too_few_samples_are_undecided_and_lean_by_their_value() -> None:
    few = made_rows([made_record(i, ttft_s=0.2) for i in range(10)], stop_s=10.0)
    strict = slo({**TTFT, "at_most_ms": 150})
    assert probe_of(slo(TTFT), ASK, few, (0.0, 10.0)).leans == "met"
    assert probe_of(slo(TTFT), ASK, few, (0.0, 10.0)).verdict == "undecided"
    assert probe_of(strict, ASK, few, (0.0, 10.0)).leans == "missed"


def test_a_late_client_makes_the_probe_void() -> None:
    late = [made_record(i, sent_ns=i * NS // 100, intended_ns=i * NS // 100 - 20_000_000) for i in range(400)]
    probe = probe_of(slo(TTFT), ASK, made_rows(late, stop_s=4.0), (0.5, 4.0))
    assert probe.verdict == "void"
    assert "late" in probe.because


def test_an_endpoint_that_is_gone_makes_the_probe_void_and_not_missed() -> None:
    gone: dict[str, Any] = {"status": Status.REFUSED, "ttft_s": None, "itl_s": []}
    rows = made_rows([made_record(i, sent_ns=i * NS // 100, **gone) for i in range(400)], stop_s=4.0)
    probe = probe_of(slo(TTFT), ASK, rows, (0.0, 4.0))
    assert probe.verdict == "void"
    assert "the endpoint is gone" in probe.because


def test_what_is_hung_up_on_came_out_of_the_endpoint_too() -> None:
    """Known wrong: without them less comes out than goes in at any rate, as if the endpoint were full."""
    rows = queue_rows(evenly(100, 4.0), 4.0)
    cut: dict[str, Any] = {"status": Status.CANCELLED, "cancel_after_chunks": 2}
    half = [replace(one, **(cut if one.index % 2 else {})) for one in rows.records]
    probe = probe_of(slo(TTFT), ASK, replace(rows, records=tuple(half)), (1.0, 4.0))
    assert (probe.verdict, probe.requests) == ("met", 150)
    assert probe.throughput_per_s == pytest.approx(100, rel=0.01)
    unsteady = probe_of(slo(TTFT), ASK, replace(rows, records=tuple(half)), None, "too short")
    assert unsteady.verdict == "undecided"


def test_failures_miss_and_leave_their_percentiles_without_a_value() -> None:
    failed: dict[str, Any] = {"status": Status.TIMEOUT, "ttft_s": None, "itl_s": []}
    rows = made_rows([made_record(i, sent_ns=i * NS // 100, **(failed if i % 2 else {})) for i in range(400)])
    probe = probe_of(slo(TTFT), ASK, rows, (0.0, 4.0))
    assert (probe.verdict, probe.leans) == ("missed", "missed")
    assert probe.latencies_s["ttft"][95] is None


def test_a_goodput_below_its_floor_leans_to_a_miss() -> None:
    few = made_rows([made_record(i) for i in range(10)], stop_s=10.0)
    assert probe_of(slo({"metric": "goodput", "at_least_per_s": 0.5}), ASK, few, (0.0, 10.0)).leans == "met"
    assert probe_of(slo({"metric": "goodput", "at_least_per_s": 5}), ASK, few, (0.0, 10.0)).leans == "missed"


# --- the whole search ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_knee_of_a_queue_is_found_and_everything_is_left_in_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = order(tmp_path)
    capacity = find_capacity(asked, run, window_of)
    print_capacity(asked, capacity)
    assert capacity.rate_per_s is not None
    # 16 slots and random arrivals: p95 of TTFT passes 300 ms a little before all 200/s come out.
    assert 0.88 * QUEUE.knee_per_s < capacity.rate_per_s < 1.03 * QUEUE.knee_per_s
    assert refuse_unfound(capacity) is ExitCode.DONE
    told = json.loads((asked.folder / "capacity.json").read_text("utf8"))
    assert told["simulated"] is True
    assert told["capacity_per_s"] == capacity.rate_per_s
    assert len(told["probes"]) == len(capacity.probes) <= 8
    rates = [one["rate_per_s"] for one in told["curve"]]
    assert rates == sorted(rates)
    assert (asked.folder / "capacity.png").read_bytes().startswith(b"\x89PNG")
    assert "SIMULATED" in (asked.folder / "capacity.svg").read_text("utf8")
    page = (asked.folder / "capacity.html").read_text("utf8")
    assert "SIMULATED" in page
    assert "http://www" not in page.replace("http://www.w3.org", "")
    assert len(page) < 200_000
    assert "SIMULATED" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_order_gives_the_same_probes(tmp_path: Path) -> None:
    one = find_capacity(order(tmp_path / "one"), run, window_of)
    other = find_capacity(order(tmp_path / "other"), run, window_of)
    assert one == other


@pytest.mark.slow
def test_every_probe_asks_with_a_seed_of_its_own(tmp_path: Path) -> None:
    asked = order(tmp_path)
    find_capacity(asked, run, window_of)
    seeds = [yaml.safe_load(path.read_text("utf8"))["seed"] for path in asked.folder.glob("probe-*.yaml")]
    assert len(set(seeds)) == len(seeds) >= 2


@pytest.mark.slow
def test_a_closed_loop_gives_the_first_guess_and_costs_one_probe(tmp_path: Path) -> None:
    closed = cast(LoadProfile, Profile(arrivals=Closed(users=8)))
    capacity = find_capacity(order(tmp_path, profile=closed, probes=2), run, window_of)
    assert len(capacity.probes) == 1
    assert capacity.probes[0].rate_per_s == pytest.approx(120, rel=0.1)


def test_words_of_an_endpoint_are_data_on_the_page() -> None:
    probe = replace(made_capacity(found=True, met=True).probes[0], because="<script>alert(1)</script>")
    found = Capacity(5.0, 6.0, found=True, why="it was", probes=(probe,))
    asked = CapacityOrder(slo(TTFT), cast(LoadProfile, Profile()), replace(ENDPOINT, model="<b>"), Path("nowhere"))
    page = capacity_page(as_json(asked, found), found, sentence(found), latency_limits_s(asked.slo))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "Capacity of &lt;b&gt;" in page


def test_an_order_that_cannot_be_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    spike = Spike(rate_per_s=1, spike_per_s=2, at_s=1, for_s=1)
    there = tmp_path / "there"
    there.mkdir()
    refused: list[tuple[dict[str, Any], str]] = [
        ({"from_per_s": 0.0}, "--from"),
        ({"to_per_s": float("nan")}, "--to"),
        ({"from_per_s": 9.0, "to_per_s": 3.0}, "--from"),
        ({"probes": 1}, "--probes"),
        ({"folder": there}, "--out"),
        ({"profile": cast(LoadProfile, Profile(arrivals=spike))}, "--from"),
        ({"slo": slo({"metric": "goodput", "at_least_per_s": 50}), "to_per_s": 20.0}, "--to"),
    ]
    for number, (changes, named) in enumerate(refused):
        with pytest.raises(BadInput, match=named):
            find_capacity(order(tmp_path, **{"folder": tmp_path / str(number), **changes}), run, window_of)
        assert not (tmp_path / str(number)).exists()


def test_a_first_guess_above_the_highest_rate_begins_at_that() -> None:
    far = order(Path("nowhere"), profile=cast(LoadProfile, Profile(arrivals=Poisson(rate_per_s=5000.0))), to_per_s=3.0)
    limits = search_limits(far, 5000.0, 8)
    assert (limits.from_per_s, limits.most_per_s) == (3.0, 3.0)
    assert limits.least_per_s < 0.01


# --- stopped and gone on with ----------------------------------------------------------------------------


class Prober:
    """Runs tests as the command does, rows on disk, and is interrupted in one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.run: list[str] = []
        self._stop_at = stop_at

    def __call__(self, endpoint: Endpoint, path: Path, folder: Path) -> LoadRows:
        self.run.append(folder.name)
        where = RunFolder.create(folder)
        if len(self.run) == self._stop_at:
            where.rows(0).write_text("{}\n")
            raise KeyboardInterrupt
        rows = run(endpoint, path, folder)
        write_parquet(rows, where.parquet)
        return rows


@pytest.mark.slow
@pytest.mark.parametrize("arrivals", [Poisson(rate_per_s=60.0), Closed(users=8)], ids=["open", "closed guess"])
def test_a_stopped_search_leaves_its_curve_and_goes_on_where_it_was(tmp_path: Path, arrivals: Arrivals) -> None:
    profile = cast(LoadProfile, Profile(arrivals=arrivals))
    whole = find_capacity(order(tmp_path / "whole", profile=profile), run, window_of)
    asked = order(tmp_path, profile=profile)
    with pytest.raises(KeyboardInterrupt):
        find_capacity(asked, Prober(stop_at=3), window_of)
    told = json.loads((asked.folder / "capacity.json").read_text("utf8"))
    assert (told["found"], told["why"]) == (False, "stopped by the user")
    before = len(told["probes"])
    assert before == (2 if isinstance(arrivals, Poisson) else 1)
    again = Prober()
    assert find_capacity(replace(asked, resume=True), again, window_of) == whole
    assert again.run[0] == f"probe-{before + 1}"
    assert len(again.run) == len(whole.probes) - before
    aside = asked.folder / f"probe-{before + 1}.cut-1"
    assert (aside / "rows-0.jsonl").read_text() == "{}\n"
    assert json.loads((asked.folder / "capacity.json").read_text("utf8"))["found"] == whole.found


@pytest.mark.slow
def test_an_ended_search_goes_on_with_more_probes(tmp_path: Path) -> None:
    few = find_capacity(order(tmp_path, probes=2), Prober(), window_of)
    more = Prober()
    found = find_capacity(order(tmp_path, probes=8, resume=True), more, window_of)
    assert found.probes[:2] == few.probes
    assert more.run == [f"probe-{number}" for number in range(3, len(found.probes) + 1)]


@pytest.mark.slow
def test_probes_that_told_nothing_are_run_again(tmp_path: Path) -> None:
    """A neighbour was busy twice in a row, which ended the search."""

    def late(endpoint: Endpoint, path: Path, folder: Path) -> LoadRows:
        rows = run(endpoint, path, folder)
        records = [replace(one, intended_ns=one.intended_ns - NS // 20) for one in rows.records]
        rows = replace(rows, records=tuple(records))
        write_parquet(rows, RunFolder.create(folder).parquet)
        return rows

    void = find_capacity(order(tmp_path), late, window_of)
    assert [probe.verdict for probe in void.probes] == ["void", "void"]
    again = Prober()
    found = find_capacity(order(tmp_path, resume=True), again, window_of)
    assert again.run[0] == "probe-2"  # the first stays: the search repeated it, so it decides nothing
    assert found.rate_per_s is not None


def test_two_searches_do_not_share_a_folder(tmp_path: Path) -> None:
    asked = order(tmp_path)
    folder = CapacityFolder.create(asked.folder, ordered(asked))
    with folder.locked(), pytest.raises(BadInput, match="another search is writing there"):
        find_capacity(replace(asked, resume=True), run, window_of)


@pytest.mark.slow
def test_closed_loop_that_got_no_answer_is_asked_again(tmp_path: Path) -> None:
    asked = order(tmp_path, profile=cast(LoadProfile, Profile(arrivals=Closed(users=8))), probes=2)

    def nothing(_endpoint: Endpoint, _path: Path, folder: Path) -> LoadRows:
        rows = made_rows([made_record(i, status=Status.TIMEOUT) for i in range(9)])
        write_parquet(rows, RunFolder.create(folder).parquet)
        return rows

    with pytest.raises(CannotJudge, match="--resume asks again"):
        find_capacity(asked, nothing, window_of)
    again = Prober()
    find_capacity(replace(asked, resume=True), again, window_of)
    assert again.run == ["closed-loop", "probe-1"]


def test_a_search_goes_on_only_with_what_was_asked(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no capacity search"):
        find_capacity(order(tmp_path, resume=True), run, window_of)
    CapacityFolder.create(tmp_path / "found", ordered(order(tmp_path)))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"slo": slo({**TTFT, "at_most_ms": 400})}, "slo: was "),
        ({"profile": cast(LoadProfile, Profile(seed=8))}, "profile: was "),
        ({"to_per_s": 500.0}, "to_per_s: was null, now 500"),
        ({"content": "other pipelines"}, "content: was "),
    ]
    for changes, named in refused:
        with pytest.raises(BadInput, match=named):
            find_capacity(order(tmp_path, resume=True, **changes), run, window_of)
    (tmp_path / "found" / "order.json").write_text("[1, 2")
    with pytest.raises(BadInput, match=r"order.json: cannot be read"):
        find_capacity(order(tmp_path, resume=True), run, window_of)


# --- MLflow ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_is_one_mlflow_run_with_its_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    asked = order(tmp_path)
    found = find_capacity(asked, run, window_of)
    logged = log_capacity(ordered(asked), found, curve_files(asked.folder))
    client = MlflowClient(tracking_uri=store)
    kept = client.get_run(logged.run_id)
    assert kept.data.metrics["capacity_per_s"] == pytest.approx(found.rate_per_s)
    assert kept.data.metrics["probes_measured"] == len(found.probes)
    assert (kept.data.params["profile.arrivals.kind"], kept.data.tags["simulated"]) == ("poisson", "true")
    rates = client.get_metric_history(logged.run_id, "probe_rate_per_s")
    assert [(one.step, one.value) for one in rates] == [(n, p.rate_per_s) for n, p in enumerate(found.probes, 1)]
    assert {file.path for file in client.list_artifacts(logged.run_id)} == {
        "capacity.json", "capacity.html", "capacity.png", "capacity.svg",
    }  # fmt: skip


def test_probes_without_a_value_are_left_out_of_its_course() -> None:
    probe = made_capacity(found=True, met=True).probes[0]
    failed = replace(probe, latencies_s={"ttft": {95.0: None, 50.0: 0.1}}, throughput_per_s=None)
    found = series([probe, failed], at_ms=1)
    assert [point.step for point in found["probe_throughput_per_s"]] == [1]
    assert [(point.step, point.value) for point in found["probe_ttft_s_p50"]] == [(2, 0.1)]
    assert "probe_ttft_s_p95" not in found


@pytest.mark.slow
def test_no_rate_is_tried_below_the_goodput_that_is_asked_for(tmp_path: Path) -> None:
    asked = order(tmp_path, slo=slo({"metric": "goodput", "at_least_per_s": 80}), from_per_s=2.0, to_per_s=85.0)
    capacity = find_capacity(asked, run, window_of)
    assert min(probe.rate_per_s for probe in capacity.probes) > 80


def test_a_random_schedule_of_a_chosen_seed_sends_as_many_as_its_rate_says() -> None:
    for rate, duration_s in [(100.0, 15.0), (3.0, 20.0)]:
        arrivals = Poisson(rate_per_s=rate)
        sent = len(schedule(arrivals, duration_s, even_seed(arrivals, rate, duration_s, first=1)))
        assert abs(sent - rate * duration_s) <= max(0.5, 0.002 * rate * duration_s)


def test_the_samples_a_probe_needs_follow_the_strictest_objective() -> None:
    assert needed_requests(slo(TTFT)) == 79  # 59 for an upper bound of p95, and a third more
    assert needed_requests(slo(TTFT, {"metric": "error_rate", "at_most": 0.01})) == 358  # 268
    assert latency_limits_s(slo(TTFT)) == {"ttft p95": 0.3}


def made_capacity(*, found: bool, met: bool, missed: bool = True) -> Capacity:
    verdict: Literal["met", "missed"] = "met" if met else "missed"
    probe = Probe(5.0, 10.0, verdict, "so it was", verdict, 50, 5.0)
    return Capacity(5.0 if met else None, 6.0 if missed else None, found, "the probes are spent", (probe,))


def test_exit_status_tells_found_missed_and_unknown_apart() -> None:
    assert refuse_unfound(made_capacity(found=True, met=True)) is ExitCode.DONE
    assert refuse_unfound(made_capacity(found=False, met=False)) is ExitCode.VERDICT_AGAINST
    missed = made_capacity(found=False, met=False)
    gave_out = replace(missed, probes=(*missed.probes, replace(missed.probes[0], verdict="void")))
    nothing = Capacity(None, None, found=False, why="nothing was tried", probes=())
    leaning = replace(missed, probes=(replace(missed.probes[0], verdict="undecided", leans="missed"),))
    for open_ended in (made_capacity(found=False, met=True, missed=False), gave_out, nothing, leaning):
        with pytest.raises(CannotJudge, match="not known"):
            refuse_unfound(open_ended)


@pytest.mark.slow
def test_search_that_could_not_judge_a_probe_is_drawn_all_the_same(tmp_path: Path) -> None:
    missed = made_capacity(found=False, met=False)
    void = replace(missed.probes[0], verdict="void", latencies_s={"ttft": {95.0: 0.05}})
    path = tmp_path / "capacity.svg"
    draw_capacity(Capacity(None, None, found=False, why="too late", probes=(void,)), "nothing known", {}, [path])
    assert "nothing known" in path.read_text()


def test_a_lower_bound_is_not_called_the_capacity() -> None:
    assert sentence(made_capacity(found=False, met=True)).startswith("at least: 5 requests/s (1 probes, 50 requests")
