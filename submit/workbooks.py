"""Excel workbooks (.xlsx, .xlsm), read row by row by openpyxl, and what other office documents are.

A reader that takes a sheet as a rectangle in memory is ended by a file of 5 KB with a cell in the last row and column; openpyxl streams.
"""

from __future__ import annotations

import datetime
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast
from xml.etree.ElementTree import ParseError

from models.errors import InputError, UsageError
from models.formats.fields import Refused
from submit.archives import Zip
from submit.columns import CellError, Row, escaped, is_blank, named
from submit.memory import LargeInput

_LARGEST_PART = 64 * 1024 * 1024
"""Most bytes of a part that isn't read in a stream, as styles."""
_LARGEST_TEXTS = 256 * 1024 * 1024
"""Most bytes of the list of texts that a workbook keeps apart from its sheets: it is held in memory."""
_LARGE_TEXTS = 8 * 1024 * 1024
_LARGEST_ELEMENT = 16 * 1024 * 1024
"""Most bytes of XML from one row, or one text of that list, to the next."""
_MOST_ROWS = 1_048_576
_LARGEST_HEAD = 1000
"""Most blank rows before the header."""
_EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
_ELEMENT = re.compile(rb"<(?:\w+:)?(?:row|si)[\s/>]")
_ERRORS = frozenset({"#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#SPILL!", "#CALC!"})
_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")
_DAMAGED = (
    ParseError,
    zipfile.BadZipFile,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    EOFError,
    zlib.error,
)

_OTHERS = (
    ("xl/workbook.bin", "is a binary Excel file (.xlsb): save it as .xlsx or as CSV (UTF-8)"),
    ("word/document.xml", "is a Word document: it has no rows. Write its text into a CSV or JSONL file"),
    ("ppt/presentation.xml", "is a PowerPoint presentation: it has no rows. Write its text into a CSV or JSONL file"),
    ("Index/Document.iwa", "is a Numbers or Pages document: export it as .xlsx or as CSV (UTF-8)"),
    ("Index.zip", "is a Numbers or Pages document: export it as .xlsx or as CSV (UTF-8)"),
    ("content.xml", "is an OpenDocument file (.ods, .odt): save it as .xlsx or as CSV (UTF-8)"),
)
"""By a file in it: what an office document is, and the way out."""


def is_workbook(document: Zip, name: str) -> bool:
    """Returns whether a zip archive is a workbook that can be read. Raises InputError for office documents of other kinds."""
    for part, what in _OTHERS:
        if part in document.names:
            raise InputError(f"{name} {what}; nothing was enqueued")
    return "[Content_Types].xml" in document.names and any(part.startswith("xl/") for part in document.names)


def workbook_rows(
    document: Zip, name: str, sheet: str | None, large: LargeInput
) -> tuple[list[str], Iterator[Row], str | None]:
    """Returns the columns and the rows of the sheet of that name, else of the first visible one; and a note on others that are visible.

    The first row that isn't blank is the header. Rows are numbered as Excel shows them.
    Raises InputError, UsageError where openpyxl isn't installed or the sheet isn't there.
    """
    try:
        from openpyxl.reader.excel import ExcelReader
    except ImportError:
        raise UsageError(
            f"{name} is an Excel file, and openpyxl, which reads it, isn't installed: `pip install 'truckllm[xlsx]'`, or save it as "
            "CSV (UTF-8)"
        ) from None
    parts = _Parts(document, name)
    if parts.texts > _LARGE_TEXTS:
        large.keep()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on styles and extensions that it passes over
            reader = ExcelReader(io.BytesIO(_EMPTY_ZIP), read_only=True, data_only=True, keep_links=False)
            reader.archive = parts
            reader.valid_files = parts.namelist()
            reader.read()
    except (*_DAMAGED, KeyError) as error:
        raise InputError(f"{name} is no whole Excel file: {escaped(str(error))}") from None
    sheets = list(reader.wb.worksheets)
    visible = [one for one in sheets if one.sheet_state == "visible"] or sheets
    titles = ", ".join(escaped(repr(one.title), 100) for one in sheets[:20])
    found = next((one for one in (visible if sheet is None else sheets) if sheet in (None, one.title)), None)
    if found is None:
        if sheet is None:
            raise InputError(f"{name} has no sheet with cells")
        raise UsageError(f"{name} has no sheet {sheet!r}: it has {titles}")
    note = None
    if sheet is None and len(visible) > 1:
        note = f"{name} has {len(visible)} sheets: {escaped(repr(found.title), 100)} is read; --sheet NAME reads another ({titles})"
    rows = _cells(found, name)
    blank: list[Row] = []
    for header in rows:
        if not all(map(is_blank, header)):
            break
        blank.append(None)
        if len(blank) > _LARGEST_HEAD:
            break
    else:
        header = ()
    while header and is_blank(header[-1]):
        header = header[:-1]
    if not header:
        raise InputError(
            f"{name}: the sheet {escaped(repr(found.title), 100)} has no header: its first row must name the columns"
        )
    return named(header, name), _numbered(rows, len(header), len(blank) + 1), note


def _numbered(rows: Iterator[tuple[Any, ...]], width: int, before: int) -> Iterator[Row]:
    for _ in range(before):
        yield None
    yield from (_fitted(row, width) for row in rows)


def _fitted(row: tuple[Any, ...], width: int) -> Row:
    if all(map(is_blank, row)):
        return None
    if len(row) > width and not all(map(is_blank, row[width:])):
        at = next(at for at in range(width, len(row)) if not is_blank(row[at]))
        return Refused(f"has a value in column {at + 1}, which the header gives no name")
    return [_value(cell) for cell in row[:width]] + [None] * (width - len(row))


def _cells(sheet: Any, name: str) -> Iterator[tuple[Any, ...]]:
    sheet.reset_dimensions()  # what a file states of them may be wrong
    try:
        for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
            if number > _MOST_ROWS:
                raise InputError(f"{name} has more rows than an Excel sheet may have")
            yield row
    except _DAMAGED as error:
        raise InputError(f"{name} can't be read: {escaped(str(error))}") from None


def _value(cell: Any) -> Any:
    """Returns a cell's value as Excel shows it: 15 digits, dates without a time where there is none, texts without escapes."""
    if type(cell) is str:
        if cell in _ERRORS:
            return CellError(cell)
        return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), cell) if "_x" in cell else cell
    if type(cell) is float:
        short = float(f"{cell:.15g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    if type(cell) is datetime.datetime and cell.time() == datetime.time():
        return cell.date()
    return cell


class _Parts:
    """The parts of a workbook, as openpyxl opens them, each within its bounds."""

    filename = None

    def __init__(self, document: Zip, name: str) -> None:
        self._archive = document.archive
        self._name = name
        self.texts = sum(info.file_size for info in document.files if "sharedstrings" in info.filename.lower())
        if self.texts > _LARGEST_TEXTS:
            raise InputError(
                f"{name} holds {self.texts // 1024 // 1024:,} MB of texts, and at most {_LARGEST_TEXTS // 1024 // 1024} MB are read of an Excel "
                "file: save it as CSV (UTF-8)"
            )

    def namelist(self) -> list[str]:
        return self._archive.namelist()

    def open(self, part: str, mode: str = "r") -> BinaryIO:
        return cast(BinaryIO, _Elements(cast(BinaryIO, self._archive.open(part)), self._name))

    def read(self, part: str) -> bytes:
        with self.open(part) as opened:
            return opened.read()

    def close(self) -> None:
        """Leaves the archive open for its owner."""


class _Elements:
    """The XML of a part, of which no row and no text is so long that it fills the memory."""

    def __init__(self, part: BinaryIO, name: str) -> None:
        self._part = part
        self._name = name
        self._since = 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._part.read(_LARGEST_PART + 1 if size < 0 else size)
        self._since = 0 if size >= 0 and _ELEMENT.search(chunk) else self._since + len(chunk)
        if self._since > (_LARGEST_ELEMENT if size >= 0 else _LARGEST_PART):
            raise InputError(f"{self._name} holds a row or a part that is too large for an Excel file")
        return chunk

    def close(self) -> None:
        self._part.close()

    def __enter__(self) -> _Elements:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
