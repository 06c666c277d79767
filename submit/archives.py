"""Compressed inputs, unpacked as they are read: gzip, bzip2, xz and Zstandard, known by their first bytes, and zip archives of one file.

Memory holds no more of them than a buffer and the window of the format, however small an archive is beside its content.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol, cast

import zstandard

from models.errors import InputError
from submit.memory import LargeInput

GZIP = b"\x1f\x8b"
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
XZ = b"\xfd7zXZ\x00"
ZSTD = b"\x28\xb5\x2f\xfd"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
SUFFIXES = (".gz", ".zst", ".bz2", ".xz", ".zip")
LARGEST_WINDOW = 128 * 1024 * 1024
"""Most bytes that unpacking may take: `zstd --ultra -22` and `xz -9` need so much."""

_BUFFER = 1024 * 1024
_HEAD = 18
"""Longest header of a Zstandard frame in bytes."""
_RLE = 1
"""The type of a block that is one byte, repeated."""
_LONGEST_LISTING = 4 * 1024 * 1024
"""Most bytes of a zip archive's list of files: about 80,000 of them."""


def unpacked(packed: io.BufferedReader, first: bytes, name: str, large: LargeInput) -> io.BufferedReader:
    """Returns the content of an archive that begins with `first`, as a stream; what isn't an archive as it is.

    Reading the content raises InputError where the archive is truncated
    or damaged; `name` is the input's name in messages.
    """
    found: _Readable
    if first.startswith(GZIP):
        found = gzip.GzipFile(fileobj=cast(BinaryIO, packed), mode="rb")
    elif first.startswith(ZSTD) or _is_skippable(first):
        window = _window(packed.peek(_HEAD)[:_HEAD])
        if window > _BUFFER * 8:
            large.keep()
        found = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).stream_reader(
            cast(BinaryIO, packed), read_across_frames=True
        )
    elif _BZIP2.match(first):
        found = _Streams(packed, bz2.BZ2Decompressor)
    elif first.startswith(XZ):
        large.keep()
        found = _Streams(packed, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LARGEST_WINDOW))
    else:
        return packed
    return io.BufferedReader(_Unpacked(found, name), _BUFFER)


def bounded(content: io.BufferedReader, most: int | None, name: str) -> io.BufferedReader:
    """Returns an archive's content, of which reading more than `most` bytes raises InputError; None: no limit."""
    return content if most is None else io.BufferedReader(_AtMost(content, most, name), _BUFFER)


def _window(head: bytes) -> int:
    """Returns the bytes that a Zstandard frame's window takes; the most that is allowed where its header doesn't come first."""
    try:
        return int(zstandard.get_frame_parameters(head).window_size)
    except zstandard.ZstdError:
        return LARGEST_WINDOW


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


class Zip:
    """A zip archive, which may be an office document. Raises InputError for one that is damaged, or lists too many files."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        bounded = _Bounded(file)
        try:
            self.archive = zipfile.ZipFile(cast(BinaryIO, bounded))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, IndexError) as error:
            raise InputError(f"{name} is no whole zip archive: {error}; nothing was enqueued") from None
        bounded.most = None
        self.files = [info for info in self.archive.infolist() if not info.is_dir()]
        self.names = {info.filename for info in self.files}

    def only_file(self) -> tuple[str, io.BufferedReader]:
        """Returns the name and the content of the only file. Raises InputError for another number of them, or an encrypted one."""
        files = [
            info
            for info in self.files
            if not info.filename.startswith("__MACOSX/") and not info.filename.endswith(".DS_Store")
        ]
        if len(files) != 1:
            raise InputError(
                f"{self._name} is a zip archive of {len(files):,} files: unpack it, and submit one of them; nothing was enqueued"
            )
        if files[0].flag_bits & 1:
            raise InputError(f"{self._name} is an encrypted zip archive: unpack it; nothing was enqueued")
        try:
            member = self.archive.open(files[0])
        except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError) as error:
            raise InputError(f"{self._name} can't be unpacked: {error}; nothing was enqueued") from None
        return files[0].filename, io.BufferedReader(_Unpacked(cast(_Readable, member), self._name), _BUFFER)


class _Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int: ...


class _Decompressor(Protocol):
    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Streams:
    """bzip2 or xz: one compressed stream after the other."""

    def __init__(self, packed: io.BufferedReader, begin: Callable[[], _Decompressor]) -> None:
        self._packed = packed
        self._begin = begin
        self._decompressor: _Decompressor | None = begin()
        self._begun = b""

    def readinto(self, buffer: memoryview) -> int:
        while self._decompressor is not None:
            chunk = b""
            if self._decompressor.needs_input:
                chunk = self._begun or self._packed.read1(_BUFFER)
                self._begun = b""
                if not chunk:
                    raise EOFError
            content = self._decompressor.decompress(chunk, len(buffer))
            if self._decompressor.eof:
                self._next(self._decompressor.unused_data)
            if content:
                buffer[: len(content)] = content
                return len(content)
        return 0

    def _next(self, begun: bytes) -> None:
        """Begins the next stream, if there is one; streams of xz may have NULs between them."""
        while not (begun := begun.lstrip(b"\0")):
            if not (begun := self._packed.read1(_BUFFER)):
                self._decompressor = None
                return
        self._begun = begun
        self._decompressor = self._begin()


class _Bounded:
    """A file of which at most `most` bytes are read at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.most: int | None = _LONGEST_LISTING
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if self.most is not None and size > self.most:
            raise zipfile.BadZipFile("it lists too many files")
        return self._file.read(size)


class _Unpacked(io.RawIOBase):
    """A decompressor whose errors become InputError."""

    def __init__(self, packed: _Readable, name: str) -> None:
        self._packed = packed
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        try:
            return int(self._packed.readinto(cast(memoryview, buffer)))
        except EOFError:
            raise _truncated(self._name) from None
        except lzma.LZMAError as error:
            if "emory" in str(error):
                raise InputError(
                    f"{self._name} takes more than {LARGEST_WINDOW // 1024 // 1024} MB of memory to unpack: pack it with a smaller "
                    "dictionary, such as that of xz -9"
                ) from None
            raise self._damaged(error) from None
        except (zlib.error, gzip.BadGzipFile, zstandard.ZstdError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from None
        except OSError as error:
            if error.errno is not None:
                raise
            raise self._damaged(error) from None  # as bzip2 reports it

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"{self._name}: the archive is damaged: {error}")


class _AtMost(io.RawIOBase):
    """A stream with an end that is an error."""

    def __init__(self, content: io.BufferedReader, most: int, name: str) -> None:
        self._content = content
        self._most = self._left = most
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        size = self._content.readinto1(cast(memoryview, buffer))
        self._left -= size
        if self._left < 0:
            raise InputError(
                f"{self._name} unpacks to more than {self._most:,} bytes, which is the limit here: submit it in parts; nothing was enqueued"
            )
        return size


def _truncated(name: str) -> InputError:
    return InputError(f"{name} is truncated: it ends in the middle of its compressed data; nothing was enqueued")


def _is_skippable(first: bytes) -> bool:
    """Returns whether a Zstandard frame without content begins here: some tools put notes of their own in front."""
    return first[1:4] == b"\x2a\x4d\x18" and 0x50 <= first[0] <= 0x5F
