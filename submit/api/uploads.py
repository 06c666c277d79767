"""The body of a submission, kept in a file that nobody else can open and that is gone with the request, however that ends.

How many there are at a time and how much they hold together is bounded; so is how many are read at a time. It reads nothing in a body;
`submit.source` does.
"""

from __future__ import annotations

import contextlib
import errno
import io
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import BinaryIO, TypeVar, cast

import anyio
import anyio.to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from models.config import ApiConfig
from models.database import home
from models.errors import StorageError
from submit.api.asked import NoRoomError, TooLargeError
from submit.api.failures import RefusedError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MEGABYTE = 1024 * 1024
_BUFFER = 1024 * 1024
_RETRY_SECONDS = 5
"""A rough measure of when a place may be free again, for Retry-After."""

Result = TypeVar("Result")


class Uploads:
    """The bodies that are being received or read. `largest` is in bytes; `stopping` ends the reading of them."""

    def __init__(self, limits: ApiConfig, largest: int, stopping: threading.Event | None = None) -> None:
        self._limits = limits
        self._largest = largest
        self._stopping = stopping or threading.Event()
        self._readers = anyio.CapacityLimiter(limits.submissions)
        self._count = 0
        self._bytes = 0

    async def read(self, work: Callable[[], Result]) -> Result:
        """Does what reads an upload on a thread, when it is its turn."""
        return await anyio.to_thread.run_sync(work, limiter=self._readers)

    @contextlib.asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[BinaryIO]:
        """The request's body as a file at its start.

        Raises RefusedError (503) when there are too many or they hold too much, TooLargeError (before anything is read, if the caller
        says how much it is), NoRoomError for a full disk, StorageError for a folder that can't be written.
        """
        announced = request.headers.get("content-length", "")
        length = int(announced) if announced.isdigit() else 0
        if length > self._largest:
            raise self._too_large()
        if self._count >= self._limits.uploads:
            raise _busy(f"{self._count} files are being submitted")
        self._count += 1
        taken = _Taken()
        try:
            self._take(taken, length)
            with _kept_or_told():
                upload = tempfile.TemporaryFile(dir=home())  # noqa: SIM115 - closed below
            try:
                await self._write(request, upload, taken)
                yield cast(BinaryIO, io.BufferedReader(_Stoppable(upload, self._stopping), _BUFFER))
            finally:
                with contextlib.suppress(OSError):  # what is still in memory may find no room
                    upload.close()
        finally:
            self._count -= 1
            self._bytes -= taken.bytes

    async def _write(self, request: Request, upload: io.IOBase, taken: _Taken) -> None:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self._largest:
                raise self._too_large()
            self._take(taken, size)
            with _kept_or_told():
                await run_in_threadpool(cast(BinaryIO, upload).write, chunk)
        with _kept_or_told():
            upload.seek(0)  # what is still in memory is written first

    def _take(self, taken: _Taken, size: int) -> None:
        more = size - taken.bytes
        if more <= 0:
            return
        if self._bytes + more > self._limits.uploads_mb * _MEGABYTE and self._bytes > taken.bytes:
            raise _busy(f"other submissions hold {self._bytes - taken.bytes:,} bytes")
        self._bytes += more
        taken.bytes = size

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the body is larger than {self._largest:,} bytes: see --largest-upload")


class _Taken:
    """How much one upload has of what they may hold together."""

    def __init__(self) -> None:
        self.bytes = 0


class _Stoppable(io.RawIOBase):
    """A file that can't be read any more once the server stops, so that the thread that reads it comes to an end."""

    def __init__(self, file: object, stopping: threading.Event) -> None:
        self._file = cast(io.BufferedRandom, file)
        self._stopping = stopping

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: object) -> int:
        if self._stopping.is_set():
            raise StorageError("the server is stopping: submit the same file again, and it goes on")
        return self._file.readinto(buffer)  # type: ignore[arg-type]


def _busy(why: str) -> RefusedError:
    message = f"{why}: submit this one again in a moment. Nothing was enqueued"
    return RefusedError(503, message, code="overloaded", retry_after=_RETRY_SECONDS)


@contextlib.contextmanager
def _kept_or_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        if error.errno in _FULL:
            raise NoRoomError(f"there is no room for the body in {home()}: {why}. Nothing was enqueued") from None
        raise StorageError(f"{home()}: the body can't be kept there: {why}. Nothing was enqueued") from None
