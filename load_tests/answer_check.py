"""Whether an answer fits the JSON schema that was asked for."""

from __future__ import annotations

from functools import lru_cache

import orjson
from jsonschema import Draft202012Validator

from load_tests.sse import RequestRecord, Status

VALIDATORS_KEPT = 1024
"""Those used last: every pipeline may be offered something else, and have a schema of its own."""


def fits(record: RequestRecord, schema: bytes | None, text: str) -> bool | None:
    """None where no schema was asked for, and without a whole answer: there is nothing to judge."""
    if schema is None or record.status is not Status.OK:
        return None
    try:
        return bool(_validator(schema).is_valid(orjson.loads(text)))
    except orjson.JSONDecodeError:
        return False


@lru_cache(maxsize=VALIDATORS_KEPT)
def _validator(schema: bytes) -> Draft202012Validator:
    # Kept, since making one takes longer than using it.
    return Draft202012Validator(orjson.loads(schema))
