"""The input as lines that can be read twice: a file where it lies, anything else by a private copy on disk.

Archives are unpacked and tables become lines on the way. It does not know what a line means; `models.formats` does.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from models.database import home
from models.errors import BadLine, InputError, StorageError, UsageError
from models.formats.lines import open_input
from submit import lookalikes
from submit.archives import SUFFIXES as ARCHIVE_SUFFIXES
from submit.archives import ZIP, Zip, bounded, check_ends, unpacked
from submit.columns import Lines, Row, Template
from submit.csv_tables import SUFFIXES as CSV_SUFFIXES
from submit.csv_tables import csv_rows
from submit.encodings import as_utf8, checked_encoding
from submit.identity import HashedFile, HashedStream, Identity
from submit.memory import LargeInput, LineReader
from submit.parquet_tables import PARQUET, parquet_rows
from submit.workbooks import is_workbook, workbook_rows

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """A file on disk that its caller keeps for us alone: it can be sought in, so it needs no second copy."""

    stream: BinaryIO


Input = str | Path | BinaryIO | Kept | Iterable[Mapping[str, Any]]
"""A path ("-" is stdin), an open binary file, one that needs no copy, or the lines themselves as dicts."""


class Source:
    """An input that can be opened again and again. `name` is the file's, or "-"; `shown` is how messages name it. `notes` are sentences
    for people on how it was read, after it has been opened.

    `template` turns a table's rows into prompts; with `ask_empty` also those whose cells are empty. `sheet` is a workbook's, `encoding` a
    text's. `most` is how many bytes an archive may hold.
    """

    def __init__(
        self,
        name: str,
        *,
        shown: str | None = None,
        path: Path | None = None,
        copy: BinaryIO | None = None,
        template: Template | None = None,
        ask_empty: bool = False,
        sheet: str | None = None,
        encoding: str | None = None,
        most: int | None = None,
    ) -> None:
        self.name = name
        self.shown = shown or ("stdin" if name == "-" else name)
        self.notes: tuple[str, ...] = ()
        self._path = path
        self._copy = copy
        self._template = template
        self._ask_empty = ask_empty
        self._sheet = sheet
        self._encoding = checked_encoding(encoding)
        self._most = most

    @contextmanager
    def open(self) -> Iterator[tuple[BinaryIO, Identity]]:
        """Yields the input from its first line: a stream for `read_lines`, and the identity of the bytes as they lie, to be asked for
        when they are read.

        Raises InputError, UsageError for a template, sheet or encoding that has nothing to be used on.
        """
        large = LargeInput()
        try:
            if self._copy is not None:
                self._copy.seek(0)
                yield self._lines(self._copy, large)
                return
            with open_input(str(self._path)) as file:
                try:
                    yield self._lines(file, large)
                except OSError as error:
                    if error.filename is None and error.errno is not None:  # reading it failed, not something else
                        raise InputError(f"can't read {self.shown}: {error.strerror}") from None
                    raise
        finally:
            large.close()

    def _lines(self, file: BinaryIO, large: LargeInput) -> tuple[BinaryIO, Identity]:
        first = file.read(lookalikes.MAGIC)
        file.seek(0)
        lookalikes.refuse(first, self.shown)
        if first.startswith(PARQUET):
            whole = HashedFile(file, self.shown)
            return self._rows(*parquet_rows(file, self.shown, large)), whole
        if first.startswith(ZIP):
            whole = HashedFile(file, self.shown)
            archive = Zip(file, self.shown)
            if is_workbook(archive, self.shown):
                names, rows, note = workbook_rows(archive, self.shown, self._sheet, large)
                self.notes = (note,) if note else ()
                return self._rows(names, rows, sheet=True), whole
            name, content = archive.only_file()
            return self._text(bounded(content, self._most, self.shown), name, large), whole
        check_ends(file, first, self.shown)
        hashed = HashedStream(file)
        packed: io.BufferedReader = io.BufferedReader(hashed, _CHUNK)
        content = unpacked(packed, first, self.shown, large)
        if content is not packed:
            content = bounded(content, self._most, self.shown)
        return self._text(content, self.name, large), hashed

    def _text(self, content: io.BufferedReader, name: str, large: LargeInput) -> BinaryIO:
        """Returns the lines of JSON lines or a CSV file; `name` says which, where it can."""
        begin = content.peek(lookalikes.MAGIC)[: lookalikes.MAGIC]
        lookalikes.refuse(begin, self.shown)
        if begin.startswith((PARQUET, *ZIP)):
            raise InputError(
                f"{self.shown} holds a Parquet or zip file inside an archive: unpack it, it is compressed already"
            )
        if self._sheet is not None:
            raise UsageError(f"--sheet names a sheet of an Excel file, and {self.shown} is none")
        content = as_utf8(content, self._encoding, self.shown)
        suffix = _suffix(name)
        looks_like_json = content.peek(1).lstrip()[:1] == b"{"
        is_table = self._template is not None or _ASKS.search(content.peek(1).partition(b"\n")[0])
        if suffix in CSV_SUFFIXES or (is_table and not looks_like_json):
            return self._rows(*csv_rows(content, self.shown, suffix, large), text=True)
        if self._template is not None:
            raise UsageError(
                f"a template fills in the columns of a CSV, Excel or Parquet file, and {self.shown} holds JSON lines"
            )
        return LineReader(content, large)

    def _rows(self, names: Sequence[str], rows: Iterator[Row], *, text: bool = False, sheet: bool = False) -> BinaryIO:
        if self._encoding is not None and not text:
            raise UsageError(f"--encoding names the encoding of a text file, and {self.shown} is none")
        if self._sheet is not None and not sheet:
            raise UsageError(f"--sheet names a sheet of an Excel file, and {self.shown} is none")
        return cast(BinaryIO, Lines(names, rows, self._template, self.shown, ask_empty=self._ask_empty))


_ASKS = re.compile(rb"""(?:^|[,;|\t])"?prompt"?(?:[,;|\t\r]|$)""")
"""The header of a table that needs no template."""


def _suffix(name: str) -> str:
    """Returns the end of a file's name that says what is in it, in lower case."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes[-2:]]
    return next((suffix for suffix in reversed(suffixes) if suffix not in ARCHIVE_SUFFIXES), "")


@contextmanager
def opened(
    given: Input,
    template: str | None = None,
    *,
    ask_empty: bool = False,
    sheet: str | None = None,
    encoding: str | None = None,
    most: int | None = None,
) -> Iterator[Source]:
    """Yields the input as a Source, for as long as the block lasts. Raises InputError for an input that can't be read, UsageError for a
    template or an encoding that can't be."""
    filled = None if template is None else Template(template)
    make = functools.partial(Source, template=filled, ask_empty=ask_empty, sheet=sheet, encoding=encoding, most=most)
    if given == "":
        raise UsageError("the input's name is empty: name a file, or - for stdin")
    if isinstance(given, str | Path):
        path = Path(given)
        if str(given) != "-" and _lies_still(path):
            yield make(str(given), path=path)
            return
        with open_input(str(given)) as stream, _copied(iter(lambda: stream.read(_CHUNK), b"")) as copy:
            yield make(str(given), copy=copy)
        return
    if isinstance(given, Kept):
        yield make("-", shown="the input", copy=given.stream)
        return
    if isinstance(given, io.TextIOBase):
        raise UsageError("open the input in binary mode (open(path, 'rb')): its bytes are what is submitted")
    if hasattr(given, "readline"):
        stream = cast(BinaryIO, given)
        name = getattr(stream, "name", None)
        with _copied(iter(lambda: stream.read(_CHUNK), b"")) as copy:
            known = name if isinstance(name, str) else None
            yield make(known or "-", shown=known or "the input", copy=copy)
        return
    with _copied(_lines(given)) as copy:
        yield make("-", shown="the input", copy=copy)


def _lies_still(path: Path) -> bool:
    """Whether it is a plain file; what streams out of a pipe can't be read twice."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror or error}") from None


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    if isinstance(rows, Mapping):
        raise UsageError("give a list of lines, each a dict; this is a single dict")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise UsageError(f"line {number} is of type {type(row).__name__}: each line must be a dict")
        try:
            yield json.dumps(dict(row), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            bad = BadLine(number, f"has no JSON form: {error}")
            raise InputError("a line can't become a job; nothing was enqueued", [bad]) from None


@contextmanager
def _copied(chunks: Iterator[bytes]) -> Iterator[BinaryIO]:
    """The chunks in a file that nobody else can open and that is gone when this process is."""
    folder = home()
    try:
        copy = tempfile.TemporaryFile(dir=folder, buffering=_CHUNK)  # noqa: SIM115 - closed below
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}; set TRUCKLLM_HOME to a folder that can be written") from None
    with copy:
        for chunk in chunks:
            try:
                copy.write(chunk)
            except OSError as error:
                raise StorageError(f"{folder}: can't keep the input here: {error.strerror or error}") from None
        try:
            copy.flush()
        except OSError as error:
            raise StorageError(f"{folder}: can't keep the input here: {os.strerror(error.errno or 0)}") from None
        yield cast(BinaryIO, copy)
