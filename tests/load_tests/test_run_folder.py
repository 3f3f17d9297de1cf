"""The folder of a load test: new ones are empty, and an old one is never written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.console import BadInput
from load_tests import run_folder
from load_tests.run_folder import RunFolder


def test_named_folder_is_made(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a" / "b")
    assert folder.path.is_dir()
    assert folder.rows(3) == tmp_path / "a" / "b" / "rows-3.jsonl"


def test_two_tests_at_once_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "RUNS", tmp_path / "runs" / "load")
    one, two = RunFolder.create(), RunFolder.create()
    assert one.path != two.path
    assert one.path.parent == two.path.parent == tmp_path / "runs" / "load"


@pytest.mark.parametrize("name", ["rows-0.jsonl", "requests.parquet", "report.json"])
def test_folder_that_holds_a_test_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(BadInput, match=name):
        RunFolder.create(tmp_path)


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="--out"):
        RunFolder.create(tmp_path / "file")


def test_only_a_folder_with_rows_is_opened(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no rows-\*.jsonl"):
        RunFolder.open(tmp_path)
    (tmp_path / "rows-0.jsonl").touch()
    assert RunFolder.open(tmp_path).path == tmp_path
