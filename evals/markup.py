"""Text that is data, as XML and Markdown take it literally, and the files that verdicts go to."""

from __future__ import annotations

import os
import re
from pathlib import Path

from common.console import BadInput, one_line

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write."""


def check_target(path: Path, option: str) -> None:
    """Before work whose result is to go to a file. Raises BadInput where it can be seen that it cannot be written."""
    if path.is_dir():
        raise BadInput(f"{option} {path}: is a folder; name a file")
    above = next(place for place in (path, *path.absolute().parents) if place.exists())
    if above != path and not above.is_dir():
        raise BadInput(f"{option} {path}: {above} is no folder; name another file")
    if not os.access(above, os.W_OK):
        raise BadInput(f"{option} {path}: {above} may not be written to; name another file")


def write_file(path: Path, option: str, text: str) -> None:
    """Raises BadInput when the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf8")
    except OSError as error:
        raise BadInput(f"{option} {path}: cannot be written ({error.strerror})") from None


def xml_text(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return _NOT_XML.sub("�", text)


def plain(text: str) -> str:
    """Text that Markdown and HTML take literally: one line, every mark of theirs escaped."""
    escaped = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~@])", r"\\\1", escaped)
