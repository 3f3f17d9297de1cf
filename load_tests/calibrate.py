"""How wrong this machine's own stamps are: error bars from a server whose every chunk says when it left. Pure.

The load generator is run at rising rates against the simulator, whose stamps are taken on the same clock
(`time.perf_counter_ns`, which on Linux all processes of a machine share). Per rate:

TTFT error        arrival of the first content chunk here minus its leaving there. The way of the request to the server
                  is not in it; `ttft_over_nominal` is TTFT minus the asked one, so the server's own lateness is: the
                  client's error lies between the two.
ITL error         |gap between two chunks here - gap there|
scheduling lag    sending minus the moment the schedule asked for

A rate holds while it and all lower ones have an error under a millisecond and every request was answered. Client and
server share the machine, so what is found is a lower bound of what the client can do beside a server elsewhere.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.console import CannotJudge
from common.whole_file import write_whole
from load_tests.latency import cpu_shares, stolen_share
from load_tests.rows import LoadRows
from load_tests.sse import NS_PER_S, Status
from serving.state import state_dir

HOLDS_BELOW_S = 1e-3
LEAST_SAMPLES = 100
"""Requests for a p99 to be more than the largest under another name."""

Run = Callable[[float], LoadRows]
"""Runs the load generator at a rate (requests per second) and gives its rows."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Spread(_Frozen):
    """Of `n` samples, seconds; None where there are too few."""

    n: int
    mean_s: float | None
    p50_s: float | None
    p99_s: float | None


class CalibrationStep(_Frozen):
    """One rate."""

    rate_per_s: float
    sent: int
    ok: int
    chunks_per_s: float
    """Content chunks that arrived per second: what really costs."""
    ttft_error: Spread
    ttft_over_nominal: Spread
    itl_error: Spread
    scheduling_lag: Spread
    cpu_share: float | None
    """Of one core, the busiest worker; None when it did not end."""
    stolen_share: float | None = None
    """Of the machine's time, what its hypervisor gave to others meanwhile; None where it is not known."""

    @property
    def whole(self) -> bool:
        """Every request was answered and stamped."""
        return self.sent > 0 and self.ok == self.sent == self.ttft_error.n


class Calibration(_Frozen):
    """A machine's error bars."""

    measured_at: datetime
    hostname: str
    environment: dict[str, str]
    """Commit, hardware, versions (tracking.runs.environment_tags)."""
    load_average: float
    """Of the last minute, before the first rate: a busy machine has wider bars."""
    client: str
    ttft_s: float
    """What the simulator was asked for."""
    itl_s: float
    output_tokens: int
    steps: tuple[CalibrationStep, ...] = Field(min_length=1)

    def holds_until_per_s(self, percentile: Literal["p50_s", "p99_s"]) -> float | None:
        """The highest rate up to which the TTFT error's percentile stays under a millisecond; None: not at any."""
        holds = None
        for step in self.steps:
            error = getattr(step.ttft_error, percentile)
            if not step.whole or (error is not None and error >= HOLDS_BELOW_S):
                break
            if error is None:
                continue  # too few requests at a low rate to know, which says nothing against a higher one
            holds = step.rate_per_s
        return holds

    def at(self, rate_per_s: float) -> CalibrationStep | None:
        """The first rate measured that is at least as high: its errors are no smaller than those there."""
        return next((step for step in self.steps if step.rate_per_s >= rate_per_s), None)

    def age_days(self, now: datetime) -> float:
        """How old it is."""
        return (now - self.measured_at).total_seconds() / 86_400


def calibrate(
    run: Run,
    rates_per_s: Sequence[float],
    *,
    ttft_s: float,
    itl_s: float,
    output_tokens: int,
    hostname: str,
    environment: dict[str, str],
    told: Callable[[CalibrationStep], None] = lambda _step: None,
) -> Calibration:
    """Measure every rate from the lowest up; the first that loses requests is the last. Raises CannotJudge."""
    load = os.getloadavg()[0]
    steps: list[CalibrationStep] = []
    for rate in sorted(rates_per_s):
        rows = run(rate)
        steps.append(step_of(rate, rows, ttft_s))
        told(steps[-1])
        if not steps[-1].whole:
            break
    return Calibration(
        measured_at=datetime.now(UTC),
        hostname=hostname,
        environment=environment,
        load_average=load,
        client=rows.start.client,
        ttft_s=ttft_s,
        itl_s=itl_s,
        output_tokens=output_tokens,
        steps=tuple(steps),
    )


def step_of(rate_per_s: float, rows: LoadRows, ttft_s: float) -> CalibrationStep:
    """The errors at one rate. Raises CannotJudge when nothing was answered, or by a server that does not stamp."""
    ok = [record for record in rows.records if record.status is Status.OK]
    lags = [np.asarray(record.lag_s) for record in ok if record.lag_s]
    if not lags:
        first = next((record.error for record in rows.records if record.error), "nothing was sent")
        told = "its chunks carry no stamps" if ok else f"no request was answered: {first}"
        raise CannotJudge(f"calibration at {rate_per_s:g} requests/s: {told}")
    last_ns = max(record.ended_ns for record in ok)
    first_ns = min(record.sent_ns for record in ok)
    return CalibrationStep(
        rate_per_s=rate_per_s,
        sent=len(rows.records) + (rows.lost or 0) + (rows.unsent or 0),
        ok=len(ok),
        chunks_per_s=sum(record.content_chunks for record in ok) / max((last_ns - first_ns) / NS_PER_S, 1e-9),
        ttft_error=_spread([lag[0] for lag in lags]),
        ttft_over_nominal=_spread([record.ttft_s - ttft_s for record in ok if record.ttft_s is not None]),
        itl_error=_spread(np.concatenate([np.abs(np.diff(lag)) for lag in lags])),
        scheduling_lag=_spread([(record.sent_ns - record.intended_ns) / NS_PER_S for record in rows.records]),
        cpu_share=_busiest(rows),
        stolen_share=stolen_share(rows),
    )


def error_bars(calibration: Calibration, rate_per_s: float | None, now: datetime) -> dict[str, Any]:
    """What a run's report tells of its own errors: flat, of the rate next above its own; None: not measured so high."""
    step = calibration.steps[0] if rate_per_s is None else calibration.at(rate_per_s)
    bars = {
        "measured_at": calibration.measured_at.isoformat(timespec="seconds"),
        "age_days": round(calibration.age_days(now), 2),
        "holds_until_per_s_p50": calibration.holds_until_per_s("p50_s"),
        "holds_until_per_s_p99": calibration.holds_until_per_s("p99_s"),
    }
    if step is None:
        return {**bars, "rate_per_s": None}
    return {
        **bars,
        "rate_per_s": step.rate_per_s,
        "n": step.ttft_error.n,
        "ttft_error_p50_s": step.ttft_error.p50_s,
        "ttft_error_p99_s": step.ttft_error.p99_s,
        "itl_error_mean_s": step.itl_error.mean_s,
        "scheduling_lag_p99_s": step.scheduling_lag.p99_s,
    }


def _spread(samples_s: Sequence[float] | NDArray[np.float64]) -> Spread:
    values = np.asarray(samples_s, dtype=np.float64)
    n = len(values)
    return Spread(
        n=n,
        mean_s=float(values.mean()) if n else None,
        p50_s=float(np.percentile(values, 50)) if n else None,
        p99_s=float(np.percentile(values, 99)) if n >= LEAST_SAMPLES else None,
    )


def _busiest(rows: LoadRows) -> float | None:
    """None where a worker did not end."""
    shares = cpu_shares(rows)
    return max(shares.values()) if len(shares) == len(rows.ends) else None


# --- kept for later runs ---------------------------------------------------------------------------------


def calibration_path() -> Path:
    """Where this user's calibration is kept."""
    return state_dir() / "calibration.json"


def store(calibration: Calibration) -> Path:
    """Keep it for later runs, in place of an earlier one."""
    path = calibration_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, [calibration.model_dump_json(indent=2).encode() + b"\n"])
    return path


def last_calibration(hostname: str) -> Calibration | None:
    """This machine's; None where there is none, or it is of another machine (a shared home) or another format."""
    try:
        found = Calibration.model_validate_json(calibration_path().read_text("utf8"))
    except (FileNotFoundError, UnicodeDecodeError, ValidationError):
        return None
    return found if found.hostname == hostname else None


def this_machines() -> Calibration | None:
    """The calibration of this machine that later runs tell, if there is one."""
    return last_calibration(platform.node())
