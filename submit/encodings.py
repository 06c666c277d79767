"""Text in other encodings as UTF-8: found by a byte order mark or by NUL bytes at the beginning, or named by the user."""

from __future__ import annotations

import codecs
import io
from typing import cast

from models.errors import InputError, UsageError

WAY_OUT = "save the file as UTF-8, or name its encoding with --encoding (cp1252 for most files of Excel on Windows)"
_CHUNK = 256 * 1024
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def checked_encoding(name: str | None) -> str | None:
    """Returns an encoding by Python's name for it; None for UTF-8, which needs none. Raises UsageError."""
    if name is None:
        return None
    try:
        found = codecs.lookup(name)
        "".encode(found.name)  # raises LookupError for codecs that aren't for text
        codecs.getincrementaldecoder(found.name)
    except (LookupError, UnicodeError, ValueError):
        raise UsageError(
            f"there is no encoding {name[:40]!r}: name one as Python does, such as cp1252, latin-1, utf-16 or shift_jis"
        ) from None
    return None if found.name in ("utf-8", "utf-8-sig", "ascii") else found.name


def as_utf8(content: io.BufferedReader, encoding: str | None, name: str) -> io.BufferedReader:
    """Returns `content` in UTF-8 without a byte order mark. A mark goes before the `encoding` that was named.

    Reading it raises InputError for bytes that aren't in the encoding; UTF-8 itself is left unchecked.
    """
    begin = content.peek(4)[:4]
    found = next((known for mark, known in _MARKS if begin.startswith(mark)), None) or encoding or _by_nuls(begin)
    if found == "utf-8-sig":
        content.read(3)
        return content
    return content if found is None else io.BufferedReader(_Utf8(content, found, name), _CHUNK)


def _by_nuls(begin: bytes) -> str | None:
    """Returns UTF-16's name for text whose first two characters are ASCII ones in it."""
    nuls = [byte == 0 for byte in begin]
    if nuls == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if nuls == [True, False, True, False] else None


class _Utf8(io.RawIOBase):
    """Decodes one encoding and encodes UTF-8."""

    def __init__(self, content: io.BufferedReader, encoding: str, name: str) -> None:
        self._content = content
        self._encoding = encoding
        self._name = name
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._read = 0
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        while not self._ready:
            chunk = self._content.read1(_CHUNK)
            try:
                text = self._decoder.decode(chunk, final=not chunk)
                self._ready = memoryview(text.encode())
            except UnicodeError as error:
                raise self._wrong(error) from None
            self._read += len(chunk)
            if not chunk:
                break
        given = self._ready[: len(cast(bytes, buffer))]
        memoryview(cast(bytearray, buffer))[: len(given)] = given
        self._ready = self._ready[len(given) :]
        return len(given)

    def _wrong(self, error: UnicodeError) -> InputError:
        place = f" near byte {self._read + max(error.start, 0) + 1:,}" if isinstance(error, UnicodeDecodeError) else ""
        return InputError(f"{self._name} is not {self._encoding}{place}: {error.reason if place else error}; {WAY_OUT}")  # type: ignore[attr-defined]
