"""The folder of a capacity search, so that one that was stopped can go on.

order.json                 what was asked: a search goes on only with the same
probe-N.yaml, probe-N/     the profile of each test, and the test; closed-loop where one gave the first guess
capacity.json, .html, .png, .svg    the curve, also of a search that was stopped
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from common.console import BadInput, say, shorten
from common.whole_file import write_whole
from load_tests.profiles import LoadProfile
from load_tests.rows import LoadRows, read_parquet
from load_tests.run_folder import RunFolder

_MAY_DIFFER = ("probes",)
"""A search may go on with more of them."""


class CapacityFolder:
    """One search's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, order: Mapping[str, Any]) -> CapacityFolder:
        """Of a new search. Raises BadInput when something is there already or it cannot be made."""
        if path.exists():
            raise BadInput(f"--out: {path} is there already; go on with it by --resume, or give a folder that is not")
        folder = cls(path)
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise BadInput(f"--out {path}: cannot be made ({error.strerror})") from None
        write_whole(folder._order, [json.dumps(order, indent=2).encode() + b"\n"])
        return folder

    @classmethod
    def reopen(cls, path: Path, order: Mapping[str, Any]) -> CapacityFolder:
        """Of a search to go on with. Raises BadInput when there is none, or it was asked something else."""
        folder = cls(path)
        try:
            before = dict(json.loads(folder._order.read_text("utf8")))
        except FileNotFoundError:
            raise BadInput(f"--resume: {path} holds no capacity search: no {folder._order.name} is there") from None
        except (OSError, ValueError, TypeError) as error:
            raise BadInput(f"--resume: {folder._order}: cannot be read ({shorten(str(error))})") from None
        # Both as JSON has them, where a tuple is a list.
        now = dict(json.loads(json.dumps(order)))
        for name in sorted(before.keys() | now.keys()):
            if name not in _MAY_DIFFER and before.get(name) != now.get(name):
                was, is_ = (shorten(json.dumps(one.get(name))) for one in (before, now))
                raise BadInput(f"--resume: {path}: {name}: was {was}, now {is_}; ask the same, or begin a new search")
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from searching here. Raises BadInput when one does."""
        with self._order.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"--out {self.path}: another search is writing there") from None
            yield

    def test(
        self,
        name: str,
        profile: LoadProfile,
        run: Callable[[Path, Path], LoadRows],
        usable: Callable[[LoadRows], bool],
    ) -> LoadRows:
        """The rows of one test: those that are there if it ran to its end, else `run`'s, given its profile and folder.

        What is there of a test that was cut, of another profile or not `usable` is set aside.
        """
        text = yaml.safe_dump(profile.model_dump(mode="json", exclude_none=True), sort_keys=False)
        described, tested = self.path / f"{name}.yaml", self.path / name
        if tested.exists():
            if not described.exists() or described.read_text("utf8") != text:
                why = "was of another profile"
            elif (rows := _finished(tested)) is None:
                why = "was cut"
            elif not usable(rows):
                why = "told nothing of the endpoint"
            else:
                say(f"  {name}: is there already")
                return rows
            say(f"  {name}: {why}; it is run again, and what there was is kept in {_set_aside(tested).name}")
        described.write_text(text, "utf8")
        return run(described, tested)

    def has(self, name: str) -> bool:
        """Whether there is anything of that test."""
        return (self.path / name).exists()

    @property
    def _order(self) -> Path:
        return self.path / "order.json"


def _finished(path: Path) -> LoadRows | None:
    """The rows of a test that ran to its end, which is when its Parquet file is written; None for one that did not."""
    try:
        return read_parquet(RunFolder(path).parquet)
    except BadInput:
        return None


def _set_aside(path: Path) -> Path:
    for number in count(1):
        aside = path.with_name(f"{path.name}.cut-{number}")
        if not aside.exists():
            return path.rename(aside)
    raise AssertionError("unreachable")
