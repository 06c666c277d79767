"""The input as lines that can be read twice: a file where it lies, anything else by a private copy on disk.

Archives are unpacked and tables become lines on the way. It does not know what a line means; `models.formats` does.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from models.database import home
from models.errors import BadLine, InputError, StorageError, UsageError
from models.formats.lines import open_input
from submit.archives import check_ends, unpacked
from submit.columns import Template, csv_lines, parquet_lines

PARQUET = b"PAR1"
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """A file on disk that its caller keeps for us alone: it can be sought in, so it needs no second copy."""

    stream: BinaryIO


Input = str | Path | BinaryIO | Kept | Iterable[Mapping[str, Any]]
"""A path ("-" is stdin), an open binary file, one that needs no copy, or the lines themselves as dicts."""


class Lines(Protocol):
    """What `read_lines` reads from."""

    def readline(self, size: int = -1, /) -> bytes: ...


class Hashed:
    """A stream that hashes what it hands out."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def readline(self, size: int = -1, /) -> bytes:
        line = self._stream.readline(size)
        self._hash.update(line)
        return line

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size)
        self._hash.update(chunk)
        return chunk

    def sha256(self) -> str:
        """The hash of the whole stream; reads what is left of it."""
        while self.read(_CHUNK):
            pass
        return self._hash.hexdigest()


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
    def open(self) -> Iterator[tuple[BinaryIO, Hashed]]:
        """The input from its first line: a stream for `read_lines`, and the hash of the bytes as they lie, once they are read.

        Raises InputError, UsageError for a template that has nothing to fill.
        """
        if self._copy is not None:
            self._copy.seek(0)
            hashed = Hashed(self._copy)
            yield cast(BinaryIO, self._lines(self._copy, hashed)), hashed
            return
        with open_input(str(self._path)) as stream:
            hashed = Hashed(stream)
            try:
                yield cast(BinaryIO, self._lines(stream, hashed)), hashed
            except OSError as error:
                if error.filename is None and error.errno is not None:  # reading it failed, not something else
                    raise InputError(f"can't read {self.shown}: {error.strerror}") from None
                raise

    def _lines(self, stream: BinaryIO, hashed: Hashed) -> Lines:
        """The lines in `stream`, which can be sought in; `hashed` is the same stream, hashed."""
        first = stream.read(4)
        stream.seek(0)
        if first == PARQUET:
            hashed.sha256()  # what reads it will jump about
            stream.seek(0)
            return parquet_lines(stream, self._template, self.shown)
        check_ends(stream, first, self.shown)
        content = unpacked(hashed, first, self.shown)
        begin = first if content is None else content.peek(4)[:4]
        if begin == PARQUET:
            raise InputError(
                f"{self.shown} holds a Parquet file inside an archive: unpack it, it is compressed already"
            )
        if self._is_csv(begin):
            return csv_lines(cast(BinaryIO, content or hashed), self._template, self.shown)
        if self._template is not None:
            raise UsageError(
                f"a template fills in the columns of a CSV or Parquet file, and {self.shown} holds JSON lines"
            )
        return content or hashed

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
