"""What a load tool's own figures are worth, given what the server saw: pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.peers.environment import PeerFailed
from benchmarks.peers.process_tree import Watched


@dataclass(frozen=True)
class Reported:
    """What a tool measured of the requests that it calls successful, milliseconds; from its own send."""

    ttft_ms: tuple[float, ...]
    itl_ms: tuple[float, ...]
    """Every gap it recorded, or one mean per request."""
    per_request_means: bool = False
    """Whether `itl_ms` are such means."""


@dataclass(frozen=True)
class ServerSaw:
    """The same run from the server's side."""

    arrivals_s: tuple[float, ...]
    """Monotonic clock, in order."""
    ttft_mean_ms: float
    """Arrival to first token sent, exact over all requests."""


@dataclass(frozen=True)
class Nominal:
    """What the server was told to keep, and the tool to send."""

    ttft_ms: float
    itl_ms: float
    output_tokens: int
    rate_per_s: float

    @property
    def answer_s(self) -> float:
        """Arrival to last token."""
        return (self.ttft_ms + (self.output_tokens - 1) * self.itl_ms) / 1e3


@dataclass(frozen=True)
class Figures:
    """One round of one tool."""

    ttft_p50_error_ms: float
    ttft_p99_error_ms: float
    """Reported minus the nominal: the server's own lateness under that tool's load is in it."""
    ttft_mean_error_ms: float
    """Reported minus the server's own mean."""
    itl_error_ms: float
    """Mean absolute deviation of gaps, or of per-request means, from the nominal."""
    itl_per_request_means: bool
    gaps_per_request: float
    """Gaps in the tool's record for each request; the answer has one less than tokens."""
    sent_per_s: float
    """First to last arrival at the server."""
    sent_ratio: float
    """The same, by what was asked."""
    seen: int
    """Requests that came to the server."""
    measured: int
    """Requests that the tool has a TTFT of."""
    cpu_s: float
    pss_mb: float
    rss_mb: float
    one_rss_mb: float
    processes: int
    startup_s: float
    """Start of the command to the first arrival."""
    stolen_share: float | None
    """Of the machine's processor time, what its hypervisor gave to others: lateness of which no tool is the cause."""
    winddown_s: float
    """Last answer, by its deadline, to the command's end."""

    @property
    def around_s(self) -> float:
        """Wall time of the command outside the load."""
        return self.startup_s + self.winddown_s


def figures_of(reported: Reported, saw: ServerSaw, watched: Watched, nominal: Nominal) -> Figures:
    """A round's figures. Raises PeerFailed where the tool measured nothing or the server saw too little to tell."""
    if not reported.ttft_ms or not reported.itl_ms:
        raise PeerFailed("its result holds no measured request")
    if len(saw.arrivals_s) < 2 or saw.arrivals_s[-1] <= saw.arrivals_s[0]:
        raise PeerFailed(f"the server saw {len(saw.arrivals_s)} requests")
    first_s, last_s = saw.arrivals_s[0], saw.arrivals_s[-1]
    sent_per_s = (len(saw.arrivals_s) - 1) / (last_s - first_s)
    p50, p99 = np.percentile(reported.ttft_ms, [50, 99])
    return Figures(
        ttft_p50_error_ms=float(p50) - nominal.ttft_ms,
        ttft_p99_error_ms=float(p99) - nominal.ttft_ms,
        ttft_mean_error_ms=float(np.mean(reported.ttft_ms)) - saw.ttft_mean_ms,
        itl_error_ms=float(np.mean(np.abs(np.asarray(reported.itl_ms) - nominal.itl_ms))),
        itl_per_request_means=reported.per_request_means,
        gaps_per_request=len(reported.itl_ms) / len(reported.ttft_ms),
        sent_per_s=sent_per_s,
        sent_ratio=sent_per_s / nominal.rate_per_s,
        seen=len(saw.arrivals_s),
        measured=len(reported.ttft_ms),
        cpu_s=watched.cpu_s,
        pss_mb=watched.peak.pss_mb,
        rss_mb=watched.peak.rss_mb,
        one_rss_mb=watched.peak.one_rss_mb,
        processes=watched.peak.processes,
        startup_s=first_s - watched.began_s,
        stolen_share=watched.stolen_share,
        winddown_s=watched.ended_s - last_s - nominal.answer_s,
    )


def note_of(found: Figures, output_tokens: int) -> str:
    """What a reader of the figures has to know; empty where there is nothing."""
    notes = []
    if found.itl_per_request_means:
        notes.append("ITL: per-request means")
    elif abs(found.gaps_per_request - (output_tokens - 1)) > 0.01:
        notes.append(f"records {found.gaps_per_request:.1f} gaps an answer of {output_tokens - 1}")
    if found.seen != found.measured:
        notes.append(f"measured {found.measured} of {found.seen} requests")
    return "; ".join(notes)
