"""Writing tables: predictions beside the columns they came with."""

import csv
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from carl.data.files import atomic_path
from carl.data.rows import format_of
from carl.errors import CarlError, UsageError

_BATCH = 10_000


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows to a .csv, .tsv, .jsonl or .parquet file, streamed and atomic; return their number.

    The first row sets the columns (JSON lines take any). NaN is written as an empty cell, or null.

    Raises:
        UsageError: a format that is not written here.
        CarlError: the disk is full or the folder closed to us, or a row differs in its columns or types.
    """
    path = Path(path)
    kind = format_of(path)
    if kind == "txt" or path.suffix == ".gz":
        raise UsageError(
            f"{path}: tables are written as .csv, .tsv, .jsonl or .parquet; change the file's name."
        )
    clean = ({key: None if _is_nan(value) else value for key, value in row.items()} for row in rows)
    with atomic_path(path) as part:
        if kind == "jsonl":
            return _write_jsonl(part, clean)
        same = _same_columns(path, clean)
        if kind == "parquet":
            return _write_parquet(path, part, same)
        return _write_csv(part, same, "\t" if kind == "tsv" else ",")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and math.isnan(value)


def _same_columns(path: Path, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    columns: set[str] | None = None
    for number, row in enumerate(rows, 1):
        columns = columns or set(row)
        if set(row) != columns:
            column = min(columns ^ set(row))
            raise CarlError(
                f"Cannot write {path}: column {column!r} is not in every row (see row {number}); "
                "write .jsonl, where rows may differ."
            )
        yield row


def _write_csv(part: Path, rows: Iterator[dict[str, Any]], delimiter: str) -> int:
    count = 0
    with part.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row), delimiter=delimiter, lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            count += 1
    return count


def _write_jsonl(part: Path, rows: Iterator[dict[str, Any]]) -> int:
    count = 0
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
            count += 1
    return count


def _plain(value: Any) -> Any:
    """A numpy number as Python's own; anything else (a date from a Parquet file) as its text."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _write_parquet(path: Path, part: Path, rows: Iterator[dict[str, Any]]) -> int:
    import pyarrow as pa  # here: it is slow to import
    import pyarrow.parquet as pq

    first = list(itertools.islice(rows, _BATCH))
    count = 0
    batch = first
    try:
        schema = pa.Table.from_pylist(first).schema
        with pq.ParquetWriter(part, schema) as writer:
            while batch:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                count += len(batch)
                batch = list(itertools.islice(rows, _BATCH))
    except pa.ArrowException as error:
        raise CarlError(
            f"Cannot write {path}: a column mixes types ({error}); write .jsonl, where rows may differ."
        ) from error
    return count
