"""What tests share: a simulated endpoint on loopback, and a browser."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import uvloop

from serving.simulator import SimulatorSettings, listen

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# `make check` asks for quick; `make test` runs hypothesis' own hundred examples. A busy machine is no failure.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=25)
hypothesis.settings.load_profile("untimed")


@contextmanager
def running_simulator(**settings: Any) -> Iterator[str]:
    """A simulator in a thread with its own event loop, for as long as the block lasts; gives its base URL.

    settings: the fields of SimulatorSettings.
    """
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="simulator", daemon=True)
    thread.start()
    try:
        listening = listen(SimulatorSettings(**settings), "127.0.0.1", 0)
        runner, base_url = asyncio.run_coroutine_threadsafe(listening, loop).result(timeout=10)
        try:
            yield base_url
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


@pytest.fixture
def start_simulator() -> Iterator[Callable[..., str]]:
    """Call with fields of SimulatorSettings, as often as needed: each call gives a new simulator's base URL.

    All of them stop when the test ends.
    """
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(running_simulator(**settings))


QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium, headless."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.fail("no Chromium on this machine: python3 requirements/browser.py says how to get it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()
