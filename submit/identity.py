"""The identity of an input: the SHA-256 of its bytes as they lie, however they are read.

A reader that goes from the first byte to the last is hashed on its way. Beside one that seeks, the file is hashed in passes of its own.
"""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO, Protocol

from models.errors import InputError

_CHUNK = 1024 * 1024


class Identity(Protocol):
    """Returns the hash of an input that has been read."""

    def sha256(self) -> str: ...


class HashedStream(io.RawIOBase):
    """A stream that hashes the bytes that it hands out. It can't seek, and leaves `source` open when it is closed."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        chunk = self._source.read(len(buffer))  # type: ignore[arg-type]
        self._hash.update(chunk)
        memoryview(buffer)[: len(chunk)] = chunk  # type: ignore[arg-type]
        return len(chunk)

    def sha256(self) -> str:
        """Returns the hash of the whole stream. Reads the rest of it first."""
        while chunk := self._source.read(_CHUNK):
            self._hash.update(chunk)
        return self._hash.hexdigest()


class HashedFile:
    """A file whose reader seeks, as Parquet's does: hashed before it is read, and again afterwards."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._before = self._digest()

    def sha256(self) -> str:
        """Returns the hash of the whole file, and seeks in it. Raises InputError if the file has changed since the first pass."""
        if self._digest() != self._before:
            raise changed(self._name)
        return self._before

    def _digest(self) -> str:
        digest = hashlib.sha256()
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            digest.update(chunk)
        self._file.seek(0)
        return digest.hexdigest()


def changed(name: str) -> InputError:
    """The error for an input that isn't the same from one reading to the next."""
    return InputError(f"{name} changed while it was being read: nothing was enqueued; submit it again")
