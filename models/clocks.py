"""Clocks that nobody sets. What time it is on the wall is the database's business: see `Database.now`."""

from __future__ import annotations

import time


def awake_clock() -> float:
    """Seconds of a clock that also counts while the machine sleeps, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(clock) if clock is not None else time.monotonic()
