"""How a run is getting on: samples and tokens a second, errors, time left."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.markup import escape

from common import console
from evals.sample import Sample

_TELL_EVERY_S = 0.25
"""Telling costs as much as a sample does; nobody reads faster."""


class Meter:
    """A progress bar over samples; use it as a context manager."""

    def __init__(self, name: str, total: int) -> None:
        self._bar = console.progress("samples")
        self._task = self._bar.add_task(escape(console.shorten(name, 40)), total=total)
        self._began_s = self._told_s = time.monotonic()
        self._samples = self._tokens = self._errors = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.stop()

    def add(self, sample: Sample) -> None:
        """Count a sample; what came from the cache was not generated now."""
        self._samples += 1
        self._errors += sample.error is not None
        self._tokens += sum(reply.output_tokens or 0 for reply in sample.replies if reply.tries)
        now_s = time.monotonic()
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            per_s = self._tokens / max(now_s - self._began_s, 1e-9)
            self._bar.update(self._task, completed=self._samples, told=f"{per_s:.0f} tokens/s, {self._errors} errors")
