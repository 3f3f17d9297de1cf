"""Trace files: the moments at which requests came once, to be sent again at the same distances.

CSV with a header, or JSONL with one object per line:

    at_s,request                 {"at_s": 0.0, "request": 3}
    0.0,3                        {"at_s": 0.25, "request": 0}
    0.25,0

at_s      seconds after the start, not falling from line to line
request   optional, in every line or in none: which of the plan's requests is sent then, from 0

Other columns and keys are ignored: recorded traces have many.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from common.console import BadInput, shorten

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = (".csv", ".jsonl")
MOST_SECONDS = 86_400 * 365
_NANO = 1_000_000_000


@dataclass(frozen=True)
class Recorded:
    """What a trace file says."""

    at_ns: NDArray[np.int64]
    """Nanoseconds after the start, sorted; at least one."""
    requests: NDArray[np.int64] | None
    """Which request is sent at each moment; None where the file does not say."""


def read_trace(path: Path) -> Recorded:
    """A trace file, checked. Raises BadInput naming file and line."""
    import numpy as np

    at_ns: list[int] = []
    requests: list[int] = []
    for number, entry in _entries(path):
        where = f"{path}:{number}"
        due_ns = round(_seconds(where, entry) * _NANO)
        if at_ns and due_ns < at_ns[-1]:
            raise BadInput(
                f"{where}: at_s: found {due_ns / _NANO:g} after {at_ns[-1] / _NANO:g}; sort the file by at_s"
            )
        if ("request" in entry) != (len(requests) > 0) and at_ns:
            raise BadInput(f"{where}: request: stands in some lines only; give it in every line or in none")
        at_ns.append(due_ns)
        if "request" in entry:
            requests.append(_place(where, entry["request"]))
    if not at_ns:
        raise BadInput(f"{path}: holds no request")
    return Recorded(np.asarray(at_ns, np.int64), np.asarray(requests, np.int64) if requests else None)


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and content of each line that is not blank."""
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path}: ends in {path.suffix!r}; allowed for a trace: {', '.join(SUFFIXES)}")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    # Not splitlines(): U+2028 and its like are no line ends in either format.
    lines = text.replace("\r\n", "\n").split("\n")
    return _csv_entries(path, lines) if path.suffix == ".csv" else _json_entries(path, lines)


def _json_entries(path: Path, lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BadInput(f"{path}:{number}: is not JSON: {shorten(str(error))}") from None
        if not isinstance(entry, dict):
            raise BadInput(f"{path}:{number}: found {shorten(line, 60)}; allowed: an object with at_s")
        yield number, entry


def _csv_entries(path: Path, lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Cells as text; an empty one counts as absent."""
    reader = csv.DictReader(lines, skipinitialspace=True)
    try:
        if "at_s" not in (reader.fieldnames or ()):
            raise BadInput(f"{path}:1: found no column at_s in the header {shorten(lines[0], 100)!r}")
        for row in reader:
            yield reader.line_num, {name: cell for name, cell in row.items() if name and cell}
    except csv.Error as error:
        raise BadInput(f"{path}:{reader.reader.line_num}: is not CSV: {shorten(str(error))}") from None


def _seconds(where: str, entry: dict[str, Any]) -> float:
    found = entry.get("at_s")
    try:
        at_s = float(found) if isinstance(found, str | int | float) and not isinstance(found, bool) else math.nan
    except ValueError:
        at_s = math.nan
    if not 0 <= at_s <= MOST_SECONDS:
        told = "is missing" if found is None else f"found {shorten(repr(found), 60)}"
        raise BadInput(f"{where}: at_s: {told}; allowed: seconds after the start, 0 to {MOST_SECONDS}")
    return at_s


def _place(where: str, found: Any) -> int:
    number = int(found) if isinstance(found, str) and found.isdecimal() and len(found) < 10 else found
    if type(number) is not int or not 0 <= number < 1_000_000_000:
        raise BadInput(f"{where}: request: found {shorten(repr(found), 60)}; allowed: a whole number from 0")
    return number
