"""Compressed inputs, unpacked as they are read: gzip and Zstandard, known by their first bytes.

It does not look at what is inside, and holds no more of it than a buffer: however small an archive is beside its content,
only the longest line counts.
"""

from __future__ import annotations

import gzip
import io
import zlib
from typing import BinaryIO, cast

import zstandard

from models.errors import InputError

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
_BUFFER = 1024 * 1024
_HEAD = 18
"""Longest frame header in bytes."""
_RLE = 1
"""The type of a block that is one byte, repeated."""


def unpacked(packed: io.BufferedReader, first: bytes, name: str) -> io.BufferedReader:
    """Returns the content of an archive that begins with `first`, as a stream; what isn't an archive as it is.

    Reading it raises InputError where the archive is truncated or damaged; `name` is what people know it by.
    """
    if first.startswith(GZIP):
        found = gzip.GzipFile(fileobj=cast(BinaryIO, packed), mode="rb")
        return io.BufferedReader(_Unpacked(found, name), _BUFFER)
    if first.startswith(ZSTD) or _is_skippable(first):
        reader = zstandard.ZstdDecompressor().stream_reader(cast(BinaryIO, packed), read_across_frames=True)
        return io.BufferedReader(_Unpacked(reader, name), _BUFFER)
    return packed


def check_ends(packed: BinaryIO, first: bytes, name: str) -> None:
    """Raises InputError for a Zstandard archive that ends too early, which its library takes for the end of the content.

    Walks over the archive's frames and blocks by their headers, from where `packed` stands, unpacking nothing.
    """
    if not (first.startswith(ZSTD) or _is_skippable(first)):
        return
    start = packed.tell()
    size = packed.seek(0, io.SEEK_END)
    at = start
    while at < size:
        packed.seek(at)
        head = packed.read(_HEAD)
        if _is_skippable(head):
            at += 8 + int.from_bytes(head[4:8], "little") if len(head) >= 8 else size + 1
            continue
        try:
            at += zstandard.frame_header_size(head)
            checksum = 4 if zstandard.get_frame_parameters(head).has_checksum else 0
        except zstandard.ZstdError:
            if len(head) < _HEAD:
                raise _truncated(name) from None
            raise InputError(f"{name}: the Zstandard archive is damaged at byte {at + 1:,}") from None
        last = False
        while not last:
            packed.seek(at)
            block = packed.read(3)
            if len(block) < 3:
                raise _truncated(name)
            told = int.from_bytes(block, "little")
            last = bool(told & 1)
            at += 3 + (1 if told >> 1 & 3 == _RLE else told >> 3)
        at += checksum
    packed.seek(start)
    if at > size:
        raise _truncated(name)


class _Unpacked(io.RawIOBase):
    """A decompressor whose errors are told as ours."""

    def __init__(self, packed: gzip.GzipFile | zstandard.ZstdDecompressionReader, name: str) -> None:
        self._packed = packed
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        try:
            return int(self._packed.readinto(buffer))  # type: ignore[arg-type]
        except EOFError:
            raise _truncated(self._name) from None
        except (zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise InputError(f"{self._name}: the archive is damaged: {error}") from None


def _truncated(name: str) -> InputError:
    return InputError(f"{name} is truncated: it ends in the middle of its compressed data; nothing was enqueued")


def _is_skippable(first: bytes) -> bool:
    """Whether a Zstandard frame without content begins here: some tools put notes of their own in front."""
    return first[1:4] == b"\x2a\x4d\x18" and 0x50 <= first[0] <= 0x5F
