"""`python -m load_tests calibrate`: this machine's own error bars, kept for later runs."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import yaml

from common import console
from load_tests.calibrate import HOLDS_BELOW_S, Calibration, CalibrationStep, Spread, calibrate
from load_tests.rows import LoadRows
from serving.endpoint import Endpoint, connect
from serving.simulator import SimulatorSettings

RATES_PER_S = (10.0, 25.0, 50.0, 75.0, 100.0, 150.0, 200.0)
DURATION_S = 10
TTFT_S, ITL_S, OUTPUT_TOKENS = 0.05, 0.01, 64

RunProfile = Callable[[Endpoint, Path, Path], LoadRows]
"""Runs the load test of a profile file against an endpoint, warm-up first; its run folder, which does not exist yet,
is the last argument."""

_ROOT = Path(__file__).resolve().parent.parent
# Its stdin is its life line: it ends with whoever holds the other end, also when that one is killed.
_SIMULATOR = (
    "import os, threading\n"
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()\n"
    "from serving.simulator import SimulatorSettings, serve\n"
    "serve(SimulatorSettings(ttft_ms={}, itl_ms={}, output_tokens={}), '127.0.0.1', 0, lambda u: print(u, flush=True))"
)
_COLUMNS = [
    "requests/s",
    "n",
    "TTFT error p50",
    "p99",
    "TTFT over asked p50",
    "ITL error mean",
    "p99",
    "lag p99",
    "CPU",
    "stolen",
]


def calibrate_machine(
    run: RunProfile, folder: Path, rates_per_s: Sequence[float] = RATES_PER_S, duration_s: int = DURATION_S
) -> Calibration:
    """Run every rate against a simulator started for it, and show each step.

    folder: where the profiles and rows of the steps go; must not exist. Raises CannotJudge and BadInput.
    """
    # Imported here: tracking takes a second, which a mistyped option need not wait for.
    from tracking.runs import environment_tags

    _check(rates_per_s, duration_s)
    folder.mkdir(parents=True)
    settings = SimulatorSettings(ttft_ms=TTFT_S * 1e3, itl_ms=ITL_S * 1e3, output_tokens=OUTPUT_TOKENS)
    with simulator_process(settings) as base_url:
        endpoint = connect(base_url)

        def at(rate_per_s: float) -> LoadRows:
            profile = folder / f"rate-{rate_per_s:g}.yaml"
            profile.write_text(_profile(rate_per_s, duration_s), "utf8")
            return run(endpoint, profile, folder / f"rate-{rate_per_s:g}")

        return calibrate(
            at,
            rates_per_s,
            ttft_s=TTFT_S,
            itl_s=ITL_S,
            output_tokens=OUTPUT_TOKENS,
            hostname=platform.node(),
            environment=environment_tags(),
            told=lambda step: console.say("  " + told_step(step)),
        )


@contextmanager
def simulator_process(settings: SimulatorSettings) -> Iterator[str]:
    """A simulator in a process of its own, so that its work is not the client's; gives its base URL."""
    code = _SIMULATOR.format(settings.ttft_ms, settings.itl_ms, settings.output_tokens)
    argv, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(argv, cwd=_ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            base_url = process.stdout.readline().strip() if process.stdout else ""
            if not base_url:
                raise console.CannotJudge("the simulator did not start")
            yield base_url
        finally:
            process.terminate()


def print_calibration(calibration: Calibration) -> None:
    """The steps as a table, and the sentence they come to."""
    rows = [_cells(step) for step in calibration.steps]
    console.table("This client's own errors, milliseconds (SIMULATED server)", _COLUMNS, rows, right=_COLUMNS)
    for line in summary(calibration, datetime.now(UTC)):
        console.say(line)


def summary(calibration: Calibration, now: datetime) -> list[str]:
    """In words, with age and condition."""
    first = calibration.steps[0]
    return [
        f"TTFT error under {HOLDS_BELOW_S * 1e3:g} ms: p50 {_until(calibration, 'p50_s')}, "
        f"p99 {_until(calibration, 'p99_s')} ({calibration.output_tokens} chunks per answer)",
        f"at {first.rate_per_s:g} requests/s: TTFT error p50 {_ms(first.ttft_error.p50_s)} ms, "
        f"p99 {_ms(first.ttft_error.p99_s)} ms (n={first.ttft_error.n}); ITL error mean "
        f"{_ms(first.itl_error.mean_s)} ms (n={first.itl_error.n})",
        f"measured {calibration.measured_at:%Y-%m-%d %H:%M} UTC ({calibration.age_days(now):.1f} days ago) with "
        f"{calibration.client} on {calibration.environment.get('hardware', 'unknown hardware')}, load average "
        f"{calibration.load_average:.1f} before it, the server on the same machine",
    ]


def told_step(step: CalibrationStep) -> str:
    """One step in one line."""
    return (
        f"{step.rate_per_s:g} requests/s ({step.chunks_per_s:,.0f} chunks/s, {step.ok} of {step.sent} answered): "
        f"TTFT error p50 {_ms(step.ttft_error.p50_s)} ms, p99 {_ms(step.ttft_error.p99_s)} ms; "
        f"ITL error mean {_ms(step.itl_error.mean_s)} ms; lag p99 {_ms(step.scheduling_lag.p99_s)} ms"
    )


def as_json(calibration: Calibration) -> str:
    """The whole calibration and what it comes to, as one JSON document."""
    holds = {f"holds_until_per_s_{p[:3]}": calibration.holds_until_per_s(p) for p in _PERCENTILES}
    return json.dumps({"simulated": True, **calibration.model_dump(mode="json"), **holds}, indent=2)


_PERCENTILES: tuple[Literal["p50_s", "p99_s"], ...] = ("p50_s", "p99_s")


def _check(rates_per_s: Sequence[float], duration_s: int) -> None:
    if not rates_per_s or not all(0 < rate <= 10_000 for rate in rates_per_s):
        raise console.BadInput(f"--rate: found {list(rates_per_s)}; allowed is above 0 to 10000 requests per second")
    if duration_s < 1:
        raise console.BadInput(f"--duration-s: found {duration_s}; allowed is 1 or more seconds")


def _profile(rate_per_s: float, duration_s: int) -> str:
    profile = {
        "name": f"calibration at {rate_per_s:g} per s",
        # Poisson and not even spacing, which would hide how requests that come together disturb each other.
        "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
        "duration_s": duration_s,
        "drain_s": 10,
        "workload": {"kind": "synthetic", "prompt_tokens": 64, "shared_prefix": 0.0, "output_tokens": OUTPUT_TOKENS},
    }
    return yaml.safe_dump(profile, sort_keys=False)


def _cells(step: CalibrationStep) -> list[str]:
    answered = f"{step.ok}" if step.whole else f"{step.ok} of {step.sent}"
    cpu, stolen = ("n/a" if share is None else f"{share:.0%}" for share in (step.cpu_share, step.stolen_share))
    return [
        f"{step.rate_per_s:g}",
        answered,
        *_two(step.ttft_error),
        _ms(step.ttft_over_nominal.p50_s),
        _ms(step.itl_error.mean_s),
        _ms(step.itl_error.p99_s),
        _ms(step.scheduling_lag.p99_s),
        cpu,
        stolen,
    ]


def _two(spread: Spread) -> list[str]:
    return [_ms(spread.p50_s), _ms(spread.p99_s)]


def _ms(value_s: float | None) -> str:
    return "n/a" if value_s is None else f"{value_s * 1e3:.3f}"


def _until(calibration: Calibration, percentile: Literal["p50_s", "p99_s"]) -> str:
    rate = calibration.holds_until_per_s(percentile)
    if rate is None:
        return f"not even at {calibration.steps[0].rate_per_s:g} requests/s"
    more = " and maybe more" if rate == calibration.steps[-1].rate_per_s else ""
    return f"up to {rate:g} requests/s{more}"
