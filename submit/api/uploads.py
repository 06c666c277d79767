"""The body of a submission, kept in a file that nobody else can open and that is gone with the request, however that ends.

It reads nothing in it; `submit.source` does.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from models.database import home
from models.errors import StorageError
from submit.api.asked import NoRoomError, TooLargeError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.asynccontextmanager
async def upload_of(request: Request, largest: int) -> AsyncIterator[BinaryIO]:
    """The request's body of at most `largest` bytes, as a file at its start.

    Raises TooLargeError (before anything is read, if the caller says how much it is), NoRoomError for a full disk, StorageError for a
    folder that can't be written.
    """
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > largest:
        raise _too_large(largest)
    with _kept_or_told():
        upload = tempfile.TemporaryFile(dir=home())  # noqa: SIM115 - closed below
    try:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > largest:
                raise _too_large(largest)
            with _kept_or_told():
                await run_in_threadpool(upload.write, chunk)
        with _kept_or_told():
            upload.seek(0)  # what is still in memory is written first
        yield cast(BinaryIO, upload)
    finally:
        with contextlib.suppress(OSError):  # what is still in memory may find no room
            upload.close()


def _too_large(largest: int) -> TooLargeError:
    return TooLargeError(f"the body is larger than {largest:,} bytes: see --largest-upload")


@contextlib.contextmanager
def _kept_or_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        if error.errno in _FULL:
            raise NoRoomError(f"there is no room for the body in {home()}: {why}. Nothing was enqueued") from None
        raise StorageError(f"{home()}: the body can't be kept there: {why}. Nothing was enqueued") from None
