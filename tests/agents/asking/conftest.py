"""The toy specialist is known in all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agents.asking.toy import registered


@pytest.fixture(autouse=True)
def _toy_is_registered() -> Iterator[None]:
    with registered():
        yield
