"""What the tests of runs share: a small suite, a run's folder, and asking it on a simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import yaml

from evals.cache import AnswerCache
from evals.plan import load_plan
from evals.run_folder import RunFolder
from evals.runner import Asked, ask
from serving.endpoint import connect

FAST = {"ttft_ms": 0, "itl_ms": 0}
CASES = 6


def write_suite(path: Path, **keys: Any) -> Path:
    """A suite of two prompts on six cases; `keys` replace or add."""
    suite = {"name": "small", "prompts": ["write", "read"], "cases": {"count": CASES, "seed": 3}, **keys}
    path.write_text(yaml.safe_dump(suite))
    return path


def new_run(folder: Path, base_url: str | None, **keys: Any) -> RunFolder:
    """A run of that suite, planned and not asked."""
    folder.mkdir(exist_ok=True)
    plan, cases = load_plan(write_suite(folder / "suite.yaml", **keys), base_url)
    return RunFolder.create(folder / "run", plan, cases)


def ask_all(run: RunFolder, *, done: bytearray | None = None, cache: AnswerCache | None = None) -> Asked:
    """Ask every sample that is not done, of every model where it was when the run was planned."""
    models = {variant.model.name: variant.model for variant in run.plan.variants}
    endpoints = {name: connect(model.base_url, model.model) for name, model in models.items()}
    return ask(run, endpoints, done=done, cache=cache)


def rows(run: RunFolder) -> list[dict[str, Any]]:
    """samples.jsonl as it is."""
    return [orjson.loads(line) for line in run.samples_path.read_bytes().splitlines()]
