"""Tables (CSV, Parquet) as an input: each row becomes a simple line of JSON, so that all that follows knows only lines.

It does not judge the lines it makes; `models.formats.lines` does, as it would if they had been written by hand.
"""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import orjson

from models.errors import InputError, UsageError
from models.formats.fields import Refused
from models.formats.lines import MAX_LINE
from models.wording import counted

IDS = ("id", "custom_id")
NAMED = ("model", "provider", "route", "system")
"""Columns that mean what the field of a simple line means, unless the template uses them."""

_BOM = b"\xef\xbb\xbf"
_BATCH_ROWS = 500
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template:
    """A text with columns in it: `Translate: {text}`. Literal braces are doubled. Raises UsageError."""

    def __init__(self, text: str) -> None:
        pieces: list[str] = []
        columns: list[str] = []
        at = 0
        literal = ""
        for token in _TOKEN.finditer(text):
            literal += text[at : token.start()]
            at = token.end()
            if token[1] is not None:
                pieces.append(literal)
                columns.append(token[1])
                literal = ""
            elif len(token[0]) == 2:
                literal += token[0][0]
            else:
                raise UsageError(
                    f"the template has a single {token[0]} at character {token.start() + 1}: write {token[0] * 2} for a "
                    "brace, or {column} for a column"
                )
        self._literals = [*pieces, literal + text[at:]]
        self.columns = tuple(columns)
        if not columns:
            raise UsageError("the template names no column: write it with columns in braces, as in 'Translate: {text}'")

    def fill(self, row: Mapping[str, Any]) -> str:
        """The text for a row; a cell without a value is the empty text."""
        filled = [self._literals[0]]
        for column, literal in zip(self.columns, self._literals[1:], strict=True):
            value = row[column]
            filled += (value if type(value) is str else _text(value), literal)
        return "".join(filled)


class Lines:
    """A stream of simple lines, one a row: with the row's number as the line's, a header being line 1."""

    def __init__(
        self,
        names: Sequence[str],
        rows: Iterator[Mapping[str, Any] | Refused | None],
        template: Template | None,
        name: str,
    ) -> None:
        self._rows = rows
        self._template = template
        used = template.columns if template else ("prompt",)
        missing = [column for column in used if column not in names]
        there = f"{name} has the columns {_escaped(', '.join(names))}"
        if missing and template is None:
            raise InputError(
                f"{there}, and none named prompt: say what to ask with --template, as in 'Translate: {{text}}'"
            )
        if missing:
            raise InputError(f"the template's column {missing[0]!r} isn't there: {there}")
        self._own = [column for column in (*IDS, *NAMED) if column in names and (column in IDS or column not in used)]
        taken = {*self._own, *(() if template else used)}
        self._carried = [column for column in names if column not in taken]

    def readline(self, size: int = -1, /) -> bytes:
        """The next row as a line; a line break for a row that is none; nothing at the end. Raises Refused for a bad row."""
        row = next(self._rows, b"")
        if isinstance(row, bytes):
            return row
        if row is None:
            return b"\n"
        if isinstance(row, Refused):
            raise row
        line: dict[str, Any] = {}
        for column in self._own:
            if (value := row[column]) is not None and value != "":
                line[column] = value
        line["prompt"] = self._template.fill(row) if self._template else row["prompt"]
        if self._carried:
            line["metadata"] = {column: row[column] for column in self._carried}
        try:
            return orjson.dumps(line, _plain, orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
        except TypeError as error:
            raise Refused("not UTF-8; save the file as UTF-8" if "UTF-8" in str(error) else str(error)) from None


def csv_lines(stream: BinaryIO, template: Template | None, name: str) -> Lines:
    """The rows of a CSV file with a header, in UTF-8. Cells stand between commas; where the header has none, between semicolons
    or tabs. Raises InputError."""
    if csv.field_size_limit() < MAX_LINE:
        csv.field_size_limit(MAX_LINE)
    first = stream.readline(MAX_LINE)
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{name} is UTF-16: save it as CSV in UTF-8")
    first = first.removeprefix(_BOM)
    comma = next((one for one in (b",", b";", b"\t") if one in first), b",").decode()
    texts = (line.decode("utf-8", "surrogateescape") for line in _chained(first, stream))
    reader = csv.reader(texts, delimiter=comma, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise InputError(f"{name}: the header can't be read: {_escaped(str(error))}") from None
    names = [cell.strip() or f"column-{number}" for number, cell in enumerate(header, 1)]
    if not header:
        raise InputError(f"{name} has no header: its first line must name the columns")
    if any("\udc80" <= character <= "\udcff" for cell in names for character in cell):
        raise InputError(f"{name}: the header is not UTF-8; save the file as CSV in UTF-8")
    twice = next((column for column in names if names.count(column) > 1), None)
    if twice is not None:
        raise InputError(f"{name}: the column {_escaped(repr(twice))} stands twice in the header")
    return Lines(names, _csv_rows(reader, names), template, name)


def _chained(first: bytes, stream: BinaryIO) -> Iterator[bytes]:
    line = first
    while line:
        yield line
        line = stream.readline(MAX_LINE)


def _csv_rows(reader: Iterator[list[str]], names: Sequence[str]) -> Iterator[Mapping[str, str] | Refused | None]:
    yield None  # the header's line
    width = len(names)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Refused(_why_not_csv(str(error)))
            continue
        if len(cells) == width:
            yield dict(zip(names, cells, strict=True))
        elif not cells:
            yield None
        else:
            yield Refused(f"has {counted(len(cells), 'cell')}, and the header has {width}")


def _why_not_csv(message: str) -> str:
    if "unexpected end of data" in message:
        return 'a cell that begins with " never ends'
    return f"not CSV: {_escaped(message)}"


def _escaped(text: str, most: int = 500) -> str:
    """As it may stand in a message: control characters escaped, cut where a file puts too much into it."""
    short = text if len(text) <= most else text[:most] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


_DAMAGED = (OSError, ValueError, TypeError, LookupError, OverflowError)
"""What pyarrow says of a damaged file, beside errors of its own: a name that isn't UTF-8, a time that Python doesn't know."""


def parquet_lines(stream: BinaryIO, template: Template | None, name: str) -> Lines:
    """The rows of a Parquet file, read by row groups. Raises InputError, UsageError where pyarrow isn't installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            f"{name} is Parquet, and pyarrow, which reads it, isn't installed: `pip install 'truckllm[parquet]'`"
        ) from None
    try:
        file = parquet.ParquetFile(stream, buffer_size=1024 * 1024, pre_buffer=False)
        names = file.schema_arrow.names
    except (pyarrow.ArrowException, *_DAMAGED) as error:
        raise InputError(f"{name} is no whole Parquet file: {_escaped(str(error))}") from None
    return Lines(names, _parquet_rows(file, name), template, name)


def _parquet_rows(file: Any, name: str) -> Iterator[Mapping[str, Any]]:
    import pyarrow

    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            columns = [_values(column) for column in batch.columns]
            for cells in zip(*columns, strict=True):
                yield dict(zip(batch.schema.names, cells, strict=True))
    except (pyarrow.ArrowException, *_DAMAGED) as error:
        raise InputError(f"{name} can't be read: {_escaped(str(error))}") from None


def _values(column: Any) -> Iterable[Any]:
    """A column's values for Python, which knows times by microseconds only."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pyarrow.timestamp("us", kind.tz), safe=False)
    values: list[Any] = column.to_pylist()
    return values


def _text(value: object) -> str:
    """A value that isn't text, as it stands in a prompt."""
    if value is None or value != value:  # noqa: PLR0124 - NaN stands for a missing number
        return ""
    plain = orjson.dumps(value, _plain, orjson.OPT_NON_STR_KEYS)
    decoded = orjson.loads(plain)
    return decoded if isinstance(decoded, str) else plain.decode()


def _plain(value: object) -> str:
    """What JSON has no form for: bytes as their text, else in base64; anything else as Python writes it."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return str(value)
