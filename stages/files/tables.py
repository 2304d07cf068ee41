"""The Parquet tables between stages. Their schemas are checked on write and on read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.files.artifact import REMEDY
from stages.runtime.faults import InputFault, first_line

_CELL = [
    ("after", pa.int16()),
    ("task", pa.int16()),
    ("concept", pa.string()),
    ("prompt", pa.int16()),
    ("noise", pa.int16()),
]

# One row per picture and metric. `after` is the task that was learned last, 0 for the base; `task` is the task of the
# prompt.
SCORES = pa.schema([*_CELL, ("metric", pa.string()), ("score", pa.float64())])
# One row per picture and encoder; unit vectors.
EMBEDDINGS = pa.schema([*_CELL, ("encoder", pa.string()), ("vector", pa.list_(pa.float32()))])
# One row per reference picture and encoder, for every task learned so far.
REFERENCES = pa.schema(
    [
        ("task", pa.int16()),
        ("concept", pa.string()),
        ("picture", pa.int16()),
        ("encoder", pa.string()),
        ("vector", pa.list_(pa.float32())),
    ]
)
# All scores of a study, each with its run; the base model has no seed.
PLACE = [
    pa.field("domain", pa.string()),
    pa.field("order", pa.string()),
    pa.field("strategy", pa.string()),
    pa.field("seed", pa.int32()),
]
ALL_SCORES = pa.schema([*PLACE, *SCORES])
LOSSES = pa.schema([("step", pa.int32()), ("loss", pa.float32()), ("gradient_norm", pa.float32())])


def write(path: Path, schema: pa.Schema, columns: Mapping[str, Sequence[Any]]) -> None:
    """Writes columns as Parquet; equal rows give equal bytes.

    Raises:
        ValueError: a column is missing, unknown or of another length.
    """
    if set(columns) != set(schema.names):
        raise ValueError(f"{path.name}: columns {sorted(columns)}, expected {schema.names}")
    table = pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema)
    write_table(path, table)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes an Arrow table as Parquet; equal rows give equal bytes."""
    pq.write_table(table, path, compression="zstd", store_schema=False)


def read(path: Path, schema: pa.Schema) -> pa.Table:
    """Reads a Parquet table and checks its columns.

    Raises:
        InputFault: the file is missing, is not Parquet, or has other columns.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputFault(f"{path}: cannot be read as Parquet: {first_line(error)}. {REMEDY}") from None
    actual, expected = (
        [(field.name, str(field.type).replace("element:", "item:")) for field in fields]
        for fields in (table.schema, schema)
    )
    if actual != expected:
        raise InputFault(f"{path}: has columns {actual}, expected {expected}. {REMEDY}")
    return table.cast(schema)
