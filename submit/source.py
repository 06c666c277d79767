"""The input as something that can be read twice: a file where it lies, anything else by a private copy on disk.

It does not know what a line means; `models.formats` does.
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
from pathlib import Path
from typing import Any, BinaryIO, cast

from models.database import home
from models.errors import BadLine, InputError, StorageError, UsageError
from models.formats.lines import open_input

_CHUNK = 1024 * 1024

Input = str | Path | BinaryIO | Iterable[Mapping[str, Any]]
"""A path ("-" is stdin), an open binary file, or the lines themselves as dicts."""


class Hashed:
    """A stream that is read by lines and hashes what it hands out."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def readline(self, size: int = -1, /) -> bytes:
        line = self._stream.readline(size)
        self._hash.update(line)
        return line

    def sha256(self) -> str:
        """The hash of the whole stream; reads what is left of it."""
        while chunk := self._stream.read(_CHUNK):
            self._hash.update(chunk)
        return self._hash.hexdigest()


class Source:
    """An input that can be opened again and again. `name` is what people know it by."""

    def __init__(self, name: str, *, path: Path | None = None, copy: BinaryIO | None = None) -> None:
        self.name = name
        self._path = path
        self._copy = copy

    @contextmanager
    def open(self) -> Iterator[tuple[BinaryIO, Hashed]]:
        """The input from its first byte: a stream for `read_lines`, and its hash once it is read. Raises InputError."""
        if self._copy is not None:
            self._copy.seek(0)
            hashed = Hashed(self._copy)
            yield cast(BinaryIO, hashed), hashed
            return
        with open_input(str(self._path)) as stream:
            hashed = Hashed(stream)
            try:
                yield cast(BinaryIO, hashed), hashed
            except OSError as error:
                if error.filename is None and error.errno is not None:  # reading it failed, not something else
                    raise InputError(f"can't read {self.name}: {error.strerror}") from None
                raise


@contextmanager
def opened(given: Input) -> Iterator[Source]:
    """The input as a Source, for as long as the block lasts. Raises InputError for what can't be read."""
    if isinstance(given, str | Path):
        path = Path(given)
        if str(given) != "-" and _lies_still(path):
            yield Source(str(given), path=path)
            return
        with open_input(str(given)) as stream, _copied(iter(lambda: stream.read(_CHUNK), b"")) as copy:
            yield Source(str(given), copy=copy)
        return
    if isinstance(given, io.TextIOBase):
        raise UsageError("open the input in binary mode (open(path, 'rb')): its bytes are what is submitted")
    if hasattr(given, "readline"):
        stream = cast(BinaryIO, given)
        name = getattr(stream, "name", None)
        with _copied(iter(lambda: stream.read(_CHUNK), b"")) as copy:
            yield Source(name if isinstance(name, str) else "-", copy=copy)
        return
    with _copied(_lines(given)) as copy:
        yield Source("-", copy=copy)


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
