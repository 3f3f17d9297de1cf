"""Rows as columns: records of requests to one Parquet file and back, for pandas, DuckDB and the like.

One line per request, a column per field of RequestRecord under the same name; gaps are lists. What else belongs to
the test is JSON in the file's metadata under `plumbline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import orjson
from pydantic import TypeAdapter

from load_tests.sse import RequestRecord, Status

if TYPE_CHECKING:  # half a second to import, which a sender need not spend
    import pyarrow as pa  # type: ignore[import-untyped]

METADATA_KEY = b"plumbline"
_ROW_GROUP = 20_000
"""Requests held as columns at a time: some 20 MB at 64 chunks each."""


def write_records(records: tuple[RequestRecord, ...], condition: dict[str, Any], path: Path) -> None:
    """Write all records into one file; it appears under its name when it is whole."""
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    schema = _schema().with_metadata({METADATA_KEY: orjson.dumps(condition)})
    part = path.with_name(f"{path.name}.part")
    with pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for begin in range(0, len(records), _ROW_GROUP):
            writer.write_table(table_of(records[begin : begin + _ROW_GROUP], schema))
    part.replace(path)


def table_of(rows: Sequence[object], schema: pa.Schema) -> pa.Table:
    """Dataclasses or dicts as columns. By way of JSON: to make arrays of Python's lists Arrow imports pandas, 53 MB."""
    import pyarrow as pa
    from pyarrow.json import ParseOptions, ReadOptions, read_json  # type: ignore[import-untyped]

    if not rows:
        return schema.empty_table()
    lines = b"\n".join(map(orjson.dumps, rows))
    whole = ReadOptions(use_threads=False, block_size=len(lines) + 1)  # a row may be longer than its blocks
    as_told = ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    return read_json(pa.BufferReader(lines), whole, as_told).cast(schema)


def read_records(path: Path) -> tuple[tuple[RequestRecord, ...], Any]:
    """Records and condition of such a file. Raises OSError, KeyError or ValueError when it is another one."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        condition = orjson.loads((file.schema_arrow.metadata or {})[METADATA_KEY])
        # In batches, since rows on their way to records take more room than either end.
        records = tuple(
            record
            for batch in file.iter_batches(batch_size=4096)
            for record in _RECORDS.validate_python(batch.to_pylist())
        )
    return records, condition


def _schema() -> pa.Schema:
    """From the record's own types, so that a new field of it reaches the file."""
    import pyarrow as pa

    of = {
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        str: pa.string(),
        Status: pa.string(),
        list[float]: pa.list_(pa.float64()),
    }
    types = get_type_hints(RequestRecord)
    schema = []
    for field in fields(RequestRecord):
        parts = get_args(types[field.name])
        missing_allowed = NoneType in parts
        schema.append(pa.field(field.name, of[parts[0] if missing_allowed else types[field.name]], missing_allowed))
    return pa.schema(schema)


_RECORDS = TypeAdapter(list[RequestRecord])
