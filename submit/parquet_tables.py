"""Parquet files, read in groups of rows, so that memory doesn't grow with the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from models.errors import InputError, UsageError
from submit.columns import LARGEST_ROW, Row, escaped
from submit.memory import LargeInput

PARQUET = b"PAR1"
_MOST_ROWS = 500
_ROWS_BYTES = 256 * 1024 * 1024
"""Rows that are unpacked together never take more: a text may be stored once for all of them."""
_LARGE_GROUP = 64 * 1024 * 1024
_LARGEST_RATIO = 1000
_UNSUSPICIOUS = 512 * 1024 * 1024
_DAMAGED = (OSError, ValueError, TypeError, LookupError, OverflowError)
"""What pyarrow raises for a damaged file, beside errors of its own: a name that isn't UTF-8, a time that Python doesn't know."""


def parquet_rows(file: BinaryIO, name: str, large: LargeInput) -> tuple[list[str], Iterator[Row]]:
    """Returns a Parquet file's columns and its rows. Raises InputError, UsageError where pyarrow isn't installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            f"{name} is Parquet, and pyarrow, which reads it, isn't installed: `pip install 'truckllm[parquet]'`"
        ) from None
    try:
        found = parquet.ParquetFile(file, buffer_size=1024 * 1024, pre_buffer=False)
        names = list(found.schema_arrow.names)
        together, largest = _rows_together(found.metadata, name)
    except (pyarrow.ArrowException, *_DAMAGED) as error:
        raise InputError(f"{name} is no whole Parquet file: {escaped(str(error))}") from None
    if largest > _LARGE_GROUP:
        large.keep()
    return names, _rows(found, together, name)


def _rows_together(metadata: Any, name: str) -> tuple[int, int]:
    """Returns how many rows may be unpacked at a time, and the bytes of the largest group of a column. Raises InputError for a group that packs a cell, or a bomb, of hundreds of MB.

    No cell is longer than its group's column is unpacked; so many times that is the most that the rows can take.
    """
    largest = 1
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            size = int(column.total_uncompressed_size)
            largest = max(largest, size)
            ratio = size / max(1, int(column.total_compressed_size))
            if size > LARGEST_ROW * max(1, int(column.num_values)) or (size > _UNSUSPICIOUS and ratio > _LARGEST_RATIO):
                raise InputError(
                    f"{name}: the column {escaped(repr(column.path_in_schema))} takes {size // 1024 // 1024:,} MB in one row group of "
                    f"{group.num_rows:,} rows: more than its rows may take. Write the file in smaller row groups"
                )
    return max(1, min(_MOST_ROWS, _ROWS_BYTES // largest)), largest


def _rows(file: Any, together: int, name: str) -> Iterator[Row]:
    import pyarrow

    try:
        for batch in file.iter_batches(batch_size=together):
            yield from zip(*[_values(column) for column in batch.columns], strict=True)
    except (pyarrow.ArrowException, *_DAMAGED) as error:
        raise InputError(f"{name} can't be read: {escaped(str(error))}") from None


def _values(column: Any) -> Iterable[Any]:
    """Returns a column's values for Python, which takes times by microseconds only."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pyarrow.timestamp("us", kind.tz), safe=False)
    values: list[Any] = column.to_pylist()
    return values
