"""Runs a command and watches it from outside: processor time, memory of its whole process tree, wall time."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.peers.environment import PeerFailed, last_line
from load_tests.stolen_time import stolen_share

_EVERY_S = 0.25
_PSS_EVERY = 4
"""One sample in so many: the kernel walks all pages for it, a millisecond or more a process."""


@dataclass(frozen=True)
class Sample:
    """Memory at one moment, bytes by process id."""

    rss: Mapping[int, int]
    pss: Mapping[int, int] | None = None
    """Pages shared by n processes count 1/n; None where it was not read."""


@dataclass(frozen=True)
class Peak:
    """The most memory seen, MB (1e6 bytes), each figure at its own moment."""

    pss_mb: float
    """Of the tree; 0 where it was never read."""
    rss_mb: float
    """The sum over processes, pages they share counted in each."""
    one_rss_mb: float
    """The largest single process."""
    processes: int


@dataclass(frozen=True)
class Watched:
    """One run of a command."""

    began_s: float
    ended_s: float
    """Both by this machine's monotonic clock."""
    cpu_s: float
    """User and system time of the command and of all descendants that were waited for."""
    peak: Peak
    stolen_share: float | None
    """Of the machine's processor time meanwhile, what its hypervisor gave to others; None where it is not told."""


def watch(command: Sequence[str], folder: Path, environment: Mapping[str, str], limit_s: float) -> Watched:
    """Run a command in `folder` to its end. Raises PeerFailed when it fails or takes longer than `limit_s`."""
    before, began_s, machine = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), psutil.cpu_times()
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise PeerFailed(f"cannot be started: {error.strerror or error}") from None
        try:
            samples = _sampled(process, began_s + limit_s)
        finally:
            # Whatever it left behind would run on beside the next subject.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        ended_s, after = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            said.seek(0)
            raise PeerFailed(f"ended with {process.returncode}: {last_line(said.read())}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Watched(began_s, ended_s, cpu_s, peak_of(samples), stolen_share(machine, psutil.cpu_times()))


def _sampled(process: subprocess.Popen[bytes], deadline_s: float) -> list[Sample]:
    samples: list[Sample] = []
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_EVERY_S)
            return samples
        if time.monotonic() > deadline_s:
            raise PeerFailed("did not end in time")
        samples.append(_sample(process.pid, with_pss=len(samples) % _PSS_EVERY == 0))


def _sample(root: int, *, with_pss: bool) -> Sample:
    rss, pss = {}, {}
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(root)
        for one in (top, *top.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                rss[one.pid] = one.memory_info().rss
                if with_pss:
                    pss[one.pid] = one.memory_full_info().pss
    return Sample(rss, pss if with_pss else None)


def peak_of(samples: Sequence[Sample]) -> Peak:
    """The most of each kind; zeros for a command that was over before its first sample."""
    return Peak(
        pss_mb=max((sum(one.pss.values()) for one in samples if one.pss), default=0) / 1e6,
        rss_mb=max((sum(one.rss.values()) for one in samples), default=0) / 1e6,
        one_rss_mb=max((size for one in samples for size in one.rss.values()), default=0) / 1e6,
        processes=max((len(one.rss) for one in samples), default=0),
    )
