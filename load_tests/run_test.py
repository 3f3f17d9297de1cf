"""One load test from profile to rows: what `run`, `calibrate` and `capacity` have in common."""

from __future__ import annotations

from pathlib import Path

from load_tests.headless import run_locust
from load_tests.profiles import load_profile
from load_tests.rows import LoadRows, read_run, write_parquet
from load_tests.run_folder import RunFolder
from load_tests.warm_up import warm_up
from load_tests.workload import plan_load
from serving.endpoint import Endpoint


def run_profile(endpoint: Endpoint, profile: Path, path: Path) -> LoadRows:
    """Warm up, run the profile and read its rows; `path` becomes the run's folder.

    Raises KeyboardInterrupt when the user stopped it, BadInput and CannotJudge as its parts do; the rows stay.
    """
    plan = plan_load(load_profile(profile), endpoint)
    warm_up(plan)
    folder = RunFolder.create(path)
    run_locust(plan, profile, folder).refuse_unless_whole()
    rows = read_run(folder.path)
    write_parquet(rows, folder.parquet)
    return rows
