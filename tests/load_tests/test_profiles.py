"""Load profiles: what they take, and one line for what they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.console import BadInput
from load_tests.arrivals import Closed, Poisson, Trace
from load_tests.profiles import ROOT, AgentsWorkload, LoadProfile, SyntheticWorkload, load_profile

CLOSED = {"kind": "closed", "users": 2}
CASES = {"kind": "agents", "cases": {"count": 8}}


def profile(**changes: Any) -> dict[str, Any]:
    return {"name": "t", "arrivals": CLOSED, "workload": CASES, "duration_s": 5, **changes}


def read(tmp_path: Path, **changes: Any) -> LoadProfile:
    path = tmp_path / "load.yaml"
    path.write_text(yaml.safe_dump(profile(**changes)))
    return load_profile(path)


def refused(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(BadInput) as caught:
        read(tmp_path, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["load", "load_open"])
def test_examples_are_profiles(name: str) -> None:
    found = load_profile(ROOT / "examples" / f"{name}.yaml")
    assert isinstance(found.workload, AgentsWorkload)
    assert isinstance(found.arrivals, Closed if name == "load" else Poisson)


def test_profile_written_out_and_read_again_is_the_same(tmp_path: Path) -> None:
    """Capacity probes write profiles into folders of their own; their files must still be found."""
    found = load_profile(ROOT / "examples" / "load.yaml")
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(found.model_dump(mode="json", exclude_none=True)))
    assert load_profile(path) == found


def test_files_are_found_beside_the_profile(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("{}\n")
    (tmp_path / "trace.csv").write_text("at_s\n0\n")
    found = read(
        tmp_path,
        workload={"kind": "agents", "pipelines": "own.jsonl"},
        arrivals={"kind": "trace", "file": "trace.csv"},
    )
    assert isinstance(found.workload, AgentsWorkload)
    assert found.workload.pipelines == str(tmp_path / "own.jsonl")
    assert isinstance(found.arrivals, Trace)
    assert found.arrivals.path == tmp_path / "trace.csv"


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    assert "workload.pipelines: there is no file 'no.yaml'" in refused(
        tmp_path, workload={"kind": "agents", "pipelines": "no.yaml"}
    )
    assert "arrivals.file: there is no file 'no.csv'" in refused(tmp_path, arrivals={"kind": "trace", "file": "no.csv"})


def test_synthetic_workload_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, workload={"kind": "synthetic", "prompt_tokens": 100, "output_tokens": 8}).workload
    assert found == SyntheticWorkload(prompt_tokens=100, shared_prefix=0.0, output_tokens=8)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"users": 4}, "users: has moved; write `arrivals: {kind: closed, users: N}`"),
        ({"pipelines": "x"}, "pipelines: has moved; write `workload: {kind: agents, pipelines: FILE}`"),
        ({"workload": {"kind": "agents"}}, "give either pipelines"),
        ({"workload": {**CASES, "pipelines": "x"}}, "give either pipelines"),
        ({"workload": {"kind": "agents", "pipelines": "x", "score": True}}, "score: true needs cases"),
        ({"workload": {"kind": "poem"}}, "workload"),
        ({"workload": {"kind": "synthetic", "prompt_tokens": 9, "output_tokens": 1, "shared_prefix": 2}}, "shared"),
        ({"workload": {"kind": "synthetic", "prompt_tokens": 9, "output_tokens": 1}, "max_tokens": 3}, "max_tokens"),
        ({"arrivals": {"kind": "poisson"}}, "rate_per_s"),
        ({"duration_s": 0}, "duration_s"),
        ({"cancel_share": 0.5}, "cancel_share: says how many to cancel but not when"),
        ({"cancel_after_chunks": 1, "cancel_share": 0}, "cancel_share"),
        ({"seed": -1}, "seed"),
        ({"processes": 1000}, "processes"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    assert told in refused(tmp_path, **changes)
