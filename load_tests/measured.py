"""The requests of a test's steady window as columns, for verdicts and comparisons: pure.

A failed request has no latency, but it did not come in time either: where an objective asks how many requests were
quick enough, it counts as slower than any limit. A request cut by the end of the test is neither: it was at least as
slow as it had waited by then. A request that was drawn to be hung up on is left out, whatever became of it: it was load
for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from load_tests.latency import tpot_s
from load_tests.sse import NS_PER_S, RequestRecord, Status

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Origin = Literal["intended", "sent"]
"""What TTFT and e2e are measured from: the moment the schedule asked for, or the one the request left at."""


@dataclass(frozen=True)
class Measured:
    """Requests sent in [start_s, end_s), in order of intended start; one value per request, NaN for none."""

    start_s: float
    end_s: float
    index: NDArray[np.int64]
    sent_s: Floats
    """After the test's start."""
    ok: Bools
    cut: Bools
    """Still running when the test ended."""
    ttft_s: Floats
    ttft_from_sent_s: Floats
    """Whatever the origin: what a client's lateness is compared with."""
    e2e_s: Floats
    """Of ok requests alone: a stream that broke has no end."""
    tpot_s: Floats
    waited_s: Floats
    """From the origin to the end, whatever the end was."""
    lag_s: Floats
    """Sent minus intended: how late this client was."""
    schema_valid: Floats
    """1 or 0; NaN where no schema was asked for or there is no answer to check."""
    itl_s: Floats
    """Every gap between content chunks of ok requests, request after request."""
    itl_of: NDArray[np.intp]
    """The place in the columns of each gap's request."""

    @property
    def n(self) -> int:
        """Requests."""
        return len(self.index)

    @property
    def window_s(self) -> float:
        """Length of the window."""
        return self.end_s - self.start_s


def measured(records: Sequence[RequestRecord], start_s: float, end_s: float, origin: Origin = "intended") -> Measured:
    """The requests sent in [start_s, end_s), seconds after the test's start."""
    sent = [record for record in records if start_s <= record.sent_ns / NS_PER_S < end_s]
    inside = [record for record in sent if record.cancel_after_chunks is None]
    inside.sort(key=lambda record: (record.intended_ns, record.index))
    ok = [record.status is Status.OK for record in inside]
    gaps = [record.itl_s if good else [] for record, good in zip(inside, ok, strict=True)]
    return Measured(
        start_s=start_s,
        end_s=end_s,
        index=np.array([record.index for record in inside], dtype=np.int64),
        sent_s=_seconds([record.sent_ns for record in inside]),
        ok=np.array(ok, dtype=np.bool_),
        cut=np.array([record.status is Status.INCOMPLETE for record in inside], dtype=np.bool_),
        ttft_s=_seconds([_since(record, record.first_content_ns, origin) for record in inside]),
        ttft_from_sent_s=_seconds([_since(record, record.first_content_ns, "sent") for record in inside]),
        e2e_s=_seconds(
            [_since(r, r.last_content_ns if good else None, origin) for r, good in zip(inside, ok, strict=True)]
        ),
        tpot_s=_floats([tpot_s(r) if good else None for r, good in zip(inside, ok, strict=True)]),
        waited_s=_seconds([_since(record, record.ended_ns, origin) for record in inside]),
        lag_s=_seconds([record.sent_ns - record.intended_ns for record in inside]),
        schema_valid=_floats([record.schema_valid for record in inside]),
        itl_s=_floats([gap for own in gaps for gap in own]),
        itl_of=np.repeat(np.arange(len(gaps)), [len(own) for own in gaps]).astype(np.intp),
    )


def _since(record: RequestRecord, stamp_ns: int | None, origin: Origin) -> int | None:
    return None if stamp_ns is None else stamp_ns - (record.intended_ns if origin == "intended" else record.sent_ns)


def _seconds(stamps_ns: Sequence[int | None]) -> Floats:
    return _floats(stamps_ns) / NS_PER_S


def _floats(values: Sequence[float | None]) -> Floats:
    """NaN for None."""
    return np.array(values, dtype=np.float64)
