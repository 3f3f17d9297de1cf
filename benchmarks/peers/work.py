"""What every peer is given and does with an answer: the rows to ask, and three plain scorers.

Only the standard library: each peer runs in an environment of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One request that the agents would send, and what a right answer has to mention."""

    id: str
    stage: str
    messages: list[dict[str, str]]
    options: dict[str, Any]
    """The rest of the request's body but the model: sampling and the answer's schema."""
    words: list[str]


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file that `write_rows` wrote."""
    with path.open(encoding="utf8") as file:
        return [Row(**json.loads(line)) for line in file]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """One line a row."""
    path.write_text("".join(json.dumps(vars(row)) + "\n" for row in rows), "utf8")


def by_stage(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows with the same schema belong together where a peer takes its options once a task."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.stage, []).append(row)
    return found


def is_json(answer: str, _words: list[str]) -> float:
    """1 when the answer is a JSON object."""
    try:
        return float(isinstance(json.loads(answer), dict))
    except ValueError:
        return 0.0


def mentions(answer: str, words: list[str]) -> float:
    """Share of the words that the answer has."""
    text = answer.lower()
    return sum(word in text for word in words) / len(words) if words else 1.0


def is_short(answer: str, _words: list[str]) -> float:
    """1 when the answer is at most 600 characters."""
    return float(len(answer) <= 600)


SCORERS: dict[str, Callable[[str, list[str]], float]] = {"is_json": is_json, "mentions": mentions, "is_short": is_short}


@dataclass(frozen=True)
class Job:
    """What a driver is started with: `ROWS.jsonl BASE_URL MODEL FOLDER`."""

    rows: Path
    base_url: str
    model: str
    folder: Path
    """Empty; everything the peer writes goes there."""


def job() -> Job:
    """The job on the command line."""
    rows, base_url, model, folder = sys.argv[1:]
    return Job(Path(rows), base_url, model, Path(folder))


def done(scored: int) -> None:
    """Tell evaluation_peers.py how many rows were answered, scored and stored."""
    print(json.dumps({"scored": scored}), flush=True)
