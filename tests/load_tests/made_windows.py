"""Steady windows made up from figures, and from a simulated queue."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from load_tests.measured import Floats, Measured


def made_window(ttft_s: Floats | list[float], *, duration_s: float = 60.0, gaps: int = 4, **columns: Any) -> Measured:
    """One request per TTFT, evenly spaced, `gaps` gaps of 10 ms each; `columns` replace columns of Measured."""
    ttft = np.asarray(ttft_s, dtype=np.float64)
    n = len(ttft)
    itl = columns.pop("itl_s", np.full(n * gaps, 0.01))
    e2e = ttft + itl.reshape(n, gaps).sum(axis=1)
    values: dict[str, Any] = {
        "start_s": 0.0,
        "end_s": duration_s,
        "index": np.arange(n),
        "sent_s": np.linspace(0, duration_s, n, endpoint=False),
        "ok": np.ones(n, dtype=np.bool_),
        "cut": np.zeros(n, dtype=np.bool_),
        "ttft_s": ttft,
        "ttft_from_sent_s": ttft,
        "e2e_s": e2e,
        "tpot_s": (e2e - ttft) / max(gaps, 1),
        "waited_s": e2e,
        "lag_s": np.zeros(n),
        "schema_valid": np.full(n, np.nan),
        "itl_s": itl,
        "itl_of": np.repeat(np.arange(n), gaps),
        **columns,
    }
    return Measured(**values)


def alike(rng: np.random.Generator, n: int, correlation: float) -> Floats:
    """Standard normal values, each correlated with the one before it (AR(1))."""
    values = rng.standard_normal(n)
    for place in range(1, n):
        values[place] = correlation * values[place - 1] + (1 - correlation**2) ** 0.5 * values[place]
    return values


def queue_ttft_s(
    rng: np.random.Generator, arrivals_s: Floats, *, servers: int = 4, load: float = 0.7, slower: float = 1.0
) -> NDArray[np.float64]:
    """Waiting plus service in a G/G/k queue: lognormal service times of variation 0.3, `slower` times as long."""
    mean_s = load * servers * float(arrivals_s[-1]) / len(arrivals_s)
    service_s = slower * mean_s * rng.lognormal(-0.043, 0.294, len(arrivals_s))
    free_s = [0.0] * servers
    left_s = []
    for at_s, takes_s in zip(arrivals_s, service_s, strict=True):
        end_s = max(heapq.heappop(free_s), at_s) + takes_s
        heapq.heappush(free_s, end_s)
        left_s.append(end_s - at_s)
    return np.array(left_s)
