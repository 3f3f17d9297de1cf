"""`python -m load_tests capacity`: the highest rate of requests that meets an SLO, by probing an endpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import console
from common.whole_file import write_whole
from load_tests.arrivals import Closed, Constant, Gamma, OpenLoop, Poisson, schedule
from load_tests.calibrate_command import RunProfile
from load_tests.capacity import Ask, Capacity, Probe, SearchLimits, Stop, result, search
from load_tests.capacity_folder import CapacityFolder
from load_tests.capacity_page import capacity_page
from load_tests.capacity_probe import Window, probe_of, throughput_per_s
from load_tests.intervals import needed_for_share, needed_for_upper_bound
from load_tests.plots import draw_capacity
from load_tests.profiles import LoadProfile
from load_tests.rows import LoadRows
from load_tests.slo_file import ErrorRate, Goodput, LatencyObjective, SchemaValidRate, Slo
from serving.endpoint import Endpoint

WindowOf = Callable[[LoadRows], tuple[Window | None, str]]
"""The steady window of a test, or None and why there is none."""

LONGEST = 4
"""So many times the profile's duration is the longest probe."""
_REACH = 1000.0
"""Without --to, how far above and below the first guess is looked, as a factor."""
_MOST_PER_S = 10_000.0
_COUNT_OFF = 0.002
_MOST_SEEDS = 5000
_COLUMNS = ["", "requests/s", "s", "n", "verdict", "answered/s", "good/s", "TTFT p50 ms", "TTFT p95 ms", "because"]


@dataclass(frozen=True)
class CapacityOrder:
    """What to find out, and where."""

    slo: Slo
    profile: LoadProfile
    """The work and, if it is an open loop, the kind of arrivals and the first guess."""
    endpoint: Endpoint
    folder: Path
    """Must not exist yet, unless `resume`."""
    from_per_s: float | None = None
    to_per_s: float | None = None
    probes: int = 8
    tolerance: float = 0.05
    content: str = ""
    """Digest of what is asked: of the files and presets that the profile only names."""
    resume: bool = False
    """Go on with the search in `folder`: tests that ran to their end there are not run again."""


def asked(order: CapacityOrder) -> dict[str, Any]:
    """The order as one JSON object."""
    return {
        "simulated": order.endpoint.simulated,
        "model": order.endpoint.model,
        "base_url": order.endpoint.base_url,
        "slo": order.slo.model_dump(mode="json"),
        "profile": order.profile.model_dump(mode="json"),
        "content": order.content,
        "from_per_s": order.from_per_s,
        "to_per_s": order.to_per_s,
        "probes": order.probes,
        "tolerance": order.tolerance,
    }


def find_capacity(order: CapacityOrder, run: RunProfile, window_of: WindowOf) -> Capacity:
    """Probe the endpoint, show each probe as it ends, and leave capacity.json, .html, .png, .svg and the probes' rows.

    Raises BadInput for options that cannot be, and CannotJudge when a probe cannot be run. Where that or the user
    stops the search, the curve of the probes so far is left, and the search can be gone on with.
    """
    _check(order)
    guess = _given_rate(order)
    folder = (CapacityFolder.reopen if order.resume else CapacityFolder.create)(order.folder, asked(order))
    probes: list[Probe] = []

    def test(name: str, profile: LoadProfile, usable: Callable[[LoadRows], bool]) -> LoadRows:
        return folder.test(name, profile, lambda described, tested: run(order.endpoint, described, tested), usable)

    def measure(ask: Ask) -> Probe:
        number = len(probes) + 1
        whole = Ask(ask.rate_per_s, float(math.ceil(ask.duration_s)))

        def probe(rows: LoadRows) -> Probe:
            return probe_of(order.slo, whole, rows, *window_of(rows))

        def usable(rows: LoadRows) -> bool:
            # What ended a search in vain (a busy neighbour, an endpoint that was gone) may be over now.
            return folder.has(f"probe-{number + 1}") or probe(rows).verdict != "void"

        return probe(test(f"probe-{number}", _probe_profile(order.profile, whole, number), usable))

    def told(probe: Probe) -> None:
        probes.append(probe)
        console.say("  " + told_probe(probe))

    with folder.locked():
        spent = 0
        if guess is None:
            with _may_go_on(order, probes):
                rows = test("closed-loop", order.profile, lambda rows: throughput_per_s(rows) > 0)
            guess, spent = _closed_rate(order, rows), 1
        with _may_go_on(order, probes):
            capacity = search(measure, search_limits(order, guess, order.probes - spent), told)
        _write(order, capacity)
    return capacity


@contextmanager
def _may_go_on(order: CapacityOrder, probes: Sequence[Probe]) -> Iterator[None]:
    """Where the block is stopped, leave the curve of the probes so far, and say how to go on."""
    try:
        yield
    except (KeyboardInterrupt, console.PlumblineError, OSError) as error:
        console.say(f"go on by the same command with --resume --out {order.folder}")
        if probes:
            _write(order, result(probes, Stop(str(error) or "stopped by the user", found=False)))
        raise


def print_capacity(order: CapacityOrder, capacity: Capacity) -> None:
    """The probes as a table and what they come to; then the verdict by refuse_unfound."""
    simulated = " (SIMULATED)" if order.endpoint.simulated else ""
    rows = [_cells(number, probe) for number, probe in enumerate(capacity.probes, 1)]
    console.table(f"Capacity of {order.endpoint.model} under {order.slo.name}{simulated}", _COLUMNS, rows)
    console.say(sentence(capacity))
    for probe in capacity.undecided:
        console.say(f"  {probe.rate_per_s:.4g}/s {probe.leans} it by its measured value only: {probe.because}")


def sentence(capacity: Capacity) -> str:
    """The result in one sentence, n included."""
    n = sum(probe.requests for probe in capacity.probes)
    of = f"({len(capacity.probes)} probes, {n} requests measured)"
    if capacity.rate_per_s is None:
        return f"no rate that was tried met the SLO {of}: {capacity.why}"
    sure = "capacity" if capacity.found else "at least"
    return f"{sure}: {capacity.rate_per_s:.4g} requests/s {of}: {capacity.why}"


def refuse_unfound(capacity: Capacity) -> console.ExitCode:
    """0 when it was found, 1 when no rate met the SLO. Raises CannotJudge when the search ended before it knew."""
    if capacity.found:
        return console.ExitCode.DONE
    gave_out = not any(probe.verdict == "missed" for probe in capacity.probes) or capacity.probes[-1].verdict == "void"
    if gave_out or any(probe.counts_as == "met" for probe in capacity.probes):
        raise console.CannotJudge(f"the capacity is not known: {sentence(capacity)}")
    return console.ExitCode.VERDICT_AGAINST


def as_json(order: CapacityOrder, capacity: Capacity) -> dict[str, Any]:
    """Everything as one JSON object: the result, its condition, every probe, the curve by rate."""
    curve = sorted(capacity.probes, key=lambda probe: probe.rate_per_s)
    return {
        **{name: value for name, value in asked(order).items() if name != "probes"},
        "capacity_per_s": capacity.rate_per_s,
        "missed_per_s": capacity.missed_per_s,
        "found": capacity.found,
        "why": capacity.why,
        "probes": [_probe_json(probe) for probe in capacity.probes],
        "curve": [_probe_json(probe) for probe in curve],
    }


def told_probe(probe: Probe) -> str:
    """One probe in one line."""
    return f"{probe.rate_per_s:.4g}/s for {probe.duration_s:g} s: {probe.verdict}: {console.shorten(probe.because)}"


# --- the profiles of the probes --------------------------------------------------------------------------


def _given_rate(order: CapacityOrder) -> float | None:
    """Requests per second to begin with; None where a closed loop has to tell."""
    arrivals = order.profile.arrivals
    if order.from_per_s is not None:
        return order.from_per_s
    if isinstance(arrivals, Constant | Poisson | Gamma):
        return arrivals.rate_per_s
    if not isinstance(arrivals, Closed):
        raise console.BadInput(f"--from: {arrivals.kind} arrivals have no one rate to begin with; give --from RATE")
    return None


def _closed_rate(order: CapacityOrder, rows: LoadRows) -> float:
    """Little's law, measured: so many users in flight get so many answers per second. Raises CannotJudge."""
    rate = throughput_per_s(rows)
    if rate <= 0:
        told = "no request of the closed-loop test was answered while it ran"
        raise console.CannotJudge(f"{told}; --resume asks again, and a new search with --from RATE needs no such test")
    users = getattr(order.profile.arrivals, "users", 0)
    console.say(f"  closed loop, {users} users: {rate:.4g} requests/s answered; the first guess")
    return rate


def search_limits(order: CapacityOrder, guess: float, probes: int) -> SearchLimits:
    """Where the search looks, and how long; guess: requests per second to begin with."""
    highest = order.to_per_s or _MOST_PER_S
    least = max(min(guess, highest) / _REACH, _floor(order))
    most = min(max(guess, least) * _REACH, highest) if order.to_per_s is None else highest
    return SearchLimits(
        from_per_s=min(max(guess, least), most),
        least_per_s=least,
        most_per_s=most,
        duration_s=float(order.profile.duration_s),
        longest_s=float(order.profile.duration_s * LONGEST),
        least_requests=needed_requests(order.slo),
        probes=probes,
        tolerance=order.tolerance,
    )


def _floor(order: CapacityOrder) -> float:
    """Below the goodput asked for no rate can meet it, however quick the endpoint: that is no miss to learn from."""
    goodput = max((o.at_least_per_s or 0.0 for o in order.slo.objectives if isinstance(o, Goodput)), default=0.0)
    return goodput * (1 + order.tolerance)


def needed_requests(slo: Slo) -> int:
    """Fewest requests in the steady window that every objective can be met with, and a quarter for the warm-up."""
    needed = [0]
    for objective in slo.objectives:
        match objective:
            case LatencyObjective():
                needed.append(needed_for_upper_bound(objective.percentile))
            case ErrorRate():
                needed.append(needed_for_share(objective.at_most))
            case SchemaValidRate():
                needed.append(needed_for_share(1 - objective.at_least))
            case Goodput():
                needed.append(0 if objective.at_least is None else needed_for_share(1 - objective.at_least))
    return math.ceil(max(needed) * 4 / 3)


def _probe_profile(profile: LoadProfile, ask: Ask, number: int) -> LoadProfile:
    """The profile at a rate, with a seed of its own: prompts that come again would be answered from a cache."""
    arrivals = _at_rate(profile.arrivals, ask.rate_per_s)
    first = profile.seed + 1_000_000 * number
    seed = even_seed(arrivals, ask.rate_per_s, ask.duration_s, first)
    changed = {"name": f"{profile.name} probe {number}"[:100], "arrivals": arrivals, "seed": seed}
    return profile.model_copy(update={**changed, "duration_s": int(ask.duration_s)})


def _at_rate(arrivals: Closed | OpenLoop, rate_per_s: float) -> OpenLoop:
    if isinstance(arrivals, Constant | Gamma):
        return arrivals.model_copy(update={"rate_per_s": rate_per_s})
    return Poisson(rate_per_s=rate_per_s)


def even_seed(arrivals: OpenLoop, rate_per_s: float, duration_s: float, first: int) -> int:
    """The first seed from `first` on whose schedule sends as many requests as its rate says, within 0.2 %.

    A Poisson schedule of 1000 requests is off by 3 % (one standard deviation): most of what a search may err by. Given
    their number, the arrivals are as random as before.
    """
    wanted = rate_per_s * duration_s
    allowed = max(0.5, _COUNT_OFF * wanted)
    off = {}
    for seed in range(first, first + _MOST_SEEDS):
        off[seed] = abs(len(schedule(arrivals, duration_s, seed)) - wanted)
        if off[seed] <= allowed:
            return seed
    return min(off, key=lambda seed: off[seed])


# --- files -----------------------------------------------------------------------------------------------


def curve_files(folder: Path) -> list[Path]:
    """What a search leaves beside its tests."""
    return [folder / f"capacity.{kind}" for kind in ("json", "html", "png", "svg")]


def _write(order: CapacityOrder, capacity: Capacity) -> None:
    report, limits_s, told = as_json(order, capacity), latency_limits_s(order.slo), sentence(capacity)
    in_json, in_html, *drawn = curve_files(order.folder)
    write_whole(in_json, [json.dumps(report, indent=2).encode() + b"\n"])
    write_whole(in_html, [capacity_page(report, capacity, told, limits_s).encode()])
    simulated = "SIMULATED: " if order.endpoint.simulated else ""
    title = console.shorten(f"{simulated}{order.endpoint.model} under {order.slo.name}: {told}", 300)
    draw_capacity(capacity, title, limits_s, drawn)


def latency_limits_s(slo: Slo) -> dict[str, float]:
    """What the SLO allows, by `ttft p95` and the like; TPOT is not in the curve."""
    return {
        f"{o.metric} p{o.percentile:g}": o.limit_s
        for o in slo.objectives
        if isinstance(o, LatencyObjective) and o.metric != "tpot"
    }


def _probe_json(probe: Probe) -> dict[str, Any]:
    by_kind = {
        f"{kind}_s": {f"p{percentile:g}": value for percentile, value in found.items()}
        for kind, found in probe.latencies_s.items()
    }
    told = asdict(replace(probe, latencies_s={}))
    del told["latencies_s"]
    return {**told, **by_kind}


def _cells(number: int, probe: Probe) -> list[str]:
    ttft_s = probe.latencies_s.get("ttft", {})
    return [
        str(number),
        f"{probe.rate_per_s:.4g}",
        f"{probe.duration_s:g}",
        str(probe.requests),
        probe.verdict if probe.verdict != "undecided" else f"undecided, leans {probe.leans}",
        _number(probe.throughput_per_s),
        _number(probe.goodput_per_s),
        _ms(ttft_s.get(50)),
        _ms(ttft_s.get(95)),
        console.shorten(probe.because, 160),
    ]


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _ms(value_s: float | None) -> str:
    return "n/a" if value_s is None else f"{value_s * 1e3:,.1f}"


def _check(order: CapacityOrder) -> None:
    for option, value in (("--from", order.from_per_s), ("--to", order.to_per_s)):
        if value is not None and not 0 < value <= _MOST_PER_S:
            raise console.BadInput(f"{option}: found {value:g}; allowed is above 0 to 10000 requests per second")
    if order.from_per_s is not None and order.to_per_s is not None and order.from_per_s > order.to_per_s:
        raise console.BadInput(f"--from: found {order.from_per_s:g}, above --to {order.to_per_s:g}; give a lower one")
    if not 2 <= order.probes <= 100:
        raise console.BadInput(f"--probes: found {order.probes}; allowed is 2 to 100")
    highest = order.to_per_s or _MOST_PER_S
    if _floor(order) > highest:
        asks = f"the SLO's goodput needs at least {_floor(order):g} requests per second"
        told = "a search goes no higher than" if order.to_per_s is None else "--to: found"
        raise console.BadInput(f"{told} {highest:g}; {asks}: lower the goodput or raise --to")
