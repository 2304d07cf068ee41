"""The Parquet tables between stages: their schemas, checked on write and on read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.runtime.faults import InputFault

_CELL = [
    ("after", pa.int16()),
    ("task", pa.int16()),
    ("concept", pa.string()),
    ("prompt", pa.int16()),
    ("noise", pa.int16()),
]

# One row per picture and metric. `after` is the task that was learnt last, 0 for the base; `task` is the one
# that the prompt belongs to.
SCORES = pa.schema([*_CELL, ("metric", pa.string()), ("score", pa.float64())])
# One row per picture and encoder; unit vectors.
EMBEDDINGS = pa.schema([*_CELL, ("encoder", pa.string()), ("vector", pa.list_(pa.float32()))])
# One row per reference picture and encoder, for every task learnt so far.
REFERENCES = pa.schema(
    [
        ("task", pa.int16()),
        ("concept", pa.string()),
        ("picture", pa.int16()),
        ("encoder", pa.string()),
        ("vector", pa.list_(pa.float32())),
    ]
)
# All scores of a study with the run that each is from; the base model has no seed.
PLACE = [
    pa.field("domain", pa.string()),
    pa.field("order", pa.string()),
    pa.field("strategy", pa.string()),
    pa.field("seed", pa.int32()),
]
ALL_SCORES = pa.schema([*PLACE, *SCORES])
LOSSES = pa.schema([("step", pa.int32()), ("loss", pa.float32()), ("gradient_norm", pa.float32())])


def write(path: Path, schema: pa.Schema, columns: Mapping[str, Sequence[Any]]) -> None:
    """Columns to Parquet, in one form only: equal rows are equal bytes.

    Raises:
        ValueError: a column is missing, superfluous or of another length.
    """
    if set(columns) != set(schema.names):
        raise ValueError(f"{path.name}: columns {sorted(columns)}, expected {schema.names}")
    table = pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema)
    write_table(path, table)


def write_table(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd", store_schema=False)


def read(path: Path, schema: pa.Schema) -> pa.Table:
    """
    Raises:
        InputFault: the file is not Parquet or has other columns.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputFault(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    found = [(f.name, str(f.type).replace("element:", "item:")) for f in table.schema]
    wanted = [(f.name, str(f.type).replace("element:", "item:")) for f in schema]
    if found != wanted:
        raise InputFault(f"{path}: has columns {found}, expected {wanted}.")
    return table.cast(schema)
