"""Whether an answer fits the JSON schema that was asked for."""

from __future__ import annotations

from typing import Any

import orjson
from jsonschema import Draft202012Validator

from load_tests.sse import RequestRecord, Status


class SchemaCheck:
    """Validators, each made once per schema object: making one takes longer than using it."""

    def __init__(self) -> None:
        self._validators: dict[int, tuple[dict[str, Any], Draft202012Validator]] = {}

    def __call__(self, record: RequestRecord, schema: dict[str, Any] | None, text: str) -> bool | None:
        """None where no schema was asked for, and without a whole answer: there is nothing to judge."""
        if schema is None or record.status is not Status.OK:
            return None
        try:
            return self._validator(schema).is_valid(orjson.loads(text))
        except orjson.JSONDecodeError:
            return False

    def _validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        # By identity, and the schema is kept so that its id stays its own.
        found = self._validators.get(id(schema))
        if found is None:
            found = self._validators[id(schema)] = (schema, Draft202012Validator(schema))
        return found[1]
