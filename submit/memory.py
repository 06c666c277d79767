"""Bounds on the memory that reading inputs takes: of each line, and of all that this process reads at a time."""

from __future__ import annotations

import io
import re
import threading

from models.formats.fields import Refused
from models.formats.lines import MAX_LINE

LARGE_LINE = 8 * 1024 * 1024
"""Lines above this many bytes are read one at a time in the whole process."""

_UNSUSPICIOUS = 1024 * 1024
_MANY_BLANK = 1000
"""Blank lines behind each other from which on they are read together; looking ahead copies the buffer, so not for a few."""
_LARGE = 64 * 1024 * 1024
_LARGEST = 512 * 1024 * 1024
"""Most bytes that the objects of a decoded line may take: 24 bytes of memory come from each byte of `[{},{},…]`."""
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')

_one = threading.BoundedSemaphore(1)


class LargeInput:
    """Room for one large line, workbook or window of an archive, of which there is one in the process: others wait for it.

    For one thread. `release` when it is done; `keep` holds it until `close`.
    """

    def __init__(self) -> None:
        self._has = False
        self._keeps = False

    def take(self) -> None:
        """Waits for the room, unless this has it already."""
        if not self._has:
            _one.acquire()
            self._has = True

    def keep(self) -> None:
        self.take()
        self._keeps = True

    def release(self) -> None:
        if self._has and not self._keeps:
            self._has = False
            _one.release()

    def close(self) -> None:
        self._keeps = False
        self.release()


class LineReader(io.BufferedReader):
    """Lines of which none takes more memory than its bounds allow. Keeps the room for a large one until the next is read."""

    def __init__(self, content: io.BufferedReader, large: LargeInput) -> None:
        super().__init__(_Raw(content), _UNSUSPICIOUS)
        self._large = large
        self._blank = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        """Returns the next line, or several blank ones together. Raises Refused for one that is too long, or holds too many values, and
        goes on behind it."""
        self._large.release()
        line = super().readline(_UNSUSPICIOUS)
        if len(line) < _UNSUSPICIOUS or line.endswith(b"\n"):
            self._blank = self._blank + 1 if line.isspace() else 0
            return line + self._blank_ahead() if self._blank > _MANY_BLANK else line
        parts = [line]
        length = len(line)
        del line
        while not parts[-1].endswith(b"\n") and (part := super().readline(_UNSUSPICIOUS)):
            length += len(part)
            if length > MAX_LINE:
                parts.clear()
                self._skip(part)
                raise Refused(f"longer than {MAX_LINE // 1024 // 1024} MB")
            if length > LARGE_LINE:
                self._large.take()
            parts.append(part)
        whole = b"".join(parts)
        parts.clear()
        self._weigh(whole)
        return whole

    def _blank_ahead(self) -> bytes:
        """Returns the blank lines that are in the buffer next: of millions each would cost a call."""
        ahead = self.peek()
        blank = len(ahead) - len(ahead.lstrip())
        return self.read(ahead.rfind(b"\n", 0, blank) + 1)

    def _skip(self, part: bytes) -> None:
        while part and not part.endswith(b"\n"):
            part = super().readline(_UNSUSPICIOUS)

    def _weigh(self, line: bytes) -> None:
        if _weight(line) > _LARGE:
            self._large.take()
            if _weight(line) > _LARGEST and _weight(_STRINGS.sub(b"", line)) > _LARGEST:
                raise Refused(
                    f"holds so many values that decoding them takes more than {_LARGEST // 1024 // 1024} MB: split the line"
                )


def _weight(line: bytes) -> int:
    """Returns about how many bytes the objects of a line of JSON take, besides its texts."""
    return 64 * line.count(b",") + 200 * line.count(b"{") + 64 * line.count(b"[")


class _Raw(io.RawIOBase):
    """A buffered stream as a raw one."""

    def __init__(self, content: io.BufferedReader) -> None:
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        return self._content.readinto1(buffer)  # type: ignore[arg-type]
