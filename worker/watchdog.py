"""Ends a process whose event loop hangs, so that its jobs are rescued, another process takes its place, and a row that hangs whoever
reads it is found like one that crashes.

It counts its own ticks, not time: a machine that stood still has counted none.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

log = logging.getLogger("truckllm.watchdog")

TICK_SECONDS = 1.0
PATIENCE = 60
"""Ticks without a sign of life; long after others have taken the process for dead."""

HUNG = 70
"""Exit code of a process that hung."""


class Watchdog:
    """Watches a loop from a thread of its own. `bite` is what it does about one that hangs."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        tick: float = TICK_SECONDS,
        patience: int = PATIENCE,
        bite: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._tick = tick
        self._patience = patience
        self._bite = bite or (lambda: _end(tick * patience))
        self._pulse = 0
        self._gone = False

    def start(self) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._beat)
        threading.Thread(target=self._watch, name="truckllm-watchdog", daemon=True).start()

    def stop(self) -> None:
        """A loop that is told to end beats no more, and is left alone."""
        self._gone = True

    def _beat(self) -> None:
        self._pulse += 1
        self._loop.call_later(self._tick, self._beat)

    def _watch(self) -> None:
        seen, missed = -1, 0
        while not self._gone:
            time.sleep(self._tick)
            missed = missed + 1 if self._pulse == seen else 0
            seen = self._pulse
            if missed >= self._patience and not self._gone:
                self._bite()
                return


def _end(seconds: float) -> None:
    log.critical("the event loop has hung for %d s: this process ends, and its jobs are given back", seconds)
    faulthandler.dump_traceback(sys.stderr, all_threads=True)  # names of functions, no values
    os._exit(HUNG)
