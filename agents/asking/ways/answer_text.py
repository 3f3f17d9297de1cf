"""An answer's text as one JSON object, and what models that are not held to a grammar write around it."""

from __future__ import annotations

import json
import re
from typing import Any

from common.console import shorten
from common.located import no_duplicates

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"\A```[A-Za-z]*[ \t]*\n(.*)```\Z", re.DOTALL)
_BYTE_ORDER_MARK = "\ufeff"


def as_object(text: str) -> dict[str, Any] | str:
    """The JSON object that a text is; else what is wrong with it, in one line."""
    if not text.strip():
        return "the answer is empty"
    try:
        found = json.loads(text, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        return f"the answer is not JSON: {shorten(str(error))}"
    if not isinstance(found, dict):
        return "the answer is not a JSON object"
    return found


def unwrapped(text: str) -> str:
    """A text without what stands around an answer: a byte order mark, thoughts before it, a code fence around it."""
    text = _THOUGHT.sub("", text.removeprefix(_BYTE_ORDER_MARK)).removeprefix(_BYTE_ORDER_MARK).strip()
    fenced = _FENCED.match(text)
    return (fenced[1] if fenced else text).strip()
