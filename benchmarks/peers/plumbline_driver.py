"""Ours on the rows' cases: `python -m evals run` in this process, every scorer, all files of a run, no MLflow."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from benchmarks.peers.work import done, job

_AT_ONCE = 128
PROMPT = {"name": "peers", "version": 1, "description": "One system and one user message.", "ask": "write"}
"""The product's own words without worked examples, which lm-eval could not ask."""


def main() -> None:
    """Write the suite and run the command; the lines of scores.jsonl are what was scored."""
    work = job()
    suite, out = work.folder / "suite.yaml", work.folder / "run"
    (work.folder / "prompt.yaml").write_text(yaml.safe_dump(PROMPT), "utf8")
    suite.write_text(yaml.safe_dump(suite_of(cases_beside(work.rows))), "utf8")
    from evals.__main__ import app

    sys.argv = ["evals", "run", str(suite), "--base-url", work.base_url, "--out", str(out), "--no-mlflow"]
    app(standalone_mode=False)
    with (out / "scores.jsonl").open("rb") as file:
        done(sum(1 for _ in file))


def cases_beside(rows: Path) -> Path:
    """The cases that a file of rows was made from."""
    return rows.with_suffix(".cases.jsonl")


def suite_of(cases: Path) -> dict[str, object]:
    """One variant, so that every case is asked once, as the peers ask it."""
    return {"name": "peers", "prompts": ["prompt.yaml"], "cases": {"file": str(cases)}, "concurrency": _AT_ONCE}


if __name__ == "__main__":
    main()
