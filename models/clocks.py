"""Clocks that nobody sets. What time it is on the wall is the database's business: see `Database.now`."""

from __future__ import annotations

import sys
import time

_AWAKE = time.CLOCK_MONOTONIC_RAW if sys.platform == "darwin" else getattr(time, "CLOCK_BOOTTIME", None)
"""macOS has no CLOCK_BOOTTIME; its raw monotonic clock goes on in sleep, which `time.monotonic` there doesn't."""


def awake_clock() -> float:
    """Seconds of a clock that also counts while the machine sleeps, where the system has one."""
    return time.clock_gettime(_AWAKE) if _AWAKE is not None else time.monotonic()
