"""The end of a process that can't go on: memory has run out in it, or a thread that it can't do without has died. It ends at once,
as if the system had ended it, so that its jobs are rescued and a row that does it each time is found as poison.

Going on would fail rows that are not to blame: who is refused memory is whoever asks next. It starts nothing anew; that is for whoever
started the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sys
import threading
from typing import Any, NoReturn

log = logging.getLogger("truckllm.demise")

BROKEN = 70
"""Exit code of a process whose own code failed where nothing could catch it."""

OUT_OF_MEMORY = 71

OURS = "truckllm-"
"""How the names of the threads begin that a worker can't do without."""


NO_THREAD = "can't start new thread"


def memory_is_short(error: BaseException, *, alone: bool) -> bool:
    """Whether memory has run out where this was raised, whatever was made of it since. `alone`: also where the system refused a thread
    or a buffer, which in a process of suspects is its memory limit, and in any other may be a limit that all processes share."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, MemoryError):
            return True
        if alone and isinstance(at, OSError) and at.errno == errno.ENOMEM:
            return True
        if alone and isinstance(at, RuntimeError) and NO_THREAD in str(at):
            return True
        at = at.__cause__ or at.__context__
    return False


def end(error: BaseException) -> NoReturn:
    """Ends this process, from any thread."""
    short = memory_is_short(error, alone=True)
    what = "memory has run out" if short else f"a part of it has failed ({type(error).__name__})"
    with contextlib.suppress(BaseException):  # which may take memory, too
        log.critical("%s: this process ends, and its jobs are given back", what, exc_info=error)
        sys.stderr.flush()
    os._exit(OUT_OF_MEMORY if short else BROKEN)


def expect(loop: asyncio.AbstractEventLoop) -> None:
    """Has this process end when memory runs out in a callback of the loop, or when a thread of ours dies."""

    def in_callback(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(error := context.get("exception"), MemoryError):
            end(error)
        loop.default_exception_handler(context)

    def in_thread(died: threading.ExceptHookArgs) -> None:
        ours = died.thread is not None and died.thread.name.startswith(OURS)
        if died.exc_value is not None and (ours or isinstance(died.exc_value, MemoryError)):
            end(died.exc_value)
        before(died)

    loop.set_exception_handler(in_callback)
    before, threading.excepthook = threading.excepthook, in_thread
