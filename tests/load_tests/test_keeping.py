"""A result outlives what cannot be done with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.console import BadInput, CannotJudge, ExitCode
from load_tests.keeping import Keeping


def fail(error: Exception) -> None:
    raise error


def test_every_thing_is_done_and_the_first_failure_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Keeping()
    assert kept.do(lambda: 7) == 7
    assert not kept.exit_code
    assert kept.do(lambda: (tmp_path / "no folder" / "file").write_text("x")) is None
    kept.do(lambda: fail(BadInput("--junit: no")))
    assert kept.do(lambda: "still done") == "still done"
    assert kept.exit_code == ExitCode.NOT_JUDGED
    told = capsys.readouterr().err
    assert f"error: {tmp_path}/no folder/file: cannot be written (No such file or directory)" in told.replace("\n", "")
    assert "error: --junit: no" in told


def test_its_own_mistakes_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        Keeping().do(lambda: 1 / 0)
    other = Keeping()
    other.do(lambda: fail(CannotJudge("store")))
    assert other.exit_code is ExitCode.NOT_JUDGED
