"""Has a process watched whose event loop may hang, so that it is ended, its jobs are rescued, another takes its place, and a row that
hangs whoever reads it is found like one that crashes.

It only beats, and sees to it that somebody listens; who listens, and what is done about silence, is `worker.watcher`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import subprocess
import sys

from worker import watcher

log = logging.getLogger("truckllm.watchdog")

TICK_SECONDS = 1.0
PATIENCE = 60
"""Ticks without a sign of life; long after others have taken the process for dead."""

HUNG = int(watcher.LAST_WORDS)
"""Exit code of a process that hung: that of `_exit` when it is called as a signal's handler."""

LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Some interpreters find their own library by these; the watcher runs on the same one."""

AGAIN_TICKS = 10
"""After so many ticks another watcher is started where one could not be, or has ended."""


class Watchdog:
    """Watches the loop of this process, which is ended after `patience` ticks of `tick` seconds in which it did nothing else."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, tick: float = TICK_SECONDS, patience: int = PATIENCE
    ) -> None:
        self._loop = loop
        self._tick = tick
        self._patience = patience
        self._watcher: subprocess.Popen[bytes] | None = None
        self._idle = 0
        self._gone = False

    @property
    def pid(self) -> int | None:
        """The process id of the watcher, while there is one."""
        return self._watcher.pid if self._watcher is not None else None

    def start(self) -> None:
        """From the main thread."""
        # All in C, which needs no lock: names of functions are written down, no values, then the process ends; not by the signal
        # itself, which the first process of a container wouldn't hear.
        libc = ctypes.CDLL(None)
        libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        libc.signal(watcher.LAST_WORDS, ctypes.cast(libc._exit, ctypes.c_void_p))
        with contextlib.suppress(RuntimeError, OSError, ValueError):  # no stderr to tell it on
            faulthandler.register(watcher.LAST_WORDS, all_threads=True, chain=True)
        self._begin()
        self._loop.call_soon_threadsafe(self._beat)

    def stop(self) -> None:
        """A loop that is told to end beats no more, and is left alone."""
        self._gone = True
        # not from here: a beat of this very moment might be written to what has the pipe's number next
        self._loop.call_soon_threadsafe(self._let_go)

    def _begin(self) -> None:
        command = [sys.executable, "-I", "-S", watcher.__file__, str(os.getpid()), str(self._tick), str(self._patience)]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watcher.DEAF_TO)  # handed on to it
        # it needs none of our secrets, and a terminal's Ctrl-C is not for it
        env = {name: os.environ[name] for name in LIBRARIES if name in os.environ}
        try:
            self._watcher = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env, start_new_session=True
            )
        except OSError as error:  # no memory, no process left
            log.warning("nobody can be started now who would notice if this process hung: %s", error)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self._watcher.stdin is not None
        os.set_blocking(self._watcher.stdin.fileno(), False)

    def _let_go(self) -> None:
        gone, self._watcher = self._watcher, None
        if gone is not None and gone.stdin is not None:
            gone.stdin.close()
            gone.kill()  # it would end by itself, if nobody has stopped it
            gone.wait()

    def _beat(self) -> None:
        if self._gone:
            return
        if self._watcher is None:
            self._idle += 1
            if self._idle >= AGAIN_TICKS:
                self._idle = 0
                self._begin()
        else:
            assert self._watcher.stdin is not None
            try:
                os.write(self._watcher.stdin.fileno(), b".")
            except BlockingIOError:
                pass  # it was stopped, and has beats enough to read
            except OSError:
                log.warning("the watcher of this process has ended; another is started")
                self._let_go()
        self._loop.call_later(self._tick, self._beat)
