"""Our locustfile with the scripted sender, and facts and folders from the environment instead of an endpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import load_tests.locustfile
from load_tests import conductor, sender_process
from load_tests.facts import from_json

PipelineUser = load_tests.locustfile.PipelineUser


def numbered_folder(named: Path | None) -> Path:
    """test-1, test-2, ... in the folder that is named."""
    assert named
    folder = named / f"test-{len(list(named.glob('test-*'))) + 1}"
    folder.mkdir()
    return folder


sender_process.SENDER = (sys.executable, "-m", "tests.load_tests.scripted_sender")
conductor.preflight = lambda host: from_json(os.environ["SCRIPTED_FACTS"])
conductor.new_folder = numbered_folder
