"""Whether an answer fits the schema of its own request."""

from __future__ import annotations

import json

import pytest

from load_tests import answer_check
from load_tests.answer_check import VALIDATORS_KEPT, fits
from load_tests.sse import Status
from tests.load_tests.made_load import made_record


def schema(*values: str) -> bytes:
    mode = {"type": "string", "enum": list(values)}
    return json.dumps({"type": "object", "properties": {"mode": mode}, "required": ["mode"]}).encode()


@pytest.mark.parametrize(
    ("text", "valid"),
    [('{"mode": "batch"}', True), ('{"mode": "cdc"}', False), ("{}", False), ('{"mode": "bat', False), ("", False)],
)
def test_whole_answer_fits_or_does_not(text: str, valid: bool) -> None:
    assert fits(made_record(0), schema("batch"), text) is valid


def test_nothing_is_judged_without_a_schema_or_a_whole_answer() -> None:
    assert fits(made_record(0), None, "{}") is None
    assert fits(made_record(0, status=Status.CUT_STREAM), schema("batch"), "{}") is None


def test_any_number_of_schemas_takes_the_memory_of_some() -> None:
    for number in range(VALIDATORS_KEPT + 10):
        assert fits(made_record(0), schema(f"v{number}"), f'{{"mode": "v{number}"}}')
    assert answer_check._validator.cache_info().currsize == VALIDATORS_KEPT
