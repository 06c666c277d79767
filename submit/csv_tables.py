"""CSV files, read row by row: the separator is found, rows without content at the end are left out."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence

from models.errors import InputError
from models.formats.fields import Refused
from models.wording import counted
from submit.columns import LARGEST_ROW, Row, escaped, is_blank, named, without_blank_end
from submit.memory import LargeInput

SUFFIXES = (".csv", ".tsv", ".tab", ".psv")
_SEPARATORS = (",", ";", "\t", "|")
_SEP_LINE = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
"""A first line that names the separator, as Excel reads and writes it."""
_MANY_BLANK = 1000
"""Empty lines behind each other from which on they are read together."""
_MOST_SKIPPED = 1_000_000
_FIELD_LIMIT = 2 * LARGEST_ROW  # that of the row is found first
_LARGE_ROW = LARGEST_ROW // 8
_HEAD_CHARACTERS = 64 * 1024
_HEAD_ROWS = 50
"""At most so much of a file is looked at to find its separator."""


class _TextLines:
    """The lines of a text, each with its end: LF, CRLF or CR. Raises InputError for a row that is too long.

    An iterator by hand, because it goes on after an error.
    """

    def __init__(self, content: io.BufferedReader, name: str, large: LargeInput) -> None:
        self._large = large
        self._text = io.TextIOWrapper(content, "utf-8", "surrogateescape", newline="")
        self._name = name
        self._ahead: io.StringIO | None = None
        self._row = 0
        self._size = 0

    def head(self) -> list[str]:
        """Reads the first lines."""
        lines: list[str] = []
        size = 0
        while size < _HEAD_CHARACTERS:
            self.row_begins(len(lines) + 1)
            line = next(self, "")
            if not line:
                break
            lines.append(line)
            size += len(line)
        return lines

    def row_begins(self, number: int) -> None:
        self._row = number
        self._size = 0
        self._large.release()

    def skip_blank(self) -> int:
        """Reads past empty lines that come next, and returns their number. To be called between rows."""
        skipped = 0
        end = ""
        while (
            self._ahead is None
            and (skipped < _MOST_SKIPPED or end == "\r")
            and (chunk := self._text.read(_HEAD_CHARACTERS))
        ):
            rest = chunk.lstrip("\r\n")
            blank = chunk[: len(chunk) - len(rest)]
            skipped += blank.count("\n") + blank.count("\r") - blank.count("\r\n") - (end + blank[:1] == "\r\n")
            end = blank[-1:]
            if rest:
                self._ahead = io.StringIO(rest + self._text.readline(LARGEST_ROW + 1), newline="")
        return skipped

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        line = self._ahead.readline() if self._ahead is not None else ""
        if not line:
            self._ahead = None
            line = self._text.readline(LARGEST_ROW + 1)
        if not line:
            raise StopIteration
        self._size += len(line)
        if self._size > _LARGE_ROW:
            self._large.take()
        if self._size > LARGEST_ROW:
            raise InputError(
                f"{self._name}: row {self._row:,} is longer than {LARGEST_ROW // 1024 // 1024} MB: is a quote before it never "
                "closed? Nothing was enqueued"
            )
        return line


def csv_rows(content: io.BufferedReader, name: str, suffix: str, large: LargeInput) -> tuple[list[str], Iterator[Row]]:
    """Returns a CSV file's columns and its rows; the header is row 1. `content` is UTF-8.

    `sep=;` in the first line names the separator; else it is the one that divides the first rows most evenly, outside of quotes. Raises
    InputError.
    """
    if csv.field_size_limit() < _FIELD_LIMIT:
        csv.field_size_limit(_FIELD_LIMIT)
    lines = _TextLines(content, name, large)
    head = lines.head()
    if head and (said := _SEP_LINE.fullmatch(head[0])):
        separator = said[1]
        head = head[1:]
    else:
        separator = _separator(head, "\t" if suffix in (".tsv", ".tab") else "|" if suffix == ".psv" else ",")
    reader = csv.reader(itertools.chain(head, lines), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise InputError(f"{name}: the header can't be read: {escaped(str(error))}") from None
    if not any(cell.strip() for cell in header):
        raise InputError(f"{name} has no header: its first line must name the columns")
    return named(header, name), without_blank_end(_rows(reader, lines, header, separator))


def _separator(head: Sequence[str], usual: str) -> str:
    """Returns the separator that divides the first rows most evenly, of those that stand in the header; `usual` goes first."""
    found = usual
    best = (-1.0, False, 0)
    for separator in sorted(_SEPARATORS, key=lambda one: one != usual):
        reader = csv.reader(head, delimiter=separator)
        try:
            rows = [cells for cells in itertools.islice(reader, _HEAD_ROWS) if cells]
        except csv.Error:
            continue
        if len(rows) > 2:
            del rows[-1]  # the head may end in it
        if not rows or len(rows[0]) < 2:
            continue
        width = len(rows[0])
        even = sum(len(cells) == width for cells in rows) / len(rows)
        is_tight = not any(cell.startswith(" ") for cell in rows[0])  # a comma in a text has a space behind it
        if (even, is_tight, width) > best:
            found, best = separator, (even, is_tight, width)
    return found


def _rows(reader: Iterator[list[str]], lines: _TextLines, header: Sequence[str], separator: str) -> Iterator[Row]:
    yield None  # the header's line
    width = len(header)
    number = 1
    blank = 0
    while True:
        number += 1
        lines.row_begins(number)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Refused(_why_not_csv(str(error)))
            continue
        blank = 0 if cells else blank + 1
        if not cells:
            yield None
            if blank > _MANY_BLANK and (skipped := lines.skip_blank()):
                number += skipped
                yield skipped
        elif len(cells) == width:
            yield cells
        elif len(cells) > width and all(map(is_blank, cells[width:])):
            yield cells[:width]
        elif all(map(is_blank, cells)):
            yield [""] * width
        else:
            yield Refused(_ragged(cells, header, separator))


def _ragged(cells: Sequence[str], header: Sequence[str], separator: str) -> str:
    what = f"has {counted(len(cells), 'cell')}, and the header has {len(header)}"
    if len(cells) < len(header):
        return (
            f"{what}: nothing stands for the column {escaped(repr(header[len(cells)] or f'column-{len(cells) + 1}'))}"
        )
    return f"{what}: a cell that holds {separator!r} must stand in double quotes"


def _why_not_csv(message: str) -> str:
    if "unexpected end of data" in message:
        return 'a cell that begins with " never ends'
    if "expected after" in message:
        return f"not CSV: {escaped(message)}; a quote inside a quoted cell is written twice"
    return f"not CSV: {escaped(message)}"
