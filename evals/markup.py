"""Text that is data, as XML and Markdown take it literally, and the files that verdicts go to."""

from __future__ import annotations

import re
from pathlib import Path

from console import BadInput, one_line

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write."""


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
