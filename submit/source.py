"""The input as lines that can be read twice: a file where it lies, anything else by a private copy on disk.

Archives are unpacked and tables become lines on the way. It does not know what a line means; `models.formats` does.
"""

from __future__ import annotations

import io
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from models.database import home
from models.errors import BadLine, InputError, StorageError, UsageError
from models.formats.lines import open_input
from submit.archives import check_ends, unpacked
from submit.columns import Template, csv_lines, parquet_lines
from submit.identity import HashedFile, HashedStream, Identity

PARQUET = b"PAR1"
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """A file on disk that its caller keeps for us alone: it can be sought in, so it needs no second copy."""

    stream: BinaryIO


Input = str | Path | BinaryIO | Kept | Iterable[Mapping[str, Any]]
"""A path ("-" is stdin), an open binary file, one that needs no copy, or the lines themselves as dicts."""


class Source:
    """An input that can be opened again and again. `name` is the file's, or "-"; `shown` is how messages call it. `template`
    turns a table's rows into prompts."""

    def __init__(
        self,
        name: str,
        *,
        shown: str | None = None,
        path: Path | None = None,
        copy: BinaryIO | None = None,
        template: Template | None = None,
    ) -> None:
        self.name = name
        self.shown = shown or ("stdin" if name == "-" else name)
        self._path = path
        self._copy = copy
        self._template = template

    @contextmanager
    def open(self) -> Iterator[tuple[BinaryIO, Identity]]:
        """Yields the input from its first line: a stream for `read_lines`, and the identity of the bytes as they lie, to be asked for
        when they are read.

        Raises InputError, UsageError for a template that has nothing to fill.
        """
        if self._copy is not None:
            self._copy.seek(0)
            yield self._lines(self._copy)
            return
        with open_input(str(self._path)) as file:
            try:
                yield self._lines(file)
            except OSError as error:
                if error.filename is None and error.errno is not None:  # reading it failed, not something else
                    raise InputError(f"can't read {self.shown}: {error.strerror}") from None
                raise

    def _lines(self, file: BinaryIO) -> tuple[BinaryIO, Identity]:
        first = file.read(4)
        file.seek(0)
        if first == PARQUET:
            whole = HashedFile(file, self.shown)
            return cast(BinaryIO, parquet_lines(file, self._template, self.shown)), whole
        check_ends(file, first, self.shown)
        hashed = HashedStream(file)
        content = unpacked(io.BufferedReader(hashed, _CHUNK), first, self.shown)
        begin = content.peek(4)[:4]
        if begin == PARQUET:
            raise InputError(
                f"{self.shown} holds a Parquet file inside an archive: unpack it, it is compressed already"
            )
        if self._is_csv(begin):
            return cast(BinaryIO, csv_lines(cast(BinaryIO, content), self._template, self.shown)), hashed
        if self._template is not None:
            raise UsageError(
                f"a template fills in the columns of a CSV or Parquet file, and {self.shown} holds JSON lines"
            )
        return cast(BinaryIO, content), hashed

    def _is_csv(self, begin: bytes) -> bool:
        """By its name; what has none that tells is CSV if there is a template to fill and it doesn't look like JSON."""
        suffixes = [suffix for suffix in Path(self.name).suffixes[-2:] if suffix not in (".gz", ".zst")]
        if suffixes and suffixes[-1] in (".csv", ".tsv"):
            return True
        looks_like_json = begin.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
        return self._template is not None and not looks_like_json


@contextmanager
def opened(given: Input, template: str | None = None) -> Iterator[Source]:
    """The input as a Source, for as long as the block lasts. Raises InputError for what can't be read, UsageError for a template
    that can't be."""
    filled = None if template is None else Template(template)
    if given == "":
        raise UsageError("the input's name is empty: name a file, or - for stdin")
    if isinstance(given, str | Path):
        path = Path(given)
        if str(given) != "-" and _lies_still(path):
            yield Source(str(given), path=path, template=filled)
            return
        with open_input(str(given)) as stream, _copied(iter(lambda: stream.read(_CHUNK), b"")) as copy:
            yield Source(str(given), copy=copy, template=filled)
        return
    if isinstance(given, Kept):
        yield Source("-", shown="the input", copy=given.stream, template=filled)
        return
    if isinstance(given, io.TextIOBase):
        raise UsageError("open the input in binary mode (open(path, 'rb')): its bytes are what is submitted")
    if hasattr(given, "readline"):
        stream = cast(BinaryIO, given)
        name = getattr(stream, "name", None)
        with _copied(iter(lambda: stream.read(_CHUNK), b"")) as copy:
            known = name if isinstance(name, str) else None
            yield Source(known or "-", shown=known or "the input", copy=copy, template=filled)
        return
    with _copied(_lines(given)) as copy:
        yield Source("-", shown="the input", copy=copy, template=filled)


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
